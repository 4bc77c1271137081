"""What a network restores under each kind of degradation, on faces and people it was not trained on.

    python benchmarks/held_out.py --data training/celeba.parquet [--config configs/fast.toml] [--out FILE.csv]
    python benchmarks/held_out.py --data training/celeba.parquet --set centring=0 --only 2

The faces are those that ``blurface train`` holds out (its configuration's number and seed); the kernels are
drawn anew. Every condition blurs the same faces, each with one trajectory, real margins and no noise unless
its name says otherwise. ``varying`` blends two kernels across the face, which no single kernel describes.
Cosine is that of the verifier's embedding to the sharp face's; ``worse`` is the share of faces whose PSNR
falls. An identical picture counts 100 dB. The first condition is the mixture on which training is watched.
``--set`` changes what may be changed in a trained network: ``loops``, ``centring`` and
``reblurred`` of ``fast``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from blurface.networks.fast import FastNet
from blurface.restorers import create_restorer
from blurface.training.config import TrainConfig, read_config
from blurface.training.loop import central_face, split_by_identity
from blurface.training.pack import FACE, Faces
from blurface.training.pairs import WIDE, Batch, Degradation, make_pairs
from blurface.training.sources import read_faces
from blurface.weights import load_model, model_path, network_name
from protocols.degradation import from_bytes, to_bytes
from protocols.quality import psnr
from verification.embedders import create_embedder
from verification.scoring import cosine_scores

PLAIN = Degradation(
    small=0, linear=0, defocus=0, sharp=0, varying=0, off_centre=0, replicate=0, noise=0, jpeg=0
)

MIXTURE = "as in training"

CONDITIONS = {
    "trajectories of 5 to 31 pixels": PLAIN,
    "trajectories, faces of 112x112": replace(PLAIN, wide=1),
    "5 to 12 pixels": replace(PLAIN, valid_size=(5, 12)),
    "12 to 21 pixels": replace(PLAIN, valid_size=(12, 21)),
    "21 to 31 pixels": replace(PLAIN, valid_size=(21, 31)),
    "trajectories with a tremor": replace(PLAIN, tremor=1),
    "varying: two kernels blended across the face": replace(PLAIN, varying=1),
    "straight lines": replace(PLAIN, linear=1),
    "defocus": replace(PLAIN, defocus=1),
    "edges repeated instead of real margins": replace(PLAIN, replicate=1),
    "noise up to 2/255": replace(PLAIN, noise=2),
    "noise up to 5/255": replace(PLAIN, noise=5),
    "noise up to 10/255": replace(PLAIN, noise=10),
    "JPEG of quality 70 to 95": replace(PLAIN, jpeg=1),
    "no blur": replace(PLAIN, sharp=1),
}

BATCH = 20


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every measurement on the held-out faces is told."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="packed training faces (blurface data pack)")
    parser.add_argument("--config", type=Path, default=Path("configs/fast.toml"))
    parser.add_argument("--out", type=Path, help="CSV to write")
    return parser


def inside_fast(description: str | None) -> tuple[argparse.Namespace, FastNet, TrainConfig, Faces]:
    """What a measurement inside ``fast`` begins with: arguments, network, configuration, held-out faces."""
    parser = arguments(description)
    parser.add_argument("--weights", default="fast", help="a packaged model or a .safetensors file")
    given = parser.parse_args()
    network, _ = load_model(given.weights)
    if not isinstance(network, FastNet):
        parser.error(f"{given.weights} has no Wiener layer.")
    config = read_config(given.config)
    return given, network, config, held_out_faces(config, given.data)


def held_out_faces(config: TrainConfig, data: Path) -> Faces:
    """The faces that ``blurface train`` with this configuration holds out."""
    return split_by_identity(read_faces([data]), config.held_out, config.seed)[1]


def held_out_pairs(
    faces: Faces,
    settings: Degradation,
    seed: int,
    *,
    replicate: bool = False,
    frame: tuple[int, int] = FACE,
) -> Iterator[Batch]:
    """Every face once, blurred with the same kernels whoever asks."""
    for start in range(0, len(faces), BATCH):
        index = np.arange(start, min(start + BATCH, len(faces)))
        rng = np.random.default_rng([seed, 5, start])
        yield make_pairs(faces, index, rng, settings, replicate=replicate, augment=False, frame=frame)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", help="a packaged model or a .safetensors file instead")
    parser.add_argument("--verifier", default="mobilefacenet")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--only", type=int, help="so many of the conditions")
    given = parser.parse_args()

    config = read_config(given.config)
    weights = given.weights or config.name
    restorer = create_restorer(network_name(model_path(weights)), precision="float32", weights=weights)
    for change in given.changes:
        name, _, value = change.partition("=")
        kind = type(getattr(restorer.module, name))  # type: ignore[attr-defined]
        setattr(restorer.module, name, kind(value))  # type: ignore[attr-defined]
    restorer = restorer.in_float32()
    embedder = create_embedder(given.verifier)
    faces = held_out_faces(config, given.data)
    rows = []
    conditions = {MIXTURE: config.degradation} | CONDITIONS
    for name, settings in list(conditions.items())[: given.only]:
        columns: dict[str, list[NDArray[np.float64]]] = {}
        replicate = name != MIXTURE and settings.replicate > 0  # as the trainer watches it
        frame = WIDE if name != MIXTURE and settings.wide > 0 else FACE
        for pairs in held_out_pairs(faces, settings, config.seed, replicate=replicate, frame=frame):
            restored = restorer.restore(pairs.blurry)
            assert isinstance(restored, Tensor)
            sharp, target = to_bytes(pairs.sharp), embedder.embed(central_face(pairs.sharp))
            for word, image in (("blurry", pairs.blurry), ("restored", restored)):
                rounded = to_bytes(image)
                columns.setdefault(f"psnr_{word}", []).append(psnr(rounded, sharp).numpy())
                cosines = cosine_scores(embedder.embed(central_face(from_bytes(rounded))), target)
                columns.setdefault(f"cosine_{word}", []).append(cosines)
        joined = {key: np.concatenate(values) for key, values in columns.items()}
        worse = (joined["psnr_restored"] < joined["psnr_blurry"]).mean()
        row = {key: round(float(value.mean()), 4) for key, value in joined.items()}
        rows.append({"condition": name, **row, "worse": round(float(worse), 4)})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.out is not None:
        pd.DataFrame(rows).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
