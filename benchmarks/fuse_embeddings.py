"""Does the mean of two embeddings, of the face as it came and as restored, beat either alone?

    python benchmarks/fuse_embeddings.py --subset 600 --verifier mobilefacenet --verifier edgeface-xs

Uses the cells that ``blurface verify`` keeps, and computes what is missing. For each verifier and each
of Levin's kernels, and for sharp probes: accuracy of the blurry face, of the restored one, and of the
mean of both unit-length embeddings, threshold and mean chosen on the other nine folds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blurface.errors import BlurfaceError
from blurface.files import replacing
from blurface.kernels import create_kernel_set
from blurface.restorers import create_restorer
from protocols.datasets import create_protocol
from protocols.runner import CONTROL, Choice, Evaluation, Settings, evaluate
from verification import scoring
from verification.statistics import mcnemar


def unit(embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    values = embedding.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def accuracy(evaluation: Evaluation, verifier: str, probes: NDArray[np.float64]) -> scoring.FoldResult:
    """Accuracy of unit-length probe embeddings against the sharp references."""
    pairs = evaluation.protocol.pairs
    image = {name: row for row, name in enumerate(pairs.images)}
    row = {name: row for row, name in enumerate(pairs.probes)}
    reference = unit(evaluation.sharp_embeddings(verifier))[[image[pair.reference] for pair in pairs]]
    probe = probes[[row[pair.probe] for pair in pairs]]
    folds = np.array([pair.fold for pair in pairs])
    cosine = evaluation.metrics[verifier] == "cosine"
    means = scoring.fold_means(reference, probe, folds) if cosine else None
    scores = scoring.score(reference, probe, metric=evaluation.metrics[verifier], means=means)
    return scoring.cross_validate(scores, [pair.genuine for pair in pairs], folds)


def fingerprint_of(name: str, weights: str | None) -> dict[str, Any]:
    return create_restorer(name, **({"weights": weights} if weights else {})).fingerprint()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restorer", default="fast")
    parser.add_argument("--weights", help="a .safetensors file for the restorer")
    parser.add_argument("--verifier", action="append")
    parser.add_argument("--subset", type=int, help="a random part of the pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", default="auto", choices=["auto", "photographs", "aligned"])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()

    verifiers = given.verifier or ["mobilefacenet"]
    protocol = create_protocol("lfw", given.data_root, crops=given.crops)
    if given.subset:
        protocol = protocol.subset(given.subset, given.seed)
    settings = Settings(
        restorers=(
            Choice(CONTROL),
            Choice(given.restorer, {"weights": given.weights} if given.weights else {}),
        ),
        verifiers=tuple(Choice(name) for name in verifiers),
        jobs=given.jobs,
        data_root=given.data_root,
    )
    kernels = create_kernel_set("levin8", given.data_root).centred("mass")
    evaluation = evaluate(protocol, kernels, settings)
    rows = []
    for verifier in verifiers:
        print(f"{verifier}: {len(protocol.pairs)} pairs of LFW, accuracy in per cent")
        print("kernel   as it came   restored      fused   p (fused against restored)")
        totals = []
        for kernel in evaluation.columns:
            before, after = (
                unit(evaluation.probe_embeddings(verifier, name, kernel))
                for name in (CONTROL, given.restorer)
            )
            found = [
                accuracy(evaluation, verifier, probes) for probes in (before, after, unit(before + after))
            ]
            p = mcnemar(found[2].correct, found[1].correct).p_mid
            means = [100 * result.mean for result in found]
            totals.append(means)
            rows.append({"verifier": verifier, "kernel": kernel, "accuracy": means, "p": float(p)})
            print(f"{kernel:<8} {means[0]:>10.2f} {means[1]:>10.2f} {means[2]:>10.2f}   {p:.3g}")
        mean = np.mean(totals[:-1], axis=0)
        print(f"{'mean':<8} {mean[0]:>10.2f} {mean[1]:>10.2f} {mean[2]:>10.2f}")
    if given.out is not None:
        record = {
            "pairs": len(protocol.pairs),
            "restorer": fingerprint_of(given.restorer, given.weights),
            "columns": ["as it came", given.restorer, "fused"],
            "rows": rows,
        }
        with replacing(given.out) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BlurfaceError as error:
        raise SystemExit(str(error)) from None
