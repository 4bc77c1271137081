"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ..errors import MissingDependencyError, WeightsError
from .base import Array


class OnnxRuntimeBackend:
    """Run an exported ``.onnx`` file.

    Parameters
    ----------
    path : Path
    threads : int, optional
        Default what ONNX Runtime takes: the cores of the machine.

    Raises
    ------
    MissingDependencyError
        If ONNX Runtime is not installed.
    WeightsError
        If the file is no model of a restorer.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"ONNX Runtime cannot be imported ({error}).",
                "Install it with: pip install 'blurface[onnx]'.",
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimiser
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common public base
            raise WeightsError(
                f"{path} is no model for ONNX Runtime ({error}).", "Export it again."
            ) from error
        self._input = self._session.get_inputs()[0].name
        outputs = [output.name for output in self._session.get_outputs()]
        if "restored" not in outputs:
            raise WeightsError(
                f"{path} has the outputs {', '.join(outputs)}, not 'restored'.", "Use blurface export."
            )
        self._outputs = [name for name in ("restored", "kernel") if name in outputs]

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """See :class:`~blurface.backends.base.Backend`."""
        results = self._session.run(self._outputs, {self._input: batch})
        return results[0], results[1] if len(results) > 1 else None
