"""Put a stage in front of a recogniser that is already there, without touching the calling code.

>>> import blurface, torch
>>> recogniser = torch.nn.Flatten()
>>> stage = blurface.DeblurStage.from_pretrained("none")
>>> handle = blurface.attach(recogniser, stage, preset="facenet-pytorch")
>>> recogniser(torch.zeros(1, 3, 112, 96)).shape
torch.Size([1, 32256])
>>> handle.remove()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .errors import InputError, UnknownNameError
from .packets import ChannelOrder, ValueRange, checked_range
from .stage import DeblurStage, Decision


@dataclass(frozen=True)
class Preset:
    """An input convention of recognisers.

    Attributes
    ----------
    value_range : (black, white)
        What 0 and 255 become, one value or one a channel.
    channel_order : {"rgb", "bgr"}
    summary : str
    """

    value_range: ValueRange
    channel_order: ChannelOrder
    summary: str


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: dict[str, Preset] = {
    "facenet-pytorch": Preset(
        (-127.5 / 128, 127.5 / 128), "rgb", "fixed_image_standardization: (x - 127.5) / 128"
    ),
    "arcface": Preset((-127.5 / 128, 127.5 / 128), "rgb", "(x - 127.5) / 128, also MobileFaceNet"),
    "insightface": Preset((-1.0, 1.0), "rgb", "x / 127.5 - 1, also EdgeFace and ArcFace's ONNX files"),
    "imagenet": Preset(
        (
            tuple(-mean / std for mean, std in zip(_MEAN, _STD)),
            tuple((1 - mean) / std for mean, std in zip(_MEAN, _STD)),
        ),
        "rgb",
        "(x / 255 - mean) / std with ImageNet's mean and standard deviation",
    ),
    "opencv": Preset((0.0, 255.0), "bgr", "BGR between 0 and 255, as cv2.imread gives"),
    "unit": Preset((0.0, 1.0), "rgb", "RGB between 0 and 1, as torchvision's ToTensor gives"),
}


class _Hook:
    """The forward pre-hook; a class, so that a hooked model still pickles and deep-copies."""

    def __init__(
        self,
        stage: DeblurStage,
        value_range: ValueRange,
        channel_order: ChannelOrder,
        argument: int | str,
        on_info: Callable[[list[Decision]], None] | None,
    ) -> None:
        self.stage = stage
        self.value_range = value_range
        self.channel_order: ChannelOrder = channel_order
        self.argument = argument
        self.on_info = on_info

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # minutes of compiling for nothing
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        where = self.argument
        if isinstance(where, int):
            if where >= len(args):
                raise InputError(
                    f"{type(module).__name__} was called with {len(args)} positional arguments, so there is "
                    f"no picture at position {where}.",
                    'Name the argument when attaching, e.g. attach(..., argument="pixel_values").',
                )
            return (*args[:where], self._restore(args[where]), *args[where + 1 :]), kwargs
        if where not in kwargs:
            raise InputError(
                f"{type(module).__name__} was called without the argument {where!r}.",
                "Pass it by name, or attach by position.",
            )
        return args, {**kwargs, where: self._restore(kwargs[where])}

    def _restore(self, x: Any) -> Any:
        restored, info = self.stage(
            x, return_info=True, value_range=self.value_range, channel_order=self.channel_order
        )
        if self.on_info is not None:
            self.on_info(info)
        return restored


class Attachment:
    """A stage in front of a model; :meth:`remove` takes it away. Also a context manager."""

    def __init__(self, handle: RemovableHandle) -> None:
        self._handle = handle

    def remove(self) -> None:
        """Bring the model back to what it was; calling it again does nothing."""
        self._handle.remove()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def attach(
    model: nn.Module,
    stage: DeblurStage,
    value_range: ValueRange | None = None,
    *,
    preset: str | None = None,
    channel_order: ChannelOrder | None = None,
    argument: int | str = 0,
    on_info: Callable[[list[Decision]], None] | None = None,
) -> Attachment:
    """Restore what a recogniser is given, whenever it is called.

    Registers a forward pre-hook. It works under ``torch.no_grad`` and in training; gradients reach
    the recogniser's input only through a stage built with ``differentiable=True``.

    Parameters
    ----------
    model : torch.nn.Module
        Any recogniser that takes pictures.
    stage : DeblurStage
    value_range : (black, white), optional
        What black and white are in the model's input, one value or one a channel; default (-1, 1).
    preset : str, optional
        A convention by name instead: a key of :data:`PRESETS`.
    channel_order : {"rgb", "bgr"}, optional
        Default ``"rgb"``, or the preset's.
    argument : int or str
        Where the pictures are among the model's arguments: position or name.
    on_info : callable, optional
        Called with one :class:`~blurface.stage.Decision` a picture after each restoration.

    Returns
    -------
    Attachment
        Its ``remove()`` takes the stage away; as a context manager it does so at the end.

    Raises
    ------
    InputError
        If a stage is already attached to the model or within it, both ``value_range`` and ``preset`` are
        given, or an argument is of no use.
    UnknownNameError
        If no preset has this name.
    ImageError
        If ``value_range`` cannot be, and whenever the model's input is not within it.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{type(model).__name__} takes no hook: a stage goes in front of a torch.nn.Module.",
            "Call the stage yourself: model(stage(x)).",
        )
    if not isinstance(stage, DeblurStage):
        raise InputError(f"{stage!r} is no stage.", "Build one with blurface.DeblurStage.from_pretrained.")
    position = isinstance(argument, int) and not isinstance(argument, bool) and argument >= 0
    if not position and not isinstance(argument, str):
        raise InputError(f"argument={argument!r} names none.", "Use a position, 0 for the first, or a name.")
    if channel_order not in ("rgb", "bgr", None):
        raise InputError(f"channel_order={channel_order!r} is unknown.", "Choose rgb or bgr.")
    for name, part in model.named_modules():
        if any(isinstance(hook, _Hook) for hook in part._forward_pre_hooks.values()):
            raise InputError(
                f"A stage is already attached to this {type(model).__name__}{name and f', in {name}'}.",
                "Remove it first: handle.remove().",
            )
    if preset is not None:
        if value_range is not None:
            raise InputError("Both value_range and preset are given.", "Give one of them.")
        if preset not in PRESETS:
            raise UnknownNameError(f"No preset is called {preset!r}.", f"Known: {', '.join(PRESETS)}.")
        value_range = PRESETS[preset].value_range
        channel_order = channel_order or PRESETS[preset].channel_order
    value_range = (-1.0, 1.0) if value_range is None else value_range
    checked_range(value_range)
    hook = _Hook(stage, value_range, channel_order or "rgb", argument, on_info)
    return Attachment(model.register_forward_pre_hook(hook, with_kwargs=True))
