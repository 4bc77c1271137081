"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import MissingDependencyError, WeightsError
from .base import Array


class OpenVinoBackend:
    """Run an exported ``.xml`` (or ``.onnx``) file.

    Parameters
    ----------
    path : Path
    threads : int, optional
        Default what OpenVINO takes: the cores of the machine.
    precision : {"fp32", "bf16"}
        Of the arithmetic. bf16 needs a CPU with AVX512-BF16 or AMX to gain.

    Raises
    ------
    MissingDependencyError
        If OpenVINO is not installed.
    WeightsError
        If the file is no model of a restorer.
    """

    name: ClassVar[str] = "openvino"

    def __init__(
        self, path: Path, threads: int | None = None, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingDependencyError(
                f"OpenVINO cannot be imported ({error}).",
                "Install it with: pip install 'blurface[openvino]'.",
            ) from error
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = openvino.Core().compile_model(str(path), "CPU", config)
            outputs = {name for output in self._model.outputs for name in output.get_names()}
        except RuntimeError as error:
            raise WeightsError(f"{path} is no model for OpenVINO ({error}).", "Export it again.") from error
        if "restored" not in outputs:
            raise WeightsError(
                f"{path} has the outputs {', '.join(sorted(outputs))}, not 'restored'.",
                "Use blurface export.",
            )
        self._outputs = [name for name in ("restored", "kernel") if name in outputs]
        self._local = threading.local()  # an inference request serves one thread

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """See :class:`~blurface.backends.base.Backend`."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._model.create_infer_request()
        request.infer([batch])
        # Copied: the request writes into the same memory next time.
        results = [request.get_tensor(name).data.copy() for name in self._outputs]
        return results[0], results[1] if len(results) > 1 else None
