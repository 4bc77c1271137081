"""What callers hold: PIL images, arrays and tensors become NCHW RGB here, and what they were again.

:func:`unpack` takes it in any of the usual kinds and returns a :class:`Packet` whose pictures come out
as NCHW RGB float32 in [0, 1] and go back as the very kind, dtype, range, size and device that came in.

Rules, stated once:

- arrays are channels-last (H, W), (H, W, C), (N, H, W, C); tensors channels-first (H, W),
  (C, H, W), (N, C, H, W); C is 1 (grey), 3 (RGB or BGR) or 4 (with alpha);
- integers span their type (``uint8`` 0..255, ``uint16`` 0..65535); floats span [0, 1] unless
  ``value_range`` says otherwise; an overshoot of at most 5% of the span, as interpolation makes,
  is clipped, more is an error, because guessing a range silently ruins embeddings;
- grey goes in as three equal channels and comes back as one; alpha is not restored but kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .errors import ImageError

Span = float | Sequence[float]
ValueRange = tuple[Span, Span]
ChannelOrder = Literal["rgb", "bgr"]

OVERSHOOT = 0.05
"""Share of the span by which floats may leave their range (interpolation does) and are clipped."""

_INTEGER_SPAN = {torch.uint8: 255.0, torch.uint16: 65535.0}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class _Source:
    """One thing a caller passed, as a raw NCHW tensor that shares its memory where it can."""

    label: str
    raw: Tensor  # (N, C, H, W), C in 1 to 4, the caller's dtype and device
    low: Tensor  # (1 or 3, 1, 1) float32, the value that stands for black
    span: Tensor
    bgr: bool
    wrap: Callable[[Tensor], Any]  # raw-like tensor -> the caller's kind
    original: Any
    parts: dict[int, Tensor] = field(default_factory=dict)
    untouched: bool = True

    @property
    def count(self) -> int:
        return self.raw.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        return self.raw.shape[2], self.raw.shape[3]

    @property
    def colours(self) -> int:
        return 1 if self.raw.shape[1] < 3 else 3

    def check(self) -> None:
        """Refuse what cannot be restored; the message names the picture and the mend."""
        if self.raw.dtype not in _FLOATS or self.raw.numel() == 0:
            return
        colour = self.raw[:, : self.colours].detach()
        if not torch.isfinite(colour).all():
            raise ImageError(f"{self.label} holds NaN or infinite values.", "Replace them first.")
        least, most = colour.amin((0, 2, 3)).float(), colour.amax((0, 2, 3)).float()
        low, span = self.low.flatten().to(least), self.span.flatten().to(least)
        slack = OVERSHOOT * span.abs()
        bottom, top = torch.minimum(low, low + span) - slack, torch.maximum(low, low + span) + slack
        if bool((least >= bottom).all()) and bool((most <= top).all()):
            return
        smallest, largest = float(least.min()), float(most.max())
        if smallest >= 0 and largest <= 255 and float(span.abs().max()) == 1:
            mend = (
                "If it spans 0 to 255, divide by 255, pass or save eight bits, or say value_range=(0, 255)."
            )
        elif smallest >= -1.05 and largest <= 1.05:
            mend = "If it spans -1 to 1, say value_range=(-1, 1)."
        else:
            mend = "Say what black and white are: value_range=(black, white)."
        raise ImageError(
            f"{self.label} has values from {smallest:.4g} to {largest:.4g}, outside its range "
            f"{_show(self.low)} to {_show(self.low + self.span)}.",
            mend,
        )

    def load(self, start: int, stop: int) -> Tensor:
        """RGB float32 in [0, 1] of the pictures ``start`` to ``stop``; differentiable."""
        colour = self.raw[start:stop, : self.colours].to(torch.float32)
        device = colour.device
        colour = (colour - self.low.to(device)) / self.span.to(device)
        colour = colour.clamp(0, 1)
        if self.colours == 1:
            return colour.expand(-1, 3, -1, -1)
        return colour.flip(1) if self.bgr else colour

    def store(self, start: int, rgb: Tensor, keep: Tensor | None) -> None:
        """Take restored pictures back; where ``keep`` (N,) is True the picture stays as it came."""
        stop = start + rgb.shape[0]
        before = self.raw[start:stop]
        colour = rgb.to(before.device)
        if self.colours == 1:
            red, green, blue = colour[:, :1], colour[:, 1:2], colour[:, 2:]
            # Exact where the three agree, which (r + g + b) / 3 is not.
            colour = green + ((red - green) + (blue - green)) / 3
        elif self.bgr:
            colour = colour.flip(1)
        colour = colour * self.span.to(colour.device) + self.low.to(colour.device)
        if before.dtype in _INTEGER_SPAN:
            colour = colour.round().clamp(0, _INTEGER_SPAN[before.dtype])
        colour = colour.to(before.dtype)
        after = (
            torch.cat([colour, before[:, self.colours :]], 1) if before.shape[1] != self.colours else colour
        )
        if keep is not None:
            if bool(keep.all()):
                after = before
            else:
                # torch.where knows no uint16, so pictures are put together one by one.
                after = torch.stack([before[i] if kept else after[i] for i, kept in enumerate(keep.tolist())])
        if keep is None or not bool(keep.all()):
            self.untouched = False
        self.parts[start] = after

    def result(self) -> Any:
        """The caller's kind again."""
        ordered = [self.parts[start] for start in sorted(self.parts)]
        if not ordered:
            return self.wrap(self.raw.clone())
        whole = torch.cat(ordered) if len(ordered) > 1 else ordered[0]
        if self.untouched:
            if isinstance(self.original, Image.Image):
                return self.original.copy()
            # Never the caller's own memory: changing the result must not change the input.
            whole = self.raw.clone()
        return self.wrap(whole)

    # ------------------------------------------------------------------------- ways in

    @classmethod
    def make(
        cls,
        label: str,
        raw: Tensor,
        value_range: ValueRange | None,
        bgr: bool,
        wrap: Callable[[Tensor], Any],
        original: Any,
    ) -> _Source:
        low, high = _limits(raw.dtype, value_range)
        if len(low) > 1 and raw.shape[1] < 3:
            raise ImageError(
                f"{label} is grey, and value_range has values for three channels.",
                "Pass one pair of numbers for grey pictures.",
            )
        source = cls(label, raw, low, high - low, bgr and raw.shape[1] >= 3, wrap, original)
        source.check()
        return source

    @classmethod
    def from_pil(cls, image: Image.Image, label: str, value_range: ValueRange | None) -> _Source:
        _sized(label, image.height, image.width)
        try:
            image.load()  # what is opened lazily is read here
        except Exception as error:  # decoders raise many kinds on corrupt data
            raise ImageError(
                f"{label} is truncated or corrupt ({type(error).__name__}: {error}).",
                "Fetch or save the picture again.",
            ) from error
        mode, info, alpha = image.mode, dict(image.info), has_alpha(image)
        # A colour that stands for "transparent" is another after the restoration.
        info.pop("transparency", None)
        if mode in ("P", "PA", "RGBa") or (mode == "RGB" and alpha):
            # A palette cannot hold a restored picture: it comes back as RGB, RGBA with transparency.
            working = image.convert("RGBA" if alpha else "RGB")
        elif mode == "La" or (mode in ("1", "L") and alpha):
            working = image.convert("LA")
            mode = "LA"
        elif mode in ("RGB", "RGBA", "L", "LA", "I", "F") or mode.startswith("I;16"):
            working = image
        elif mode == "1":
            working = image.convert("L")
        elif mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
            working = image.convert("RGB")
        else:
            raise ImageError(f"{label} has the colour mode {mode!r}.", 'Convert it: image.convert("RGB").')
        array = np.array(working)
        if mode == "I":  # signed 32 bits, but what files hold in it are 16
            if array.min() < 0 or array.max() > 65535:
                raise ImageError(
                    f"{label} has 32-bit values from {array.min()} to {array.max()}.", "Scale it to 16 bits."
                )
            array = array.astype(np.uint16)
        elif mode.startswith("I;16"):
            array = array.astype(np.uint16)

        def wrap(raw: Tensor) -> Image.Image:
            pixels = _channels_last(raw[0])
            made = Image.fromarray(pixels.astype(np.int32) if mode == "I" else pixels)
            if made.mode != mode and mode in ("1", "CMYK", "YCbCr", "HSV", "RGBX"):
                # Without dithering: a bilevel picture is thresholded at its middle.
                made = made.convert(mode, dither=Image.Dither.NONE)
            made.info = info
            return made

        raw = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)[None]
        return cls.make(label, raw, value_range, False, wrap, image)

    @classmethod
    def from_array(
        cls, array: NDArray[Any], label: str, value_range: ValueRange | None, bgr: bool
    ) -> _Source:
        shape, dtype = array.shape, array.dtype
        if array.ndim not in (2, 3, 4) or (array.ndim > 2 and shape[-1] not in (1, 3, 4)):
            first = array.ndim in (3, 4) and shape[-3] in (1, 3, 4)
            mend = (
                "Arrays are channels-last: use np.moveaxis(x, -3, -1), or pass a torch tensor."
                if first
                else "Pass (H, W), (H, W, C) or (N, H, W, C) with 1, 3 or 4 channels."
            )
            raise ImageError(f"{label} has the shape {shape}.", mend)
        if dtype.kind == "f" and dtype.itemsize <= 8:
            native = np.dtype(f"f{dtype.itemsize}")
        elif dtype in (np.uint8, np.uint16) or (dtype.kind == "u" and dtype.itemsize == 2):
            native = np.dtype(f"u{dtype.itemsize}")
        else:
            raise ImageError(
                f"{label} is an array of {dtype}.", "Pass uint8, uint16, or float between 0 and 1."
            )
        _sized(label, *(shape if array.ndim == 2 else shape[-3:-1]))
        usable = array.astype(native, copy=False)
        odd = any(step < 0 or step % usable.itemsize for step in usable.strides)
        if odd or not usable.flags.writeable:
            usable = usable.copy()
        channels_last = torch.from_numpy(usable)
        if array.ndim == 2:
            raw = channels_last[None, None]
        elif array.ndim == 3:
            raw = channels_last.permute(2, 0, 1)[None]
        else:
            raw = channels_last.permute(0, 3, 1, 2)

        def wrap(raw: Tensor) -> NDArray[Any]:
            last = raw.detach().permute(0, 2, 3, 1).contiguous().numpy().reshape(shape)
            return last.astype(dtype, copy=False)

        return cls.make(label, raw, value_range, bgr, wrap, array)

    @classmethod
    def from_tensor(cls, tensor: Tensor, label: str, value_range: ValueRange | None, bgr: bool) -> _Source:
        if tensor.is_nested:
            raise ImageError(f"{label} is a nested tensor.", "Pass its parts in a list: list(x.unbind()).")
        if tensor.is_meta:
            raise ImageError(f"{label} is a tensor without values (meta).", "Pass one that holds a picture.")
        shape = tuple(tensor.shape)
        if tensor.ndim not in (2, 3, 4) or (tensor.ndim > 2 and shape[-3] not in (1, 3, 4)):
            last = tensor.ndim in (3, 4) and shape[-1] in (1, 3, 4)
            mend = (
                "Tensors are channels-first: use x.movedim(-1, -3), or pass a NumPy array."
                if last
                else "Pass (H, W), (C, H, W) or (N, C, H, W) with 1, 3 or 4 channels."
            )
            raise ImageError(f"{label} has the shape {shape}.", mend)
        if tensor.dtype not in _FLOATS and tensor.dtype not in _INTEGER_SPAN:
            raise ImageError(
                f"{label} is a tensor of {tensor.dtype}.", "Pass uint8, or float between 0 and 1."
            )
        if tensor.layout != torch.strided:
            raise ImageError(f"{label} is a {tensor.layout} tensor.", "Call its .to_dense() first.")
        _sized(label, *shape[-2:])
        raw = tensor[(None,) * (4 - tensor.ndim)]

        def wrap(raw: Tensor) -> Tensor:
            back = raw.reshape(shape)
            # Such as torchvision's Image, whose own operations return plain tensors.
            return back if type(tensor) in (Tensor, nn.Parameter) else back.as_subclass(type(tensor))

        return cls.make(label, raw.as_subclass(Tensor), value_range, bgr, wrap, tensor)


def _sized(label: str, height: int, width: int) -> None:
    if height == 0 or width == 0:
        raise ImageError(f"{label} has no pixels ({height} x {width}).", "Leave empty crops out.")


def _channels_last(raw: Tensor) -> NDArray[Any]:
    pixels: NDArray[Any] = raw.detach().permute(1, 2, 0).contiguous().numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _limits(dtype: torch.dtype, value_range: ValueRange | None) -> tuple[Tensor, Tensor]:
    if dtype in _INTEGER_SPAN:
        low, high = torch.tensor([0.0]), torch.tensor([_INTEGER_SPAN[dtype]])
    else:
        low, high = checked_range(value_range)
    return low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)


def checked_range(value_range: ValueRange | None) -> tuple[Tensor, Tensor]:
    """Black and white of a float range as two float32 tensors of 1 or 3 values.

    Raises
    ------
    ImageError
        If they are not finite, not two, or equal.
    """
    try:
        black, white = value_range if value_range is not None else (0.0, 1.0)
        low = torch.tensor(black, dtype=torch.float32).reshape(-1)
        high = torch.tensor(white, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ImageError(f"value_range is {value_range!r}.", "Pass (black, white), e.g. (-1, 1).") from error
    sizes_fit = len(low) == len(high) and len(low) in (1, 3)
    if not sizes_fit or not bool(torch.isfinite(torch.cat([low, high])).all()) or bool((low == high).any()):
        raise ImageError(
            f"value_range is {value_range!r}.",
            "Pass two different finite numbers (black, white), or two triples, one value a channel.",
        )
    return low, high


def _show(values: Tensor) -> str:
    numbers = [f"{value:.4g}" for value in values.flatten().tolist()]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"


@dataclass(frozen=True)
class Chunk:
    """Pictures of one size and device, small enough to restore at once.

    Attributes
    ----------
    indices : list of int
        Their places in the order of all pictures of the packet.
    size : tuple of int
        (H, W).
    """

    indices: list[int]
    size: tuple[int, int]
    _spans: list[tuple[_Source, int, int]]

    def load(self) -> Tensor:
        """(N, 3, H, W) float32 RGB in [0, 1]; gradients flow to the tensors that came in."""
        parts = [source.load(start, stop) for source, start, stop in self._spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def store(self, rgb: Tensor, keep: Tensor | None = None) -> None:
        """Give restored pictures back.

        Parameters
        ----------
        rgb : Tensor
            (N, 3, H, W) in [0, 1], as :meth:`load` returned it.
        keep : Tensor, optional
            (N,) bool; True returns that picture bit for bit as it came.
        """
        at = 0
        for source, start, stop in self._spans:
            kept = None if keep is None else keep[at : at + stop - start]
            source.store(start, rgb[at : at + stop - start], kept)
            at += stop - start


class Packet:
    """All pictures of one call, and the way back to the caller's kinds.

    Iterate over :meth:`chunks`, ``load`` and ``store`` each, then take :meth:`result`.
    """

    def __init__(self, sources: list[_Source], container: type[list[Any]] | type[tuple[Any, ...]] | None):
        self._sources = sources
        self._container = container

    def __len__(self) -> int:
        """Number of pictures."""
        return sum(source.count for source in self._sources)

    def chunks(self, batch_size: int, max_pixels: int | None = None) -> Iterator[Chunk]:
        """Cut the pictures into batches of one size and device.

        Parameters
        ----------
        batch_size : int
            At most so many pictures in a chunk.
        max_pixels : int, optional
            At most so many pixels in a chunk of more than one picture, whatever ``batch_size``.
        """
        groups: dict[tuple[tuple[int, int], torch.device], list[tuple[int, _Source, int]]] = {}
        index = 0
        for source in self._sources:
            members = groups.setdefault((source.size, source.raw.device), [])
            members.extend((index + i, source, i) for i in range(source.count))
            index += source.count
        for (size, _), members in groups.items():
            step = max(batch_size, 1)
            if max_pixels is not None:
                step = max(1, min(step, max_pixels // (size[0] * size[1])))
            for at in range(0, len(members), step):
                spans: list[tuple[_Source, int, int]] = []
                for _, source, i in members[at : at + step]:
                    if spans and spans[-1][0] is source and spans[-1][2] == i:
                        spans[-1] = (source, spans[-1][1], i + 1)
                    else:
                        spans.append((source, i, i + 1))
                yield Chunk([member[0] for member in members[at : at + step]], size, spans)

    def result(self) -> Any:
        """What came in, restored: same kinds, dtypes, ranges, devices, sizes and order."""
        results = [source.result() for source in self._sources]
        return results[0] if self._container is None else self._container(results)


def unpack(x: Any, *, value_range: ValueRange | None = None, channel_order: ChannelOrder = "rgb") -> Packet:
    """Take pictures in any of the usual kinds.

    Parameters
    ----------
    x : PIL.Image.Image, ndarray, Tensor, or list or tuple of them
        Arrays (H, W), (H, W, C) or (N, H, W, C), uint8, uint16 or float; tensors (H, W), (C, H, W)
        or (N, C, H, W), uint8, uint16 or any float, on any device. A list may mix kinds and sizes.
    value_range : (black, white), optional
        What black and white are in floating input, default (0, 1); triples for one value a channel,
        in the input's channel order. Integers always span their type.
    channel_order : {"rgb", "bgr"}
        Of arrays and tensors of three or four channels; PIL images know theirs.

    Returns
    -------
    Packet

    Raises
    ------
    ImageError
        If a picture has an unusable kind, shape, dtype or range, or is not finite; the message
        says which one of a list.
    """
    if channel_order not in ("rgb", "bgr"):
        raise ImageError(f"channel_order is {channel_order!r}.", 'Use "rgb" or "bgr".')
    checked_range(value_range)
    bgr = channel_order == "bgr"
    if isinstance(x, (list, tuple)):
        kind = cast("type[list[Any]]", tuple if isinstance(x, tuple) else list)
        return Packet([_source(item, f"Picture {i}", value_range, bgr) for i, item in enumerate(x)], kind)
    return Packet([_source(x, "The picture", value_range, bgr)], None)


def _source(item: Any, label: str, value_range: ValueRange | None, bgr: bool) -> _Source:
    if isinstance(item, Image.Image):
        return _Source.from_pil(item, label, value_range)
    if isinstance(item, np.ndarray):
        return _Source.from_array(item, label, value_range, bgr)
    if isinstance(item, Tensor):
        return _Source.from_tensor(item, label, value_range, bgr)
    if isinstance(item, str | os.PathLike):
        mend = "Open it first: blurface.images.read_rgb(path)."
    else:
        mend = "Pass a PIL image, a NumPy array, a torch tensor, or a list of them."
    raise ImageError(f"{label} is of type {type(item).__name__}.", mend)


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has transparent parts: in a channel, its palette, or by a colour that means it.

    Not so with 16 bits or floats, of which Pillow makes no picture with alpha unclipped.
    """
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return True
    # Text of that name in a file means nothing.
    return isinstance(image.info.get("transparency"), int | bytes | tuple) and not is_deep(image)


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a channel, which Pillow's ``convert`` would clip."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def rgb_of(image: Image.Image, label: str) -> NDArray[np.uint8]:
    """(H, W, 3) 8-bit RGB of an opaque picture of any mode.

    Raises
    ------
    ImageError
        If its mode is unknown or it holds NaN or values outside its range; ``label`` names it.
    """
    rgb = _Source.from_pil(image, label, None).load(0, 1)[0]
    array: NDArray[np.uint8] = (rgb * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return array
