"""Hold the classical methods to the outputs of their authors' programs.

    python benchmarks/baselines.py --reference DIR [--out docs/baselines.md] [--results results/baselines]
                                   [--method NAME ...]

DIR holds ``inputs/`` (four sharp faces, each under eight blurs, and the kernels) and one folder a
method with what its authors' program returned. Every method runs here on the same pictures, all
faces under kernels of one size in one batch on one core. Per method a CSV with one row a case is
written, and the tables of the documentation between its markers are renewed from all CSV files at
hand. Another method is one more line of ``METHODS``.
"""

from __future__ import annotations

import argparse
import csv
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from blurface.files import write_atomic
from blurface.restorers import create_restorer
from blurface.restorers.classical.core import grey

Array = NDArray[np.float64]

FACES = ("Michelle_Lecky", "Shawn_Kemp", "Princess_Stephanie", "Han_Sung_Joo")
REACH = 8  # pixels that a best shift may reach, and that are cut off at the border


@dataclass(frozen=True)
class Method:
    """A method beside the folder of its reference outputs.

    Attributes
    ----------
    folder : str
        Name of the reference folder and of the rows.
    restorer : str
        Registered name.
    options : dict
        Of the restorer; ``{reference}`` in a text stands for the folder of the reference outputs.
    blind : bool
        Whether the kernel is estimated (its size is given) or the true one is passed.
    prefix : str
        Of the reference pictures.
    grey : bool
        Whether the grey picture goes in, rounded to 8 bits.
    """

    folder: str
    restorer: str
    options: dict[str, Any] = field(default_factory=dict)
    blind: bool = True
    prefix: str = "restored"
    grey: bool = False
    row: str = ""

    @property
    def name(self) -> str:
        """Name of the rows."""
        return self.row or self.folder


METHODS = (
    Method("krishnan", "krishnan"),
    Method("krishnan_kreg1", "krishnan", {"psi": 1.0}),
    Method("krishnan_later", "krishnan", {"psi": 1.0, "fidelity": 200.0, "coarsest": 5}),
    Method("pan", "pan"),
    Method("pan_ring1", "pan", {"ring_weight": 1.0}),
    Method("levin", "levin", {"colour": True}),
    Method("levin", "levin", prefix="restoredgray", row="levin_grey"),
    Method("nonblind_deconvsps", "sparse-deconv", blind=False),
    Method("nonblind_fastdeconv", "fast-deconv", blind=False),
    Method("perrone", "perrone"),
    Method("perrone_deconvsps", "perrone", {"final": "sparse"}),
    Method("nonblind_epll", "epll", {"prior": "{reference}/epll_prior.npz", "colour": False}, blind=False),
)


# Measures ---------------------------------------------------------------------------------------


def psnr(a: Array, b: Array) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def _moved(picture: Array, down: float, across: float) -> Array:
    """Interior of a picture moved by a part of a pixel (bilinear), ``REACH`` cut on each side."""
    row, column = int(np.floor(down)), int(np.floor(across))
    part_down, part_across = down - row, across - column
    height, width = picture.shape[0] - 2 * REACH, picture.shape[1] - 2 * REACH

    def window(i: int, j: int) -> Array:
        top, left = REACH + row + i, REACH + column + j
        # At the largest shifts the neighbour beyond the picture has no weight.
        top, left = min(top, picture.shape[0] - height), min(left, picture.shape[1] - width)
        return picture[top : top + height, left : left + width]

    upper = (1 - part_across) * window(0, 0) + part_across * window(0, 1)
    lower = (1 - part_across) * window(1, 0) + part_across * window(1, 1)
    return (1 - part_down) * upper + part_down * lower


def psnr_best_shift(picture: Array, sharp: Array) -> float:
    """Best PSNR over shifts, on the interior: whole pixels up to 8, then quarters around the best.

    A picture smaller than the sharp one is compared with the same rows and columns.
    """
    sharp = sharp[: picture.shape[0], : picture.shape[1]]
    interior = sharp[REACH:-REACH, REACH:-REACH]
    whole = range(-REACH, REACH + 1)
    _, down, across = max((psnr(_moved(picture, i, j), interior), i, j) for i in whole for j in whole)
    quarters = np.arange(-3, 4) / 4
    return max(
        psnr(_moved(picture, i, j), interior)
        for i in np.clip(down + quarters, -REACH, REACH)
        for j in np.clip(across + quarters, -REACH, REACH)
    )


def kernel_correlation(a: Array, b: Array) -> float:
    """Largest normalised cross-correlation of two kernels over whole-pixel shifts."""
    side = len(a) + len(b)
    product = np.fft.rfft2(a, (side, side)) * np.conj(np.fft.rfft2(b, (side, side)))
    return float(np.fft.irfft2(product, (side, side)).max() / np.sqrt((a**2).sum() * (b**2).sum()))


# Runs -------------------------------------------------------------------------------------------


def _read(path: Path) -> Array:
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def _eight_bit(pictures: torch.Tensor) -> Array:
    return np.floor(pictures.clamp(0, 1).double().numpy() * 255 + 0.5) / 255


def _cpu_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def run(method: Method, reference: Path) -> list[dict[str, Any]]:
    """Run a method on all cases that have reference outputs; one row a case."""
    options = {
        key: value.format(reference=reference) if isinstance(value, str) else value
        for key, value in method.options.items()
    }
    kernels = {n: np.load(reference / "inputs" / "kernels.npz")[f"k{n}"] for n in range(1, 9)}
    recorded = {
        (row["method"], row["face"], int(row["kernel"])): row
        for row in csv.DictReader((reference / "results.csv").open())
    }
    rows = []
    for size in sorted({len(kernel) for kernel in kernels.values()}):
        cases = [
            (face, n)
            for n, kernel in kernels.items()
            for face in FACES
            if len(kernel) == size
            and (reference / method.folder / f"{method.prefix}_{face}_k{n}.png").exists()
        ]
        if not cases:
            continue
        blurry = np.stack([_read(reference / "inputs" / f"blurry_{face}_k{n}.png") for face, n in cases])
        batch = torch.from_numpy(blurry).permute(0, 3, 1, 2)
        if method.grey:
            batch = grey(batch, eight_bit=True)[:, None].expand(-1, 3, -1, -1)
        truth = torch.from_numpy(np.stack([kernels[n] for _, n in cases]))
        restorer = create_restorer(
            method.restorer, **options, **({"kernel_size": size} if method.blind else {})
        )
        estimates: Iterable[Array | None] = [None] * len(cases)
        start = _cpu_seconds()
        if method.blind:
            restored, found = restorer.restore(batch.float(), return_kernel=True)
            estimates = list(found.double().numpy())
        else:
            restored = restorer.restore(batch.float(), kernels=truth)
        assert isinstance(restored, torch.Tensor)
        seconds = (_cpu_seconds() - start) / len(cases)
        for (face, n), ours, estimate in zip(
            cases, _eight_bit(restored.permute(0, 2, 3, 1)), estimates, strict=True
        ):
            theirs = _read(reference / method.folder / f"{method.prefix}_{face}_k{n}.png")
            sharp = _read(reference / "inputs" / f"sharp_{face}.png")
            if theirs.ndim == 2:
                sharp = grey(torch.from_numpy(sharp).permute(2, 0, 1), eight_bit=True).numpy()
                ours = ours[..., 0]
            ours = ours[: theirs.shape[0], : theirs.shape[1]]
            record = recorded.get((method.folder, face, n), {})
            row: dict[str, Any] = {
                "method": method.name,
                "face": face,
                "kernel": n,
                "psnr_best_shift": round(psnr_best_shift(ours, sharp), 3),
                "psnr_best_shift_authors": round(psnr_best_shift(theirs, sharp), 3),
                "largest_grey_difference": int(np.rint(np.abs(ours - theirs).max() * 255)),
                "cpu_seconds": round(seconds, 3),
                "seconds_authors": record.get("seconds", ""),
            }
            path = reference / method.folder / f"kernel_{face}_k{n}.npy"
            if estimate is not None and path.exists():
                other = np.load(path)
                row |= {
                    "kernel_correlation_with_authors": round(kernel_correlation(estimate, other), 6),
                    "kernel_correlation_with_true": round(kernel_correlation(estimate, kernels[n]), 4),
                    "kernel_correlation_authors_with_true": round(kernel_correlation(other, kernels[n]), 4),
                    "kernel_largest_difference": f"{np.abs(estimate - other).max() / other.max():.1e}",
                }
            rows.append(row)
    return sorted(rows, key=lambda row: (FACES.index(row["face"]), row["kernel"]))


# Output -----------------------------------------------------------------------------------------

COLUMNS = (
    "method",
    "face",
    "kernel",
    "psnr_best_shift",
    "psnr_best_shift_authors",
    "kernel_correlation_with_authors",
    "kernel_correlation_with_true",
    "kernel_correlation_authors_with_true",
    "largest_grey_difference",
    "kernel_largest_difference",
    "cpu_seconds",
    "seconds_authors",
)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [",".join(COLUMNS)]
    lines += [",".join(str(row.get(column, "")) for column in COLUMNS) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")


def _mean(rows: list[dict[str, str]], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row[column]]
    return float(np.mean(values)) if values else None


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def tables(folder: Path) -> tuple[str, str]:
    """Markdown of the mean over the cases and of every case, from all CSV files of a folder."""
    names = [method.name for method in METHODS]
    files = sorted(
        folder.glob("*.csv"), key=lambda p: (names.index(p.stem) if p.stem in names else 99, p.stem)
    )
    means = [
        "| method | cases | best-shift PSNR, ours | theirs | kernel correlation, ours with theirs "
        "| ours with the true kernel | theirs | largest difference, grey levels | CPU seconds a face "
        "| theirs, recorded |",
        "|" + "---|" * 10,
    ]
    cases = []
    for path in files:
        rows = list(csv.DictReader(path.open()))
        means.append(
            f"| `{path.stem}` | {len(rows)} | {_cell(_mean(rows, 'psnr_best_shift'), 2)} "
            f"| {_cell(_mean(rows, 'psnr_best_shift_authors'), 2)} "
            f"| {_cell(_mean(rows, 'kernel_correlation_with_authors'), 4)} "
            f"| {_cell(_mean(rows, 'kernel_correlation_with_true'), 3)} "
            f"| {_cell(_mean(rows, 'kernel_correlation_authors_with_true'), 3)} "
            f"| {max(int(row['largest_grey_difference']) for row in rows)} "
            f"| {_cell(_mean(rows, 'cpu_seconds'), 2)} | {_cell(_mean(rows, 'seconds_authors'), 1)} |"
        )
        cases += [
            f"<details><summary><code>{path.stem}</code></summary>\n",
            "| face | kernel | best-shift PSNR, ours | theirs | kernel correlation, ours with theirs "
            "| ours with the true kernel | theirs | largest difference, grey levels |",
            "|" + "---|" * 8,
        ]
        cases += [
            f"| {row['face'].replace('_', ' ')} | {row['kernel']} | {float(row['psnr_best_shift']):.2f} "
            f"| {float(row['psnr_best_shift_authors']):.2f} | {row['kernel_correlation_with_authors']} "
            f"| {row['kernel_correlation_with_true']} | {row['kernel_correlation_authors_with_true']} "
            f"| {row['largest_grey_difference']} |"
            for row in rows
        ]
        cases.append("\n</details>\n")
    return "\n".join(means), "\n".join(cases)


def renew(path: Path, blocks: dict[str, str]) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start not in text or end not in text:
            raise SystemExit(f"{path} lacks the markers {start} and {end}.")
        head, _, rest = text.partition(start)
        text = f"{head}{start}\n{block}\n{end}{rest.partition(end)[2]}"
    write_atomic(path, text)


def main() -> None:
    names = [method.name for method in METHODS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of the reference outputs")
    parser.add_argument("--out", type=Path, default=Path("docs/baselines.md"))
    parser.add_argument("--results", type=Path, default=Path("results/baselines"))
    parser.add_argument("--method", action="append", choices=names, help="only this one (may be repeated)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for method in METHODS:
        if arguments.method and method.name not in arguments.method:
            continue
        rows = run(method, arguments.reference)
        write_csv(arguments.results / f"{method.name}.csv", rows)
        gap = np.mean([row["psnr_best_shift"] - row["psnr_best_shift_authors"] for row in rows])
        seconds = np.mean([row["cpu_seconds"] for row in rows])
        print(f"{method.name}: {len(rows)} cases, {gap:+.3f} dB, {seconds:.2f} CPU s a face", flush=True)
    means, cases = tables(arguments.results)
    renew(arguments.out, {"means": means, "cases": cases})


if __name__ == "__main__":
    main()
