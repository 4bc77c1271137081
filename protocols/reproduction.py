"""The paper's tables 1 to 5, measured here, beside the paper's own numbers.

Rows of the paper are text in these tables: they are quoted, not compared, and never set in bold. The
paper's verification model and its fifty pairs are not public, so that differences between a quoted and
a measured row are differences of verifier, pairs and data as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verification import statistics

from . import paper
from .analysis import pair_shares
from .kinds import unreadable
from .results import MEAN, Summary, slug
from .run_folder import cell, scores_of
from .runner import CONTROL, SHARP
from .tables import Column, Table, Value, shown_interval, shown_p, shown_restorer
from .timing import Timing

HERE, PAPER = "here", "paper"
LEVIN = tuple("12345678")
"""Names of Levin's kernels, the columns of tables 2 and 3."""

LENGTHS = (5, 9, 13, 15, 19, 23, 27, 31)
"""Lengths of the grid of linear motion, in pixels."""

ANGLES = (0, 45, 90, 135)
"""Its angles, in degrees."""


GREY = ("levin", "sun", "michaeli", "chakrabarti")
"""Methods that give a grey picture unless ``colour=True``, as their authors do."""


def time_table(
    timings: Sequence[Timing], costs: Mapping[str, tuple[int | None, float | None]], about: str
) -> Table:
    """Table 1: seconds per face, all restorers.

    Parameters
    ----------
    timings : sequence of Timing
        Of one run.
    costs : mapping
        Parameters and GFLOP of each restorer, None where there is no such number.
    about : str
        Machine, device and faces.
    """
    columns = [
        Column("Method"),
        Column("Faces a call", 0),
        Column("median", 5, 1, "low", "s a face"),
        Column("quartiles"),
        Column("processor", 5, 1, "none", "s a face"),
        Column("calls", 0),
        Column("parameters"),
        Column("GFLOP"),
        Column("paper (s)"),
    ]
    table = Table("table1-time", "Time to restore one face (table 1)", columns)
    for timing in timings:
        parameters, gflop = costs.get(timing.restorer, (None, None))
        low, high = timing.quartiles
        quoted = paper.SECONDS.get(timing.restorer)
        table.add(
            title_of(timing.restorer),
            timing.batch,
            timing.median,
            f"{low:.3g} to {high:.3g}",
            timing.processor_median,
            len(timing.wall),
            None if parameters is None else f"{parameters / 1e6:.2f} M",
            None if gflop is None else f"{gflop:.2f}",
            None if quoted is None else f"{quoted:g}",
        )
    measured = {timing.restorer for timing in timings}
    for name, seconds in paper.SECONDS.items():
        if name not in measured:
            table.add(title_of(name), None, None, None, None, None, None, None, f"{seconds:g}")
    table.notes += [
        about,
        "All methods in turn in one run, after a call each to warm up; the median of the calls, blurs of "
        "different kernels in turn. Processor: seconds of all threads together.",
        "Paper: MATLAB implementations by their authors on an Intel Xeon E5, DeepDeblur on a GTX 1080.",
    ]
    return table


def subset_table(summaries: Sequence[Summary], verifier: str) -> Table:
    """Table 2: accuracy on a part of the pairs, every restorer and kernel; on LFW beside the paper's.

    Parameters
    ----------
    summaries : sequence of Summary
        Runs over Levin's kernels, of different seeds or restorers; figures of a restorer are means
        over the runs that have it.
    verifier : str
    """
    pairs = sorted({int(summary.about["pairs"]) for summary in summaries})
    size = "-".join(f"{count}" for count in pairs)
    place = _place(summaries[0])
    quoted = paper.SUBSET_ACCURACY if _on_lfw(summaries[0]) else {}
    title = f"Accuracy (%) on {' and '.join(f'{c:,}' for c in pairs)} pairs of {place}, {verifier} (table 2)"
    columns = [
        Column("Method"),
        Column("Source"),
        *(Column(kernel, 2, 100, "high") for kernel in LEVIN),
        Column("mean", 2, 100, "high"),
        Column("95% interval"),
        Column("p"),
        Column("PSNR", 2, 1, "high", "dB"),
        Column("draws", 0),
        Column("spread of draws"),
    ]
    table = Table(f"table2-{size}-{slug(verifier)}", title, columns)
    for restorer in _union(summary.restorers for summary in summaries):
        having = _different([s for s in summaries if restorer in s.restorers])
        values = [_mean_of(having, verifier, restorer, kernel, "accuracy") for kernel in LEVIN]
        means = [summary.value(verifier, restorer, MEAN, "accuracy") for summary in having]
        interval, p = _over_draws(having, verifier, restorer)
        table.add(
            title_of(restorer),
            HERE,
            *values,
            float(np.mean(means)),
            shown_interval(interval.low, interval.high),
            None if restorer == CONTROL else shown_p(p),
            _mean_of(having, verifier, restorer, MEAN, "psnr"),
            len(having),
            shown_interval(min(means), max(means)) if len(means) > 1 else None,
        )
        if restorer in quoted:
            table.add(*_quoted_subset(restorer))
    named = {row[0] for row in table.rows}
    for restorer in quoted:
        if title_of(restorer) not in named:
            table.add(*_quoted_subset(restorer))
    sharp = [summary.value(verifier, CONTROL, SHARP, "accuracy") for summary in _different(list(summaries))]
    in_paper = f", {paper.SHARP_ACCURACY} in the paper (all of LFW)" if quoted else ""
    table.notes += [
        f"Without blur: {np.mean(sharp) * 100:.2f} here{in_paper}.",
        "Interval: bootstrap over the pairs of all draws, each with all its kernels. p: McNemar's test "
        f"against none on the same pairs (clustered). A draw is a random part of {place}; spread: the lowest "
        "and highest mean of the draws.",
        _verifier_note(verifier),
    ]
    grey = [
        title_of(name)
        for name in _union(summary.restorers for summary in summaries)
        if name in GREY and not any(_option(summary, name, "colour") for summary in summaries)
    ]
    if grey:
        table.notes.append(
            f"PSNR misses the colour of grey pictures, as by their authors: {', '.join(grey)}."
        )
    table.notes += unreadable(summaries)
    return table


def _on_lfw(summary: Summary) -> bool:
    """Whether the paper's accuracies are of the same faces; ``lfw:NAME`` is another list of pairs."""
    return str(summary.about["protocol"]).partition(":")[0] == "lfw"


def _place(summary: Summary) -> str:
    protocol = str(summary.about["protocol"])
    return "LFW" if protocol == "lfw" else protocol


def _option(summary: Summary, restorer: str, key: str) -> Any:
    return summary.about.get("restorer_options", {}).get(restorer, {}).get(key)


def _over_draws(
    summaries: Sequence[Summary], verifier: str, restorer: str
) -> tuple[statistics.Interval, float]:
    """Interval of the mean accuracy and p against the blurry probes, over the pairs of all draws."""
    row = summaries[0].row(verifier, restorer, MEAN, "accuracy")
    if len(summaries) == 1 and row is not None:  # published with the run; the scores of its pairs may be away
        p = summaries[0].value(verifier, restorer, MEAN, "mcnemar_p")
        return statistics.Interval(row.ci_low, row.ci_high), p
    shares, blurry = (
        np.concatenate([pair_shares(summary, verifier, name) for summary in summaries])
        for name in (restorer, CONTROL)
    )
    genuine = np.concatenate([_genuine(summary, verifier) for summary in summaries])
    return statistics.bootstrap_mean(shares, groups=genuine), statistics.clustered_mcnemar(shares, blurry)


def _quoted_subset(restorer: str) -> list[Value]:
    quoted = paper.SUBSET_ACCURACY[restorer]
    mean = f"{paper.SUBSET_MEAN[restorer]:g}"
    return [title_of(restorer), PAPER, *(f"{v:g}" for v in quoted), mean, None, None, None, None, None]


def whole_table(summaries: Sequence[Summary], verifier: str) -> Table:
    """Table 3: all pairs, blurry against restored; on LFW beside the paper's.

    Parameters
    ----------
    summaries : sequence of Summary
        Runs of the same pairs over Levin's kernels, of different restorers; one that several have is
        taken from the first.
    verifier : str
    """
    columns = [
        Column("Probes"),
        Column("Source"),
        *(Column(kernel, 2, 100, "high") for kernel in LEVIN),
        Column("mean", 2, 100, "high"),
        Column("95% interval"),
        Column("won back", 1, 100, "high", "%"),
        Column("p"),
        Column("PSNR", 2, 1, "high", "dB"),
        Column("without blur", 2, 100),
    ]
    about, on_lfw = summaries[0].about, _on_lfw(summaries[0])
    title = f"Accuracy (%) on {_place(summaries[0])}, {about['pairs']:,} pairs, {verifier} (table 3)"
    table = Table(f"table3-{slug(verifier)}", title, columns)
    quoted: dict[str, tuple[str, float | None]] = {}
    if on_lfw:
        quoted = {CONTROL: ("blurry", paper.SHARP_ACCURACY), paper.OURS: (title_of(paper.OURS), None)}

    def quote(name: str) -> None:
        label, sharp = quoted.pop(name)
        numbers = [None if value is None else f"{value:.2f}" for value in paper.WHOLE_ACCURACY[name]]
        shown = None if sharp is None else f"{sharp:.2f}"
        table.add(label, PAPER, *numbers, None, None, None, None, None, shown)

    for restorer in _union(summary.restorers for summary in summaries):
        summary = next(summary for summary in summaries if restorer in summary.restorers)
        row = summary.row(verifier, restorer, MEAN, "accuracy")
        table.add(
            "blurry" if restorer == CONTROL else title_of(restorer),
            HERE,
            *(summary.value(verifier, restorer, kernel, "accuracy") for kernel in LEVIN),
            math.nan if row is None else row.value,
            None if row is None else shown_interval(row.ci_low, row.ci_high),
            summary.value(verifier, restorer, MEAN, "recovered_share"),
            shown_p(summary.value(verifier, restorer, MEAN, "mcnemar_p")),
            summary.value(verifier, restorer, MEAN, "psnr"),
            summary.value(verifier, restorer, SHARP, "accuracy"),
        )
        if restorer in quoted:
            quote(restorer)
    for restorer in list(quoted):
        quote(restorer)
    others = {1: "fold", 9: "nine folds"}.get(about["folds"] - 1, f"{about['folds'] - 1} folds")
    table.notes.append(
        f"Threshold chosen for each kernel on the other {others}. Won back: share of the accuracy that blur "
        "costs. p: McNemar's test against blurry on the same pairs, over all kernels (clustered). Without "
        "blur: sharp probes through the restorer."
    )
    if on_lfw:
        table.notes.append(
            "The paper's numbers for kernels 5 to 8 are not in the text that these were taken from."
        )
    table.notes += [_verifier_note(verifier), *unreadable(summaries)]
    return table


def linear_table(summary: Summary, verifier: str) -> Table:
    """Table 4: linear motion of 15 pixels at 45 degrees."""
    kernel = linear_name(*paper.LINEAR)
    columns = [
        Column("Method"),
        Column("PSNR", 2, 1, "high", "dB"),
        Column("95% interval"),
        Column("SSIM", 4, 1, "high"),
        Column("accuracy", 2, 100, "high", "%"),
        Column("95% interval"),
        Column("p"),
        Column("PSNR in the paper (dB)"),
    ]
    about = summary.about
    where = f"{about['protocol']}, {about['pairs']:,} pairs, {verifier}"
    title = f"Linear motion, L = 15, 45 degrees: {where} (table 4)"
    table = Table(f"table4-{slug(verifier)}", title, columns)
    for restorer in summary.restorers:
        psnr = summary.row(verifier, restorer, kernel, "psnr")
        accuracy = summary.row(verifier, restorer, kernel, "accuracy")
        quoted = paper.LINEAR_PSNR.get(restorer)
        table.add(
            title_of(restorer),
            math.nan if psnr is None else psnr.value,
            None if psnr is None else shown_interval(psnr.ci_low, psnr.ci_high, 1),
            summary.value(verifier, restorer, kernel, "ssim"),
            math.nan if accuracy is None else accuracy.value,
            None if accuracy is None else shown_interval(accuracy.ci_low, accuracy.ci_high),
            shown_p(summary.value(verifier, restorer, kernel, "mcnemar_p")),
            None if quoted is None else f"{quoted:.2f}",
        )
    for restorer, value in paper.LINEAR_PSNR.items():
        if restorer not in summary.restorers:
            table.add(title_of(restorer), None, None, None, None, None, None, f"{value:.2f}")
    sharp = summary.value(verifier, CONTROL, SHARP, "accuracy")
    table.notes += [
        f"Without blur: {sharp * 100:.2f}%. p: McNemar's test against none on the same pairs.",
        "The paper does not say which images its PSNR is a mean of.",
        _verifier_note(verifier),
        *unreadable([summary]),
    ]
    return table


def linear_grid(summary: Summary, verifier: str, metric: str) -> Table:
    """Beyond table 4: lengths of linear motion, means over the angles.

    Parameters
    ----------
    metric : {"accuracy", "psnr"}
    """
    found = [(place, kernel) for kernel in summary.kernels if (place := linear_place(kernel)) is not None]
    lengths = sorted({length for (length, _), _ in found})
    angles = sorted({angle for (_, angle), _ in found})
    scale, unit = (100, "%") if metric == "accuracy" else (1, "dB")
    columns = [Column("Method"), *(Column(f"{length:g}", 2, scale, "high") for length in lengths)]
    about = summary.about
    word = "Accuracy" if metric == "accuracy" else metric.upper()
    where = f"{about['protocol']}, {about['pairs']:,} pairs, {verifier}"
    title = f"{word} ({unit}) by length of linear motion: {where}"
    table = Table(f"table4-lengths-{metric}-{slug(verifier)}", title, columns)
    turned = [[kernel for (l_, _), kernel in found if l_ == length] for length in lengths]

    def intervals(restorer: str) -> list[Value]:
        genuine = _genuine(summary, verifier)
        shares = [pair_shares(summary, verifier, restorer, kernels) for kernels in turned]
        found = [statistics.bootstrap_mean(share, groups=genuine) for share in shares]
        return [shown_interval(interval.low, interval.high) for interval in found]

    def ps(restorer: str) -> list[Value]:
        names = (restorer, CONTROL)
        pairs = [[pair_shares(summary, verifier, name, kernels) for name in names] for kernels in turned]
        return [shown_p(statistics.clustered_mcnemar(*pair)) for pair in pairs]

    for restorer in summary.restorers:
        values = [
            float(np.mean([summary.value(verifier, restorer, k, metric) for k in kernels]))
            for kernels in turned
        ]
        table.add(title_of(restorer), *values)
        if metric == "accuracy":
            table.add(f"{title_of(restorer)}: 95% interval", *intervals(restorer))
        if metric == "accuracy" and restorer != CONTROL:
            table.add(f"{title_of(restorer)}: p", *ps(restorer))
    note = f"Columns: length in pixels; means over the angles {', '.join(f'{a:g}' for a in angles)}."
    if metric == "accuracy":
        note += " p: McNemar's test against none on the same pairs, over the angles (clustered)."
    table.notes += [note, *unreadable([summary])]
    return table


def ablation_table(
    models: Sequence[tuple[str, Summary, str]],
    costs: Mapping[str, tuple[int | None, float | None]],
    verifier: str,
) -> Table:
    """Table 5: models that differ in one thing.

    Parameters
    ----------
    models : sequence of (str, Summary, str)
        Label, run over the same pairs and kernels, and the restorer of the model in that run. The
        first is the one that the others are compared with.
    costs : mapping
        Parameters and GFLOP by label.
    """
    columns = [
        Column("Model"),
        Column("parameters"),
        Column("GFLOP"),
        Column("PSNR", 2, 1, "high", "dB"),
        Column("accuracy", 2, 100, "high", "%"),
        Column("95% interval"),
        Column("p against the first"),
        Column("paper: PSNR (dB)"),
        Column("paper: accuracy (%)"),
    ]
    about = models[0][1].about
    title = f"Ablation: {about['protocol']}, {about['pairs']:,} pairs, {verifier} (table 5)"
    table = Table(f"table5-{slug(verifier)}", title, columns)
    quoted = dict(paper.ABLATION)
    first: NDArray[np.float64] | None = None
    for label, summary, restorer in models:
        row = summary.row(verifier, restorer, MEAN, "accuracy")
        shares = pair_shares(summary, verifier, restorer)
        p = None
        if first is not None and len(first) == len(shares):
            p = shown_p(statistics.clustered_mcnemar(shares, first))
        parameters, gflop = costs.get(label, (None, None))
        numbers = quoted.pop(label, None)
        table.add(
            label,
            None if parameters is None else f"{parameters / 1e6:.2f} M",
            None if gflop is None else f"{gflop:.2f}",
            summary.value(verifier, restorer, MEAN, "psnr"),
            math.nan if row is None else row.value,
            None if row is None else shown_interval(row.ci_low, row.ci_high),
            p,
            None if numbers is None else f"{numbers[0]:g}",
            None if numbers is None else f"{numbers[1]:g}",
        )
        first = shares if first is None else first
    for label, numbers in quoted.items():
        table.add(label, None, None, None, None, None, None, f"{numbers[0]:g}", f"{numbers[1]:g}")
    table.notes += [
        "Means over the kernels. p: McNemar's test on the same pairs, over all kernels (clustered).",
        "The paper calls the 1x1 reduction depth-wise convolution.",
        _verifier_note(verifier),
        *unreadable(summary for _, summary, _ in models),
    ]
    return table


def linear_name(length: float, angle: float) -> str:
    """Name of a linear kernel, as :mod:`blurface.kernels.linear` gives it."""
    return f"L{length:g}@{angle:g}"


def linear_place(kernel: str) -> tuple[float, float] | None:
    """Length and angle of a linear kernel, from its name; None for another."""
    head, at, angle = kernel.rpartition("/")[2].partition("@")
    if not (at and head.startswith("L")):
        return None
    try:
        return float(head[1:]), float(angle)
    except ValueError:
        return None


def grid_set(lengths: Iterable[float] = LENGTHS, angles: Iterable[float] = ANGLES) -> str:
    """The kernel set of the grid, as ``--kernels`` takes it."""
    turned = list(angles)
    return "linear:" + ";".join(f"{length:g},{angle:g}" for length in lengths for angle in turned)


def title_of(restorer: str) -> str:
    """A method's name in tables."""
    return paper.TITLES.get(restorer, shown_restorer(restorer))


def _verifier_note(verifier: str) -> str:
    note = f"Verifier here: {verifier}; the paper's own is not public."
    if verifier == "mobilefacenet":
        return (
            note + " It is also the teacher of the facial loss; other verifiers are independent of training."
        )
    return note + " It takes no part in training."


def _mean_of(summaries: Sequence[Summary], verifier: str, restorer: str, kernel: str, metric: str) -> float:
    return float(np.mean([summary.value(verifier, restorer, kernel, metric) for summary in summaries]))


def _genuine(summary: Summary, verifier: str) -> NDArray[np.bool_]:
    return cell(scores_of(summary, verifier), CONTROL, SHARP)["genuine"].to_numpy(bool)


def _different(summaries: list[Summary]) -> list[Summary]:
    """Runs of the same pairs count once: number and seed name the pairs of a part."""
    kept: dict[tuple[object, ...], Summary] = {}
    for summary in summaries:
        kept.setdefault(tuple(summary.about[key] for key in ("protocol", "pairs", "seed")), summary)
    return list(kept.values())


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in each))
