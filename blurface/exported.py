"""Restorers whose network another runtime runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .assets import sha256_file
from .backends import BACKENDS, load_backend
from .backends.base import Backend
from .errors import InputError, UnknownNameError
from .export import cached_export
from .restorers.base import Restorer
from .tiles import restore_in_tiles
from .weights import FOLDER


class BackendRestorer(Restorer):
    """A network run by a backend, behind the restorer protocol; computes on the CPU.

    Parameters
    ----------
    name : str
        Of the restorer whose network it is.
    backend : Backend
    digest : str
        SHA-256 of the exported file or of the weights.
    batch_size : int
    """

    def __init__(self, name: str, backend: Backend, digest: str, batch_size: int = 32) -> None:
        super().__init__("cpu")
        # The class variable of other restorers; here one class serves every network.
        vars(self)["name"] = name
        self.backend = backend
        self.digest = digest
        self.batch_size = batch_size

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        return restore_in_tiles(batch.detach(), self._run)

    def _run(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        restored, estimate = self.backend.run(batch.contiguous().numpy())
        return torch.from_numpy(restored), None if estimate is None else torch.from_numpy(estimate)

    def fingerprint(self) -> dict[str, object]:
        """Name, backend and digest of the network."""
        return {**super().fingerprint(), "backend": self.backend.name, "weights": self.digest}


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
        path = FOLDER / f"{name}.int8.onnx"
        if not path.is_file():
            raise InputError(
                f"The package holds no 8-bit model of {name!r}.",
                "Make one with blurface export --precision int8 and pass it as model=.",
            )
    else:
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
