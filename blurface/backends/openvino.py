"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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
    static : sequence of (int, int, int)
        Shapes (N, H, W) that are compiled for themselves as well: they run about a quarter faster,
        and each takes a second or more to compile. Every other shape runs on the dynamic model.

    Raises
    ------
    MissingDependencyError
        If OpenVINO is not installed.
    WeightsError
        If the file is no model of a restorer.
    """

    name: ClassVar[str] = "openvino"

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        static: Sequence[tuple[int, int, int]] = (),
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
        core = openvino.Core()
        try:
            model = core.read_model(str(path))
            outputs = {name for output in model.outputs for name in output.get_names()}
            if "restored" not in outputs:
                raise WeightsError(
                    f"{path} has the outputs {', '.join(sorted(outputs))}, not 'restored'.",
                    "Use blurface export.",
                )
            self._models: dict[tuple[int, ...] | None, Any] = {None: core.compile_model(model, "CPU", config)}
            for n, height, width in static:
                fixed = core.read_model(str(path))
                fixed.reshape([n, 3, height, width])
                self._models[n, 3, height, width] = core.compile_model(fixed, "CPU", config)
        except RuntimeError as error:
            raise WeightsError(f"{path} is no model for OpenVINO ({error}).", "Export it again.") from error
        self._outputs = [name for name in ("restored", "kernel") if name in outputs]
        self.estimates_kernel = len(self._outputs) > 1
        self.card = _card(model)
        self._arguments = (path, threads, precision, tuple(static))
        self._local = threading.local()  # an inference request serves one thread

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled models neither copy nor pickle: the file is opened again.
        return type(self), self._arguments

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """See :class:`~blurface.backends.base.Backend`."""
        requests = vars(self._local).setdefault("requests", {})
        key = batch.shape if batch.shape in self._models else None
        if key not in requests:
            requests[key] = self._models[key].create_infer_request()
        request = requests[key]
        request.infer([batch])
        # Copied: the request writes into the same memory next time.
        results = [request.get_tensor(name).data.copy() for name in self._outputs]
        return results[0], results[1] if len(results) > 1 else None


def _card(model: Any) -> dict[str, str]:
    """The metadata of the ONNX file that a model is or was made of."""
    kept = ["blurface_model", "blurface_gate", "blurface_version"]
    return {
        name: model.get_rt_info(["framework", name]).astype(str)
        for name in kept
        if model.has_rt_info(["framework", name])
    }
