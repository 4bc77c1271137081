"""Restorers whose network another runtime runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .assets import sha256_file
from .backends import BACKENDS, load_backend
from .backends.base import Backend
from .errors import InputError, UnknownNameError, WeightsError
from .export import cached_export
from .gate import Gate
from .networks import NETWORKS
from .restorers.base import Restorer
from .restorers.network import PRECISIONS
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
        SHA-256 of the exported file.
    precision : {"fp32", "bf16"}
        Of the runtime's arithmetic.
    """

    def __init__(self, name: str, backend: Backend, digest: str, precision: str = "fp32") -> None:
        super().__init__("cpu")
        # Class variables of other restorers; here one class serves every network and runtime.
        vars(self).update(name=name, estimates_kernel=backend.estimates_kernel, distributions=(backend.name,))
        self.backend = backend
        self.digest = digest
        self.precision = precision

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        return restore_in_tiles(batch.detach(), self._run)

    def _run(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        restored, estimate = self.backend.run(batch.contiguous().numpy())
        return torch.from_numpy(restored), None if estimate is None else torch.from_numpy(estimate)

    def calibrated_gate(self) -> Gate | None:
        """As the exported file carries it."""
        if "blurface_gate" not in self.backend.card:
            return None
        return Gate.from_card({"gate": json.loads(self.backend.card["blurface_gate"])}, self.name)

    def options(self) -> dict[str, Any]:
        """The runtime and its arithmetic."""
        return {"backend": self.backend.name, "precision": self.precision}

    def fingerprint(self) -> dict[str, Any]:
        """Name, runtime with its version, and digest of the network."""
        return {**super().fingerprint(), "weights": self.digest}


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
        ``"int8"`` takes the packaged quantised file of this name; ``"float32"`` and ``"bfloat16"`` will do as
        well, and ``"auto"`` is fp32.
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
    WeightsError
        If the file is damaged, or says that it is another network.
    """
    short = {"auto": "fp32", **{long: short for short, long in PRECISIONS.items()}}
    precision = short.get(precision, precision)
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
    open_file = partial(load_backend, backend, threads=threads, precision=arithmetic, static=static)
    try:
        runner = open_file(path)
    except WeightsError:
        if model is not None or precision == "int8":
            raise
        # A file of ours in the cache that has come to harm.
        path.unlink(missing_ok=True)
        runner = open_file(cached_export(name, **options))
    said = runner.card.get("blurface_model", name)
    if name in NETWORKS and said != name:
        raise WeightsError(f"{path} holds the network {said!r}, not {name!r}.", f"Use it with {said!r}.")
    return BackendRestorer(name, runner, sha256_file(path), arithmetic)


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
