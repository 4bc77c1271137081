"""Who runs the network: PyTorch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from .base import Backend

BACKENDS = ("torch", "onnxruntime", "openvino")


_FASTEST_IN_TORCH = frozenset({"deepdeblur"})
"""Networks that PyTorch runs in another, faster form than exported files have."""


def best_backend(name: str = "fast") -> str:
    """The backend that ``"auto"`` stands for: ONNX Runtime where it is installed, else PyTorch.

    In float32 with dynamic shapes that is the order of speed (docs/speed.md). Where the CPU computes
    bfloat16 natively, PyTorch uses it and is taken; also without ``onnx``, which exports.

    Parameters
    ----------
    name : str
        Of a restorer; for what is no network the answer is PyTorch.
    """
    from importlib.util import find_spec

    from ..networks import NETWORKS
    from ..weights import bf16_is_fast

    if bf16_is_fast() or name in _FASTEST_IN_TORCH or name not in NETWORKS:
        return "torch"
    return "onnxruntime" if all(map(find_spec, ("onnxruntime", "onnx"))) else "torch"


def load_backend(
    backend: str,
    path: Path,
    *,
    threads: int | None = None,
    precision: str = "fp32",
    static: Sequence[tuple[int, int, int]] = (),
) -> Backend:
    """A backend on an exported file.

    Parameters
    ----------
    backend : {"onnxruntime", "openvino"}
    path : Path
        ``.onnx`` for either, ``.xml`` for OpenVINO.
    threads : int, optional
    precision : {"fp32", "bf16"}
        Of the arithmetic; bf16 with OpenVINO only.
    static : sequence of (int, int, int)
        Shapes (N, H, W) that OpenVINO compiles for themselves as well.

    Raises
    ------
    UnknownNameError
        If there is no such backend.
    InputError
        If the file does not exist or the backend does not take these options.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads is {threads!r}.", "It must be a whole number from 1.")
    if backend not in ("onnxruntime", "openvino"):
        raise UnknownNameError(f"No backend is called {backend!r}.", f"Known: {', '.join(BACKENDS)}.")
    if precision not in ("fp32", "bf16") or (precision == "bf16" and backend != "openvino"):
        raise InputError(
            f"The backend {backend!r} does not compute in {precision}.", "Use fp32, or bf16 with openvino."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Make it with: blurface export.")
    if backend == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend(path, threads, "bf16" if precision == "bf16" else "fp32", static)
    if static:
        raise InputError("ONNX Runtime takes no static shapes.", "Use the backend openvino.")
    from .onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads)
