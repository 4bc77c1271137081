"""The page: what it says, in which order. Looks are in ``page.css``, behaviour in ``page.js``."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from blurface.errors import BlurfaceError, InputError
from blurface.files import write_atomic
from blurface.restorers import restorers

from .. import figures
from ..analysis import (
    RankedPair,
    RejectCurve,
    blur_extents,
    harm_table,
    ranked_pairs,
    reject_curves,
    reject_table,
)
from ..pictures import Pictures, PicturesUnavailable, check_restorer, kernels_of_run, pictures_of_run
from ..results import DEFINITIONS, MEAN, slug
from ..run_folder import Run
from ..run_tables import run_tables, verifiers_table
from ..runner import CONTROL, SHARP
from ..tables import shown_p
from .markup import Html, data_table, escape, facts, join, picture, tag, vector

FILE = "report.html"
_NO_SCORES = "The scores of the pairs were not kept with this run."


def write_report(
    run: Run,
    *,
    images: bool = True,
    shown: int = 6,
    data_root: Path | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write ``report.html`` into the run's folder; see :func:`make_page`."""
    path = run.folder / FILE
    write_atomic(
        path,
        make_page(run, images=images, shown=shown, data_root=data_root, cache=cache, progress=progress),
    )
    return path


def make_page(
    run: Run,
    *,
    images: bool = True,
    shown: int = 6,
    data_root: Path | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> str:
    """One HTML page of a run: tables, figures, pairs, and how it was made.

    Parameters
    ----------
    run : Run
    images : bool
        Show the worst and best pairs as pictures. False: the page holds no face.
    shown : int
        Pairs of each kind for every restorer.
    data_root : Path, optional
        Where the data lies now; by default where it lay when the run was made.
    cache : Path, optional
        Of aligned faces.
    progress : callable
        Called with what is being done.

    Returns
    -------
    str
        A whole document. It loads nothing, and its policy forbids it to.
    """
    verifiers = run.summary.verifiers
    progress("tables")
    sections = [_glance(run), _tables(run)]
    progress("figures")
    sections.append(_figures(run, data_root))
    progress("pairs")
    sections.append(_pairs(run, images, shown, data_root, cache))
    sections += [_harm(run), _provenance(run), _definitions(run)]
    style, script = _asset("page.css"), _asset("page.js")
    title = f"{run.protocol}: {run.name}"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} - blurface report"),
        Html(f"<style>{style}</style>"),
    )
    chooser = _chooser("verifier", "Verifier", verifiers) if len(verifiers) > 1 else None
    links = [
        ("glance", "At a glance"),
        ("tables", "Tables"),
        ("figures", "Figures"),
        ("pairs", "Pairs"),
        *([("harm", "Harm")] if run.restored else []),
        ("made", "How it was made"),
        ("definitions", "Definitions"),
    ]
    navigation = tag(
        "nav",
        tag(
            "div",
            tag("ul", [tag("li", tag("a", text, href=f"#{place}")) for place, text in links]),
            chooser,
            class_="inner",
        ),
        aria_label="Sections",
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#content"),
        _header(run),
        navigation,
        tag("main", sections, id="content"),
        tag(
            "footer",
            f"Made by blurface {run.record.get('versions', {}).get('blurface', '')} from {run.name}.",
        ),
        Html(f"<script>{script}</script>"),
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _chooser(name: str, legend: str, values: list[str], texts: list[str] | None = None) -> Html:
    options = [
        tag("label", tag("input", type="radio", name=name, value=value, checked=i == 0), text)
        for i, (value, text) in enumerate(zip(values, texts or values, strict=True))
    ]
    return tag("fieldset", tag("legend", legend), options, class_="chooser")


def _verifier_part(verifier: str, *children: Any) -> Html:
    return tag("div", *children, class_="verifier", data_verifier=verifier)


def _percent(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value * 100:.{digits}f}%"


# What came out


def _header(run: Run) -> Html:
    about, summary = run.summary.about, run.summary
    conditions = [f"{about.get('pairs', 0):,} pairs", str(about.get("kernel_set", ""))]
    if about.get("noise"):
        conditions.append(f"noise {about['noise']:g}")
    if about.get("jpeg") is not None:
        conditions.append(f"JPEG {about['jpeg']}")
    return tag(
        "header",
        tag("p", "blurface report", class_="kicker"),
        tag("h1", f"{run.protocol}, {', '.join(conditions)}"),
        [_sentence(run, verifier) for verifier in summary.verifiers],
        tag("p", str(about.get("description", "")), class_="note"),
    )


def _sentence(run: Run, verifier: str) -> Html | None:
    """The finding: the best restorer under this verifier, whether it is better and how sure that is."""
    summary = run.summary
    kernel = MEAN
    if not run.restored:
        return None
    best = max(
        run.restored, key=lambda name: (_blind(name), summary.value(verifier, name, kernel, "accuracy"))
    )
    blurry, restored = (summary.value(verifier, name, kernel, "accuracy") for name in (CONTROL, best))
    sharp = summary.value(verifier, CONTROL, SHARP, "accuracy")
    p = summary.value(verifier, best, kernel, "mcnemar_p")
    share = summary.row(verifier, best, kernel, "recovered_share")
    change = (restored - blurry) * 100
    sure = "" if math.isnan(p) else f" (McNemar's p {shown_p(p)})"
    text = [
        tag("strong", best),
        f" under {verifier}: {_percent(restored)} of the pairs are decided right, blurry {_percent(blurry)}, "
        f"without blur {_percent(sharp)}. ",
        f"That is {abs(change):.2f} points {'more' if change >= 0 else 'fewer'} than without restoration",
        sure,
    ]
    if share is not None and not math.isnan(share.value):
        interval = (
            f", 95% interval {share.ci_low * 100:.0f}% to {share.ci_high * 100:.0f}%"
            if not math.isnan(share.ci_low)
            else ""
        )
        text.append(f"; {share.value * 100:.0f}% of what blur costs is won back{interval}")
    return _verifier_part(verifier, tag("p", text, ".", class_="lede"))


def _blind(name: str) -> bool:
    """False for oracles, which are given the true kernel; unknown restorers count as blind."""
    try:
        return bool(getattr(restorers.entry(name).load(), "blind", True))
    except BlurfaceError:
        return True


def _glance(run: Run) -> Html:
    cards = [_card(run, verifier) for verifier in run.summary.verifiers]
    oracles = [name for name in run.restored if not _blind(name)]
    given = f" Given the true kernel, as no real method is: {', '.join(oracles)}." if oracles else ""
    return tag(
        "section",
        tag("h2", "At a glance", id="glance"),
        tag("div", cards, class_="glance"),
        tag(
            "p",
            "Mean verification accuracy over the blur kernels; bars are 95% intervals (bootstrap over "
            f"pairs). The threshold is chosen for each restorer and kernel on the other folds.{given}",
            class_="note",
        ),
        data_table(verifiers_table(run.summary), "table-verifiers", "h3")
        if len(run.summary.verifiers) > 1
        else None,
    )


def _card(run: Run, verifier: str) -> Html:
    summary = run.summary
    rows = [
        (figures.label(name), summary.row(verifier, name, MEAN, "accuracy"), name)
        for name in summary.restorers
    ]
    rows.append(("sharp", summary.row(verifier, CONTROL, SHARP, "accuracy"), SHARP))
    known = [(text, row, name) for text, row, name in rows if row is not None and not math.isnan(row.value)]
    if not known:
        return tag("div", tag("h3", verifier), tag("p", "Nothing was measured."), class_="card")
    lows = [row.value if math.isnan(row.ci_low) else row.ci_low for _, row, _ in known]
    left = math.floor(min(lows) * 20) / 20
    span = max(1.0 - left, 0.05)
    lines = []
    for text, row, name in known:
        low, high = (row.value, row.value) if math.isnan(row.ci_low) else (row.ci_low, row.ci_high)
        others = [other for other in summary.restorers if other != CONTROL]
        colour = (
            "var(--grey)"
            if name == CONTROL
            else "var(--ink)"
            if name == SHARP
            else f"var(--c{others.index(name) % len(figures.COLOURS)})"
        )
        kind = {CONTROL: " blurry", SHARP: " sharp"}.get(name, "")
        place = {"at": row.value, "low": low, "high": high}
        style = ";".join(f"--{key}:{(value - left) / span:.4f}" for key, value in place.items())
        lines.append(
            tag(
                "li",
                tag("span", text, class_="name", title=text),
                tag(
                    "span",
                    tag("i"),
                    tag("b"),
                    class_=f"track{kind}",
                    style=f"{style};--colour:{colour}",
                    aria_hidden="true",
                ),
                tag(
                    "span",
                    _percent(row.value),
                    tag("small", f"{low * 100:.1f} to {high * 100:.1f}"),
                    class_="value",
                ),
            )
        )
    ends = tag("span", tag("span", f"{left * 100:.0f}%"), tag("span", "100%"), class_="scale")
    lines.append(tag("li", tag("span"), ends, tag("span"), aria_hidden="true"))
    return tag("div", tag("h3", verifier), tag("ol", lines), class_="card")


def _tables(run: Run) -> Html:
    made = run_tables(run.summary)
    parts = []
    for verifier in run.summary.verifiers:
        own = [table for table in made if table.name.endswith(f"-{slug(verifier)}")]
        parts.append(
            _verifier_part(verifier, tag("h3", verifier), [data_table(t, f"table-{t.name}") for t in own])
        )
    return tag(
        "section",
        tag("h2", "Tables", id="tables"),
        tag("p", "Every column heading is a button that sorts. Bold: the best of its column.", class_="note"),
        parts,
    )


def _figures(run: Run, data_root: Path | None) -> Html:
    return tag(
        "section",
        tag("h2", "Figures", id="figures"),
        [
            _verifier_part(
                verifier, tag("h3", verifier), tag("div", _plots(run, verifier, data_root), class_="plots")
            )
            for verifier in run.summary.verifiers
        ],
    )


def _plots(run: Run, verifier: str, data_root: Path | None) -> list[Html]:
    summary = run.summary
    made: list[tuple[Any, str, str]] = []

    def per_kernel(metric: str, title: str, unit: str, scale: float, caption: str) -> None:
        figure = figures.metric_per_kernel(summary, verifier, metric, title=title, unit=unit, scale=scale)
        made.append((figure, title, caption))

    per_kernel(
        "accuracy", "Verification accuracy", "accuracy (%)", 100, "With 95% intervals; dotted: without blur."
    )
    per_kernel("psnr", "Image quality", "PSNR (dB)", 1, "Mean PSNR over the probes with 95% intervals.")
    if len(summary.kernels) > 1:
        try:
            kernels = kernels_of_run(run, data_root)
            extents = blur_extents(kernels.kernels)
            figure = figures.accuracy_against_blur(summary, verifier, extents)
            made.append((figure, "Accuracy against blur length", "Kernels in the order of their spread."))
        except PicturesUnavailable:
            pass  # the kernels' files are not here: the page does without
    if run.has_scores(verifier):
        made.append((figures.roc_curves(summary, verifier), "ROC", "Dotted: without blur."))
        made.append((figures.det_curves(summary, verifier), "DET", "Both errors on normal-deviate axes."))
    if run.restored and run.has_scores(verifier):
        made.append(
            (
                figures.score_shift(summary, verifier),
                "Score shift",
                "Every pair and kernel: above the line restoration raised the score. Impostor pairs above it "
                "are the price.",
            )
        )
    if found := _reject(run, verifier):
        name, curves = found
        caption = (
            "Wrong decisions that are left when probes are refused from the most blurred down, by the spread "
            f"of the kernel that {name} estimates; threshold of the sharp pairs."
        )
        made.append((figures.reject_curves(curves), "Error against reject", caption))
    for metric in ("tar@far=1e-3", "tar@far=1e-2", "tar@far=1e-1"):
        if any(
            math.isfinite(summary.value(verifier, n, k, metric))
            for n in summary.restorers
            for k in summary.kernels
        ):
            far = float(metric.partition("=")[2])
            per_kernel(
                metric, f"TAR at FAR {far:g}", "true accept rate (%)", 100, "With Wilson's 95% intervals."
            )
            break
    return [
        tag(
            "figure",
            vector(
                figure, f"f-{slug(verifier)}-{i}", f"{title}, {verifier}. The same values are in the tables."
            ),
            tag("figcaption", tag("strong", title), ". ", caption),
            class_="plot",
        )
        for i, (figure, title, caption) in enumerate(made)
    ]


# Pairs


def _pairs(run: Run, images: bool, shown: int, data_root: Path | None, cache: Path | None) -> Html:
    head = [tag("h2", "Worst and best pairs", id="pairs")]
    if not images:
        return tag("section", head, tag("p", "Left out: the page was asked to hold no faces."))
    verifier = run.summary.verifiers[0]
    if not run.has_scores(verifier):
        return tag("section", head, tag("p", _NO_SCORES, class_="note"))
    ranked = {
        name: ranked_pairs(run.summary.scores[verifier], name, run.summary.kernels, shown)
        for name in run.restored
    }
    wanted = {i for pair in _flat(ranked) for i in (pair.reference, pair.probe)}
    notes: list[str] = []
    items: list[Html] = []
    available: list[str] = []
    if wanted:
        try:
            pictures = pictures_of_run(run, wanted, verifier=verifier, data_root=data_root, cache=cache)
        except PicturesUnavailable as error:
            return tag("section", head, tag("p", f"No pictures: {error}", class_="note"))
        for name, (worst, best) in ranked.items():
            try:
                check_restorer(run, pictures, name)
            except PicturesUnavailable as error:
                notes.append(f"No pictures of {name}: {error}")
                continue
            if worst or best:
                available.append(name)
            items += [_pair(pictures, name, "worst", pair) for pair in worst]
            items += [_pair(pictures, name, "best", pair) for pair in best]
    toolbar = [_chooser("kind", "Show", ["worst", "best"], ["hurt most", "helped most"])]
    if len(available) > 1:
        toolbar.insert(0, _chooser("restorer", "Restorer", available))
    return tag(
        "section",
        head,
        tag(
            "p",
            f"Pairs whose score restoration moves most under {verifier}, away from the right decision or "
            "towards it; those whose decision turns come first. Decisions at the sharp pairs' threshold. "
            "Drag the slider, or use the arrow keys: blurry on the left, restored on the right.",
            class_="note",
        ),
        tag("div", toolbar, class_="toolbar") if items else None,
        tag("ol", items, class_="pairs"),
        tag("p", "There is no such pair.", id="no-pairs", hidden=bool(items)),
        [tag("p", note, class_="note") for note in notes],
    )


def _flat(ranked: dict[str, tuple[list[RankedPair], list[RankedPair]]]) -> list[RankedPair]:
    return [pair for worst, best in ranked.values() for pair in (*worst, *best)]


def _pair(pictures: Pictures, restorer: str, kind: str, pair: RankedPair) -> Html:
    blurry = pictures.blurry(pair.probe, pair.kernel)
    restored = pictures.restored(pair.probe, pair.kernel, restorer)
    same = "same person" if pair.genuine else "two people"

    def word(right: bool) -> str:
        return "accepted" if right == pair.genuine else "rejected"

    before, after = word(pair.right_blurry), word(pair.right_restored)
    verdict = f"{after} either way" if before == after else f"{before} blurry, {after} restored by {restorer}"
    right = "right" if pair.right_restored else "wrong"
    middle = tag(
        "div",
        tag(
            "div",
            picture(blurry, f"{pair.probe}, blurred by kernel {pair.kernel}"),
            tag("span", "blurry"),
            class_="before",
        ),
        tag(
            "div",
            picture(restored, f"{pair.probe}, restored by {restorer}"),
            tag("span", "restored"),
            class_="after",
        ),
        tag(
            "input",
            type="range",
            min="0",
            max="100",
            value="50",
            aria_label=f"Blurry or restored: {pair.probe}",
        ),
        class_="before-after",
    )
    return tag(
        "li",
        tag(
            "div",
            tag(
                "figure",
                picture(pictures.sharp(pair.reference), f"reference {pair.reference}"),
                tag("figcaption", "reference", tag("br"), _named(pair.reference)),
            ),
            tag(
                "figure",
                middle,
                tag("figcaption", f"probe under kernel {pair.kernel}", tag("br"), _named(pair.probe)),
                class_="middle",
            ),
            tag(
                "figure",
                picture(pictures.sharp(pair.probe), f"probe {pair.probe} without blur"),
                tag("figcaption", "probe without blur"),
            ),
            class_="trio",
        ),
        tag(
            "p",
            f"{same.capitalize()}, {verdict}: ",
            tag("strong", right, class_="good" if pair.right_restored else "bad"),
            class_="verdict",
        ),
        tag(
            "p",
            f"Score blurry {pair.blurry:.3f}, restored {pair.restored:.3f}, without blur {pair.sharp:.3f}",
            class_="scores",
        ),
        class_="pair",
        data_restorer=restorer,
        data_kind=kind,
    )


def _named(image: str) -> Html:
    """An image by the last part of its identifier, which may break at underscores."""
    parts = image.rpartition("/")[2].split("_")
    words = [join("_" if i else "", part, Html("<wbr>")) for i, part in enumerate(parts)]
    return tag("span", words, title=image)


def _reject(run: Run, verifier: str) -> tuple[str, dict[str, RejectCurve]] | None:
    """Curves of error against reject; None where no restorer of the run estimates kernels."""
    if not run.has_scores(verifier):
        return None
    try:
        return reject_curves(run.summary, verifier)
    except InputError:
        return None


def _harm(run: Run) -> Html:
    if not run.restored:
        return join()
    return tag(
        "section",
        tag("h2", "Harm", id="harm"),
        tag(
            "p",
            "What restoration breaks: pairs that were decided right on the blurry probe and wrong on the "
            "restored one, and probes that were sharp and came out worse.",
            class_="note",
        ),
        [_verifier_part(verifier, _harm_of(run, verifier)) for verifier in run.summary.verifiers],
    )


def _harm_of(run: Run, verifier: str) -> list[Html]:
    if not run.has_scores(verifier):
        return [tag("p", _NO_SCORES, class_="note")]
    made = [data_table(harm_table(run.summary, verifier), f"table-harm-{slug(verifier)}", "h3")]
    if found := _reject(run, verifier):
        name, curves = found
        title = f"Error (%) when the most blurred probes are refused, by {name}'s score: {verifier}"
        table = reject_table(curves, f"error-reject-{slug(verifier)}", title)
        made.append(data_table(table, f"table-{table.name}", "h3"))
    return made


# How it was made


def _provenance(run: Run) -> Html:
    record, about = run.record, run.summary.about
    command = shlex.join(str(part) for part in record.get("command", []))
    conditions: dict[str, object] = {
        "protocol": about.get("protocol", ""),
        "pairs": f"{about.get('pairs', 0):,} ({about.get('genuine_pairs', 0):,} genuine)",
        "pictures": f"{about.get('images', 0):,}",
        "folds": about.get("folds", ""),
        "seed": about.get("seed", ""),
        "kernels": f"{about.get('kernel_set', '')}, centre: {about.get('kernel_centre', '')}",
        "border": f"{about.get('border', '')}, margin {about.get('margin', '')}",
        "noise": about.get("noise", ""),
        "JPEG": "none" if about.get("jpeg") is None else about["jpeg"],
        "mean subtraction": "yes" if about.get("mean_subtraction") else "no",
        "faces not found": about.get("faces_not_found", ""),
        "unreadable pictures": len(about.get("unreadable", [])),
        "started": record.get("started", ""),
        "seconds": record.get("seconds", ""),
    }
    prints = list(_leaves(record.get("fingerprints", {})))
    return tag(
        "section",
        tag("h2", "How it was made", id="made"),
        tag(
            "div",
            tag("pre", tag("code", command)),
            tag("button", "Copy", type="button", hidden=True),
            class_="command",
        ),
        tag("h3", "Conditions"),
        facts(conditions),
        tag("h3", "Versions and machine"),
        facts({**record.get("versions", {}), **record.get("machine", {})}),
        tag(
            "details",
            tag("summary", "Checksums and fingerprints"),
            facts({name: tag("code", value) for name, value in prints}),
        ),
    )


def _leaves(tree: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path} {key}".strip())]
    return [(path, str(tree))]


def _definitions(run: Run) -> Html:
    used = {row.metric for row in run.summary.rows}
    listed = facts({name: text for name, text in DEFINITIONS.items() if name in used})
    return tag(
        "section",
        tag("h2", "Definitions", id="definitions"),
        Html(listed.replace('class="facts"', 'class="facts wide"', 1)),
    )
