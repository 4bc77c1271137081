"""Measure Sun, Michaeli and Chakrabarti, for which no outputs of their authors are at hand.

    python benchmarks/beyond_reference.py [--faces DIR] [--out docs/baselines-beyond-reference.md]
                                          [--results results/beyond-reference] [--method NAME ...]

Photographs: 256 x 256 pixels of four pictures that come with scikit-image, each under two random motion
kernels of at most 19 x 19 and 1% noise. Faces: DIR is the folder of reference inputs that
``benchmarks/baselines.py`` takes (four faces under eight recorded kernels). Every method is given the
kernel's size. The last step is the same for all, so their kernels are compared.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import (
    FACES,
    _cpu_seconds,
    _eight_bit,
    _read,
    _write,
    kernel_correlation,
    psnr_best_shift,
    renew,
)
from skimage import data
from train_chakrabarti import spline_kernel

from blurface.restorers.classical.base import ClassicalRestorer
from blurface.restorers.classical.chakrabarti import Chakrabarti
from blurface.restorers.classical.core import ValidConvolution, grey
from blurface.restorers.classical.michaeli import Michaeli
from blurface.restorers.classical.sun import Sun

METHODS: dict[str, type[ClassicalRestorer]] = {"sun": Sun, "michaeli": Michaeli, "chakrabarti": Chakrabarti}
PHOTOGRAPHS = ("camera", "astronaut", "coffee", "chelsea")
SIDE, KERNEL = 256, 19
COLUMNS = (
    "set", "picture", "kernel", "method", "blurry", "restored", "kernel_correlation", "point_correlation",
    "cpu_seconds",
)  # fmt: skip

Case = tuple[str, str, str, np.ndarray, np.ndarray, np.ndarray]


def photograph_cases() -> list[Case]:
    """(set, picture, kernel's name, blurry, sharp, kernel) of the photographs, grey."""
    rng = np.random.default_rng(7)
    kernels: list[np.ndarray] = []
    while len(kernels) < 2:
        wide = spline_kernel(rng)
        kernel = wide[11:-11, 11:-11]
        # Fits into 19 x 19, and is a blur worth the name.
        if kernel.sum() > 0.999 and (kernel**2).sum() < 0.04:
            kernels.append(kernel / kernel.sum())
    cases = []
    for name in PHOTOGRAPHS:
        picture = torch.from_numpy(getattr(data, name)() / 255.0)
        plane = grey(picture.permute(2, 0, 1)) if picture.ndim == 3 else picture
        side = SIDE + KERNEL - 1
        top, left = (plane.shape[0] - side) // 2, (plane.shape[1] - side) // 2
        sharp = plane[None, top : top + side, left : left + side]
        for index, kernel in enumerate(kernels):
            blurry = ValidConvolution(torch.from_numpy(kernel)[None], (side, side)).forward(sharp)[0].numpy()
            noisy = blurry + 0.01 * rng.standard_normal(blurry.shape)
            inside = sharp[0, KERNEL // 2 : -(KERNEL // 2), KERNEL // 2 : -(KERNEL // 2)].numpy()
            rounded = np.floor(noisy.clip(0, 1) * 255 + 0.5) / 255
            cases.append(("photographs", name, f"random {index + 1}", rounded, inside, kernel))
    return cases


def face_cases(reference: Path) -> list[Case]:
    """The same of the reference faces."""
    kernels = np.load(reference / "inputs" / "kernels.npz")
    cases = []
    for face in FACES:
        sharp = _read(reference / "inputs" / f"sharp_{face}.png")
        for n in range(1, 9):
            blurry = _read(reference / "inputs" / f"blurry_{face}_k{n}.png")
            planes = [
                grey(torch.from_numpy(x).permute(2, 0, 1), eight_bit=True).numpy() for x in (blurry, sharp)
            ]
            cases.append(("faces", face, f"k{n}", planes[0], planes[1], kernels[f"k{n}"]))
    return cases


def measure(method: str, case: Case) -> dict[str, Any]:
    """One row."""
    group, picture, name, blurry, sharp, kernel = case
    restorer = METHODS[method](kernel_size=len(kernel))
    batch = torch.from_numpy(blurry).float()[None, None].expand(1, 3, -1, -1)
    start = _cpu_seconds()
    restored, found = restorer.restore(batch, return_kernel=True)
    seconds = _cpu_seconds() - start
    point = np.zeros_like(kernel)
    point[len(kernel) // 2, len(kernel) // 2] = 1
    values = (
        group, picture, name, method,
        round(psnr_best_shift(blurry, sharp), 2),
        round(psnr_best_shift(_eight_bit(restored)[0, 0], sharp), 2),
        round(kernel_correlation(found[0].double().numpy(), kernel), 3),
        round(kernel_correlation(point, kernel), 3),
        round(seconds, 1),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def table(folder: Path) -> str:
    """Markdown of the means, from all CSV files of a folder."""
    lines = [
        "| pictures | method | cases | blurry, dB | restored, dB | better than the blurry picture "
        "| kernel correlation | of a point | CPU seconds a picture |",
        "|" + "---|" * 9,
    ]
    for path in sorted(folder.glob("*.csv")):
        rows = list(csv.DictReader(path.open()))

        def mean(column: str, rows: list[dict[str, str]] = rows) -> float:
            return float(np.mean([float(row[column]) for row in rows]))

        better = sum(float(row["restored"]) > float(row["blurry"]) for row in rows)
        cells = [
            rows[0]["set"],
            f"`{rows[0]['method']}`",
            str(len(rows)),
            f"{mean('blurry'):.2f}",
            f"{mean('restored'):.2f}",
            f"{better} of {len(rows)}",
            f"{mean('kernel_correlation'):.3f}",
            f"{mean('point_correlation'):.3f}",
            f"{mean('cpu_seconds'):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=Path, help="folder of the reference inputs")
    parser.add_argument("--out", type=Path, default=Path("docs/baselines-beyond-reference.md"))
    parser.add_argument("--results", type=Path, default=Path("results/beyond-reference"))
    parser.add_argument("--method", action="append", choices=list(METHODS), help="only this one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    groups = {"photographs": photograph_cases()}
    if arguments.faces:
        groups["faces"] = face_cases(arguments.faces)
    for method in arguments.method or METHODS:
        for group, cases in groups.items():
            rows = []
            for case in cases:
                rows.append(measure(method, case))
                print(" ".join(str(value) for value in rows[-1].values()), flush=True)
            text = [",".join(COLUMNS)] + [",".join(str(row[column]) for column in COLUMNS) for row in rows]
            _write(arguments.results / f"{group}-{method}.csv", "\n".join(text) + "\n")
    renew(arguments.out, {"beyond": table(arguments.results)})


if __name__ == "__main__":
    main()
