"""HTML as values: text is escaped unless it is markup already.

Names of people, files, kernels and restorers come from outside. They reach the page only through
:func:`tag`, which escapes every child and attribute that is not :class:`Html`.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..figures import COLOURS, GREY, GRID, INK, render
from ..tables import Table

_VOID = {"meta", "img", "input", "br", "hr"}
_VARIABLES = {INK: "--ink", GREY: "--grey", GRID: "--grid"} | {c: f"--c{i}" for i, c in enumerate(COLOURS)}


class Html(str):
    """Text that is markup and safe."""


Child = str | Iterable["Child"] | None


def escape(text: object) -> Html:
    """Text as markup. Control characters, which HTML cannot carry, become a visible mark."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return Html(html.escape(shown, quote=True))


def join(*children: Child) -> Html:
    """Children one after the other; those that are not markup are escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def tag(element: str, /, *children: Child, **attributes: object) -> Html:
    """An element.

    Attribute names lose a trailing underscore and get hyphens for underscores (``class_``,
    ``data_value``); None and False leave an attribute out, True gives it no value.
    """
    given = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        given.append(f" {attribute}" if value is True else f' {attribute}="{escape(value)}"')
    head = f"<{element}{''.join(given)}>"
    return Html(head if element in _VOID else f"{head}{join(*children)}</{element}>")


def picture(pixels: NDArray[np.uint8], alternative: str, **attributes: object) -> Html:
    """An (H, W, 3) uint8 picture as an ``img`` with a PNG inside."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    height, width = pixels.shape[:2]
    return tag(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=alternative,
        width=width,
        height=height,
        **attributes,
    )


def vector(figure: Figure, name: str, alternative: str) -> Html:
    """A figure as inline SVG whose colours follow the page.

    Parameters
    ----------
    name : str
        Put before every id of the SVG, so that several can stand in one page.
    alternative : str
        What a screen reader says.
    """
    text = render(figure, "svg", facecolor="none").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'((?:xlink:)?href)="#', rf'\1="#{name}-', text)
    for colour, variable in _VARIABLES.items():
        text = re.sub(rf"(?<=[ :]){re.escape(colour.lower())}(?=[;\"])", f"var({variable})", text)
    _, _, body = text.partition(">")
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    # All figures of a page to one scale: lettering of the same size.
    widest = float(box[1].split()[2]) * 1.15
    head = '<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
    head += f'viewBox="{box[1]}" style="max-width:{widest:.0f}px" '
    return Html(f'{head}aria-label="{escape(alternative)}">{body.strip()}')


def data_table(table: Table, identifier: str, heading: str = "h4") -> Html:
    """A :class:`~protocols.tables.Table` that can be sorted by every column."""
    best = table.best()
    numeric = [any(isinstance(row[j], int | float) for row in table.rows) for j in range(len(table.columns))]
    head = [
        tag(
            "th",
            tag("button", column.heading, type="button"),
            scope="col",
            aria_sort="none",
            class_="number" if right else None,
        )
        for column, right in zip(table.columns, numeric, strict=True)
    ]
    body = []
    for i, (row, shown) in enumerate(zip(table.rows, table.cells(), strict=True)):
        cells = []
        for j, (value, text) in enumerate(zip(row, shown, strict=True)):
            number = repr(float(value)) if isinstance(value, int | float) else None
            content = tag("strong", text) if (i, j) in best else escape(text)
            if j == 0:
                cells.append(tag("th", content, scope="row"))
            else:
                cells.append(tag("td", content, data_value=number, class_="number" if numeric[j] else None))
        body.append(tag("tr", cells))
    name = f"{identifier}-title"
    return tag(
        "section",
        tag(heading, table.title, id=name),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", head)),
                tag("tbody", body),
                aria_labelledby=name,
                class_="sortable",
            ),
            class_="scroll",
            role="region",
            tabindex="0",
            aria_labelledby=name,
        ),
        [tag("p", note, class_="note") for note in table.notes],
        class_="table",
        id=identifier,
    )


def facts(entries: Mapping[str, object]) -> Html:
    """Names and values as a description list."""
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value if isinstance(value, Html) else escape(value)))
            for name, value in entries.items()
        ],
        class_="facts",
    )
