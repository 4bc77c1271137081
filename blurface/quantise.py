"""Eight-bit convolutions: an exported network quantised statically, and what that costs.

Calibration takes blurry *training* faces; the figures come from other training faces, so nothing
here looks at an evaluation set.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backends import load_backend
from .backends.base import Backend
from .errors import InputError, MissingDependencyError
from .export import export_onnx
from .files import replacing
from .restorers.base import Restorer

_BATCH = 8


@dataclass(frozen=True)
class QuantisationReport:
    """What eight bits cost, on faces that were not calibrated on.

    Attributes
    ----------
    full, quantised : float
        Mean PSNR in dB of the restored against the sharp faces.
    between : float
        Mean PSNR in dB of the quantised network's results against the full one's.
    blurry : float
        Mean PSNR in dB of the blurry faces.
    calibrated, measured : int
        Numbers of faces.
    """

    full: float
    quantised: float
    between: float
    blurry: float
    calibrated: int
    measured: int

    def __str__(self) -> str:
        return (
            f"calibrated on {self.calibrated} faces; PSNR on {self.measured} others: int8 "
            f"{self.quantised:.2f} dB, fp32 {self.full:.2f} dB, blurry {self.blurry:.2f} dB; "
            f"int8 against fp32 {self.between:.2f} dB"
        )


def export_int8(
    restorer: Restorer, path: Path, source: Path, *, faces: int = 128, seed: int = 0
) -> QuantisationReport:
    """Export a network, quantise its convolutions, and measure what that costs.

    Parameters
    ----------
    restorer : Restorer
    path : Path
        ``.onnx`` file to write.
    source : Path
        Sharp training faces: a folder or a packed file
        (:func:`blurface.training.sources.read_faces`).
    faces : int
        How many to calibrate on; half as many others are measured.
    seed : int
        Of the choice of faces and of their blur.

    Raises
    ------
    DataError
        If the source holds no faces.
    InputError
        If it holds too few.
    """
    from .training.pairs import Degradation, make_pairs
    from .training.sources import read_faces

    sharp_faces = read_faces([source])
    measured = max(_BATCH, faces // 2)
    if len(sharp_faces) < faces + measured:
        raise InputError(
            f"{source} holds {len(sharp_faces)} faces; {faces + measured} are needed.",
            "Use a smaller --faces.",
        )
    rng = np.random.default_rng(seed)
    index = rng.permutation(len(sharp_faces))[: faces + measured]
    pairs = make_pairs(sharp_faces, index, rng, Degradation(), augment=False)
    blurry: NDArray[np.float32] = pairs.blurry.numpy().astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="blurface-") as scratch:
        full_path = Path(scratch, "full.onnx")
        export_onnx(restorer, full_path)
        quantise_onnx(full_path, path, _batches(blurry[:faces]))
        full = _run(load_backend("onnxruntime", full_path), blurry[faces:])
    quantised = _run(load_backend("onnxruntime", path), blurry[faces:])
    sharp, before = pairs.sharp[faces:], pairs.blurry[faces:]
    return QuantisationReport(
        mean_psnr(full, sharp),
        mean_psnr(quantised, sharp),
        mean_psnr(quantised, full),
        mean_psnr(before, sharp),
        faces,
        measured,
    )


def _batches(faces: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [faces[at : at + _BATCH] for at in range(0, len(faces), _BATCH)]


def _run(backend: Backend, faces: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.concatenate([backend.run(batch)[0] for batch in _batches(faces)]))


def mean_psnr(one: Tensor, other: Tensor) -> float:
    """Mean over pictures (N, C, H, W) in [0, 1] of each one's PSNR in dB, at most 100."""
    error = (one - other).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def quantise_onnx(
    source: Path, target: Path, faces: Sequence[NDArray[np.float32]], *, narrow: bool = True
) -> None:
    """Static 8-bit quantisation of the convolutions, calibrated on blurry faces.

    Only convolutions are quantised: the Fourier steps divide by small numbers and stay in float32. So do
    the heads, the last convolutions of a network's parts: they take a thirtieth of the time, and their
    rounding goes straight into the picture (docs/speed.md).

    Parameters
    ----------
    source, target : Path
        ``.onnx`` files.
    faces : sequence of ndarray
        (N, 3, H, W) float32 batches in [0, 1] as the network will see them: blurry training faces.
    narrow : bool
        Weights in seven bits. CPUs without VNNI add products in 16 bits, which eight overflow.

    Raises
    ------
    InputError
        If there are no faces.
    MissingDependencyError
        If onnx or ONNX Runtime is missing.
    """
    if not faces:
        raise InputError("No faces to calibrate on.", "Name training faces with --calibration.")
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingDependencyError(
            f"Quantisation needs a package that is missing ({error}).",
            "Install it with: pip install 'blurface[onnx]'.",
        ) from error

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = iter(faces)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory(prefix="blurface-") as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared)).graph.node
        heads = [n.name for n in nodes if n.op_type == "Conv" and n.input[1].endswith("head.weight")]
        quantize_static(
            str(prepared),
            str(quantised),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=heads,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            reduce_range=narrow,
        )
        with replacing(target) as temporary:
            shutil.copyfile(quantised, temporary)
