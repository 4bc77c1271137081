"""The drop-in stage: any kind of picture in, the same kind out, sharper where it was blurred.

>>> import blurface, numpy
>>> stage = blurface.DeblurStage.from_pretrained("none")
>>> stage(numpy.zeros((112, 96, 3), numpy.uint8)).dtype
dtype('uint8')
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

from .errors import BlurfaceError, ImageError, InputError, MissingDependencyError, NoKernelError
from .gate import Action, Gate, action, kernel_spread
from .memory import ran_out
from .networks import NETWORKS
from .packets import ChannelOrder, ValueRange, unpack
from .restorers import create_restorer, restorers
from .restorers.base import Restorer
from .restorers.gated import Gated

_BATCH_PIXELS = 2**19
"""Pixels restored at once (about 48 faces): bounds memory whatever the size of the pictures."""


@dataclass(frozen=True)
class Decision:
    """What the stage did with one picture.

    Attributes
    ----------
    score : float or None
        Blur score: spread of the estimated kernel in pixels (:func:`blurface.gate.kernel_spread`);
        None where the restorer estimates no kernel.
    weight : float
        Share of the restored picture in the result.
    action : {"pass", "blend", "restore"}
    """

    score: float | None
    weight: float
    action: Action


class DeblurStage:
    """Restore blurred faces in front of a recogniser.

    The stage holds no state that a call changes: one may serve many threads. A process that was forked
    from one in which a stage has computed has no such threads and waits for ever: build the stage in it, or
    start it by "spawn" (``DataLoader(multiprocessing_context="spawn")``).

    Parameters
    ----------
    restorer : Restorer
        Any blind restorer.
    gate : Gate, optional
        Passes sharp pictures through bit for bit; without it every picture is restored.
    differentiable : bool
        Let gradients flow through the restoration to the input tensors (networks only). Without
        it the stage runs under ``torch.no_grad`` and a recogniser behind it trains as on data.
    batch_size : int, optional
        Pictures restored at once; default what suits the restorer.

    Raises
    ------
    InputError
        If the restorer needs the true kernel, or ``differentiable`` is asked of what is no network.
    """

    def __init__(
        self,
        restorer: Restorer,
        *,
        gate: Gate | None = None,
        differentiable: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if not isinstance(restorer, Restorer):
            raise InputError(
                f"restorer is {restorer!r}.", "Use a restorer, or DeblurStage.from_pretrained(name)."
            )
        if not restorer.blind:
            raise InputError(
                f"{restorer.name!r} needs the true kernel, which a stage does not have.",
                "Use a blind restorer such as 'fast'.",
            )
        whole = hasattr(batch_size, "__index__") and not isinstance(batch_size, bool)
        if batch_size is not None and not (whole and batch_size >= 1):
            raise InputError(f"batch_size is {batch_size!r}.", "It must be a whole number from 1.")
        if not isinstance(gate, Gate | None):
            raise InputError(f"gate is {gate!r}.", "Use blurface.gate.Gate(low, high), or None.")
        if isinstance(restorer, Gated):
            # The stage passes sharp pictures through itself, and says so.
            gate, restorer = gate or restorer.gate, restorer.inner
        self.restorer = restorer
        self.gate = gate
        self.differentiable = differentiable
        self.batch_size = batch_size or restorer.batch_size
        if differentiable and not isinstance(getattr(restorer, "module", None), torch.nn.Module):
            raise InputError(
                f"{restorer.name!r} is no PyTorch network, so no gradient flows through it.",
                "Use differentiable=False, or a network on the torch backend such as 'fast'.",
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str = "fast",
        *,
        device: str | torch.device = "auto",
        backend: str = "torch",
        gate: bool | Gate = True,
        differentiable: bool = False,
        batch_size: int | None = None,
        **options: Any,
    ) -> DeblurStage:
        """Build a stage from a restorer's name.

        Parameters
        ----------
        name : str
            One of :func:`blurface.list_restorers`; ``"fast"`` is the default network.
        device : str or torch.device
            ``"auto"`` is CUDA where there is any, else the CPU.
        backend : {"torch", "onnxruntime", "openvino", "auto"}
            Who runs the network; ONNX Runtime and OpenVINO run on the CPU and need their extra. ``"auto"``
            is the fastest that takes the options.
        gate : bool or Gate
            True uses the thresholds calibrated for these weights (every picture is restored where
            there are none), False restores every picture.
        differentiable : bool
        batch_size : int, optional
        **options
            Passed to the restorer.

        Raises
        ------
        UnknownNameError
            If no restorer or backend has this name.
        WeightsError
            If its weights are missing or corrupt.
        MissingDependencyError
            If what the backend needs is not installed.
        """
        if not isinstance(name, str):
            raise InputError(f"{name!r} is no restorer's name.", "Use 'fast', or another that is registered.")
        resolved = resolve_device(device)
        if backend == "auto":
            backend = _backend_for(name, resolved.type != "cpu" or differentiable, options)
        if backend == "torch":
            restorer = create_restorer(name, device=resolved, **options)
        elif device == "auto" or resolved.type == "cpu":
            from .exported import create_backend_restorer

            restorer = create_backend_restorer(name, backend, **options)
        else:
            raise InputError(
                f"The backend {backend!r} runs on the CPU, not on {device}.", "Use device='cpu', or 'torch'."
            )
        if not isinstance(gate, bool | Gate):
            raise InputError(f"gate is {gate!r}.", "Use True, False or blurface.gate.Gate(low, high).")
        chosen = gate if isinstance(gate, Gate) else restorer.calibrated_gate() if gate else None
        # Without a gate, where none is wanted.
        inner = restorer.inner if isinstance(restorer, Gated) else restorer
        return cls(inner, gate=chosen, differentiable=differentiable, batch_size=batch_size)

    def __call__(
        self,
        x: Any,
        *,
        return_info: bool = False,
        return_kernel: bool = False,
        value_range: ValueRange | None = None,
        channel_order: ChannelOrder = "rgb",
    ) -> Any:
        """Restore pictures.

        Parameters
        ----------
        x : PIL.Image.Image, ndarray, Tensor, or list or tuple of them
            Arrays (H, W), (H, W, C) or (N, H, W, C); tensors (H, W), (C, H, W) or (N, C, H, W);
            sizes and kinds may differ within a list. See :func:`blurface.packets.unpack`.
        return_info : bool
            Also return one :class:`Decision` a picture, in order.
        return_kernel : bool
            Also return the estimated kernels (N, K, K), unit sum, convolution convention; smaller
            ones are set in the middle of the largest.
        value_range : (black, white), optional
            What black and white are in floating input, default (0, 1).
        channel_order : {"rgb", "bgr"}
            Of arrays and tensors.

        Returns
        -------
        restored
            Of the type, dtype, range, device, size and order of ``x``; pictures that the gate lets
            pass are equal to their originals bit for bit. With ``return_kernel`` and
            ``return_info`` a tuple ``(restored[, kernels][, info])``.

        Raises
        ------
        ImageError
            If a picture has an unusable kind, shape, dtype or range, is not finite, or does not
            fit in memory.
        InputError
            If the restorer makes no kernel estimate and a kernel or the gate asks for one, or the call is
            traced (``torch.jit.trace``, ``torch.onnx.export(dynamo=False)``).
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise InputError(
                "A stage decides face by face, which a trace cannot record.",
                "Detach it, trace the recogniser alone, and call stage(x) before it.",
            )
        packet = unpack(x, value_range=value_range, channel_order=channel_order)
        decisions: list[Decision | None] = [None] * len(packet)
        kernels: list[Tensor | None] = [None] * len(packet)
        wanted = self.differentiable and torch.is_grad_enabled()
        scored = return_kernel or (return_info and self.restorer.estimates_kernel)
        for chunk in packet.chunks(self.batch_size, _BATCH_PIXELS):
            with _in_memory(chunk.size), torch.set_grad_enabled(wanted):
                batch = chunk.load()
                restored, estimate = self._restore(batch, scored)
                score = None if estimate is None else kernel_spread(estimate)
                weight = batch.new_ones(batch.shape[0])
                if self.gate is not None and score is not None:
                    weight = self.gate.weight(score).to(batch)
                    restored = batch + weight[:, None, None, None] * (restored - batch)
                    chunk.store(restored, weight <= 0)
                else:
                    chunk.store(restored)
            shares = weight.tolist()
            scores: list[float | None] = [None] * len(shares) if score is None else score.tolist()
            for at, index in enumerate(chunk.indices):
                decisions[index] = Decision(scores[at], shares[at], action(shares[at]))
                if return_kernel and estimate is not None:
                    kernels[index] = estimate[at].detach()
        extras: list[Any] = []
        if return_kernel:
            extras.append(_stack([kernel for kernel in kernels if kernel is not None]))
        if return_info:
            extras.append([decision for decision in decisions if decision is not None])
        with torch.set_grad_enabled(wanted):
            result = packet.result()
        return (result, *extras) if extras else result

    def _restore(self, batch: Tensor, return_kernel: bool) -> tuple[Tensor, Tensor | None]:
        if return_kernel or self.gate is not None:
            try:
                early = None if self.gate is None else self.gate.early
                both = self.restorer.restore(batch, return_kernel=True, sharp_below=early)
            except NoKernelError as error:
                if return_kernel:
                    raise
                raise InputError(
                    f"The gate cannot score with {self.restorer.name!r} ({error.message})", "Use gate=False."
                ) from error
            restored, estimate = cast("tuple[Tensor, Tensor | None]", both)
        else:
            restored, estimate = cast(Tensor, self.restorer.restore(batch)), None
        if self.differentiable and batch.requires_grad and not restored.requires_grad:
            raise InputError(f"{self.restorer.name!r} passes no gradient.", "Use differentiable=False.")
        return restored, estimate

    def __repr__(self) -> str:
        """Name, device and gate."""
        gate = "off" if self.gate is None else f"{self.gate.low:g}..{self.gate.high:g} px"
        return f"DeblurStage({self.restorer.name!r}, device={str(self.restorer.device)!r}, gate={gate})"


def resolve_device(device: str | torch.device) -> torch.device:
    """``"auto"`` is CUDA where there is any, else the CPU.

    Raises
    ------
    BlurfaceError
        If the name is no device or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()  # there and back: "meta" holds nothing
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise BlurfaceError(f"The device {str(device)!r} cannot be used: {reason}", "Use 'auto'.") from error
    return resolved


def _backend_for(name: str, in_torch: bool, options: Mapping[str, Any]) -> str:
    """What ``backend="auto"`` stands for; ``in_torch``: PyTorch alone serves, unless options rule it out."""
    from .backends import best_backend

    bfloat16 = options.get("precision") in ("bfloat16", "bf16")
    asked = [option for option in ("model", "threads", "static") if option in options]
    asked += ["precision='int8'"] if options.get("precision") == "int8" else []
    if not asked or (name in restorers and name not in NETWORKS):  # which may have such options of their own
        return "torch" if in_torch or bfloat16 else best_backend(name)
    openvino = bfloat16 or "static" in options or str(options.get("model")).endswith(".xml")
    runtimes = {"openvino": "openvino"} if openvino else {"onnxruntime": "onnx", "openvino": "openvino"}
    for runtime in runtimes:
        if find_spec(runtime):
            return runtime
    raise MissingDependencyError(
        f"Only {' or '.join(runtimes)} takes {', '.join(asked)}, and it is not installed.",
        f"Install it with: pip install 'blurface[{next(iter(runtimes.values()))}]'.",
    )


@contextmanager
def _in_memory(size: tuple[int, int]) -> Iterator[None]:
    """Name the pictures where memory runs out, on their way in, through the network or back."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (ran_out(error) or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise ImageError(
            f"A batch of pictures of {size[1]} x {size[0]} pixels does not fit in memory.",
            "Use a smaller batch_size, or reduce the pictures.",
        ) from error


def _stack(kernels: list[Tensor]) -> Tensor:
    if not kernels:
        return torch.zeros(0, 1, 1)
    side = max(kernel.shape[-1] for kernel in kernels)
    device = kernels[0].device
    padded = []
    for kernel in kernels:
        margin = (side - kernel.shape[-1]) // 2
        padded.append(torch.nn.functional.pad(kernel.to(device), (margin, margin, margin, margin)))
    return torch.stack(padded)
