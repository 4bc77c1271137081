"""Who runs the network: PyTorch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from .base import Backend, BackendRestorer

BACKENDS = ("torch", "onnxruntime", "openvino")


def best_backend() -> str:
    """The backend that ``"auto"`` stands for: OpenVINO, ONNX Runtime, PyTorch, whichever is installed."""
    from importlib.util import find_spec

    return next((name for name in ("openvino", "onnxruntime") if find_spec(name)), "torch")


def load_backend(backend: str, path: Path, *, threads: int | None = None, precision: str = "fp32") -> Backend:
    """A backend on an exported file.

    Parameters
    ----------
    backend : {"onnxruntime", "openvino"}
    path : Path
        ``.onnx`` for either, ``.xml`` for OpenVINO.
    threads : int, optional
    precision : {"fp32", "bf16"}
        Of the arithmetic; bf16 with OpenVINO only.

    Raises
    ------
    UnknownNameError
        If there is no such backend.
    InputError
        If it does not compute in this precision.
    """
    if precision not in ("fp32", "bf16") or (precision == "bf16" and backend != "openvino"):
        raise InputError(
            f"The backend {backend!r} does not compute in {precision}.", "Use fp32, or bf16 with openvino."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Make it with: blurface export.")
    if backend == "onnxruntime":
        from .onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, threads)
    if backend == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend(path, threads, "bf16" if precision == "bf16" else "fp32")
    raise UnknownNameError(f"No backend is called {backend!r}.", f"Known: {', '.join(BACKENDS)}.")


def create_backend_restorer(
    name: str,
    backend: str,
    *,
    model: str | Path | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    **options: Any,
) -> BackendRestorer:
    """A restorer whose network another runtime runs.

    Parameters
    ----------
    name : str
        A network's name, e.g. ``"fast"``.
    backend : {"onnxruntime", "openvino"}
    model : path, optional
        A file that ``blurface export`` wrote. Without it the network is exported once and kept in
        the cache, under a name that holds the digest of its weights.
    threads : int, optional
    precision : {"fp32", "bf16"}
    **options
        Passed to the restorer that is exported.
    """
    from ..assets import sha256_file
    from .base import BackendRestorer

    if backend not in BACKENDS:
        raise UnknownNameError(f"No backend is called {backend!r}.", f"Known: {', '.join(BACKENDS)}, auto.")
    if model is None:
        from ..export import cached_export

        path = cached_export(name, **options)
    elif options:
        raise InputError(
            f"The options {', '.join(options)} cannot change a model that is exported already.",
            "Give them to blurface export.",
        )
    else:
        path = Path(model)
    runner = load_backend(backend, path, threads=threads, precision=precision)
    return BackendRestorer(name, runner, sha256_file(path))
