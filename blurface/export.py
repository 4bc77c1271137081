"""Networks as ONNX and OpenVINO files: dynamic batch and size, checked against PyTorch.

The exported graph has the input ``image`` (N, 3, H, W) float32 RGB in [0, 1] and the outputs
``restored``, the same, and for networks that estimate it ``kernel`` (N, K, K). Its metadata name
the network, its weights' SHA-256 and the gate's thresholds, so that the file serves without
blurface.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import __version__
from .assets import cache_folder, sha256_file
from .backends import load_backend
from .backends.base import Array
from .errors import BlurfaceError, InputError, MissingDependencyError
from .files import replacing
from .restorers import create_restorer
from .restorers.base import Restorer
from .restorers.network import NetworkRestorer

TOLERANCE = 1e-3
"""Largest difference to PyTorch that an export in full precision may show, in [0, 1]."""

OPSET = 18

Format = Literal["onnx", "openvino"]


class _Exportable(nn.Module):
    """A network in the form that other runtimes can run."""

    def __init__(self, module: nn.Module, kernel: bool) -> None:
        super().__init__()
        self.module = module
        self.kernel = kernel

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.kernel:
            restored: Tensor = self.module(image)
            return restored.clamp(0, 1)
        restored, kernels = self.module(image, return_kernel=True)
        return restored.clamp(0, 1), kernels


@dataclass(frozen=True)
class Parity:
    """Largest differences of an exported file to PyTorch over random sizes and contents.

    Attributes
    ----------
    restored, kernel : float
        Largest absolute difference; ``kernel`` is 0 where there is none.
    sizes : int
        How many (N, H, W) were tried.
    """

    restored: float
    kernel: float
    sizes: int


def network_of(restorer: Restorer) -> nn.Module:
    """The PyTorch module of a restorer.

    Raises
    ------
    InputError
        If it is no network.
    """
    module = getattr(restorer, "module", None)
    if not isinstance(module, nn.Module):
        raise InputError(f"{restorer.name!r} is no network, so it cannot be exported.", "Use e.g. 'fast'.")
    return module


def export_onnx(restorer: Restorer, path: Path) -> Parity:
    """Write a restorer's network as ONNX, checked with ONNX Runtime.

    Parameters
    ----------
    restorer : Restorer
    path : Path
        Replaced when the file is complete and right.

    Returns
    -------
    Parity

    Raises
    ------
    InputError
        If the restorer is no network.
    MissingDependencyError
        If onnx or ONNX Runtime is missing.
    BlurfaceError
        If the exported graph differs from PyTorch by more than :data:`TOLERANCE`.
    """
    kernel = restorer.estimates_kernel
    module = copy.deepcopy(network_of(restorer)).cpu().float().eval()
    for part in module.modules():
        if hasattr(part, "matrix_fourier"):
            setattr(part, "matrix_fourier", True)  # noqa: B010 (mypy takes any attribute for a tensor)
    names = ["restored", "kernel"] if kernel else ["restored"]
    dynamic = {"image": {0: "n", 2: "h", 3: "w"}, "restored": {0: "n", 2: "h", 3: "w"}, "kernel": {0: "n"}}
    with replacing(path) as temporary:
        try:
            # torch hides what is missing behind an error of its own
            import onnx  # noqa: F401

            with warnings.catch_warnings(), torch.no_grad():
                # The tracing exporter is announced as old, but the new one (torch 2.14) cannot
                # translate a remainder by a symbolic size; and its warnings are about Python code
                # that does not depend on what was traced. The example's size is odd, so that
                # networks that continue a picture's edge to a multiple of 8 do so in the graph.
                warnings.simplefilter("ignore")
                seeded = torch.Generator().manual_seed(0)
                example = torch.rand(2, 3, 109, 93, generator=seeded, dtype=torch.float32)
                torch.onnx.export(
                    _Exportable(module, kernel).eval(),
                    (example,),
                    str(temporary),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=["image"],
                    output_names=names,
                    dynamic_axes={name: dynamic[name] for name in ["image", *names]},
                )
            _describe(temporary, restorer)
        except ImportError as error:
            raise MissingDependencyError(
                f"The export needs a package that is missing ({error}).",
                "Install it with: pip install 'blurface[onnx]'.",
            ) from error
        return check_parity(restorer, "onnxruntime", temporary, tolerance=TOLERANCE)


def _describe(path: Path, restorer: Restorer) -> None:
    import onnx

    model = onnx.load(str(path))
    gate = restorer.calibrated_gate()
    card = {
        "blurface_version": __version__,
        "blurface_model": restorer.name,
        "blurface_fingerprint": json.dumps(restorer.fingerprint(), sort_keys=True),
        "input": "image: (N, 3, H, W) float32 RGB in [0, 1]",
        **({"blurface_gate": json.dumps({"low": gate.low, "high": gate.high})} if gate else {}),
    }
    onnx.helper.set_model_props(model, card)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def export_openvino(restorer: Restorer, path: Path, *, half: bool = False) -> Parity:
    """Write a restorer's network as OpenVINO's ``.xml`` and ``.bin``, checked with OpenVINO.

    Parameters
    ----------
    restorer : Restorer
    path : Path
        Ends in ``.xml``; the weights lie beside it in ``.bin``.
    half : bool
        Keep the weights in half precision: half the size, the arithmetic stays.

    Raises
    ------
    InputError
        If the name does not end in ``.xml`` or the restorer is no network.
    MissingDependencyError
        If OpenVINO, onnx or ONNX Runtime is missing.
    BlurfaceError
        If the exported graph differs from PyTorch by more than :data:`TOLERANCE` (tenfold with
        ``half``).
    """
    if path.suffix != ".xml":
        raise InputError(f"{path}: OpenVINO's models end in .xml.", f"Use {path.with_suffix('.xml')}.")
    with tempfile.TemporaryDirectory(prefix=".blurface-", dir=path.parent) as folder:
        onnx_path = Path(folder, "model.onnx")
        export_onnx(restorer, onnx_path)
        exported = Path(folder, "model.xml")
        _convert(onnx_path, exported, half)
        parity = check_parity(restorer, "openvino", exported, tolerance=TOLERANCE * (10 if half else 1))
        # The .xml last: once it is there, the model is whole.
        os.replace(exported.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(exported, path)
    return parity


def _convert(source: Path, target: Path, half: bool) -> None:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            f"OpenVINO cannot be imported ({error}).", "Install it with: pip install 'blurface[openvino]'."
        ) from error
    openvino.save_model(openvino.convert_model(str(source)), str(target), compress_to_fp16=half)


def check_parity(
    restorer: Restorer,
    backend: str,
    path: Path,
    *,
    sizes: int = 6,
    tolerance: float | None = None,
    seed: int = 0,
) -> Parity:
    """Compare an exported file with PyTorch over random batches, sizes and contents.

    Parameters
    ----------
    restorer : Restorer
    backend : {"onnxruntime", "openvino"}
    path : Path
    sizes : int
        How many random (N, H, W); 112 x 96 is always among them.
    tolerance : float, optional
        Raise where a difference exceeds it.
    seed : int

    Raises
    ------
    BlurfaceError
        If the difference of the pictures exceeds ``tolerance``.
    """
    runner = load_backend(backend, path)
    # bfloat16 would be compared with its own rounding
    reference = restorer.in_float32() if isinstance(restorer, NetworkRestorer) else restorer
    rng = np.random.default_rng(seed)
    shapes = [(2, 112, 96)]
    for _ in range(sizes - 1):
        shapes.append((int(rng.integers(1, 4)), int(rng.integers(17, 140)), int(rng.integers(17, 140))))
    worst = [0.0, 0.0]
    for shape in shapes:
        batch = _smooth_noise(rng, *shape)
        restored, kernels = runner.run(batch)
        if kernels is None:
            expected: Any = (reference.restore(torch.from_numpy(batch)),)
        else:
            expected = reference.restore(torch.from_numpy(batch), return_kernel=True)
            worst[1] = np.maximum(worst[1], np.abs(kernels - expected[1].numpy()).max())
        # NaN stays NaN in NumPy's maximum, and fails below.
        worst[0] = np.maximum(worst[0], np.abs(restored - expected[0].numpy()).max())
    if tolerance is not None and not worst[0] <= tolerance:
        raise BlurfaceError(
            f"The {backend} model of {restorer.name!r} differs from PyTorch by {worst[0]:.2g} "
            f"(allowed: {tolerance:g}).",
            "Report the versions of torch and of the runtime.",
        )
    return Parity(float(worst[0]), float(worst[1]), len(shapes))


def _smooth_noise(rng: np.random.Generator, n: int, height: int, width: int) -> Array:
    """Random pictures with edges and flat parts, which white noise does not have."""
    coarse = torch.from_numpy(rng.random((n, 3, 6, 6), dtype=np.float32))
    fine = torch.from_numpy(rng.random((n, 3, height, width), dtype=np.float32))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    array: Array = (0.9 * smooth + 0.1 * fine).numpy()
    return array


def cached_export(name: str, **options: Any) -> Path:
    """The ONNX file of a network in the user's cache, exported when it is not there."""
    restorer = create_restorer(name, device="cpu", **options)
    gate = repr(restorer.calibrated_gate())
    parts = [restorer.fingerprint(), gate, __version__, sha256_file(Path(__file__))]
    key = json.dumps(parts, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache_folder() / "exports" / f"{restorer.name}-{digest}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(restorer, path)
    return path
