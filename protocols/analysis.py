"""What the accuracies hide: harm, the worst and best pairs, blur length, refusing blurred probes.

Every function is pure and works on the scores of a run (one line per pair, restorer and kernel; see
``protocols/results.py``) or on plain arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from blurface.errors import InputError
from blurface.kernels import Kernel, rms_radius
from verification import statistics

from .results import Summary, slug
from .run_folder import cell, scores_of
from .runner import CONTROL, SHARP
from .tables import Column, Table, shown_p

Decision = Literal["decision", "decision_fixed"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REJECT_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of refused probes that tables of error against reject name."""


@dataclass(frozen=True)
class Harm:
    """What a restorer does to decisions, on the same pairs.

    Attributes
    ----------
    restorer, kernel : str
    pairs : int
    helped_genuine, helped_impostor : int
        Wrong on the blurry probe, right on the restored one.
    harmed_genuine, harmed_impostor : int
        Right on the blurry probe, wrong on the restored one. A harmed impostor pair is a false
        accept that restoration made.
    p : float
        McNemar's two-sided mid-p-value that both happen equally often.
    """

    restorer: str
    kernel: str
    pairs: int
    helped_genuine: int
    helped_impostor: int
    harmed_genuine: int
    harmed_impostor: int
    p: float

    @property
    def helped(self) -> int:
        """Pairs put right."""
        return self.helped_genuine + self.helped_impostor

    @property
    def harmed(self) -> int:
        """Pairs put wrong."""
        return self.harmed_genuine + self.harmed_impostor


def harm(scores: pd.DataFrame, restorer: str, kernel: str, decision: Decision = "decision") -> Harm:
    """Pairs that restoration puts right, and wrong.

    Parameters
    ----------
    scores : DataFrame
        Of one verifier.
    restorer, kernel : str
        ``"sharp"`` as kernel: what happens to probes that were not blurred at all.
    decision : {"decision", "decision_fixed"}
        Threshold chosen for the restorer and kernel, or carried over from the sharp pairs.
    """
    before, after = cell(scores, CONTROL, kernel), cell(scores, restorer, kernel)
    genuine = after["genuine"].to_numpy(bool)
    right_before = before[decision].to_numpy(bool) == genuine
    right_after = after[decision].to_numpy(bool) == genuine
    helped, harmed = ~right_before & right_after, right_before & ~right_after
    return Harm(
        restorer,
        kernel,
        len(after),
        int((helped & genuine).sum()),
        int((helped & ~genuine).sum()),
        int((harmed & genuine).sum()),
        int((harmed & ~genuine).sum()),
        statistics.mcnemar(right_after, right_before).p_mid,
    )


def harm_table(summary: Summary, verifier: str) -> Table:
    """Pairs put right and wrong for every restorer and kernel, sharp probes included."""
    columns = [
        Column("Restorer"),
        Column("Kernel"),
        Column("pairs", 0),
        Column("put right", 0),
        Column("put wrong", 0),
        Column("false rejects", 0),
        Column("false accepts", 0),
        Column("p"),
        Column("put right, sharp threshold", 0),
        Column("put wrong, sharp threshold", 0),
    ]
    table = Table(f"harm-{slug(verifier)}", f"Decisions that restoration changes: {verifier}", columns)
    for restorer in summary.restorers:
        if restorer == CONTROL:
            continue
        rows = []
        for kernel in (*summary.kernels, SHARP):
            own = harm(scores_of(summary, verifier), restorer, kernel)
            fixed = harm(scores_of(summary, verifier), restorer, kernel, "decision_fixed")
            rows.append((own, fixed))
            table.add(restorer, kernel, *_harm_cells(own, own.p, fixed))
        if len(summary.kernels) > 1:
            blurred = [(own, fixed) for own, fixed in rows if own.kernel != SHARP]
            total = Harm(restorer, "all blurred", *_totals([own for own, _ in blurred]), np.nan)
            fixed = Harm(restorer, "all blurred", *_totals([fixed for _, fixed in blurred]), np.nan)
            p = summary.value(verifier, restorer, "mean", "mcnemar_p")
            table.add(restorer, "all blurred", *_harm_cells(total, p, fixed))
    table.notes.append(
        "Against the same pair with the blurry probe left as it is. False rejects and false accepts: of the "
        "pairs put wrong. Thresholds: chosen on the other folds for each restorer and kernel; sharp: "
        "chosen on the sharp pairs of the other folds. p: McNemar's test (all blurred: for clustered pairs). "
        "Kernel sharp: probes that were not blurred."
    )
    return table


def _totals(parts: Sequence[Harm]) -> tuple[int, int, int, int, int]:
    return (
        sum(part.pairs for part in parts),
        sum(part.helped_genuine for part in parts),
        sum(part.helped_impostor for part in parts),
        sum(part.harmed_genuine for part in parts),
        sum(part.harmed_impostor for part in parts),
    )


def _harm_cells(own: Harm, p: float, fixed: Harm) -> tuple[Any, ...]:
    return (
        own.pairs,
        own.helped,
        own.harmed,
        own.harmed_genuine,
        own.harmed_impostor,
        shown_p(p),
        fixed.helped,
        fixed.harmed,
    )


@dataclass(frozen=True)
class RankedPair:
    """A pair and what restoration does to its score.

    Attributes
    ----------
    pair : int
        Number in the pair list.
    reference, probe : str
    genuine : bool
    kernel : str
    blurry, restored, sharp : float
        Scores; with the mean embedding of the sharp pairs, so that they can be compared.
    right_blurry, right_restored : bool
        Decision at the threshold of the sharp pairs.
    gain : float
        Change of the score towards the right decision.
    """

    pair: int
    reference: str
    probe: str
    genuine: bool
    kernel: str
    blurry: float
    restored: float
    sharp: float
    right_blurry: bool
    right_restored: bool
    gain: float


def ranked_pairs(
    scores: pd.DataFrame, restorer: str, kernels: Sequence[str], count: int
) -> tuple[list[RankedPair], list[RankedPair]]:
    """Pairs that restoration hurts most, and those that it helps most.

    Pairs whose decision turns come before pairs whose score alone moves; each pair is named once,
    under the kernel where it moves most. Pairs that failed to enrol have no score and are left out.

    Returns
    -------
    worst, best : list of RankedPair
        At most ``count`` each, the most extreme first. No pair is in both.
    """
    every = []
    for kernel in kernels:
        before, after = cell(scores, CONTROL, kernel), cell(scores, restorer, kernel)
        joined = after.assign(
            blurry=before["score_fixed"].to_numpy(), decided_blurry=before["decision_fixed"].to_numpy(bool)
        )
        every.append(joined)
    table = pd.concat(every, ignore_index=True)
    table = table[np.isfinite(table["score_fixed"]) & np.isfinite(table["blurry"])]
    genuine = table["genuine"].to_numpy(bool)
    change = (table["score_fixed"] - table["blurry"]).to_numpy(np.float64)
    right_before = table["decided_blurry"].to_numpy(bool) == genuine
    right_after = table["decision_fixed"].to_numpy(bool) == genuine
    table = table.assign(
        gain=np.where(genuine, change, -change),
        turn=right_after.astype(int) - right_before.astype(int),
        right_before=right_before,
        right_after=right_after,
    )
    up = _first_of_each(table, ascending=False)
    down = _first_of_each(table, ascending=True)
    best = [_ranked(row) for row in up.to_dict("records")[:count] if row["gain"] > 0]
    taken = {pair.pair for pair in best}
    worst = [_ranked(row) for row in down.to_dict("records") if row["gain"] < 0 and row["pair"] not in taken]
    return worst[:count], best


def _first_of_each(table: pd.DataFrame, *, ascending: bool) -> pd.DataFrame:
    order = table.sort_values(["turn", "gain", "pair"], ascending=[ascending, ascending, True], kind="stable")
    return order.drop_duplicates("pair")


def _ranked(row: Mapping[Any, Any]) -> RankedPair:
    return RankedPair(
        int(row["pair"]),
        str(row["reference"]),
        str(row["probe"]),
        bool(row["genuine"]),
        str(row["kernel"]),
        float(row["blurry"]),
        float(row["score_fixed"]),
        float(row["sharp_score"]),
        bool(row["right_before"]),
        bool(row["right_after"]),
        float(row["gain"]),
    )


def blur_extents(kernels: Sequence[Kernel]) -> dict[str, float]:
    """How long each blur is: the length in pixels of the straight motion of equal spread.

    A line of length L has an RMS radius of L / sqrt(12); a kernel of RMS radius r is therefore given
    the length sqrt(12) r.
    """
    return {kernel.name: float(np.sqrt(12.0)) * rms_radius(kernel.psf) for kernel in kernels}


@dataclass(frozen=True)
class RejectCurve:
    """Error among the probes that are kept, when the most blurred are refused.

    Attributes
    ----------
    reject : ndarray
        (N,) share refused, from 0 to (N - 1) / N.
    error : ndarray
        (N,) share of wrong decisions among the rest.
    area : float
        Mean of ``error``: the smaller, the better the score finds what goes wrong.
    area_random, area_ideal : float
        The same when probes are refused at random, and when the wrong ones go first.
    """

    reject: Floats
    error: Floats
    area: float
    area_random: float
    area_ideal: float

    def at(self, share: float) -> float:
        """Error when at most this share is refused."""
        index = int(np.searchsorted(self.reject, share + 1e-12, side="right")) - 1
        return float(self.error[max(index, 0)])


def error_against_reject(wrong: ArrayLike, blur: ArrayLike) -> RejectCurve:
    """Refuse probes from the highest blur score down; what error is left?

    Parameters
    ----------
    wrong : array_like
        (N,) bool: decided wrongly.
    blur : array_like
        (N,) blur score; equal scores are refused together in expectation (their mean error).

    Raises
    ------
    InputError
        If the shapes differ, nothing is there, or a score is NaN.

    References
    ----------
    Grother, Tabassi: "Performance of Biometric Quality Measures", TPAMI 29(4), 2007.
    """
    mistakes, scores = np.asarray(wrong, bool).astype(np.float64), np.asarray(blur, np.float64)
    if mistakes.shape != scores.shape or mistakes.ndim != 1 or not mistakes.size:
        raise InputError(f"Both must be (N,) and not empty, not {mistakes.shape} and {scores.shape}.")
    if np.isnan(scores).any():
        raise InputError("Blur scores hold NaN.", "Give infinity to probes without a score.")
    _, group = np.unique(scores, return_inverse=True)
    expected = np.bincount(group, mistakes) / np.bincount(group)
    ordered = expected[group][np.argsort(-scores, kind="stable")]
    error = _left(ordered)
    count = len(mistakes)
    ideal = _left(np.sort(mistakes)[::-1])
    return RejectCurve(
        np.arange(count) / count, error, float(error.mean()), float(mistakes.mean()), float(ideal.mean())
    )


def _left(ordered: Floats) -> Floats:
    """Mean of what is left after the first k are gone, k = 0 .. N - 1."""
    tail: Floats = ordered[::-1].cumsum()[::-1]
    return tail / np.arange(len(ordered), 0, -1)


def reject_curves(summary: Summary, verifier: str) -> tuple[str, dict[str, RejectCurve]]:
    """Error against reject over all probes of a run, blurred and sharp.

    Probes are refused by the gate's score, the spread of the kernel that a restorer estimates; decisions
    are those at the threshold of the sharp pairs.

    Returns
    -------
    str, dict of str to RejectCurve
        The restorer that estimates, and curves of the probes as they are (``"none"``) and as it and
        those that share its score restore them.

    Raises
    ------
    InputError
        If no restorer of the run gave a score.
    """
    scores = scores_of(summary, verifier)
    scored = scores[scores["blur"].notna()] if "blur" in scores.columns else scores[:0]
    names = [name for name in summary.restorers if (scored["restorer"] == name).any()]
    if not names:
        raise InputError("No restorer of the run estimates kernels.", "Run one that does: fast.")
    kernels = [*summary.kernels, SHARP]
    own = [cell(scores, names[0], kernel) for kernel in kernels]
    blur = np.concatenate([lines["blur"].to_numpy(np.float64) for lines in own])
    blur[np.isnan(blur)] = np.inf  # pictures that could not be read go first
    curves = {}
    for name in (CONTROL, *names):
        lines = [cell(scores, name, kernel) for kernel in kernels]
        wrong = [each["decision_fixed"].to_numpy(bool) != each["genuine"].to_numpy(bool) for each in lines]
        curves[name] = error_against_reject(np.concatenate(wrong), blur)
    return names[0], curves


def reject_table(curves: Mapping[str, RejectCurve], name: str, title: str) -> Table:
    """Error that is left at some shares of refused probes, in percent.

    Parameters
    ----------
    curves : mapping of str to RejectCurve
        By what is decided on.
    name, title : str
        Of the table.
    """
    columns = [
        Column("Probes"),
        *(Column(f"{share * 100:g}% refused", 2, 100, "low") for share in REJECT_SHARES),
        Column("mean", 2, 100, "low"),
        Column("at random", 2, 100),
        Column("ideal", 2, 100),
    ]
    table = Table(name, title, columns)
    for probes, curve in curves.items():
        left = [curve.at(share) for share in REJECT_SHARES]
        table.add(
            "blurry" if probes == CONTROL else probes,
            *left,
            curve.area,
            curve.area_random,
            curve.area_ideal,
        )
    table.notes.append(
        "Wrong decisions (%) among the probes that are kept when the most blurred are refused; mean over all "
        "shares; at random: whatever is refused; ideal: the wrong ones first."
    )
    return table


def pair_shares(
    summary: Summary, verifier: str, restorer: str, kernels: Sequence[str] | None = None
) -> Floats:
    """(pairs,) share of right decisions of each pair over kernels (default: all blurred)."""
    right = []
    for kernel in kernels if kernels is not None else summary.kernels:
        lines = cell(scores_of(summary, verifier), restorer, kernel)
        right.append(lines["decision"].to_numpy(bool) == lines["genuine"].to_numpy(bool))
    shares: Floats = np.mean(right, axis=0)
    return shares
