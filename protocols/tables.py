"""Tables as text, Markdown, LaTeX (booktabs) and CSV, with the best value of a column in bold.

A :class:`Table` holds values, not text: each form rounds them in the same way, so the four agree. What
is written depends on the values alone, never on the width of a terminal.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blurface.files import write_atomic

from .runner import CONTROL

Value = float | int | str | None
Better = Literal["high", "low", "none"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    title : str
    digits : int
        Decimals of its numbers.
    scale : float
        Numbers are multiplied by it before they are rounded (100 for percent).
    better : {"high", "low", "none"}
        Which value is set in bold.
    unit : str
        Appended to the title in brackets.
    """

    title: str
    digits: int = 2
    scale: float = 1.0
    better: Better = "none"
    unit: str = ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def show(self, value: Value) -> str:
        """The value as text: numbers rounded, missing ones as an en dash, others as they are."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, str):
            return value
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        if isinstance(value, int) and self.scale == 1.0 and self.digits == 0:
            return f"{value:,}"
        text = f"{value * self.scale:.{self.digits}f}"
        return text[1:] if text.startswith("-") and not text.strip("-0.") else text


FORMS = (".md", ".tex", ".csv")
"""Suffixes of the files in which a table is written."""


@dataclass
class Table:
    """A table of values.

    Attributes
    ----------
    name : str
        File name without extension.
    title : str
        One sentence above it.
    columns : list of Column
    rows : list of list
        Numbers, text or None, one for each column.
    notes : list of str
        Sentences below it: definitions, intervals, what was not computed.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[list[Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *values: Value) -> None:
        """Append a row.

        Raises
        ------
        ValueError
            If it has another length than the columns.
        """
        if len(values) != len(self.columns):
            raise ValueError(f"{self.name}: a row of {len(values)} values for {len(self.columns)} columns")
        self.rows.append(list(values))

    def cells(self) -> list[list[str]]:
        """Rounded text of every cell."""
        return [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows
        ]

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of the best values; ties after rounding are all best, a lone value is not."""
        marked: set[tuple[int, int]] = set()
        for j, column in enumerate(self.columns):
            if column.better == "none":
                continue
            numbers: dict[int, float] = {}
            for i, row in enumerate(self.rows):
                value = row[j]
                if isinstance(value, int | float) and not math.isnan(value):
                    numbers[i] = round(value * column.scale, column.digits)
            if len(numbers) < 2:
                continue
            top = max(numbers.values()) if column.better == "high" else min(numbers.values())
            marked |= {(i, j) for i, number in numbers.items() if number == top}
        return marked

    def text(self) -> str:
        """For the terminal: aligned columns, the best value followed by an asterisk."""
        best = self.best()
        body = [
            [cell + ("*" if (i, j) in best else " ") for j, cell in enumerate(row)]
            for i, row in enumerate(self.cells())
        ]
        head = [column.heading + " " for column in self.columns]
        widths = [max(len(row[j]) for row in [head, *body]) for j in range(len(head))]
        numeric = self._numeric()

        def line(row: Sequence[str]) -> str:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ]
            return " ".join(cells).rstrip()

        rule = "-" * max(len(line(row)) for row in [head, *body])
        lines = [self.title, rule, line(head), rule, *(line(row) for row in body), rule, *self.notes]
        return "\n".join(lines) + "\n"

    def markdown(self) -> str:
        """GitHub-flavoured Markdown, best values in bold."""
        best = self.best()

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

        lines = [f"**{self.title}**", "", line([column.heading for column in self.columns])]
        lines.append(line(["---:" if right else "---" for right in self._numeric()]))
        for i, row in enumerate(self.cells()):
            lines.append(line([f"**{cell}**" if (i, j) in best else cell for j, cell in enumerate(row)]))
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A ``table`` environment for ``booktabs``, best values in bold."""
        best = self.best()
        layout = "".join("r" if right else "l" for right in self._numeric())

        def line(cells: Sequence[str]) -> str:
            return " & ".join(cells) + r" \\"

        lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{latex_escape(self.title)}}}"]
        lines += [rf"  \label{{tab:{self.name}}}", rf"  \begin{{tabular}}{{{layout}}}", r"    \toprule"]
        lines.append("    " + line([latex_escape(column.heading) for column in self.columns]))
        lines.append(r"    \midrule")
        for i, row in enumerate(self.cells()):
            escaped = [latex_escape(cell) for cell in row]
            bold = [rf"\textbf{{{cell}}}" if (i, j) in best else cell for j, cell in enumerate(escaped)]
            lines.append("    " + line(bold))
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\footnotesize {latex_escape(note)}" for note in self.notes]
        lines.append(r"\end{table}")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Comma-separated, the shown values, no marks; missing values empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        for row in self.cells():
            writer.writerow(
                ["" if cell == "–" else cell.replace(",", "") if _is_number(cell) else cell for cell in row]
            )
        return stream.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write ``<name>.md``, ``.tex`` and ``.csv`` into ``folder``, each atomically."""
        written = []
        for suffix, content in zip(FORMS, (self.markdown(), self.latex(), self.csv()), strict=True):
            path = folder / f"{self.name}{suffix}"
            write_atomic(path, content)
            written.append(path)
        return written

    def _numeric(self) -> list[bool]:
        return [
            any(isinstance(row[j], int | float) for row in self.rows) or (j > 0 and not self.rows)
            for j in range(len(self.columns))
        ]


def shown_p(value: float) -> str | None:
    """A p-value as tables show it; None where there is none."""
    if math.isnan(value):
        return None
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def shown_interval(low: float, high: float, scale: float = 100, digits: int = 2) -> str | None:
    """An interval as tables show it, by default in percent; None where there is none."""
    if math.isnan(low) or math.isnan(high):
        return None
    return f"{low * scale:.{digits}f} to {high * scale:.{digits}f}"


def shown_restorer(name: str) -> str:
    """A restorer's name as tables show it."""
    return "none (blurry)" if name == CONTROL else name


def latex_escape(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text).replace("∞", r"$\infty$")


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
