"""A golden run: the same tables on every machine, whatever the batch size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from reliability_support import contents, run
from runner_support import draw_crops

pytestmark = pytest.mark.usefixtures("toys")

GOLDEN = Path(__file__).with_name("golden.csv")
KEYS = ["verifier", "restorer", "kernel_set", "kernel", "metric"]

TOLERANCES = {"psnr": 0.02, "ssim": 2e-3}
"""What another processor's rounding may move; shares of pairs must not move at all."""


def golden_run(root: Path, out: Path, *more: object) -> Path:
    result = run(
        *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--out", out),
        *("--restorer", "none", "--restorer", "wiener", "--quiet"),
        *("--kernels", "gp:1,0", "--kernels", "linear:9,30", "--noise", 0.01, "--seed", 3, "--jobs", 1),
        *more,
    )
    assert result.exit_code == 0, result.output
    for name in ("run.json", "local.json"):  # times, the command, where it was made
        (out / name).unlink(missing_ok=True)
    return out


def test_golden_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    root = draw_crops(tmp_path / "golden", people=6, pictures=3)
    found = pd.read_csv(golden_run(root, tmp_path / "out") / "results.csv", dtype={"kernel": str})
    golden = pd.read_csv(GOLDEN, dtype={"kernel": str})
    pd.testing.assert_frame_equal(found[[*KEYS, "n"]], golden[[*KEYS, "n"]])
    for row, now in zip(golden.itertuples(), found.itertuples(), strict=True):
        allowed = TOLERANCES.get(row.metric, 1e-6 if row.metric.startswith("accuracy") else 5e-3)
        for column in ("value", "ci_low", "ci_high"):
            expected, got = getattr(row, column), getattr(now, column)
            assert got == pytest.approx(expected, abs=allowed, nan_ok=True), (row, column, got)


def test_batch_size_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_crops(tmp_path / "golden", people=4, pictures=2)
    made = []
    for name, more in (("one", ("--batch-size", 1)), ("many", ("--batch-size", 64))):
        monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / name))
        made.append(contents(golden_run(root, tmp_path / "out" / name, *more)))
    assert made[0] == made[1]
    assert {"results.csv", "results.json"} <= made[0].keys()
