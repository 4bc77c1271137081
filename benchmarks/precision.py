"""What lower precision costs and saves: int8, bfloat16 and half-precision weights beside float32.

    python benchmarks/precision.py --data training.parquet [--faces 128] [--out results/precision.json]

Calibration and measurement use *training* faces (different ones), so no evaluation set is looked at.
For each form of the network: PSNR against the sharp face and against float32's result, cosine of the
verifier's embedding to that of the sharp face, and milliseconds of CPU time a face (fastest batch) beside
float32 on the same runtime. A form is worth having if it is faster and loses less than it saves.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speed import machine
from torch import Tensor

from blurface.backends import load_backend
from blurface.export import export_onnx, export_openvino
from blurface.files import replacing
from blurface.quantise import mean_psnr, quantise_onnx
from blurface.restorers import create_restorer
from blurface.training.pairs import Degradation, make_pairs
from blurface.training.sources import read_faces
from verification.embedders import create_embedder

Run = Callable[[Tensor], Tensor]
BATCH = 16


def forms(model: str, weights: str | None, calibration: Tensor, folder: Path) -> dict[str, Run]:
    """Each form of the network, ready to run; float32 of each runtime first."""
    options = {"weights": weights} if weights else {}
    restorer = create_restorer(model, precision="float32", **options)
    full, narrow, wide = (folder / f"{name}.onnx" for name in ("full", "narrow", "wide"))
    export_onnx(restorer, full)
    export_openvino(restorer, folder / "half.xml", half=True)
    batches = [part.numpy() for part in calibration.split(8)]
    quantise_onnx(full, narrow, batches, narrow=True)
    quantise_onnx(full, wide, batches, narrow=False)
    bf16 = create_restorer(model, precision="bfloat16", **options)

    def by(backend: str, path: Path, **given: Any) -> Run:
        runner = load_backend(backend, path, threads=1, **given)
        return lambda batch: torch.from_numpy(runner.run(batch.numpy())[0])

    return {
        "torch float32": lambda batch: restorer.restore(batch),  # type: ignore[dict-item]
        "torch bfloat16": lambda batch: bf16.restore(batch),  # type: ignore[dict-item]
        "onnxruntime float32": by("onnxruntime", full),
        "onnxruntime int8": by("onnxruntime", wide),
        "onnxruntime int8, 7-bit weights": by("onnxruntime", narrow),
        "openvino float32": by("openvino", full),
        "openvino float16 weights": by("openvino", folder / "half.xml"),
        "openvino int8": by("openvino", wide),
        "openvino int8, 7-bit weights": by("openvino", narrow),
        "openvino bfloat16": by("openvino", full, precision="bf16"),
        "openvino int8, 8-bit weights, bfloat16": by("openvino", wide, precision="bf16"),
    }


def unit(embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    values = embedding.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="training faces: packed file or folder")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--weights", help="a .safetensors file instead of the packaged one")
    parser.add_argument("--verifier", default="mobilefacenet")
    parser.add_argument("--faces", type=int, default=128, help="to calibrate on, and as many to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)

    rng = np.random.default_rng(given.seed)
    faces = read_faces([given.data])
    index = rng.permutation(len(faces))[: 2 * given.faces]
    pairs = make_pairs(faces, index, rng, Degradation(), augment=False)
    blurry, sharp = pairs.blurry[given.faces :], pairs.sharp[given.faces :]
    embedder = create_embedder(given.verifier)
    target = unit(embedder.embed(sharp))

    def cosine(pictures: Tensor) -> float:
        return float((unit(embedder.embed(pictures)) * target).sum(1).mean())

    rows: list[dict[str, Any]] = [
        {"form": "blurry", "psnr": mean_psnr(blurry, sharp), "cosine": cosine(blurry)}
    ]
    with tempfile.TemporaryDirectory(prefix="blurface-") as scratch:
        runs = forms(given.model, given.weights, pairs.blurry[: given.faces], Path(scratch))
        seconds: dict[str, float] = dict.fromkeys(runs, float("inf"))
        results: dict[str, list[Tensor]] = {name: [] for name in runs}
        for batch in blurry.split(BATCH):
            for name, run in runs.items():
                began = time.process_time()
                results[name].append(run(batch))
                seconds[name] = min(seconds[name], (time.process_time() - began) / len(batch))
    reference = torch.cat(results["torch float32"])
    for name, parts in results.items():
        restored = torch.cat(parts)
        base = seconds[f"{name.split()[0]} float32"]
        rows.append(
            {
                "form": name,
                "psnr": mean_psnr(restored, sharp),
                "psnr_to_float32": None if name == "torch float32" else mean_psnr(restored, reference),
                "cosine": cosine(restored),
                "cpu_ms": 1e3 * seconds[name],
                "ratio_to_float32": seconds[name] / base,
            }
        )
    print(f"{'':<34}{'PSNR':>7}{'to fp32':>9}{'cosine':>9}{'CPU ms':>8}{'ratio':>7}")
    for row in rows:
        shown = [row.get(key) for key in ("psnr", "psnr_to_float32", "cosine", "cpu_ms", "ratio_to_float32")]
        widths = ((7, 2), (9, 1), (9, 4), (8, 1), (7, 2))
        cells = ("" if v is None else f"{v:.{d}f}" for v, (_, d) in zip(shown, widths))
        print(f"{row['form']:<34}" + "".join(cell.rjust(w) for cell, (w, _) in zip(cells, widths)))
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "machine": machine(1),
            "model": given.model,
            "verifier": given.verifier,
            "faces": given.faces,
            "processes_waiting": round(os.getloadavg()[0], 1),
            "rows": rows,
        }
        with replacing(given.out) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
