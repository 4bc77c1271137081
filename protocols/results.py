"""From a finished matrix to figures: rows of ``results.csv`` and the scores of every pair.

Everything here is a function of stored cells; it computes no picture and no embedding.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from blurface.files import write_atomic
from verification import scoring, statistics

from . import quality
from .record import LOCAL, Places, hide
from .runner import CONTROL, SHARP, Evaluation
from .tables import FORMS, Table

MEAN = "mean"
"""Name of the column over all kernels of a run (without ``sharp``)."""

COLUMNS = (
    "protocol",
    "verifier",
    "restorer",
    "kernel_set",
    "kernel",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
)

FARS = {f"tar@far=1e-{-round(math.log10(far))}": far for far in scoring.FARS}
"""False accept rates at which true ones are given, by metric."""

DEFINITIONS: dict[str, str] = {
    "accuracy": "share of right decisions in [0, 1], the mean over folds; threshold chosen for this "
    "restorer and kernel on the other folds; interval: bootstrap over pairs",
    "accuracy_std": "standard deviation of the folds' accuracies (n - 1); n counts folds",
    "accuracy_fixed": "accuracy with the threshold (and the mean embedding) of the other folds' sharp "
    "pairs: what a deployed verifier does; interval: bootstrap over pairs",
    "fnmr_fixed": "share of genuine pairs rejected at that threshold; interval: Wilson",
    "fmr_fixed": "share of impostor pairs accepted at that threshold; interval: Wilson",
    **{
        name: f"true accept rate at the threshold where at most {far:g} of the impostor pairs are accepted; "
        "interval: Wilson, the threshold taken as given; empty where there are too few impostor pairs"
        for name, far in FARS.items()
    },
    "eer": "equal error rate",
    "auc": "area under the ROC curve",
    "fte": "share of pairs with a face that could not be enrolled; they never match; interval: Wilson",
    "genuine_shift": "mean change of the genuine pairs' scores against the same pairs sharp (scores with "
    "the sharp pairs' mean embedding)",
    "impostor_shift": "the same of the impostor pairs: a rise means more false accepts",
    "mcnemar_p": f"two-sided p value against {CONTROL!r} on the same pairs: McNemar's mid-p (Fagerland et "
    "al. 2013); over all kernels McNemar's test for clustered pairs (Durkalski et al. 2003)",
    "mcnemar_p_fixed": f"the same at the sharp pairs' threshold: accuracy_fixed against that of {CONTROL!r}",
    "recovered_share": f"(accuracy - accuracy of {CONTROL!r}) / (accuracy without blur - accuracy of "
    f"{CONTROL!r}); interval: bootstrap over pairs; empty where blur costs nothing",
    **quality.DEFINITIONS,
}
"""What each metric is. Intervals are at the level of 95%; those of PSNR and SSIM are Student's over images.

The row ``mean`` holds the mean over the kernels; its intervals come from resampling pairs (or images),
each with all its kernels.
"""


@dataclass(frozen=True)
class Row:
    """One line of ``results.csv``; ``note`` says why there is no value."""

    protocol: str
    verifier: str
    restorer: str
    kernel_set: str
    kernel: str
    metric: str
    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int = 0
    note: str | None = None


@dataclass
class Summary:
    """Figures of a run.

    Attributes
    ----------
    rows : list of Row
    scores : dict of str to DataFrame
        For each verifier one line per pair, restorer and kernel.
    about : dict
        What was run, as JSON values.
    verifiers, restorers, kernels : list of str
        In order; kernels without ``sharp``.
    """

    rows: list[Row]
    scores: dict[str, pd.DataFrame]
    about: dict[str, Any]
    verifiers: list[str]
    restorers: list[str]
    kernels: list[str]

    def row(self, verifier: str, restorer: str, kernel: str, metric: str) -> Row | None:
        """The row of a figure, or None."""
        return self._index.get((verifier, restorer, kernel, metric))

    def value(self, verifier: str, restorer: str, kernel: str, metric: str) -> float:
        """The value of a figure; NaN where there is none."""
        row = self.row(verifier, restorer, kernel, metric)
        return math.nan if row is None else row.value

    @cached_property
    def _index(self) -> dict[tuple[str, str, str, str], Row]:
        return {(r.verifier, r.restorer, r.kernel, r.metric): r for r in self.rows}


@dataclass
class _Pairs:
    """Pair list as arrays, and where each image's embedding lies."""

    reference: NDArray[np.intp]
    probe: NDArray[np.intp]
    probe_image: NDArray[np.intp]
    genuine: NDArray[np.bool_]
    folds: NDArray[np.int64]

    @classmethod
    def of(cls, evaluation: Evaluation) -> _Pairs:
        pairs = evaluation.protocol.pairs
        image = {name: i for i, name in enumerate(pairs.images)}
        probe = {name: i for i, name in enumerate(pairs.probes)}
        return cls(
            np.array([image[p.reference] for p in pairs], np.intp),
            np.array([probe[p.probe] for p in pairs], np.intp),
            np.array([image[p.probe] for p in pairs], np.intp),
            np.array([p.genuine for p in pairs], bool),
            np.array([p.fold for p in pairs], np.int64),
        )


@dataclass
class _Decided:
    """One restorer and kernel under one verifier."""

    own: scoring.FoldResult
    fixed: scoring.FoldResult
    score: NDArray[np.float64]
    score_fixed: NDArray[np.float64]
    failed: NDArray[np.bool_]


class _Rows:
    """Collects rows of one verifier."""

    def __init__(self, protocol: str, verifier: str, sets: Mapping[str, str], joined: str) -> None:
        self.rows: list[Row] = []
        self._head = (protocol, verifier)
        self._sets = sets
        self._joined = joined

    def add(
        self,
        restorer: str,
        kernel: str,
        metric: str,
        value: float,
        interval: statistics.Interval | None = None,
        n: int = 0,
        note: str | None = None,
    ) -> None:
        low, high = (interval.low, interval.high) if interval else (math.nan, math.nan)
        # As they are written: tables made here and from the file are alike.
        value, low, high = (float(f"{number:.8g}") for number in (value, low, high))
        kernel_set = self._sets.get(kernel, self._joined)
        self.rows.append(Row(*self._head, restorer, kernel_set, kernel, metric, value, low, high, n, note))


def summarise(
    evaluation: Evaluation,
    *,
    mean_subtraction: bool = True,
    seed: int = 0,
    kernel_sets: Mapping[str, str] | None = None,
) -> Summary:
    """All figures of a run.

    Parameters
    ----------
    evaluation : Evaluation
    mean_subtraction : bool
        Subtract the mean embedding of the training folds before the cosine.
    seed : int
        Of the bootstrap.
    kernel_sets : mapping, optional
        Which set each kernel comes from, where a run joins several.
    """
    pairs = _Pairs.of(evaluation)
    rows: list[Row] = []
    scores: dict[str, pd.DataFrame] = {}
    for verifier in evaluation.verifiers:
        collect = _Rows(evaluation.protocol.name, verifier, kernel_sets or {}, evaluation.kernels.name)
        scores[verifier] = _verifier(evaluation, pairs, verifier, mean_subtraction, seed, collect)
        rows += collect.rows
    return Summary(
        rows,
        scores,
        _about(evaluation, mean_subtraction, seed),
        evaluation.verifiers,
        evaluation.restorers,
        [kernel.name for kernel in evaluation.kernels.kernels],
    )


def _about(evaluation: Evaluation, mean_subtraction: bool, seed: int) -> dict[str, Any]:
    faces, pairs, settings = evaluation.faces, evaluation.protocol.pairs, evaluation.settings
    frames = sorted(set(evaluation.frames.values()))
    return {
        "protocol": evaluation.protocol.name,
        "description": evaluation.protocol.description,
        "pairs": len(pairs),
        "genuine_pairs": sum(pair.genuine for pair in pairs),
        "images": len(pairs.images),
        "probes": len(pairs.probes),
        "folds": pairs.folds,
        "kernel_set": evaluation.kernels.name,
        "kernel_source": evaluation.kernels.source,
        "kernel_centre": evaluation.kernels.centre,
        "kernel_sizes": {kernel.name: kernel.size for kernel in evaluation.kernels.kernels},
        "border": settings.border,
        "margin": 0 if settings.border == "replicate" else faces.margin,
        # With a replicated border nothing beyond the face is seen, real or not.
        "invented_share": {frame: round(float(faces.invented[frame].mean()), 6) for frame in frames}
        if settings.border == "valid"
        else {},
        "faces_not_found": int(faces.fallback.sum()),
        "face_selection": "prealigned" if evaluation.protocol.prealigned else "central-largest",
        "unreadable": faces.unreadable_images,
        "noise": settings.degradation.noise,
        "jpeg": settings.degradation.jpeg,
        "seed": seed,
        "mean_subtraction": mean_subtraction,
        "frames": evaluation.frames,
        "metrics": evaluation.metrics,
        "restorer_options": {choice.name: choice.options for choice in settings.restorers if choice.options},
    }


def _verifier(
    evaluation: Evaluation,
    pairs: _Pairs,
    verifier: str,
    mean_subtraction: bool,
    seed: int,
    collect: _Rows,
) -> pd.DataFrame:
    metric = evaluation.metrics[verifier]
    sharp = evaluation.sharp_embeddings(verifier)
    reference, sharp_probe = sharp[pairs.reference], sharp[pairs.probe_image]
    subtract = mean_subtraction and metric == "cosine"
    sharp_means = scoring.fold_means(reference, sharp_probe, pairs.folds) if subtract else None
    sharp_scores = scoring.score(reference, sharp_probe, metric=metric, means=sharp_means)
    sharp_held = scoring.held_out(sharp_scores, pairs.folds)
    kernels = [kernel.name for kernel in evaluation.kernels.kernels]
    control: dict[str, _Decided] = {}
    frames = []
    for restorer in evaluation.restorers:
        decided: dict[str, _Decided] = {}
        measured: dict[str, dict[str, NDArray[Any]]] = {}
        for kernel in (*kernels, SHARP):
            probe = evaluation.probe_embeddings(verifier, restorer, kernel)[pairs.probe]
            means = scoring.fold_means(reference, probe, pairs.folds) if subtract else None
            own = scoring.score(reference, probe, metric=metric, means=means)
            fixed = scoring.score(reference, probe, metric=metric, means=sharp_means)
            decided[kernel] = _Decided(
                scoring.cross_validate(own, pairs.genuine, pairs.folds),
                scoring.carry_over(sharp_scores, fixed, pairs.genuine, pairs.folds),
                scoring.held_out(own, pairs.folds),
                scoring.held_out(fixed, pairs.folds),
                scoring.failures(reference, probe),
            )
            measured[kernel] = evaluation.quality(evaluation.frames[verifier], restorer, kernel)
            spread = evaluation.spread(evaluation.frames[verifier], restorer, kernel)
            blur = np.full(len(pairs.probe), np.nan) if spread is None else spread[pairs.probe]
            frames.append(_frame(pairs, restorer, kernel, decided[kernel], sharp_held, blur, evaluation))
        if restorer == CONTROL:
            control = decided
        for kernel in (*kernels, SHARP):
            _kernel_rows(
                collect,
                restorer,
                kernel,
                decided[kernel],
                control[kernel],
                control[SHARP],
                pairs,
                sharp_held,
                seed,
            )
            _quality_rows(collect, restorer, kernel, [measured[kernel]])
        _mean_rows(collect, restorer, kernels, decided, control, pairs, seed)
        _quality_rows(collect, restorer, MEAN, [measured[kernel] for kernel in kernels])
    table = pd.concat(frames, ignore_index=True)
    for name in ("restorer", "kernel", "reference", "probe"):
        table[name] = table[name].astype("category")
    return table


def _frame(
    pairs: _Pairs,
    restorer: str,
    kernel: str,
    decided: _Decided,
    sharp: NDArray[np.float64],
    blur: NDArray[np.float64],
    evaluation: Evaluation,
) -> pd.DataFrame:
    listed = evaluation.protocol.pairs.pairs
    return pd.DataFrame(
        {
            "pair": np.arange(len(listed), dtype=np.int32),
            "reference": [pair.reference for pair in listed],
            "probe": [pair.probe for pair in listed],
            "genuine": pairs.genuine,
            "fold": pairs.folds.astype(np.int16),
            "restorer": restorer,
            "kernel": kernel,
            "score": decided.score,
            "sharp_score": sharp,
            "score_fixed": decided.score_fixed,
            "decision": decided.own.matches,
            "decision_fixed": decided.fixed.matches,
            "failed": decided.failed,
            "blur": blur.astype(np.float32),
        }
    )


def _kernel_rows(
    collect: _Rows,
    restorer: str,
    kernel: str,
    decided: _Decided,
    blurry: _Decided,
    sharp: _Decided,
    pairs: _Pairs,
    sharp_held: NDArray[np.float64],
    seed: int,
) -> None:
    genuine, count = pairs.genuine, len(pairs.genuine)
    positives, negatives = int(genuine.sum()), int((~genuine).sum())
    own, fixed = decided.own, decided.fixed

    def add(metric: str, value: float, interval: Any = None, n: int = count, note: str | None = None) -> None:
        collect.add(restorer, kernel, metric, value, interval, n, note)

    add("accuracy", own.mean, _accuracy_interval(own.correct, genuine, seed))
    add("accuracy_std", own.std, n=len(own.accuracies))
    add("accuracy_fixed", fixed.mean, _accuracy_interval(fixed.correct, genuine, seed))
    add(
        "fnmr_fixed",
        fixed.fnmr,
        statistics.wilson(int((~fixed.matches[genuine]).sum()), positives),
        positives,
    )
    add("fmr_fixed", fixed.fmr, statistics.wilson(int(fixed.matches[~genuine].sum()), negatives), negatives)
    roc = scoring.roc(decided.score, genuine)
    for name, far in FARS.items():
        rate = roc.tar_at_far[far]
        interval = None
        if math.isfinite(rate.value):
            interval = statistics.wilson(round(rate.value * positives), positives)
        add(name, rate.value, interval, positives, rate.reason)
    add("eer", roc.eer.value, note=roc.eer.reason)
    add("auc", roc.auc.value, note=roc.auc.reason)
    add("fte", float(decided.failed.mean()), statistics.wilson(int(decided.failed.sum()), count))
    shift = scoring.score_shift(sharp_held, decided.score_fixed, genuine)
    add("genuine_shift", shift.genuine, n=positives)
    add("impostor_shift", shift.impostor, n=negatives)
    if restorer == CONTROL:
        return
    add("mcnemar_p", statistics.mcnemar(own.correct, blurry.own.correct).p_mid)
    add("mcnemar_p_fixed", statistics.mcnemar(fixed.correct, blurry.fixed.correct).p_mid)
    if kernel != SHARP:
        value, interval, note = _recovered(
            own.correct,
            blurry.own.correct,
            sharp.own.correct,
            (own.mean, blurry.own.mean, sharp.own.mean),
            genuine,
            seed,
        )
        add("recovered_share", value, interval, note=note)


def _mean_rows(
    collect: _Rows,
    restorer: str,
    kernels: list[str],
    decided: Mapping[str, _Decided],
    control: Mapping[str, _Decided],
    pairs: _Pairs,
    seed: int,
) -> None:
    genuine, count = pairs.genuine, len(pairs.genuine)
    single = {(row.kernel, row.metric): row for row in collect.rows if row.restorer == restorer}

    def mean(metric: str) -> tuple[float, int, str | None]:
        rows = [single[kernel, metric] for kernel in kernels]
        note = next((row.note for row in rows if row.note), None)
        return float(np.mean([row.value for row in rows])), rows[0].n, note

    def add(metric: str, value: float, interval: Any = None, n: int = count, note: str | None = None) -> None:
        collect.add(restorer, MEAN, metric, value, interval, n, note)

    def p_value(metric: str, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
        # Of one kernel the exact test that its own row has.
        if len(kernels) == 1:
            return single[kernels[0], metric].value
        return statistics.clustered_mcnemar(ours, theirs)

    own = np.mean([decided[kernel].own.correct for kernel in kernels], axis=0)
    fixed = np.mean([decided[kernel].fixed.correct for kernel in kernels], axis=0)
    add("accuracy", mean("accuracy")[0], _accuracy_interval(own, genuine, seed))
    folds = np.mean([decided[kernel].own.accuracies for kernel in kernels], axis=0)
    add("accuracy_std", float(folds.std(ddof=1)), n=len(folds))
    add("accuracy_fixed", mean("accuracy_fixed")[0], _accuracy_interval(fixed, genuine, seed))
    for metric, part in (("fnmr_fixed", genuine), ("fmr_fixed", ~genuine)):
        resampled = statistics.bootstrap_mean(1 - fixed[part], seed=seed)
        add(metric, mean(metric)[0], resampled, int(part.sum()))
    for metric in (*FARS, "eer", "auc", "fte", "genuine_shift", "impostor_shift"):
        value, n, note = mean(metric)
        add(metric, value, n=n, note=note)
    if restorer == CONTROL:
        return
    blurry = np.mean([control[kernel].own.correct for kernel in kernels], axis=0)
    sharp = control[SHARP].own
    add("mcnemar_p", p_value("mcnemar_p", own, blurry))
    carried = np.mean([control[kernel].fixed.correct for kernel in kernels], axis=0)
    add("mcnemar_p_fixed", p_value("mcnemar_p_fixed", fixed, carried))
    means = (
        mean("accuracy")[0],
        float(np.mean([control[kernel].own.mean for kernel in kernels])),
        sharp.mean,
    )
    value, interval, note = _recovered(own, blurry, sharp.correct, means, genuine, seed)
    add("recovered_share", value, interval, note=note)


def _quality_rows(
    collect: _Rows, restorer: str, kernel: str, measured: list[dict[str, NDArray[Any]]]
) -> None:
    for metric in quality.DEFINITIONS:
        values = np.mean([arrays[metric] for arrays in measured], axis=0)
        values = values[np.isfinite(values)]
        if len(values):
            collect.add(restorer, kernel, metric, float(values.mean()), _student(values), len(values))
        else:
            collect.add(restorer, kernel, metric, math.nan, note="insufficient data: no readable picture")


def _accuracy_interval(correct: NDArray[Any], genuine: NDArray[np.bool_], seed: int) -> statistics.Interval:
    return statistics.bootstrap_mean(correct, groups=genuine, seed=seed)


def _student(values: NDArray[np.float64]) -> statistics.Interval:
    if len(values) < 2:
        return statistics.Interval(math.nan, math.nan)
    # Not stats.t.interval: that knows none of equal values, as of the sharp faces' PSNR.
    half = float(stats.t.ppf(0.5 + statistics.LEVEL / 2, len(values) - 1) * stats.sem(values))
    return statistics.Interval(float(values.mean()) - half, float(values.mean()) + half)


def _recovered(
    restored: NDArray[Any],
    blurry: NDArray[Any],
    sharp: NDArray[Any],
    means: tuple[float, float, float],
    genuine: NDArray[np.bool_],
    seed: int,
) -> tuple[float, statistics.Interval | None, str | None]:
    """Share of the lost accuracy that is won back, with its interval, or why there is none."""
    lost = means[2] - means[1]
    if lost <= 0:
        return math.nan, None, "blur costs no accuracy here"
    gains = np.stack([restored, blurry, sharp]).astype(np.float64)

    def share(rows: NDArray[np.intp]) -> float:
        a, b, c = gains[:, rows].mean(1)
        return float((a - b) / (c - b)) if c > b else math.nan

    interval = statistics.bootstrap(share, len(restored), groups=genuine, seed=seed)
    return (means[0] - means[1]) / lost, interval, None


def slug(name: str) -> str:
    """A name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def published(summary: Summary, known: Places) -> Summary:
    """A summary whose names and conditions name no folder of this machine, for :func:`write`.

    Parameters
    ----------
    summary : Summary
    known : dict
        Folders that are written by name (:func:`protocols.record.places`).
    """
    names = ("verifier", "restorer", "kernel_set")
    rows = [
        dataclasses.replace(row, **{name: hide(getattr(row, name), known) for name in names})
        for row in summary.rows
    ]
    scores = {
        hide(verifier, known): frame.assign(
            restorer=frame["restorer"].cat.rename_categories(lambda name: hide(name, known))
        )
        for verifier, frame in summary.scores.items()
    }
    verifiers, restorers = hide(summary.verifiers, known), hide(summary.restorers, known)
    return Summary(rows, scores, hide(summary.about, known), verifiers, restorers, summary.kernels)


def write(
    summary: Summary, made: Iterable[Table], folder: Path, record: Mapping[str, Any], known: Places
) -> list[Path]:
    """Write ``results.csv``, ``results.json``, ``scores/``, ``tables/`` and ``run.json``, each atomically.

    Scores and tables that an earlier run left in the folder go: they would pass for this one's.

    Parameters
    ----------
    summary : Summary
        As it may be published (:func:`published`).
    made : iterable of Table
        Of this summary.
    folder : Path
        Created where missing.
    record : mapping
        ``run.json``: command, versions, machine, times. Everything else is a function of the figures.
    known : dict
        Folders of this machine that are written by name, for the record.
    """
    written: list[Path] = []

    def put(name: str, content: bytes | str) -> None:
        write_atomic(folder / name, content)
        written.append(folder / name)

    # Until all is there again the folder is no finished run's; a page in it is an earlier one's.
    for name in ("run.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    put("results.csv", results_csv(summary.rows))
    put("results.json", results_json(summary))
    for verifier, frame in summary.scores.items():
        stream = io.BytesIO()
        frame.to_parquet(stream, index=False)
        put(f"scores/{slug(verifier)}.parquet", stream.getvalue())
    for table in made:
        written += table.write(folder / "tables")
    put(LOCAL, json.dumps(known, indent=1) + "\n")
    for old in {*folder.glob("scores/*.parquet"), *_tables_in(folder / "tables")} - set(written):
        old.unlink()
    # Last: where it is there, the rest is complete.
    whole = {**hide(dict(record), known), "about": summary.about}
    put("run.json", json.dumps(whole, indent=2, default=str) + "\n")
    return written


def _tables_in(folder: Path) -> set[Path]:
    """Files of tables: those that are there in all of a table's forms."""
    forms = [folder.glob(f"*{suffix}") for suffix in FORMS]
    names = set.intersection(*({path.stem for path in paths} for paths in forms))
    return {folder / f"{name}{suffix}" for name in names for suffix in FORMS}


def results_csv(rows: Iterable[Row]) -> str:
    """Rows with exactly the columns of :data:`COLUMNS`; what there is none of is empty."""
    frame = pd.DataFrame([[getattr(row, name) for name in COLUMNS] for row in rows], columns=list(COLUMNS))
    for name in ("value", "ci_low", "ci_high"):
        frame[name] = [_number(value) for value in frame[name]]
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def results_json(summary: Summary) -> str:
    """Rows with their notes, definitions and what was run; what there is none of is null."""
    rows = []
    for row in summary.rows:
        entry: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
        for name in ("value", "ci_low", "ci_high"):
            text = _number(entry[name])
            entry[name] = float(text) if text else None
        if row.note:
            entry["note"] = row.note
        rows.append(entry)
    content = {"about": summary.about, "definitions": DEFINITIONS, "results": rows}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _number(value: float) -> str:
    """Eight significant digits: more than differs between batch sizes is noise."""
    return "" if math.isnan(value) else f"{value:.8g}"
