"""Who runs the network: PyTorch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from .base import Backend, BackendRestorer

BACKENDS = ("torch", "onnxruntime", "openvino")


_FASTEST_IN_TORCH = frozenset({"deepdeblur"})
"""Networks that PyTorch runs in another, faster form than exported files have."""


def best_backend(name: str = "fast") -> str:
    """The backend that ``"auto"`` stands for: ONNX Runtime, OpenVINO, PyTorch, whichever is installed.

    In this order of speed with float32 and dynamic shapes (docs/speed.md). Where the CPU computes
    bfloat16 natively, PyTorch uses it and is taken.

    Parameters
    ----------
    name : str
        Of the network.
    """
    from importlib.util import find_spec

    from ..weights import bf16_is_fast

    if bf16_is_fast() or name in _FASTEST_IN_TORCH:
        return "torch"
    return next((name for name in ("onnxruntime", "openvino") if find_spec(name)), "torch")


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


def create_backend_restorer(
    name: str,
    backend: str,
    *,
    model: str | Path | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    static: Sequence[tuple[int, int, int]] = (),
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
    precision : {"fp32", "bf16", "int8"}
        ``"int8"`` takes the packaged quantised file of this name.
    static : sequence of (int, int, int)
        Shapes (N, H, W) that OpenVINO compiles for themselves as well.
    **options
        Passed to the restorer that is exported.

    Raises
    ------
    UnknownNameError
        If there is no such network or backend.
    InputError
        If options do not go together, or the package has no quantised file of this network.
    """
    from ..assets import sha256_file
    from .base import BackendRestorer

    if backend not in BACKENDS:
        raise UnknownNameError(f"No backend is called {backend!r}.", f"Known: {', '.join(BACKENDS)}, auto.")
    if options and (model is not None or precision == "int8"):
        raise InputError(
            f"The options {', '.join(options)} cannot change a model that is exported already.",
            "Give them to blurface export.",
        )
    if model is not None:
        path = Path(model)
    elif precision == "int8":
        from ..weights import FOLDER

        path = FOLDER / f"{name}.int8.onnx"
        if not path.is_file():
            raise InputError(
                f"The package holds no 8-bit model of {name!r}.",
                "Make one with blurface export --precision int8 and pass it as model=.",
            )
    else:
        from ..export import cached_export

        path = cached_export(name, **options)
    arithmetic = "fp32" if precision == "int8" else precision
    runner = load_backend(backend, path, threads=threads, precision=arithmetic, static=static)
    return BackendRestorer(name, runner, sha256_file(path))


def exported(
    path: str, backend: str = "onnxruntime", device: str = "cpu", threads: int | None = None
) -> BackendRestorer:
    """A restorer from a file that ``blurface export`` wrote, for the tables: ``exported:PATH``.

    Parameters
    ----------
    path : str
    backend : {"onnxruntime", "openvino"}
    device : str
        Taken for uniformity; the backends run on the CPU.
    threads : int, optional
    """
    return create_backend_restorer(Path(path).stem, backend, model=path, threads=threads)
