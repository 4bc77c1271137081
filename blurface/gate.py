"""How blurred is this face, and what to do about it: pass it through, blend, or restore it.

The score is the spread of the network's own kernel estimate, so it costs nothing beyond the
restoration itself; where the first of several estimates settles that a picture is sharp, the rest of the
network is not run. The thresholds belong to a set of weights and lie in its JSON sidecar
(``blurface/weights/<name>.json``, key ``"gate"``); ``benchmarks/calibrate_gate.py`` finds them
on training faces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import InputError, KernelError, WeightsError

Action = Literal["pass", "blend", "restore"]


def kernel_spread(kernels: Tensor, floor: float = 0.02) -> Tensor:
    """Root mean square distance of a kernel's mass from its centre of mass, in pixels.

    Parameters
    ----------
    kernels : Tensor
        (N, K, K), non-negative.
    floor : float
        Values below this share of the kernel's largest are taken as zero: an estimate's faint
        haze, far from the centre, would else outweigh the blur itself.

    Returns
    -------
    Tensor
        (N,) float32. 0 for a point; L / sqrt(12) for a line of length L; infinity for a kernel
        without mass, which says nothing about sharpness.

    Raises
    ------
    KernelError
        If the shape is not (N, K, K).
    """
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2]:
        raise KernelError(f"Kernels must be (N, K, K), not {tuple(kernels.shape)}.")
    kernels = kernels.detach().float().clamp_min(0)
    if kernels.shape[0] == 0:
        return kernels.new_zeros(0)
    kernels = torch.where(kernels >= floor * kernels.amax((1, 2), keepdim=True), kernels, 0)
    mass = kernels.sum((1, 2))
    at = torch.arange(kernels.shape[-1], dtype=torch.float32, device=kernels.device)
    rows, columns = kernels.sum(2) / mass[:, None], kernels.sum(1) / mass[:, None]
    variance = torch.zeros_like(mass)
    for marginal in (rows, columns):
        mean = (marginal * at).sum(1, keepdim=True)
        variance += (marginal * (at - mean).square()).sum(1)
    return torch.where(mass > 0, variance.clamp_min(0).sqrt(), torch.inf)


@dataclass(frozen=True)
class Gate:
    """Thresholds on the blur score.

    Attributes
    ----------
    low : float
        Scores up to this pass through, bit for bit as they came. Pixels.
    high : float
        Scores from this are restored; between the two the result is a blend whose share of the
        restored picture rises linearly from 0 to 1. Pixels.
    early : float, optional
        A picture whose score by the network's first estimate is at most this passes through without the
        rest of the network being run. Pixels; None: never.

    Raises
    ------
    InputError
        If they are not numbers with 0 <= low <= high and 0 <= early <= low.
    """

    low: float
    high: float
    early: float | None = None

    def __post_init__(self) -> None:
        given = (self.low, self.high, *(() if self.early is None else (self.early,)))
        if not all(isinstance(value, Real) for value in given):
            raise InputError(f"A gate of {given} cannot be.", "Its thresholds are numbers.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and 0 <= self.low <= self.high):
            raise InputError(
                f"A gate of low={self.low} and high={self.high} cannot be.", "It takes 0 <= low <= high."
            )
        if self.early is not None and not 0 <= self.early <= self.low:
            raise InputError(
                f"A gate of low={self.low} and early={self.early} cannot be.", "It takes 0 <= early <= low."
            )

    def weight(self, score: Tensor) -> Tensor:
        """Share of the restored picture in the result.

        Parameters
        ----------
        score : Tensor
            (N,) blur scores in pixels.

        Returns
        -------
        Tensor
            (N,) in [0, 1]: 0 up to ``low``, 1 from ``high`` (above ``low`` where the two are equal).
        """
        if self.low == self.high:
            return (score > self.low).to(score.dtype)
        # In float64: thresholds that are nearly equal divide by next to nothing.
        return ((score.double() - self.low) / (self.high - self.low)).clamp(0, 1).to(score.dtype)

    @classmethod
    def from_card(cls, card: Mapping[str, Any], name: str = "the weights' card") -> Gate | None:
        """The gate that a card of weights carries; None where it carries none.

        Raises
        ------
        WeightsError
            If the entry is there but malformed.
        """
        entry = card.get("gate")
        if entry is None:
            return None
        try:
            early = entry.get("early")
            return cls(float(entry["low"]), float(entry["high"]), None if early is None else float(early))
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise WeightsError(
                f"{name}: the gate {entry!r} is malformed.",
                'It takes {"low": pixels, "high": pixels}, and "early" if need be; '
                "benchmarks/calibrate_gate.py writes it.",
            ) from error

    @classmethod
    def of_weights(cls, name: str) -> Gate | None:
        """The gate calibrated for weights; None where there is none.

        Parameters
        ----------
        name : str
            Of packaged weights, or the path of a ``.safetensors`` file, whose card lies beside it.

        Raises
        ------
        WeightsError
            If the card is not JSON or its gate malformed.
        """
        if name.endswith(".safetensors"):
            path: Traversable = Path(name).with_suffix(".json")
        else:
            path = resources.files("blurface").joinpath("weights", f"{name}.json")
        if not path.is_file():
            return None
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            mend = "Mend or remove it." if name.endswith(".safetensors") else "Install blurface again."
            raise WeightsError(f"{path} is not JSON ({error}).", mend) from error
        return cls.from_card(card if isinstance(card, dict) else {}, str(path))


def action(weight: float) -> Action:
    """The word for a weight: ``"pass"`` for 0, ``"restore"`` for 1, else ``"blend"``."""
    return "pass" if weight <= 0 else "restore" if weight >= 1 else "blend"
