"""Fit the patch mixture that EPLL is packaged with.

A mixture of zero-mean Gaussians on 8x8 grey patches with the mean removed (Zoran and Weiss 2011),
by expectation-maximisation on patches of the faces given. scikit-learn's
``GaussianMixture`` estimates the means with the rest, so only its k-means is used, for the start::

    python benchmarks/fit_epll_prior.py --out prior.npz faces.parquet

About six minutes on one core. The same faces and seed give the same mixture on the same machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from blurface.restorers.classical.core import grey
from blurface.restorers.classical.epll import PATCH, PatchMixture
from blurface.training.sources import read_faces

# Rounding to eight bits adds this much variance to every pixel; no covariance may lie below it.
FLOOR = 1 / 255**2 / 12


def read_patches(pictures: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Tensor:
    """``count`` patches (count, 64) float32, column-major, mean removed, from random places."""
    each = -(-count // len(pictures))
    found = []
    for rgb in pictures:
        plane = grey(torch.from_numpy(rgb).permute(2, 0, 1) / 255, eight_bit=True)
        rows = rng.integers(0, plane.shape[0] - PATCH + 1, each)
        columns = rng.integers(0, plane.shape[1] - PATCH + 1, each)
        found += [plane[i : i + PATCH, j : j + PATCH].T.flatten() for i, j in zip(rows, columns)]
    patches = torch.stack(found)
    patches = patches[torch.from_numpy(rng.permutation(len(patches))[:count])]
    return patches - patches.mean(1, keepdim=True)


def start(patches: Tensor, components: int, seed: int) -> PatchMixture:
    """Hard clusters by contrast and by the shape of the spectrum, which do not see the sign."""
    norm = patches.norm(dim=1, keepdim=True).clamp_min(1e-3)
    square = (patches / norm).view(-1, PATCH, PATCH)
    spectrum = torch.fft.rfft2(square, norm="ortho").abs().flatten(1)
    features = torch.cat((norm.log(), 3 * spectrum), 1).numpy()
    labels = MiniBatchKMeans(components, random_state=seed, n_init=1, batch_size=4096).fit_predict(features)
    responsibility = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), components)
    return maximise(patches, responsibility.to(torch.float32))


def expect(mixture: PatchMixture, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Responsibilities (n, J) and log likelihood per patch (n,), for 63-dimensional densities."""
    variances, directions = mixture.variances[:, :-1], mixture.directions[:, :, :-1]
    constant = mixture.log_weights - 0.5 * variances.log().sum(1) - 31.5 * np.log(2 * np.pi)
    whiten = (directions / (2 * variances.sqrt()[:, None]) * 2**0.5).mT.reshape(-1, PATCH**2).float()
    log = torch.empty(len(patches), len(constant))
    for part in range(0, len(patches), 1024):
        squares = (whiten @ patches[part : part + 1024].T).square_()
        log[part : part + 1024] = (
            constant.float()[:, None] - squares.view(len(constant), -1, squares.shape[1]).sum(1)
        ).T
    likelihood = log.logsumexp(1)
    return (log - likelihood[:, None]).exp_(), likelihood


def maximise(patches: Tensor, responsibility: Tensor) -> PatchMixture:
    """Weights and covariances; a component that lost its patches takes part of the heaviest."""
    components = responsibility.shape[1]
    weights = responsibility.sum(0, dtype=torch.float64)
    covariances = torch.empty(components, PATCH**2, PATCH**2, dtype=torch.float64)
    centring = torch.eye(PATCH**2, dtype=torch.float64) - 1 / PATCH**2
    for j in range(components):
        mine = (responsibility[:, j] > 1e-3).nonzero()[:, 0]
        part = patches[mine]
        scatter = (part.T @ (part * responsibility[mine, j, None])).double()
        # One patch's worth of an isotropic prior keeps small components regular.
        covariances[j] = scatter / (weights[j] + 1) + FLOOR * centring
    for j in (weights < PATCH**2).nonzero()[:, 0].tolist():
        heaviest = int(weights.argmax())
        weights[j] = weights[heaviest] = weights[heaviest] / 2
        covariances[j], covariances[heaviest] = covariances[heaviest] * 0.5, covariances[heaviest] * 1.5
    return PatchMixture.from_covariances(weights, covariances)


def fit(patches: Tensor, held_out: Tensor, components: int, rounds: int, seed: int) -> PatchMixture:
    """Expectation-maximisation: half of the rounds on a quarter of the patches, half on all."""
    quarter = patches[: len(patches) // 4]
    mixture = start(quarter, components, seed)
    for turn in range(rounds):
        part = quarter if turn < rounds // 2 else patches
        responsibility, likelihood = expect(mixture, part)
        mixture = maximise(part, responsibility)
        print(f"round {turn + 1}: {likelihood.mean():.3f} nats a patch", flush=True)
    print(f"held-out patches: {expect(mixture, held_out)[1].mean():.3f} nats a patch")
    return mixture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", nargs="+", type=Path, help="what `blurface train --data` takes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--patches", type=int, default=160_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    began = time.process_time()
    pictures = read_faces(options.faces).pictures
    patches = read_patches(pictures, options.patches + 20_000, rng)
    print(f"{len(patches)} patches of {len(pictures)} pictures")
    mixture = fit(patches[20_000:], patches[:20_000], options.components, options.rounds, options.seed)
    mixture.save(options.out)
    size, seconds = options.out.stat().st_size / 1e6, time.process_time() - began
    print(f"{options.out}: {size:.2f} MB, {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    main()
