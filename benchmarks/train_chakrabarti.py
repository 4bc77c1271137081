"""Train the network of Chakrabarti 2016 on sharp photographs.

Blurry patches are made as in the paper: kernels of up to 41x41 from cubic splines through six random
points, noise of 0.01, values clipped; the eight flips and transposes. Different from the paper, for
the sake of a third of a processor's hour: the layers are narrower, Adam instead of momentum, and the filter
starts as the identity::

    python benchmarks/train_chakrabarti.py --out chakrabarti.safetensors faces.parquet
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from blurface.restorers.classical.chakrabarti import (
    _FREQUENCIES,
    MARGIN,
    PATCH,
    ChakrabartiNetwork,
    save_network,
)
from blurface.restorers.classical.core import ValidConvolution, grey
from blurface.training.sources import read_faces

SIZE = 41
PICTURES, EACH = 12, 8  # pictures of a step, and patches cut from each


def spline_kernel(rng: np.random.Generator) -> np.ndarray:
    """A motion kernel: a cubic spline through six points of a square of 8, 16 or 24 pixels."""
    side = rng.choice((8, 16, 24))
    knots = np.arange(6)
    path = CubicSpline(knots, rng.uniform(0, side, (6, 2)))
    speed = CubicSpline(knots, np.maximum(0, 1 + 0.5 * rng.standard_normal(6)))
    t = np.linspace(0, 5, 500)
    points, weight = path(t), np.maximum(speed(t), 0)
    points = points - (points * weight[:, None]).sum(0) / weight.sum() + SIZE // 2
    kernel = np.zeros((SIZE, SIZE))
    floor = np.floor(points).astype(int)
    part = points - floor
    for i in (0, 1):
        for j in (0, 1):
            share = weight * np.abs(1 - i - part[:, 0]) * np.abs(1 - j - part[:, 1])
            row, column = floor[:, 0] + i, floor[:, 1] + j
            inside = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
            np.add.at(kernel, (row[inside], column[inside]), share[inside])
    return kernel / kernel.sum()


def read_pictures(sources: list[Path], limit: int, rng: np.random.Generator) -> Tensor:
    """Grey pictures of one size, (n, H, W) uint8."""
    pictures = read_faces(sources).pictures
    chosen = pictures[rng.permutation(len(pictures))[:limit]]
    planes = [
        (grey(torch.from_numpy(rgb).permute(2, 0, 1) / 255) * 255).round().to(torch.uint8) for rgb in chosen
    ]
    return torch.stack(planes)


def batch(pictures: Tensor, kernels: Tensor, each: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blurry patches (n, 65, 65) and the sharp middles (n, 33, 33); ``each`` a picture."""
    sharp = pictures.to(torch.float32) / 255
    k = kernels[torch.from_numpy(rng.integers(0, len(kernels), len(sharp)))]
    turns = rng.integers(0, 8, len(sharp))
    turned = [k_ if t < 4 else k_.T for k_, t in zip(k, turns)]
    k = torch.stack([torch.rot90(k_, int(t) % 4) for k_, t in zip(turned, turns)])
    mirrored = rng.random() < 0.5
    sharp = sharp.flip(-1) if mirrored else sharp
    blurry = ValidConvolution(k, (sharp.shape[-2], sharp.shape[-1])).forward(sharp)
    noise = torch.from_numpy(rng.standard_normal(blurry.shape, dtype=np.float32))
    blurry = (blurry + 0.01 * noise).clamp(0, 1)
    inputs, targets = [], []
    half = SIZE // 2
    for y, x in zip(blurry, sharp):
        for _ in range(each):
            i = int(rng.integers(0, y.shape[0] - PATCH + 1))
            j = int(rng.integers(0, y.shape[1] - PATCH + 1))
            inputs.append(y[i : i + PATCH, j : j + PATCH])
            middle = slice(i + half + MARGIN, i + half + PATCH - MARGIN)
            targets.append(x[middle, j + half + MARGIN : j + half + PATCH - MARGIN])
    a, b = torch.stack(inputs), torch.stack(targets)
    if rng.random() < 0.5:
        a, b = a.mT, b.mT
    return a.contiguous(), b.contiguous()


def psnr(a: Tensor, b: Tensor) -> float:
    return float((-10 * (a.clamp(0, 1) - b).square().mean((1, 2)).log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", nargs="+", type=Path, help="what `blurface train --data` takes, of one size")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=18.0, help="of processor time")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.process_time()
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    pictures = read_pictures(options.faces, options.pictures, rng)
    kernels = torch.from_numpy(np.stack([spline_kernel(rng) for _ in range(4000)])).float()
    held_out, pictures = pictures[:64], pictures[64:]
    network = ChakrabartiNetwork(first=256, second=384, joint=(512, 512, 384))
    with torch.no_grad():
        network.out.weight.mul_(0.1)
        network.out.bias.zero_()
        network.out.bias[:_FREQUENCIES] = 1.0
    network.set_whitening(
        torch.cat([batch(pictures[i : i + 16], kernels, 16, rng)[0] for i in range(0, 640, 16)])
    )
    check = batch(held_out, kernels[-500:], 8, np.random.default_rng(1))
    kernels = kernels[:-500]
    optimiser = torch.optim.Adam(network.parameters(), lr=options.rate)
    step, limit = 0, options.minutes * 60
    start = time.process_time()
    while (used := time.process_time() - start) < limit:
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * used / limit))
        chosen = torch.from_numpy(rng.integers(0, len(pictures), PICTURES))
        blurry, sharp = batch(pictures[chosen], kernels, EACH, rng)
        error = (network.restore(blurry) - sharp).clamp(-1, 1)
        loss = error.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % 1000 == 0:
            with torch.no_grad():
                now = psnr(network.restore(check[0]), check[1])
            before = psnr(check[0][:, MARGIN:-MARGIN, MARGIN:-MARGIN], check[1])
            print(
                f"{used:.0f} s, step {step}: held-out patches {now:.2f} dB, blurry {before:.2f} dB",
                flush=True,
            )
        step += 1
    with torch.no_grad():
        now = psnr(network.restore(check[0]), check[1])
    note = {
        "steps": step,
        "patches": step * PICTURES * EACH,
        "held_out_psnr": round(now, 2),
        "blurry_psnr": round(psnr(check[0][:, MARGIN:-MARGIN, MARGIN:-MARGIN], check[1]), 2),
        "cpu_minutes": round((time.process_time() - began) / 60, 1),
    }
    save_network(network, options.out, note)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, {note}")


if __name__ == "__main__":
    main()
