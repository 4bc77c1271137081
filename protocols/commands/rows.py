"""Print rows as a table, CSV or JSON: one look for every command that lists something."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "csv", "json")
_WIDE = 160


def format_option(command: F) -> F:
    """Add ``--format table|csv|json``."""
    return click.option(
        "--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True, help="Output."
    )(command)


def render(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], format_: str) -> str:
    """Rows as text.

    Parameters
    ----------
    rows : sequence of mappings
        Values are JSON values; a missing one is None.
    columns : sequence of str
        Keys in order. CSV has them all, a table those that hold anything, JSON every key.
    format_ : {"table", "csv", "json"}
    """
    if format_ == "json":
        return json.dumps(list(rows), indent=2, default=str)
    if format_ == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows([{c: "" if row.get(c) is None else row[c] for c in columns} for row in rows])
        return out.getvalue().rstrip("\n")
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [c for c in columns if not rows or any(row.get(c) not in (None, "") for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    numbers = {c for c in columns if any(isinstance(row.get(c), int | float) for row in rows)}
    for column in columns:
        table.add_column(
            column.replace("_", " "), justify="right" if column in numbers else "left", overflow="fold"
        )
    for row in rows:
        # Text, not markup: names come from other packages and from file names.
        table.add_row(*(Text(shown(row.get(column))) for column in columns))
    console = Console(file=io.StringIO(), width=None if sys.stdout.isatty() else _WIDE, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))


def shown(value: Any) -> str:
    """One value as a table shows it; control characters are escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def size_text(count: int | None) -> str:
    """A number of bytes in words; empty where unknown."""
    if count is None:
        return ""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}" if size < 1000 else f"{size:.0f} {units[0]}"
