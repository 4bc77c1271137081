"""Find the gate's thresholds on training faces and write them into the weights' card.

    python benchmarks/calibrate_gate.py --data training/celeba.parquet [--model fast] [--out CARD.json]

For faces of people with several pictures, one picture is the probe and another the sharp reference.
Each probe is tried sharp, sharp with noise and JPEG, and blurred with random kernels of six extents.
For each, the similarity of its embedding to the reference's is measured as it came, restored, and at
three blends between. The lower threshold is where sharp and blurred probes are told apart with the fewest
mistakes (Youden's J: the share of sharp probes below it plus the share of blurred ones above). The upper is
the highest that keeps ``--keep`` of the gain in similarity on the blurred probes and costs the sharp ones at
most ``--tolerance`` in the mean. The early one, for the network's first estimate, is the highest, up to the
lower threshold, by which at most ``--lost`` of that gain is lost.

The verifier is the one of the facial loss, the faces are training faces: nothing here looks at an
evaluation set.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurface.errors import BlurfaceError
from blurface.files import replacing
from blurface.gate import Gate, kernel_spread
from blurface.restorers import create_restorer
from blurface.restorers.base import Restorer
from blurface.training.pack import Faces, read_pack
from blurface.training.pairs import Degradation, make_pairs
from blurface.weights import FOLDER
from verification.embedders import create_embedder
from verification.embedders.base import Embedder

SHARES = np.linspace(0, 1, 5)
"""Shares of the restored picture at which embeddings are measured; between them, straight lines."""

EXTENTS = ((3, 5), (5, 8), (8, 12), (12, 18), (18, 25), (25, 31))
"""Ranges of the kernels' extents in pixels, an equal number of probes each."""


def degradation(extent: tuple[float, float] | None, noise: float, jpeg: float) -> Degradation:
    """Trajectories of one range of extents, or none at all."""
    return Degradation(
        valid_size=extent or (3, 5),
        small=0,
        linear=0.1 if extent else 0,
        defocus=0,
        sharp=0 if extent else 1,
        varying=0,
        replicate=0,
        noise=noise,
        jpeg=jpeg,
    )


def choose_people(faces: Faces, people: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Rows of a probe and of a reference for each of so many people who have two pictures."""
    rows: dict[str, list[int]] = {}
    for row, identity in enumerate(faces.identities):
        rows.setdefault(identity, []).append(row)
    several = [identity for identity, own in rows.items() if len(own) > 1]
    if not several:
        raise SystemExit("Nobody in the data has two pictures.")
    chosen = rng.permutation(len(several))[:people]
    pairs = np.array([rng.permutation(rows[several[i]])[:2] for i in chosen])
    return pairs[:, 0], pairs[:, 1]


def similarities(embedder: Embedder, pictures: Tensor, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each picture's embedding with its reference's, both as they come (N,)."""
    rounded = (pictures.clamp(0, 1) * 255).round() / 255
    embedding = embedder.embed(rounded).astype(np.float64)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return (embedding * reference).sum(1)


def measure(
    restorer: Restorer, embedder: Embedder, blurry: Tensor, reference: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores (N,), similarities (N, 5) at :data:`SHARES`, scores by the first estimate (N,)."""
    restored, kernels = restorer.restore(blurry, return_kernel=True)
    assert isinstance(restored, Tensor)
    first = restorer.restore(blurry, return_kernel=True, sharp_below=math.inf)[1]
    scores, early = (np.asarray(kernel_spread(found), np.float64) for found in (kernels, first))
    columns = [similarities(embedder, blurry + share * (restored - blurry), reference) for share in SHARES]
    return scores, np.stack(columns, 1), early


def gain_of_each(gate: Gate, scores: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gains in similarity behind a gate (N,), the early threshold left aside."""
    weight = gate.weight(torch.from_numpy(scores)).numpy()
    at = weight * (len(SHARES) - 1)
    below = np.minimum(at.astype(int), len(SHARES) - 2)
    rows = np.arange(len(table))
    value = table[rows, below] + (at - below) * (table[rows, below + 1] - table[rows, below])
    return value - table[:, 0]


def highest_early(low: float, gained: NDArray[np.float64], first: NDArray[np.float64], share: float) -> float:
    """Highest threshold up to ``low``, of two decimals, that costs at most a share of what is gained."""
    levels = np.arange(0, low + 0.005, 0.01).round(2)
    lost = np.array([gained[first <= level].sum() for level in levels])
    return float(levels[lost <= share * gained.sum()][-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="packed training faces (blurface data pack)")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--weights", help="a .safetensors file instead of the packaged one")
    parser.add_argument("--verifier", default="mobilefacenet")
    parser.add_argument("--people", type=int, default=240)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=5e-4,
        help="similarity sharp probes may lose (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=float, default=0.99, help="share of the gain to keep (default: %(default)s)"
    )
    parser.add_argument(
        "--lost",
        type=float,
        default=1e-3,
        help="share of the gain that may be lost by passing early (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="card to write (default: beside the weights)")
    given = parser.parse_args()

    rng = np.random.default_rng(given.seed)
    restorer = create_restorer(given.model, **({"weights": given.weights} if given.weights else {}))
    embedder = create_embedder(given.verifier)
    faces = read_pack(given.data)
    probe, other = choose_people(faces, given.people, rng)
    still = degradation(None, 0, 0)
    sharp_reference = make_pairs(faces, other, rng, still, augment=False).sharp
    reference = embedder.embed(sharp_reference).astype(np.float64)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)

    found: dict[str, list[tuple[NDArray[np.float64], ...]]] = {"sharp": [], "blurred": []}
    conditions = [("sharp", still), ("sharp", degradation(None, 3, 0.5))]
    conditions += [("blurred", degradation(extent, 2, 0.1)) for extent in EXTENTS]
    print("condition        score 5% / median / 95%    similarity as it came / restored")
    for kind, settings in conditions:
        rows = np.arange(len(probe))
        if kind == "blurred":  # a third of the people each, others for each extent
            rows = rng.permutation(len(probe))[: max(8, len(probe) // 3)]
        blurry = make_pairs(faces, probe[rows], rng, settings, augment=False).blurry
        scores, table, first = measure(restorer, embedder, blurry, reference[rows])
        found[kind].append((scores, table, first))
        name = (
            f"{kind} {settings.valid_size[0]:g}-{settings.valid_size[1]:g}"
            if kind == "blurred"
            else ("sharp" if settings.noise == 0 else "sharp, noisy")
        )
        low, middle, high = np.quantile(scores, [0.05, 0.5, 0.95])
        print(
            f"{name:<16} {low:5.2f} / {middle:5.2f} / {high:5.2f}       "
            f"{table[:, 0].mean():.4f} / {table[:, -1].mean():.4f}"
        )

    *sharp, sharp_first = [np.concatenate(parts) for parts in zip(*found["sharp"])]
    *blurred, first = [np.concatenate(parts) for parts in zip(*found["blurred"])]

    def gained(gate: Gate, probes: list[NDArray[np.float64]]) -> float:
        return float(gain_of_each(gate, *probes).mean())

    everything = gained(Gate(0, 0), blurred)
    levels = np.unique(np.concatenate([sharp[0], blurred[0]]).round(2))
    youden = [(sharp[0] <= level).mean() + (blurred[0] > level).mean() for level in levels]
    low = float(levels[int(np.argmax(youden))])
    candidates = [Gate(low, float(high)) for high in levels if high >= low]
    changes = np.array([gained(gate, sharp) for gate in candidates])
    gains = np.array([gained(gate, blurred) for gate in candidates])
    fit = (changes >= min(-given.tolerance, changes.max())) & (gains >= given.keep * gains.max())
    best = candidates[int(np.flatnonzero(fit)[-1]) if fit.any() else int(changes.argmax())]
    early = highest_early(best.low, gain_of_each(best, *blurred), first, given.lost)
    record = {
        "low": best.low,
        "high": best.high,
        "early": early,
        "calibration": {
            "faces": given.data.name,
            "verifier": given.verifier,
            "people": len(probe),
            "seed": given.seed,
            "sharp_similarity_change_ungated": round(gained(Gate(0, 0), sharp), 5),
            "sharp_similarity_change": round(gained(best, sharp), 5),
            "sharp_passed": round(float((sharp[0] <= best.low).mean()), 4),
            "sharp_passed_early": round(float((sharp_first <= early).mean()), 4),
            "blurred_passed": round(float((blurred[0] <= best.low).mean()), 4),
            "blurred_passed_early": round(float((first <= early).mean()), 4),
            "blurred_gain_ungated": round(everything, 5),
            "blurred_gain_kept": round(gained(best, blurred) / everything, 4) if everything > 0 else None,
        },
    }
    print(json.dumps(record, indent=2))
    default = Path(given.weights).with_suffix(".json") if given.weights else FOLDER / f"{given.model}.json"
    path = given.out or default
    card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**card, "gate": record}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    try:
        main()
    except BlurfaceError as error:
        raise SystemExit(str(error)) from None
