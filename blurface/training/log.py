"""``log.csv`` of a run: a row for every validation; loss and its terms are those of the step before it."""

from __future__ import annotations

import csv
from pathlib import Path

from ..files import replacing
from .losses import TERMS

LOG_COLUMNS = (
    *("step", "faces", "seconds", "rate", "loss"),
    *("psnr", "blurry_psnr", "psnr_true_kernel", "sharp_psnr"),
    *("cosine", "blurry_cosine", "kernel_cosine"),
    *(f"loss_{term}" for term in TERMS),
)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a row, under a header where the file is new; what is no column is left out."""
    fresh = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS, restval="", extrasaction="ignore")
        if fresh:
            writer.writeheader()
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def drop_after(path: Path, step: int) -> None:
    """Drop what a killed run logged after the step from which this one goes on: nothing twice.

    The columns become those of :data:`LOG_COLUMNS`, whatever version began the file.
    """
    if not path.exists():
        return
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames
    kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step]
    if len(kept) == len(rows) and columns == list(LOG_COLUMNS):
        return
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
