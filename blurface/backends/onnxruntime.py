"""ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import MissingDependencyError, WeightsError
from .base import Array

_PART = 8
"""Pictures that one thread restores at once: what they need stays in its cache."""


class OnnxRuntimeBackend:
    """Run an exported ``.onnx`` file.

    All threads work on a small batch together; a large one is restored in parts, one thread a part,
    which is faster (docs/speed.md) and needs less memory.

    Parameters
    ----------
    path : Path
    threads : int, optional
        Default PyTorch's number of threads.

    Raises
    ------
    MissingDependencyError
        If ONNX Runtime is not installed.
    WeightsError
        If the file is no model of a restorer.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path, self._threads = path, threads or torch.get_num_threads()
        self._session = self._opened(self._threads)
        # Of one thread a call, and those that call it: made for the first large batch.
        self._single: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._input = self._session.get_inputs()[0].name
        outputs = [output.name for output in self._session.get_outputs()]
        if "restored" not in outputs:
            raise WeightsError(
                f"{path} has the outputs {', '.join(outputs)}, not 'restored'.", "Use blurface export."
            )
        self._outputs = [name for name in ("restored", "kernel") if name in outputs]
        self.estimates_kernel = len(self._outputs) > 1
        self.card: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __reduce__(self) -> tuple[Any, ...]:
        # Sessions neither copy nor pickle: the file is opened again.
        return type(self), (self._path, self._threads)

    def _opened(self, threads: int) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"ONNX Runtime cannot be imported ({error}).",
                "Install it with: pip install 'blurface[onnx]'.",
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimiser
        options.intra_op_num_threads = threads
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common public base
            raise WeightsError(
                f"{self._path} is no model for ONNX Runtime ({error}).", "Export it again."
            ) from error

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """See :class:`~blurface.backends.base.Backend`."""
        if self._threads == 1 or len(batch) < 2 * self._threads:
            results = [self._run(self._session, part) for part in _parts(batch, 1)]
        else:
            with self._lock:
                if self._pool is None:
                    self._single = self._opened(1)
                    self._pool = ThreadPoolExecutor(self._threads, "blurface-onnxruntime")
            results = list(
                self._pool.map(lambda part: self._run(self._single, part), _parts(batch, self._threads))
            )
        restored, *kernels = (
            np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*results)
        )
        return restored, kernels[0] if kernels else None

    def _run(self, session: Any, batch: Array) -> list[Array]:
        results: list[Array] = session.run(self._outputs, {self._input: batch})
        return results


def _parts(batch: Array, threads: int) -> list[Array]:
    """Parts of nearly one size, at most :data:`_PART`, as many for each thread."""
    rounds = -(-len(batch) // (_PART * threads))
    return np.array_split(batch, max(1, rounds) * threads)
