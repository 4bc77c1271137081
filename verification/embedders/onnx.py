"""Any face embedder in an ONNX file, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blurface.errors import DataError, InputError, MissingDependencyError, WeightsError

from .base import Embedder, Metric


class OnnxEmbedder(Embedder):
    """A face embedder in an ONNX file: ``onnx:PATH``.

    The file's first input tells the size: 112x96 and 112x112 are frames; to any other size the
    112x112 face is resized. Both (N, 3, H, W) and (N, H, W, 3) are recognised, and a fixed batch.
    The network sees ``(255 rgb - mean) / std``.

    Parameters
    ----------
    path : str or Path
        The ONNX file.
    mean, std : float or sequence of 3 floats
        In units of [0, 255] and the order of the network's channels. The defaults, 127.5 and
        127.5, are those of ArcFace and InsightFace: values in [-1, 1].
    bgr : bool
        The network takes blue, green, red.
    metric : {"cosine", "euclidean"}
    output : str, optional
        Name of the output that is the embedding; the first of two dimensions if left out.
    frame : {"112x112", "112x96"}, optional
        Inferred from the file if left out.
    device : str or torch.device
        ``"cuda"`` uses ONNX Runtime's CUDA provider.

    Raises
    ------
    MissingDependencyError
        If ONNX Runtime is not installed.
    DataError
        If the file is missing.
    WeightsError
        If ONNX Runtime cannot load it, or it is no network from one picture to one vector.
    InputError
        If an option has no such value.
    """

    distributions = ("onnxruntime",)

    def __init__(
        self,
        path: str | Path,
        mean: float | tuple[float, float, float] = 127.5,
        std: float | tuple[float, float, float] = 127.5,
        bgr: bool = False,
        metric: Metric = "cosine",
        output: str | None = None,
        frame: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.weights = Path(path)
        self.name = f"onnx:{self.weights.name}"
        if metric not in ("cosine", "euclidean"):
            raise InputError(f"metric={metric!r} is unknown.", "Use cosine or euclidean.")
        self.metric = metric
        self._mean, self._std, self._bgr = _channels("mean", mean), _channels("std", std), bgr
        if (self._std <= 0).any():
            raise InputError(f"std={std} must be positive.")
        if not self.weights.is_file():
            raise DataError(f"No ONNX file at {path}.", "Name it as onnx:PATH.")
        self._session = _session(self.weights, self.device)
        takes = self._session.get_inputs()
        shape = list(takes[0].shape)
        if len(takes) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise WeightsError(
                f"{path} takes {[(i.name, i.shape) for i in takes]}, not one batch of RGB pictures.",
                "Use a network whose input is (N, 3, H, W) or (N, H, W, 3).",
            )
        self._input: str = takes[0].name
        self._channels_last = shape[1] != 3
        self._half = takes[0].type == "tensor(float16)"
        sides = shape[1:3] if self._channels_last else shape[2:4]
        self._size: tuple[int, int] | None = None
        if all(isinstance(side, int) for side in sides):
            self._size = (sides[0], sides[1])
        self.frame = frame or ("112x96" if self._size == (112, 96) else "112x112")
        if self.frame not in ("112x112", "112x96"):
            raise InputError(f"frame={frame!r} is unknown.", "Use 112x112 or 112x96.")
        self._fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.batch_size = self._fixed or self.batch_size
        self._output = output or self._embedding()
        if self._output not in [o.name for o in self._session.get_outputs()]:
            raise InputError(
                f"{path} has no output {output!r}.",
                f"Use one of {', '.join(o.name for o in self._session.get_outputs())}.",
            )
        height, width = (int(side) for side in self.frame.split("x"))
        self.dimension = self._embed(torch.zeros(1, 3, height, width)).shape[1]

    def _embedding(self) -> str:
        """Name of the first output of two dimensions."""
        for output in self._session.get_outputs():
            if len(output.shape) == 2:
                return str(output.name)
        raise WeightsError(
            f"{self.weights} has no output of shape (N, D), only "
            f"{[(o.name, o.shape) for o in self._session.get_outputs()]}.",
            "Use a network that ends in an embedding, or name the output.",
        )

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        faces = batch.float()
        if self._size is not None and tuple(faces.shape[2:]) != self._size:
            faces = F.interpolate(faces, self._size, mode="bilinear", align_corners=False, antialias=True)
        if self._bgr:
            faces = faces.flip(1)
        values = (faces.cpu().numpy() * 255 - self._mean) / self._std
        if self._channels_last:
            values = values.transpose(0, 2, 3, 1)
        count = len(values)
        if self._fixed is not None and count < self._fixed:
            # The file wants whole batches: fill up with the last face, and drop those rows again.
            values = np.concatenate([values, np.repeat(values[-1:], self._fixed - count, axis=0)])
        values = np.ascontiguousarray(values, np.float16 if self._half else np.float32)
        try:
            rows = self._session.run([self._output], {self._input: values})[0]
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise WeightsError(
                f"{self.weights} does not run on faces of {values.shape}: {error}", "Check frame and output."
            ) from error
        if rows.ndim != 2 or len(rows) < count:
            raise WeightsError(
                f"{self._output!r} of {self.weights} is {rows.shape}, not (N, D).", "Name another output."
            )
        return np.asarray(rows[:count], np.float32)

    def options(self) -> dict[str, Any]:
        """Scaling, channel order, output, metric."""
        return {
            "mean": self._mean.ravel().tolist(),
            "std": self._std.ravel().tolist(),
            "bgr": self._bgr,
            "output": self._output,
            "metric": self.metric,
        }


def _channels(name: str, value: float | tuple[float, float, float]) -> NDArray[np.float32]:
    values = np.atleast_1d(np.asarray(value, np.float32))
    if values.shape not in ((1,), (3,)) or not np.isfinite(values).all():
        raise InputError(f"{name}={value} must be one number or three.")
    return values.reshape(1, -1, 1, 1)


def _session(path: Path, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime is not installed.", "Install it with: pip install 'blurface[onnx]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    missing = set(wanted) - set(onnxruntime.get_available_providers())
    if missing:
        raise MissingDependencyError(
            "This ONNX Runtime has no CUDA provider.", "Install onnxruntime-gpu, or use the CPU."
        )
    try:
        return onnxruntime.InferenceSession(str(path), options, [*wanted, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise WeightsError(f"{path} cannot be loaded by ONNX Runtime: {error}", "Check the file.") from error
