"""What the gate's early threshold does: whom it lets pass, whether that is right, and what it saves.

    python benchmarks/early_gate.py --out results/early-gate.csv
    python benchmarks/early_gate.py --times results/early-gate-time.csv     # on a quiet machine

Every probe of LFW's pairs, sharp and under each of Levin's kernels as ``blurface verify`` makes them. A face
passes early if the spread of the network's first kernel estimate is at most the gate's ``early``; the rest of
the network is then not run. ``early``: how many do; ``against``: those of them that the final estimate would
have blended or restored, and ``share``: the largest share of the restored picture that they would have got.

Times are those of the network, not of the pictures' conversion: one face and batches of 32, in turns, with
and without the early threshold, medians of the milliseconds a face.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from blurface import assets
from blurface.errors import BlurfaceError
from blurface.files import replacing
from blurface.gate import Gate, kernel_spread
from blurface.kernels import Kernel, create_kernel_set
from blurface.restorers import create_restorer
from blurface.restorers.base import Restorer
from protocols.aligned import align_faces
from protocols.datasets import create_protocol
from protocols.degradation import Degradation, from_bytes
from protocols.runner import blurred, face_window, margin_for

BATCH = 32
ROUNDS = 9


def spread(restorer: Restorer, batch: Tensor, sharp_below: float | None) -> Tensor:
    """(N,) spreads of the kernels that a restorer comes to."""
    kernels = restorer.restore(batch, return_kernel=True, sharp_below=sharp_below)[1]
    return kernel_spread(kernels)


def seconds(restorer: Restorer, batch: Tensor, sharp_below: float | None) -> float:
    """Of one call, after one that brings the weights into the caches."""
    restorer.restore(batch, return_kernel=True, sharp_below=sharp_below)
    began = time.perf_counter()
    restorer.restore(batch, return_kernel=True, sharp_below=sharp_below)
    return time.perf_counter() - began


def clock(restorer: Restorer, early: float, sharp: Tensor, blurry: Tensor) -> pd.DataFrame:
    """Milliseconds a face, sharp and blurred, without and with the early threshold."""
    cases = {"sharp": sharp, "blurred": blurry}
    thresholds = {"without early": None, "with early": early}
    rows = []
    for count in (1, BATCH):
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(ROUNDS):
            for case, faces in cases.items():
                for name, threshold in thresholds.items():
                    taken = seconds(restorer, faces[:count], threshold)
                    found.setdefault((case, name), []).append(1000 * taken / count)
        for case in cases:
            row: dict[str, Any] = {"faces": case, "batch": count}
            row |= {name: round(statistics.median(found[case, name]), 2) for name in thresholds}
            rows.append(row | {"ratio": round(row["with early"] / row["without early"], 3)})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restorer", default="fast")
    parser.add_argument("--subset", type=int, help="a random part of the pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", default="auto", choices=["auto", "photographs", "aligned"])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, help="CSV file to write the counts to")
    parser.add_argument("--times", type=Path, help="CSV file to write the times to, which alone are measured")
    given = parser.parse_args()

    restorer = create_restorer(given.restorer)
    gate = restorer.calibrated_gate()
    if gate is None or gate.early is None:
        raise SystemExit(f"The gate of {given.restorer} has no early threshold.")
    protocol = create_protocol("lfw", given.data_root, crops=given.crops)
    if given.subset:
        protocol = protocol.subset(given.subset, given.seed)
    kernels = create_kernel_set("levin8", given.data_root).centred("mass")
    faces = align_faces(protocol, margin_for(kernels), assets.cache_folder())
    probes = [image for image in protocol.pairs.probes if faces.readable([image])[0]]

    def batch(images: Sequence[str], kernel: Kernel | None) -> Tensor:
        window = face_window(faces, "112x96", images)
        made = blurred(window, images, kernel, Degradation(), margin=faces.margin, border="valid")
        return from_bytes(made)

    if given.times is None:
        report(count(restorer, gate, probes, kernels.kernels, batch), given.out)
        return
    some = np.random.default_rng(given.seed).permutation(probes)[: 2 * BATCH].tolist()
    sharp = batch(some, None)
    passing = spread(restorer, sharp, math.inf) <= gate.early
    largest = max(kernels.kernels, key=lambda kernel: kernel.size)
    report(clock(restorer, gate.early, sharp[passing][:BATCH], batch(some[:BATCH], largest)), given.times)


def count(
    restorer: Restorer,
    gate: Gate,
    probes: Sequence[str],
    kernels: Sequence[Kernel],
    batch: Callable[[Sequence[str], Kernel | None], Tensor],
) -> pd.DataFrame:
    """Who passes early, and against the final estimate, for each kernel."""
    assert gate.early is not None
    rows = []
    for kernel in (None, *kernels):
        name = "sharp" if kernel is None else kernel.name
        early, weights = 0, [torch.zeros(1)]
        for start in track(range(0, len(probes), BATCH), name, transient=True):
            pictures = batch(probes[start : start + BATCH], kernel)
            passing = spread(restorer, pictures, math.inf) <= gate.early
            early += int(passing.sum())
            if passing.any():
                weights.append(gate.weight(spread(restorer, pictures[passing], None)))
        weight = torch.cat(weights)
        against, share = int((weight > 0).sum()), round(weight.max().item(), 4)
        rows.append(
            {"kernel": name, "probes": len(probes), "early": early, "against": against, "share": share}
        )
    return pd.DataFrame(rows)


def report(table: pd.DataFrame, path: Path | None) -> None:
    """Print, and write where a path is given."""
    print(table.to_string(index=False))
    if path is not None:
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    try:
        main()
    except BlurfaceError as error:
        raise SystemExit(str(error)) from None
