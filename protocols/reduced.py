"""The same probes as smaller pictures: what a camera far away, or of few pixels, would have seen.

A probe's photograph is reduced to a share of its width and height, with the proper low-pass filter,
and enlarged back; so its landmarks stay where they are and only the detail is gone. Reducing is a
convolution like the blur that follows, and the two commute but for aliasing: blurring the reduced
face stands for reducing the blurred one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from blurface.errors import InputError
from blurface.fingerprints import code_digest

from .datasets import Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARK = "@x"


def reduce_and_enlarge(pixels: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Reduce a picture to a share of its width and height, and enlarge it to its size again.

    Parameters
    ----------
    pixels : ndarray
        (H, W, 3) uint8.
    share : float
        In (0, 1].

    Returns
    -------
    ndarray
        (H, W, 3) uint8: bicubic both ways, low-pass filtered on the way down, 8 bits in between.
    """
    height, width = pixels.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    picture = Image.fromarray(pixels).resize(small, Image.Resampling.BICUBIC)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class ReducedProtocol(Protocol):
    """A protocol whose probes have lost resolution; references are as they were.

    Attributes
    ----------
    share : float
        Of width and height, in (0, 1].
    """

    share: float = 1.0

    def read(self, image_id: str) -> NDArray[np.uint8]:
        """Decode an image, and reduce it if it is a probe."""
        pixels = super().read(image_id)
        return reduce_and_enlarge(pixels, self.share) if image_id in self._probes else pixels

    @cached_property
    def _probes(self) -> frozenset[str]:
        return frozenset(self.pairs.probes)

    def fingerprint(self) -> str:
        """As the protocol's, with the share and the code that reduces."""
        text = f"{super().fingerprint()}:{self.share!r}:{code_digest(sys.modules[__name__])}"
        return hashlib.sha256(text.encode()).hexdigest()


def reduced(protocol: Protocol, share: float) -> Protocol:
    """The protocol with its probes reduced; itself for a share of 1.

    Raises
    ------
    InputError
        If the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"A size of {share} is outside (0, 1].", "Give a share of width and height: 0.5.")
    if share == 1:
        return protocol
    mark = f"{_MARK}{share:g}"
    pairs = dataclasses.replace(
        protocol.pairs,
        pairs=tuple(dataclasses.replace(pair, probe=pair.probe + mark) for pair in protocol.pairs),
    )
    files = {pair.reference: protocol.path(pair.reference) for pair in protocol.pairs}
    files |= {pair.probe + mark: protocol.path(pair.probe) for pair in protocol.pairs}
    return ReducedProtocol(
        protocol.name, pairs, files, protocol.prealigned, protocol.description, share=float(share)
    )
