"""The tables of one run, for people: accuracy first, then thresholds, rates, image quality and harm."""

from __future__ import annotations

import functools
import math

from . import quality
from .results import FARS, MEAN, Row, Summary, slug
from .runner import CONTROL, SHARP
from .tables import Column, Table, Value, shown_interval, shown_p, shown_restorer


def run_tables(summary: Summary) -> list[Table]:
    """The tables of a run: accuracy (the paper's table 3) first, for each verifier."""
    made: list[Table] = []
    for verifier in summary.verifiers:
        made += [_accuracy_table(summary, verifier), _fixed_table(summary, verifier)]
        made += [
            _roc_table(summary, verifier),
            _quality_table(summary, verifier),
            _sharp_table(summary, verifier),
        ]
    if len(summary.verifiers) > 1:
        made.append(verifiers_table(summary))
    return made


def verifiers_table(summary: Summary) -> Table:
    """Is a gain the face's, or one verifier's? Means over the kernels under every verifier of a run."""
    columns = [
        Column("Verifier"),
        Column("Restorer"),
        Column("accuracy", 2, 100, unit="%"),
        Column("95% interval"),
        Column("against blurry", 2, 100, unit="points"),
        Column("p"),
        Column("won back", 1, 100, unit="%"),
        Column("at sharp threshold", 2, 100, unit="%"),
        Column("p at sharp threshold"),
        Column("without blur", 2, 100, unit="%"),
    ]
    about = summary.about
    where = f"{about['protocol']}, {about['pairs']:,} pairs, {about['kernel_set']}"
    title = f"The same pairs under every verifier: {where}"
    table = Table("verifiers", title, columns)
    for verifier in summary.verifiers:
        blurry = summary.value(verifier, CONTROL, MEAN, "accuracy")
        for restorer in summary.restorers:
            value = functools.partial(summary.value, verifier, restorer, MEAN)
            table.add(
                verifier,
                shown_restorer(restorer),
                value("accuracy"),
                _interval(summary.row(verifier, restorer, MEAN, "accuracy")),
                math.nan if restorer == CONTROL else value("accuracy") - blurry,
                shown_p(value("mcnemar_p")),
                value("recovered_share"),
                value("accuracy_fixed"),
                shown_p(value("mcnemar_p_fixed")),
                summary.value(verifier, restorer, SHARP, "accuracy"),
            )
    table.notes.append(
        "mobilefacenet is the teacher of the networks' facial loss; the others take no part in training. "
        "Means over the kernels; p: McNemar's test against none on the same pairs, over all kernels."
    )
    return table


def _head(summary: Summary, verifier: str) -> str:
    about = summary.about
    centre = "centred by mass" if about["kernel_centre"] == "mass" else "as published"
    what = f"{about['protocol']}, {about['pairs']:,} pairs, {verifier}, {about['kernel_set']} {centre}"
    if about["noise"]:
        what += f", noise {about['noise']:g}"
    if about["jpeg"] is not None:
        what += f", JPEG {about['jpeg']}"
    return what


def _interval(row: Row | None) -> Value:
    return None if row is None else shown_interval(row.ci_low, row.ci_high)


def _accuracy_table(summary: Summary, verifier: str) -> Table:
    columns = [Column("Restorer")]
    columns += [Column(kernel, 2, 100, "high") for kernel in summary.kernels]
    columns += [
        Column("mean", 2, 100, "high"),
        Column("95% interval"),
        Column("won back", 1, 100, "high", "%"),
        Column("p"),
        Column("PSNR", 2, 1, "high", "dB"),
        Column("SSIM", 4, 1, "high"),
    ]
    table = Table(
        f"accuracy-{slug(verifier)}", f"Verification accuracy (%): {_head(summary, verifier)}", columns
    )
    for restorer in summary.restorers:

        def value(metric: str, kernel: str = MEAN, restorer: str = restorer) -> float:
            return summary.value(verifier, restorer, kernel, metric)

        table.add(
            shown_restorer(restorer),
            *(value("accuracy", kernel) for kernel in summary.kernels),
            value("accuracy"),
            _interval(summary.row(verifier, restorer, MEAN, "accuracy")),
            value("recovered_share"),
            shown_p(value("mcnemar_p")),
            value("psnr"),
            value("ssim"),
        )
    sharp = summary.row(verifier, CONTROL, SHARP, "accuracy")
    if sharp is not None:
        table.notes.append(f"Without blur: {sharp.value * 100:.2f} (95% interval {_interval(sharp)}).")
    table.notes.append(
        "Threshold chosen for each kernel on the other folds. Won back: share of the accuracy that blur "
        "costs. p: McNemar's test against none on the same pairs, over all kernels."
    )
    table.notes += _conditions(summary)
    return table


def _conditions(summary: Summary) -> list[str]:
    about = summary.about
    notes = []
    if about["border"] == "valid":
        shares = [f"{share * 100:.2f}% ({frame})" for frame, share in sorted(about["invented_share"].items())]
        notes.append(
            f"Border: valid convolution, margin {about['margin']} pixels; share of pixels of face and margin "
            f"beyond the photograph's edge: {', '.join(shares)}."
        )
    else:
        notes.append("Border: the face's edge repeated; the blur sees nothing beyond the face.")
    found = [f"{about['faces_not_found']} faces not found (centre of the photograph taken)"]
    if about["unreadable"]:
        found.append(f"{len(about['unreadable'])} pictures unreadable (non-matches)")
    if about["faces_not_found"] or about["unreadable"]:
        notes.append(f"Of {about['images']:,} pictures: {', '.join(found)}.")
    return notes


def _fixed_table(summary: Summary, verifier: str) -> Table:
    columns = [Column("Restorer")]
    columns += [Column(kernel, 2, 100, "high") for kernel in summary.kernels]
    columns += [
        Column("mean", 2, 100, "high"),
        Column("95% interval"),
        Column("p"),
        Column("FNMR", 2, 100, "low", "%"),
        Column("FMR", 2, 100, "low", "%"),
        Column("genuine shift", 4),
        Column("impostor shift", 4),
    ]
    title = f"Accuracy (%) at the sharp pairs' threshold: {_head(summary, verifier)}"
    table = Table(f"fixed-{slug(verifier)}", title, columns)
    for restorer in summary.restorers:
        metrics = ("fnmr_fixed", "fmr_fixed", "genuine_shift", "impostor_shift")
        table.add(
            shown_restorer(restorer),
            *(summary.value(verifier, restorer, k, "accuracy_fixed") for k in (*summary.kernels, MEAN)),
            _interval(summary.row(verifier, restorer, MEAN, "accuracy_fixed")),
            shown_p(summary.value(verifier, restorer, MEAN, "mcnemar_p_fixed")),
            *(summary.value(verifier, restorer, MEAN, metric) for metric in metrics),
        )
    table.notes.append(
        "Threshold and mean embedding from the sharp pairs of the other folds, carried over to blurred and "
        "restored probes. FNMR, FMR and shifts: means over the kernels; a shift is the mean change of score "
        "against the same pairs sharp. p: McNemar's test against none on the same pairs, over all kernels."
    )
    return table


def _roc_table(summary: Summary, verifier: str) -> Table:
    columns = [Column("Restorer")]
    columns += [Column(f"TAR at FAR {far:g}", 2, 100, "high", "%") for far in FARS.values()]
    columns += [
        Column("EER", 2, 100, "low", "%"),
        Column("AUC", 4, 1, "high"),
        Column("FTE", 2, 100, "none", "%"),
    ]
    table = Table(f"roc-{slug(verifier)}", f"Means over the kernels: {_head(summary, verifier)}", columns)
    notes = set()
    for restorer in summary.restorers:
        rows = [summary.row(verifier, restorer, MEAN, metric) for metric in (*FARS, "eer", "auc", "fte")]
        table.add(shown_restorer(restorer), *(math.nan if row is None else row.value for row in rows))
        notes |= {row.note for row in rows if row is not None and row.note}
    table.notes += sorted(f"{note[0].upper()}{note[1:]}." for note in notes)
    return table


def _quality_table(summary: Summary, verifier: str) -> Table:
    columns = [Column("Restorer"), Column("Measure")]
    columns += [Column(kernel, 3) for kernel in (*summary.kernels, MEAN)]
    frame = summary.about["frames"][verifier]
    table = Table(
        f"quality-{slug(verifier)}", f"Image quality at {frame}: {_head(summary, verifier)}", columns
    )
    for restorer in summary.restorers:
        for metric in quality.DEFINITIONS:
            values = (summary.value(verifier, restorer, k, metric) for k in (*summary.kernels, MEAN))
            table.add(shown_restorer(restorer), metric, *values)
    table.notes += [f"{metric}: {text}." for metric, text in quality.DEFINITIONS.items()]
    return table


def _sharp_table(summary: Summary, verifier: str) -> Table:
    columns = [
        Column("Restorer"),
        Column("accuracy", 2, 100, "high", "%"),
        Column("95% interval"),
        Column("change", 2, 100, "none", "points"),
        Column("p"),
        Column("at sharp threshold", 2, 100, "high", "%"),
        Column("PSNR", 2, 1, "none", "dB"),
        Column("SSIM", 4),
    ]
    title = f"Sharp probes through the restorer: {_head(summary, verifier)}"
    table = Table(f"sharp-{slug(verifier)}", title, columns)
    plain = summary.value(verifier, CONTROL, SHARP, "accuracy")
    for restorer in summary.restorers:

        def value(metric: str, restorer: str = restorer) -> float:
            return summary.value(verifier, restorer, SHARP, metric)

        control = restorer == CONTROL
        table.add(
            "none" if control else restorer,
            value("accuracy"),
            _interval(summary.row(verifier, restorer, SHARP, "accuracy")),
            math.nan if control else value("accuracy") - plain,
            shown_p(value("mcnemar_p")),
            value("accuracy_fixed"),
            math.nan if control else value("psnr"),
            math.nan if control else value("ssim"),
        )
    table.notes.append(
        "No blur, noise or JPEG. A restorer should leave a sharp face as it is: what is lost is harm."
    )
    return table
