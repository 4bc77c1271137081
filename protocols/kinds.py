"""Several runs in one table or figure: what must be alike in them, and what they could not read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from blurface.errors import InputError

from .results import Summary
from .run_folder import Run

_CONDITIONS = {
    "kernel_centre": "mass",
    "noise": 0.0,
    "jpeg": None,
    "border": "valid",
    "size": 1.0,
    "mean_subtraction": True,
}
"""Options that runs of one kind share, and what records of before an option was there stand for."""


def require_alike(runs: Sequence[Run], where: str, free: Collection[str] = ()) -> None:
    """Refuse runs of other pairs, kernels, verifiers or conditions than the first one's.

    Parameters
    ----------
    runs : sequence of Run
    where : str
        What they are to stand in, e.g. ``"Table 5"``.
    free : collection of str
        Conditions in which they may differ; ``"restorers"``: what restorers of one name are.

    Raises
    ------
    InputError
        If they differ; the message says in what.
    """
    # Reduced probes have names of their own, and so their pairs a fingerprint: number and seed tell which.
    sizes: dict[float, list[Run]] = {}
    for run in runs:
        size = run.record["options"].get("size", 1.0) if "size" in free else 1.0
        sizes.setdefault(size, []).append(run)
    for alike in sizes.values():
        _refuse_prints(where, "pairs", alike)
    drawn = [(each[0].name, each[0].summary.about) for each in sizes.values()]
    _refuse_mixed(where, "pairs", {name: f"{about['pairs']}, seed {about['seed']}" for name, about in drawn})
    _refuse_prints(where, "kernels", runs)
    _refuse_mixed(where, "verifiers", {run.name: ", ".join(run.summary.verifiers) for run in runs})
    require_one_kind(runs, where, free)


def require_one_kind(runs: Sequence[Run], where: str, free: Collection[str] = ()) -> None:
    """Refuse runs of another protocol, of other conditions, or whose restorers or verifiers differ.

    Parameters and errors as of :func:`require_alike`.
    """
    _refuse_mixed(where, "protocol", {run.name: run.protocol for run in runs})
    # What was taken, not what was asked for: --crops auto takes either.
    taken = {run.name: run.summary.about.get("face_selection", "central-largest") for run in runs}
    _refuse_mixed(where, "face_selection", taken)
    for key, usual in _CONDITIONS.items():
        if key not in free:
            _refuse_mixed(where, key, {run.name: run.record["options"].get(key, usual) for run in runs})
    for part in ("restorers", "verifiers"):
        if part not in free:
            _refuse_changed(runs, where, part)


def unreadable(summaries: Iterable[Summary]) -> list[str]:
    """One sentence on the pictures that runs could not read, or none."""
    names = list(dict.fromkeys(name for each in summaries for name in each.about.get("unreadable", [])))
    if not names:
        return []
    listed = f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
    return [f"{len(names)} pictures could not be read and count as non-matches: {listed}."]


def _refuse_changed(runs: Sequence[Run], where: str, part: str) -> None:
    """Refuse restorers or verifiers of one name that are not the same in all runs that have them."""
    methods: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        for name, fingerprint in run.record["fingerprints"].get(part, {}).items():
            methods.setdefault(name, {})[run.name] = _measured(fingerprint)
    for name, found in methods.items():
        for key in dict.fromkeys(key for each in found.values() for key in each):
            _refuse_mixed(where, f"{key} of {name}", {run: each.get(key) for run, each in found.items()})


def _measured(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Options and weights of a fingerprint.

    Not its code, nor the precision: they change with the version and the machine, and figures by rounding.
    """
    found = {key: value for key, value in fingerprint.get("options", {}).items() if key != "precision"}
    found |= {key: fingerprint[key] for key in ("name", "weights", "prior") if key in fingerprint}
    inner = _measured(fingerprint["inner"]) if "inner" in fingerprint else {}
    return found | {f"inner {key}": value for key, value in inner.items()}


def _refuse_prints(where: str, what: str, runs: Sequence[Run]) -> None:
    prints = {run.name: str(run.record["fingerprints"].get(what)) for run in runs}
    _refuse_mixed(where, what, prints, told=False)


def _refuse_mixed(where: str, what: str, values: Mapping[str, Any], *, told: bool = True) -> None:
    """Refuse runs, by name, that do not have one value in common; ``told``: say each one's."""
    if len({str(value) for value in values.values()}) < 2:
        return
    each = f" ({', '.join(f'{name}: {value}' for name, value in values.items())})" if told else ""
    raise InputError(f"{where} cannot hold runs of different {what}{each}.", "Name runs of one kind.")
