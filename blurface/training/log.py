"""``log.csv`` of a run: a row for every validation."""

from __future__ import annotations

import csv
from pathlib import Path

from ..files import replacing

LOG_COLUMNS = (
    *("step", "faces", "seconds", "rate", "loss"),
    *("psnr", "blurry_psnr", "psnr_true_kernel", "sharp_psnr"),
    *("cosine", "blurry_cosine", "kernel_cosine"),
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
    """Drop what a killed run logged after the step from which this one goes on: nothing twice."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step]
    if len(kept) == len(rows):
        return
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
