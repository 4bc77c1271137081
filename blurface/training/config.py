"""One TOML file a published model: what is trained, on what, how, how long."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BlurfaceError
from .losses import LossWeights
from .pairs import LARGEST, Degradation


@dataclass(frozen=True)
class Schedule:
    """What changes with the step.

    Attributes
    ----------
    steps : int
        Length of the run. A longer one can go on from any checkpoint before ``decay`` begins.
    batch_size : int
        Global, over all processes: a multiple of their number.
    optimiser : {"muon", "adamw", "rmsprop"}
    lr, adam_lr : float
        Peak learning rates.
    warmup : int
        Steps from 0 to the peak.
    decay : int
        Last steps, over which the rate falls linearly to zero.
    halve_on_plateau : int
        Validations without gain after which the rate is halved (the paper's rule); 0: never.
    exponential : float
        Factor on the rate every 1,000 steps (the paper's decay); 1: none.
    loops : list of (step, loops)
        From which step on the network runs how many loops.
    teacher : list of (step, share)
        Share of the true kernel in the Wiener layers, linear between the points.
    facial : list of (step, share)
        Share of the facial weight, linear between the points.
    facial_share : float
        Part of each batch that the facial term looks at.
    ema : float
        Decay of the weights' moving average, which is what is validated and published.
    clip : float
        Gradient norm limit; 0: none.
    """

    steps: int = 10_000
    batch_size: int = 16
    optimiser: str = "muon"
    lr: float = 2e-3
    adam_lr: float = 1e-3
    warmup: int = 100
    decay: int = 1_000
    halve_on_plateau: int = 0
    exponential: float = 1.0
    loops: tuple[tuple[int, int], ...] = ()
    teacher: tuple[tuple[int, float], ...] = ()
    facial: tuple[tuple[int, float], ...] = ()
    facial_share: float = 0.5
    ema: float = 0.998
    clip: float = 0.0

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step: warm-up, plateau, linear decay to zero."""
        up = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        down = min(1.0, (self.steps - step) / self.decay) if self.decay else 1.0
        return float(up * down * self.exponential ** (step / 1000))

    def loops_at(self, step: int) -> int | None:
        """Loops at a step; None: the network's own number."""
        known = [loops for start, loops in self.loops if start <= step]
        return known[-1] if known else None

    def teacher_at(self, step: int) -> float:
        """Share of the true kernel at a step."""
        return interpolate(self.teacher, step)

    def facial_at(self, step: int) -> float:
        """Share of the facial weight at a step."""
        return interpolate(self.facial, step)


def interpolate(points: tuple[tuple[int, float], ...], step: int) -> float:
    """Piecewise linear through (step, value) points, constant outside; 0 without points."""
    steps, values = zip(*(points or ((0, 0.0),)))
    return float(np.interp(step, steps, values))


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes
    ----------
    name : str
        Of the model that comes out.
    network : str
        One of ``blurface.networks.NETWORKS``.
    network_options : dict
    data : tuple of str
        Packed files, relative to the data root or absolute.
    held_out : int
        Faces, of identities of their own, kept for validation.
    embedder : str
        Of the facial loss; empty: none.
    seed : int
    schedule, loss, degradation
    validate_every, sample_every, checkpoint_every : int
        Steps.
    teacher_network : str
        Model to distil from, packaged or a ``.safetensors`` file; ``loss.distilled`` is its weight.
        Empty: none.
    weights_type : {"float32", "float16"}
        In which the finished weights are written; either is computed with in float32.
    """

    name: str
    network: str
    data: tuple[str, ...]
    network_options: dict[str, Any] = field(default_factory=dict)
    held_out: int = 200
    embedder: str = ""
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossWeights = field(default_factory=LossWeights)
    degradation: Degradation = field(default_factory=Degradation)
    validate_every: int = 500
    sample_every: int = 1_000
    checkpoint_every: int = 250
    teacher_network: str = ""
    weights_type: str = "float32"


_KINDS: dict[str, tuple[type[Any], ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "tuple": (list, tuple),
    "dict": (dict,),
}
_WORDS = {"tuple": "a list", "dict": "a table", "str": "a text", "int": "a whole number", "float": "a number"}
_INFINITE = math.inf
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch_size", "held_out"), (1, _INFINITE)),
    **dict.fromkeys(("validate_every", "sample_every", "checkpoint_every"), (1, _INFINITE)),
    **dict.fromkeys(("seed", "warmup", "decay", "halve_on_plateau", "lr", "adam_lr", "clip"), (0, _INFINITE)),
    **dict.fromkeys(
        ("small", "tremor", "linear", "defocus", "sharp", "varying", "off_centre", "replicate"), (0, 1)
    ),
    **dict.fromkeys(("wide", "jpeg", "ema", "facial_share"), (0, 1)),
    "facial_power": (1, _INFINITE),
    **dict.fromkeys(("intermediate", "deconvolved", "kernel", "tv", "facial", "distilled"), (0, _INFINITE)),
    **dict.fromkeys(("noise", "exponential", "kernel_sigma"), (0, _INFINITE)),
}
"""Least and greatest value of numbers, by name."""
_CHOICES = {
    "optimiser": ("muon", "adamw", "rmsprop"),
    "pixel": ("charbonnier", "l2"),
    "weights_type": ("float32", "float16"),
}
_POINTS = ("loops", "teacher", "facial")


def _check_value(where: str, name: str, annotation: str, value: Any) -> None:
    def wrong(mend: str) -> BlurfaceError:
        return BlurfaceError(f"{where}: {name} is {value!r}.", mend)

    kind = annotation.partition("[")[0]
    if kind in _KINDS and (not isinstance(value, _KINDS[kind]) or isinstance(value, bool)):
        raise wrong(f"It must be {_WORDS[kind]}.")
    if kind in ("int", "float"):
        low, high = _RANGES.get(name, (-_INFINITE, _INFINITE))
        if not math.isfinite(value):
            raise wrong("It must be finite.")
        if not low <= value <= high:
            raise wrong(f"It must be {low:g} or more." if high == _INFINITE else "It must lie in [0, 1].")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise wrong(f"Known: {', '.join(_CHOICES[name])}.")
    if annotation.startswith("tuple") and name in _POINTS:
        if not all(map(_is_pair, value)):
            raise wrong("It must be a list of [step, value].")
        if any(before[0] > after[0] for before, after in pairwise(value)):
            raise wrong("Its steps must not fall.")
        if name == "loops" and any(number < 1 or number != int(number) for _, number in value):
            raise wrong("Its loops must be whole numbers, 1 or more.")
        if name == "teacher" and any(not 0 <= share <= 1 for _, share in value):
            raise wrong("Its shares must lie in [0, 1].")
    if name == "valid_size" and not (_is_pair(value) and 1 <= value[0] <= value[1] <= LARGEST):
        raise wrong(f"It must be [least, greatest] in pixels, 1 to {LARGEST}.")
    if name == "data" and not all(isinstance(entry, str) for entry in value):
        raise wrong("It must be a list of files or folders.")
    if name == "name" and not (value and Path(value).name == value and value.isprintable()):
        raise wrong("It must be a plain file name: the model is called so.")


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in value)
    )


def _build(kind: type[Any], values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise BlurfaceError(f"{where} is {values!r}.", "It must be a table of settings.")
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise BlurfaceError(f"{where}: {name!r} is no setting.", f"Known: {', '.join(known)}.")
    missing = [
        n
        for n, f in known.items()
        if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BlurfaceError(f"{where}: {', '.join(missing)} must be set.", "Add it to the file.")

    def plain(value: Any) -> Any:
        return tuple(plain(v) for v in value) if isinstance(value, list) else value

    settings = kind(**{name: plain(value) for name, value in values.items()})
    _check(settings, where)
    return settings


def _check(settings: Any, where: str) -> None:
    for setting in dataclasses.fields(settings):
        _check_value(where, setting.name, str(setting.type), getattr(settings, setting.name))
    if isinstance(settings, Degradation):
        total = settings.linear + settings.defocus + settings.sharp
        if total > 1 + 1e-9:
            raise BlurfaceError(
                f"{where}: linear, defocus and sharp are {total:g} together.", "They must be 1 at most."
            )


def check_config(config: TrainConfig) -> None:
    """Refuse settings that mean nothing, wherever the configuration was made.

    Raises
    ------
    BlurfaceError
        If a setting has another type or lies outside of its range; the message says which.
    """
    for name, part in (
        ("[schedule]", config.schedule),
        ("[loss]", config.loss),
        ("[degradation]", config.degradation),
        ("the configuration", config),
    ):
        _check(part, name)


def read_config(path: Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a configuration.

    Parameters
    ----------
    path : Path
    overrides : dict, optional
        Dotted names and values that replace the file's (``{"schedule.steps": 100}``).

    Raises
    ------
    BlurfaceError
        If the file is missing, is not TOML, or has a name that means nothing; the message says
        which.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise BlurfaceError(f"{path} does not exist.", "Give one of configs/*.toml.") from None
    except OSError as error:
        raise BlurfaceError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise BlurfaceError(f"{path} is not TOML: {error}.", "Mend that line.") from error
    for name, value in (overrides or {}).items():
        *groups, last = name.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise BlurfaceError(f"{name}: {group} holds no settings.", "Known groups: see the file.")
        inner[last] = value
    for section, kind in (("schedule", Schedule), ("loss", LossWeights), ("degradation", Degradation)):
        values[section] = _build(kind, values.get(section, {}), f"{path} [{section}]")
    config: TrainConfig = _build(TrainConfig, values, str(path))
    return config


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain values, for checkpoints and model cards."""
    return dataclasses.asdict(config)
