from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from protocols.reproduction import linear_table
from protocols.results import MEAN, Row, Summary
from protocols.robustness import Condition, robustness_table
from protocols.tables import Column, Table, shown_interval, shown_restorer


@pytest.fixture
def table() -> Table:
    table = Table(
        "accuracy",
        "Accuracy on 50% & more_pairs",
        [
            Column("Restorer"),
            Column("1", 2, 100, "high", "%"),
            Column("seconds", 1, better="low"),
            Column("n", 0),
        ],
        notes=["95% intervals."],
    )
    table.add("none", 0.9, 1.25, 6000)
    table.add("fast_2", 0.95123, 3.0, 6000)
    table.add("other", 0.951199, None, 6000)
    return table


def test_best_after_rounding_with_ties(table: Table) -> None:
    assert table.best() == {(1, 1), (2, 1), (0, 2)}


def test_text_is_aligned_and_marks_the_best(table: Table) -> None:
    lines = table.text().splitlines()
    assert lines[0] == "Accuracy on 50% & more_pairs"
    assert (
        len({line.index(mark) for line, mark in zip(lines[4:7], ("90.00", "95.12", "95.12"), strict=True)})
        == 1
    )
    assert "95.12*" in lines[5]
    assert "6,000" in lines[4]
    assert "–" in lines[6]
    assert lines[-1] == "95% intervals."


def test_markdown(table: Table) -> None:
    rows = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert rows[0] == "| Restorer | 1 (%) | seconds | n |"
    assert rows[1] == "| --- | ---: | ---: | ---: |"
    assert rows[3] == "| fast_2 | **95.12** | 3.0 | 6,000 |"
    assert len({row.count("|") for row in rows}) == 1


def test_latex_is_booktabs_and_escaped(table: Table) -> None:
    text = table.latex()
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\label{tab:accuracy}",
        r"fast\_2",
        r"\textbf{95.12}",
    ):
        assert part in text
    assert r"Accuracy on 50\% \& more\_pairs" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_csv_reads_back(table: Table) -> None:
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0] == ["Restorer", "1 (%)", "seconds", "n"]
    assert rows[2] == ["fast_2", "95.12", "3.0", "6000"]
    assert rows[3] == ["other", "95.12", "", "6000"]


def test_hostile_names_stay_text() -> None:
    table = Table("t", "T", [Column("a")])
    table.add("x|y\nz & \\input{/etc/passwd}")
    assert "x\\|y z" in table.markdown()
    assert r"\textbackslash{}input\{/etc/passwd\}" in table.latex()


def test_values_shown() -> None:
    column = Column("v", 1)
    assert [column.show(v) for v in (None, math.nan, math.inf, -math.inf, "x", -0.04, -1.0, 3)] == [
        "–", "–", "∞", "-∞", "x", "0.0", "-1.0", "3.0",
    ]  # fmt: skip


def test_lone_values_and_text_columns_are_not_best() -> None:
    table = Table("t", "T", [Column("a", better="high"), Column("b", better="low")])
    table.add("x", 1.0)
    assert table.best() == set()


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="2 values for 1 columns"):
        Table("t", "T", [Column("a")]).add(1, 2)


def test_write(table: Table, tmp_path: Path) -> None:
    files = table.write(tmp_path / "tables")
    assert [f.name for f in files] == ["accuracy.md", "accuracy.tex", "accuracy.csv"]
    assert files[0].read_text() == table.markdown()


def test_intervals_and_restorers() -> None:
    assert shown_interval(0.9, 0.95128) == "90.00 to 95.13"
    assert shown_interval(23.456, 24, 1, 1) == "23.5 to 24.0"
    assert shown_interval(math.nan, math.nan) is None
    assert shown_restorer("none") == "none (blurry)"
    assert shown_restorer("fast") == "fast"


def test_no_table_shows_an_interval_that_there_is_not() -> None:
    kernels = (MEAN, "L15@45")
    rows = [Row("p", "v", "none", "s", k, metric, 0.5) for k in kernels for metric in ("accuracy", "psnr")]
    about = {"protocol": "toy", "pairs": 2, "kernel_set": "toy"}
    summary = Summary(rows, {}, about, ["v"], ["none"], ["L15@45"])
    for made in (robustness_table([(Condition(), summary)], "v"), linear_table(summary, "v")):
        row = dict(zip([column.title for column in made.columns], made.rows[0], strict=True))
        assert row["accuracy"] == 0.5
        assert row["95% interval"] is None
        assert "nan to nan" not in made.markdown()
