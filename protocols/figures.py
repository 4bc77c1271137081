"""Figures of the paper and beyond: each a function from values or pictures to a matplotlib figure.

They are made to be read when printed in grey and by the colour-blind: Okabe and Ito's colours, each
with a marker and a dash of its own, the sharp faces dotted and the blurry ones grey throughout.
Nothing here reads a file; :func:`save` writes PNG and SVG, the same bytes for the same figure.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from blurface.files import write_atomic
from verification import scoring

from .analysis import RejectCurve
from .results import MEAN, Summary
from .run_folder import cell, scores_of
from .runner import CONTROL, SHARP

if TYPE_CHECKING:
    from matplotlib.axes._base import _AxesBase

P = ParamSpec("P")
Picture = NDArray[np.uint8]

GREY = "#6e6e6e"
INK = "#1a1a1a"
GRID = "#bdbdbd"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#4B0092")
"""Okabe & Ito 2008 (without black and yellow), and two darker ones for many methods."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (4, 2, 1, 2)), (0, (1, 1)), (0, (7, 2, 1, 2, 1, 2)))
WIDTH = 7.2
"""Inches: two columns of a page."""

_LETTER = 0.01
"""Width of a letter of a tick's name, of a page's axis."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "svg.fonttype": "none",
    "svg.hashsalt": "blurface",
    "image.cmap": "cividis",
}


def styled(make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common style, whatever the user's matplotlib is set to."""

    @functools.wraps(make)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": mpl.rcParams["backend"]}):
            return make(*args, **kwargs)

    return wrapped


def render(figure: Figure, format_: str, facecolor: str = "white") -> bytes:
    """A figure as ``"png"`` or ``"svg"``; the same bytes every time."""
    stream = io.BytesIO()
    metadata = {"Date": None, "Creator": "blurface"} if format_ == "svg" else {"Software": "blurface"}
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, format=format_, metadata=metadata, facecolor=facecolor)
    return stream.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.png`` and ``<name>.svg`` into ``folder``, each atomically."""
    written = []
    for format_ in ("png", "svg"):
        path = folder / f"{name}.{format_}"
        write_atomic(path, render(figure, format_))
        written.append(path)
    return written


def look(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Colour, marker and dash of a restorer among those that are drawn together."""
    if name == CONTROL:
        return {"color": GREY, "marker": "x", "linestyle": "-"}
    others = [other for other in names if other != CONTROL]
    index = others.index(name)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def label(name: str) -> str:
    """A restorer's name in legends."""
    return "blurry" if name == CONTROL else name


# Faces and kernels


@styled
def kernel_samples(rows: Sequence[tuple[str, NDArray[np.float32]]]) -> Figure:
    """Figure 2: samples of blur kernels, a row for each length.

    Parameters
    ----------
    rows : sequence of (str, ndarray)
        Title and (N, K, K) kernels.
    """
    columns = max(len(kernels) for _, kernels in rows)
    side = max(kernels.shape[-1] for _, kernels in rows)
    figure = Figure(figsize=(WIDTH, WIDTH / columns * len(rows) * 1.04), layout=_close())
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, kernels) in zip(axes, rows, strict=True):
        for axis, kernel in zip(line, kernels, strict=False):
            _draw_kernel(axis, kernel, side)
        for axis in line:
            _bare(axis)
        line[0].set_ylabel(title)
    return figure


@styled
def face_grid(
    rows: Sequence[Sequence[Picture | None]],
    columns: Sequence[str],
    titles: Sequence[str] = (),
    kernels: Sequence[NDArray[np.float32]] = (),
    note: str = "",
) -> Figure:
    """Figures 5, 6, 9, 10, 11: pictures in rows and columns.

    Parameters
    ----------
    rows : sequence of sequences of (H, W, 3) uint8
        None: nothing is shown there.
    columns : sequence of str
    titles : sequence of str
        Of the rows.
    kernels : sequence of (K, K)
        Drawn above the columns, to the scale of the largest.
    note : str
        Below.
    """
    count = len(columns)
    shape = next(picture.shape for row in rows for picture in row if picture is not None)
    cell_width = min(1.0, (WIDTH - 0.4) / count)
    cell_height = cell_width * shape[0] / shape[1]
    head = [cell_width] if len(kernels) else []
    heights = [*head, *([cell_height] * len(rows))]
    figure = Figure(
        figsize=(max(cell_width * count + 0.4, 3.0), sum(heights) + 0.3 + 0.22 * bool(note)),
        layout=_close(),
    )
    axes = figure.subplots(len(heights), count, squeeze=False, height_ratios=heights)
    if len(kernels):
        side = max(len(kernel) for kernel in kernels)
        for axis, kernel in zip(axes[0], kernels, strict=True):
            _draw_kernel(axis, kernel, side)
            _bare(axis)
        axes[0, 0].set_ylabel("kernel")
    for line, row in zip(axes[len(head) :], rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            if picture is not None:
                axis.imshow(picture, interpolation="nearest")
            _bare(axis)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=7.5, fontweight="normal", loc="center")
    for line, title in zip(axes[len(head) :], titles, strict=False):
        line[0].set_ylabel(title, fontsize=7.5)
    if note:
        _note(figure, note)
    return figure


@styled
def module_responses(
    blurry: Picture, psf: NDArray[np.float32], responses: Mapping[str, NDArray[np.float32]], note: str
) -> Figure:
    """Figure 4: what convolutions of each size answer to a blurry face.

    Parameters
    ----------
    blurry : ndarray
        (H, W, 3) uint8.
    psf : ndarray
        (K, K): the blur, drawn beside the face.
    responses : mapping of str to ndarray
        For each branch (channels, H, W); the channels that vary most are shown.
    note : str
        Which weights answered.
    """
    shown = 5
    figure = Figure(figsize=(WIDTH, 1.28 * len(responses) + 0.4), layout=_close())
    grid = figure.add_gridspec(len(responses), shown + 1, width_ratios=[1.4] + [1.0] * shown)
    half = max(1, len(responses) // 2)
    face, kernel = figure.add_subplot(grid[:half, 0]), figure.add_subplot(grid[half:, 0])
    face.imshow(blurry, interpolation="nearest")
    face.set_title("blurry face", fontweight="normal", loc="center")
    kernel.imshow(psf, cmap="gray", vmin=0, interpolation="nearest")
    kernel.set_title("blur kernel", fontweight="normal", loc="center")
    for axis in (face, kernel):
        _bare(axis)
    for i, (title, maps) in enumerate(responses.items()):
        order = np.argsort(-maps.reshape(len(maps), -1).std(1), kind="stable")[:shown]
        for j, channel in enumerate(order):
            axis = figure.add_subplot(grid[i, j + 1])
            low, high = np.quantile(maps[channel], (0.01, 0.99))
            axis.imshow(maps[channel], cmap="gray", vmin=low, vmax=max(high, low + 1e-12))
            _bare(axis)
            if j == 0:
                axis.set_ylabel(title)
    _note(figure, note)
    return figure


# Values per kernel


@styled
def metric_per_kernel(
    summary: Summary, verifier: str, metric: str, *, title: str, unit: str, scale: float = 1.0
) -> Figure:
    """Figures 7 and 8, and their like for any metric: dots with 95% intervals, kernel by kernel.

    Parameters
    ----------
    summary : Summary
    verifier, metric : str
    title, unit : str
    scale : float
        100 for percent.
    """
    kernels = [*summary.kernels, MEAN] if len(summary.kernels) > 1 else list(summary.kernels)
    names = summary.restorers
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(kernels), dtype=float)
    if len(kernels) > len(summary.kernels):
        places[-1] += 0.4
        axis.axvline(places[-1] - 0.7, color=GRID, linewidth=0.7)
    step = 0.6 / max(len(names), 1)
    for i, name in enumerate(names):
        rows = [summary.row(verifier, name, kernel, metric) for kernel in kernels]
        values = np.array([math.nan if row is None else row.value * scale for row in rows])
        ends = [(math.nan, math.nan) if row is None else (row.ci_low, row.ci_high) for row in rows]
        low, high = np.array(ends).T * scale
        style = look(name, names)
        axis.errorbar(
            places + (i - (len(names) - 1) / 2) * step,
            values,
            np.nan_to_num(np.clip([values - low, high - values], 0, None)),
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            elinewidth=1,
            capsize=0,
            label=label(name),
        )
    if metric in ("accuracy", "accuracy_fixed"):
        sharp = summary.value(verifier, CONTROL, SHARP, metric) * scale
        if math.isfinite(sharp):
            axis.axhline(sharp, color=INK, linestyle=":", linewidth=1)
            # The label stands beyond the last kernel, where it covers nothing.
            axis.annotate("sharp", (1, sharp), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    _name_ticks(axis, places, kernels)
    axis.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axis.set_xlabel("blur kernel")
    axis.set_ylabel(unit)
    axis.set_title(title)
    axis.grid(axis="x", visible=False)
    _legend_above(figure, axis)
    return figure


@styled
def accuracy_against_blur(summary: Summary, verifier: str, extents: Mapping[str, float]) -> Figure:
    """Accuracy against the length of the blur.

    Parameters
    ----------
    summary : Summary
    verifier : str
    extents : mapping of str to float
        For each kernel the length in pixels of the straight motion of equal spread.
    """
    kernels = sorted(summary.kernels, key=lambda kernel: (extents[kernel], kernel))
    lengths = np.array([extents[kernel] for kernel in kernels])
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axis = figure.subplots()
    ends = []
    for name in summary.restorers:
        rows = [summary.row(verifier, name, kernel, "accuracy") for kernel in kernels]
        values = np.array([math.nan if row is None else row.value * 100 for row in rows])
        low = np.array([math.nan if row is None else row.ci_low * 100 for row in rows])
        high = np.array([math.nan if row is None else row.ci_high * 100 for row in rows])
        style = look(name, summary.restorers)
        axis.plot(lengths, values, label=label(name), **style)
        axis.fill_between(lengths, low, high, color=style["color"], alpha=0.12, linewidth=0)
        ends.append((label(name), float(values[-1]), style["color"]))
    sharp = summary.value(verifier, CONTROL, SHARP, "accuracy") * 100
    if math.isfinite(sharp):
        axis.axhline(sharp, color=INK, linestyle=":", linewidth=1)
        ends.append(("sharp", sharp, INK))
    top = axis.secondary_xaxis("top")
    places, names = _apart(lengths, kernels, float(np.ptp(lengths)) * 0.02)
    top.tick_params(length=2, pad=1, labelsize=7)
    _name_ticks(top, places, names, float(np.ptp(lengths)))
    top.spines["top"].set_visible(False)
    top.set_xlabel("kernel", fontsize=7.5)
    _label_ends(axis, float(lengths[-1]), ends)
    axis.set_xlabel("blur length (pixels; straight motion of equal spread)")
    axis.set_ylabel("verification accuracy (%)")
    return figure


# Scores


@styled
def roc_curves(summary: Summary, verifier: str) -> Figure:
    """ROC of every kernel, false accept rate on a logarithmic axis."""

    def draw(axis: Axes, far: NDArray[Any], tar: NDArray[Any], floor: float, style: dict[str, Any]) -> None:
        axis.step(np.maximum(far, floor / 2), tar * 100, where="post", **style)

    def finish(axis: Axes, floor: float) -> None:
        axis.set_xscale("log")
        axis.set_xlim(floor, 1)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(0, 101)

    return _curves(summary, verifier, draw, finish, "false accept rate", "true accept rate (%)")


@styled
def det_curves(summary: Summary, verifier: str) -> Figure:
    """DET of every kernel: both errors on normal-deviate axes (Martin et al. 1997)."""

    def draw(axis: Axes, far: NDArray[Any], tar: NDArray[Any], floor: float, style: dict[str, Any]) -> None:
        inside = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
        axis.plot(stats.norm.ppf(far[inside]), stats.norm.ppf(1 - tar[inside]), **style)

    def finish(axis: Axes, floor: float) -> None:
        marks = np.array([0.001, 0.01, 0.05, 0.2, 0.5, 0.8])
        marks = marks[marks >= min(floor, 0.01)]
        names = [f"{mark * 100:g}" for mark in marks]
        axis.set_xticks(stats.norm.ppf(marks), names)
        axis.set_yticks(stats.norm.ppf(marks), names)
        low, high = stats.norm.ppf([min(floor, 0.01) * 0.8, 0.9])
        axis.set_xlim(low, high)
        axis.set_ylim(low, high)
        axis.plot([low, high], [low, high], color=GRID, linewidth=0.6, zorder=0)

    return _curves(summary, verifier, draw, finish, "false accepts (%)", "false rejects (%)")


def _curves(
    summary: Summary,
    verifier: str,
    draw: Callable[[Axes, NDArray[Any], NDArray[Any], float, dict[str, Any]], None],
    finish: Callable[[Axes, float], None],
    x: str,
    y: str,
) -> Figure:
    columns = min(4, len(summary.kernels))
    rows = -(-len(summary.kernels) // columns)
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(width, width / max(columns, 2) * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    scores = scores_of(summary, verifier)
    impostors = int((~cell(scores, CONTROL, SHARP)["genuine"].to_numpy(bool)).sum())
    floor = 1 / max(impostors, 10)
    for axis, kernel in zip(axes.flat, summary.kernels, strict=False):
        lines = [
            (name, kernel, {**look(name, summary.restorers), "marker": "none"}) for name in summary.restorers
        ]
        lines.append((CONTROL, SHARP, {"color": INK, "linestyle": ":", "linewidth": 1.2}))
        for name, column, style in lines:
            chosen = cell(scores, name, column)
            curve = scoring.roc(chosen["score"].to_numpy(float), chosen["genuine"].to_numpy(bool))
            text = "sharp" if column == SHARP else label(name)
            if len(curve.far):
                draw(axis, curve.far, curve.tar, floor, {**style, "label": text})
        finish(axis, floor)
        axis.set_title(f"kernel {kernel}", fontweight="normal")
    _leave_out(axes, len(summary.kernels))
    figure.supxlabel(x, fontsize=8.5)
    figure.supylabel(y, fontsize=8.5)
    _legend_above(figure, axes.flat[0])
    return figure


@styled
def score_shift(summary: Summary, verifier: str) -> Figure:
    """Score of each pair blurry against restored, all kernels together.

    Scores are those with the sharp pairs' mean embedding, so that a threshold that stays is one
    line through all of them.
    """
    names = [name for name in summary.restorers if name != CONTROL]
    columns = min(3, max(len(names), 1))
    rows = -(-max(len(names), 1) // columns)
    side = WIDTH / max(columns, 2)
    figure = Figure(figsize=(side * columns, side * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    scores = scores_of(summary, verifier)
    kinds = ((True, "genuine", COLOURS[0], "o"), (False, "impostor", COLOURS[1], "x"))
    for axis, name in zip(axes.flat, names, strict=False):
        cells = [(cell(scores, CONTROL, k), cell(scores, name, k)) for k in summary.kernels]
        blurry = np.concatenate([before["score_fixed"].to_numpy(float) for before, _ in cells])
        restored = np.concatenate([after["score_fixed"].to_numpy(float) for _, after in cells])
        genuine = np.concatenate([after["genuine"].to_numpy(bool) for _, after in cells])
        finite = np.isfinite(blurry) & np.isfinite(restored)
        many = finite.sum() > 1500
        for kind, text, colour, marker in kinds:
            chosen = finite & (genuine == kind)
            axis.plot(
                blurry[chosen],
                restored[chosen],
                linestyle="none",
                marker=marker,
                markersize=2.0 if many else 3.2,
                markeredgewidth=0.5,
                markerfacecolor="none",
                color=colour,
                alpha=0.45 if many else 0.8,
                label=text,
                rasterized=bool(many),
            )
        both = np.concatenate([blurry[finite], restored[finite]])
        ends = (both.min(), both.max()) if finite.any() else (0.0, 1.0)
        axis.plot(ends, ends, color=INK, linewidth=0.7)
        axis.set_title(name, fontweight="normal")
        axis.set_aspect("equal", adjustable="box")
    _leave_out(axes, len(names))
    figure.supxlabel("score of the blurry probe", fontsize=8.5)
    figure.supylabel("score of the restored probe", fontsize=8.5)
    _legend_above(figure, axes.flat[0], markerscale=1.5)
    return figure


@styled
def reject_curves(curves: Mapping[str, RejectCurve], note: str = "") -> Figure:
    """Error that is left when the most blurred probes are refused.

    Parameters
    ----------
    curves : mapping of str to RejectCurve
        By what is decided on: blurry or restored probes.
    note : str
        How the blur score is made.
    """
    names = list(curves)
    figure = Figure(figsize=(WIDTH * 0.75, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        style = look(name, names)
        shown = np.flatnonzero(curve.reject <= 0.9)
        # A run has tens of thousands of probes; a page needs a few hundred points of them.
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, 300).round().astype(int))]
        axis.plot(
            curve.reject[shown] * 100,
            curve.error[shown] * 100,
            markevery=max(1, len(shown) // 12),
            label=label(name),
            **{**style, "markersize": 4},
        )
        axis.plot([0, 90], [curve.area_random * 100] * 2, color=style["color"], linestyle=":", linewidth=0.9)
    _legend_above(figure, axis)
    axis.set_xlim(0, 90)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("probes refused, the most blurred first (%)")
    axis.set_ylabel("wrong decisions among the rest (%)")
    axis.set_title("Error against reject (dotted: refused at random)")
    if note:
        _note(figure, note)
    return figure


@styled
def value_grid(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    x: str,
    y: str,
    title: str,
    digits: int = 1,
) -> Figure:
    """A grid of numbers, coloured and written out.

    Parameters
    ----------
    values : array_like
        (rows, columns); NaN: nothing was measured.
    """
    numbers = np.asarray(values, np.float64)
    figure = Figure(figsize=(1.2 + 0.78 * len(columns), 1.0 + 0.42 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.ma.masked_invalid(numbers), aspect="auto", cmap="cividis")
    known = numbers[np.isfinite(numbers)]
    middle = (known.min() + known.max()) / 2 if known.size else 0.0
    for i, j in np.ndindex(*numbers.shape):
        if math.isfinite(numbers[i, j]):
            colour = "white" if numbers[i, j] <= middle else "black"
            axis.text(j, i, f"{numbers[i, j]:.{digits}f}", ha="center", va="center", color=colour)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title)
    axis.grid(visible=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    return figure


@styled
def lines_against(
    x: Sequence[float],
    lines: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> Figure:
    """Values with intervals against a quantity, one line a restorer.

    Parameters
    ----------
    x : sequence of float
    lines : mapping of str to sequence of (value, low, high)
    """
    figure = Figure(figsize=(WIDTH * 0.75, 3.1), layout="constrained")
    axis = figure.subplots()
    ends = []
    for name, points in lines.items():
        value, low, high = np.array(points, np.float64).T
        style = look(name, list(lines))
        axis.plot(x, value, **style)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        ends.append((label(name), float(value[-1]), style["color"]))
    _label_ends(axis, float(x[-1]), ends)
    axis.set_xticks(list(x), [f"{value:g}" for value in x])
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_title(title)
    return figure


# Parts


def _draw_kernel(axis: Axes, kernel: NDArray[np.float32], side: int) -> None:
    """Padded to ``side``, so that kernels beside each other are to one scale."""
    padded = np.pad(kernel, (side - len(kernel)) // 2)
    axis.imshow(padded, cmap="gray", vmin=0, interpolation="nearest")


def _note(figure: Figure, text: str) -> None:
    """Small print below, broken into lines that fit."""
    characters = int(figure.get_figwidth() * 17)
    figure.supxlabel(textwrap.fill(text, characters), fontsize=7, color=GREY)


def _close() -> ConstrainedLayoutEngine:
    """Pictures almost side by side."""
    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _legend_above(figure: Figure, axis: Axes, markerscale: float = 1.0) -> None:
    handles, names = axis.get_legend_handles_labels()
    # About an inch a name.
    columns = min(len(names), 6, max(2, int(figure.get_figwidth() / 1.2)))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, markerscale=markerscale)


def _leave_out(axes: NDArray[Any], used: int) -> None:
    """Hide the last places of a grid; those above them show the ticks that the hidden would have shown."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    for column in axes.T:
        if shown := [axis for axis in column if axis.get_visible()]:
            shown[-1].tick_params(labelbottom=True)


def _label_ends(axis: Axes, x: float, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names beside the ends of lines, moved apart where they would lie on one another."""
    known = [end for end in ends if math.isfinite(end[1])]
    if not known:
        return
    axis.autoscale_view()
    bottom, top = axis.get_ylim()
    gap = (top - bottom) * 0.065
    heights = sorted((value, i) for i, (_, value, _) in enumerate(known))
    places: dict[int, float] = {}
    last = -math.inf
    for value, i in heights:
        last = max(value, last + gap)
        places[i] = last
    # What was pushed up goes down again by half of the push, so that the names stay near their lines.
    push = max(0.0, last - heights[-1][0]) / 2
    for i, (name, _, colour) in enumerate(known):
        axis.annotate(
            name,
            (x, places[i] - push),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=8.5,
            fontweight="bold",
            annotation_clip=False,
        )


def _name_ticks(axis: _AxesBase, places: ArrayLike, names: Sequence[str], span: float | None = None) -> None:
    """Name the ticks of a figure as wide as a page, upright where the names would lie on one another.

    Parameters
    ----------
    axis : Axes
    places : array_like
    names : sequence of str
    span : float, optional
        Of the whole axis, by default of the places.
    """
    centres = np.asarray(places, np.float64)
    width = (float(np.ptp(centres)) if span is None else span) * _LETTER
    wide = np.array([len(name) + 1 for name in names]) * width
    meet = bool((np.diff(centres) < (wide[1:] + wide[:-1]) / 2).any())
    axis.set_xticks(centres, names, rotation=90 if meet else 0)


def _apart(places: NDArray[Any], names: Sequence[str], gap: float) -> tuple[list[float], list[str]]:
    """Ticks that lie within ``gap`` of each other share one label: of many the first and how many follow."""
    groups: list[tuple[float, list[str]]] = []
    for place, name in zip(places, names, strict=True):
        if groups and place - groups[-1][0] < gap:
            groups[-1][1].append(name)
        else:
            groups.append((float(place), [name]))
    texts = [",".join(group) if len(group) < 3 else f"{group[0]} +{len(group) - 1}" for _, group in groups]
    return [place for place, _ in groups], texts


__all__ = [
    "COLOURS",
    "accuracy_against_blur",
    "det_curves",
    "face_grid",
    "kernel_samples",
    "lines_against",
    "metric_per_kernel",
    "module_responses",
    "reject_curves",
    "render",
    "roc_curves",
    "save",
    "score_shift",
    "value_grid",
]
