from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from runner_support import draw_crops, random_mobilefacenet

from blurface.cli import main
from blurface.errors import InputError
from blurface.kernels import join_kernel_sets
from protocols.commands.options import parse_options
from protocols.commands.progress import PhaseProgress, duration
from protocols.experiments import Experiment
from protocols.results import COLUMNS, DEFINITIONS, Row, Summary, results_csv


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with crops and a verifier of random weights."""
    root = tmp_path_factory.mktemp("data")
    draw_crops(root / "crops", people=8, pictures=3)
    random_mobilefacenet(root / "weights" / "mobilefacenet-casia-112x96.ckpt")
    return root


def _arguments(data: Path, out: Path, *more: str) -> list[str]:
    fixed = ["verify", "--pairs", f"folder:{data / 'crops'}", "--crops", "aligned", "--subset", "12"]
    return [*fixed, "--data-root", str(data), "--kernels", "gp:2,0", "--out", str(out), *more]


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def _contents(folder: Path) -> dict[str, bytes]:
    """Everything that must not differ between two runs: all but run.json and where folders lie."""
    differ = ("run.json", "local.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in differ)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    arguments = _arguments(data, folder / "out", "--restorer", "wiener")
    environment = os.environ | {"BLURFACE_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "blurface", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_screen_shows_the_papers_table(finished: Path) -> None:
    text = (finished / "stdout").read_text()
    assert text.startswith(
        "Verification accuracy (%): folder-aligned:crops, 12 pairs, mobilefacenet, gp:2,0 centred by mass"
    )
    rows = [line for line in text.splitlines() if line.startswith(("none (blurry)", "wiener"))]
    assert len(rows) == 2
    for word in (
        "mean",
        "won back (%)",
        "95% interval",
        "PSNR (dB)",
        "SSIM",
        "Without blur",
        "Border: valid convolution",
    ):
        assert word in text
    errors = (finished / "stderr").read_text()
    assert "wiener: 30 of 30 faces" in errors
    assert "cells computed, 0 found" in errors


def test_results_csv_is_tidy_and_complete(finished: Path) -> None:
    table = pd.read_csv(finished / "out" / "results.csv", dtype={"kernel": str})
    assert tuple(table.columns) == COLUMNS
    assert set(table.metric) == set(DEFINITIONS)
    assert set(table.restorer) == {"none", "wiener"}
    assert set(table.kernel_set) == {"gp:2,0"}
    kernels = sorted(set(table.kernel) - {"sharp", "mean"})
    assert len(kernels) == 2
    cells = table.set_index(["restorer", "kernel", "metric"]).value
    assert not cells.index.duplicated().any()
    for restorer in ("none", "wiener"):
        for metric in ("accuracy", "psnr", "fnmr_fixed", "auc", "genuine_shift"):
            expected = np.mean([cells[restorer, kernel, metric] for kernel in kernels])
            assert cells[restorer, "mean", metric] == pytest.approx(expected, abs=1e-6)
    assert cells["none", "sharp", "accuracy"] == cells["none", "sharp", "accuracy_fixed"]
    assert cells["wiener", "mean", "psnr"] > cells["none", "mean", "psnr"] + 1
    lost = cells["none", "sharp", "accuracy"] - cells["none", "mean", "accuracy"]
    if lost > 0:
        won = (cells["wiener", "mean", "accuracy"] - cells["none", "mean", "accuracy"]) / lost
        assert cells["wiener", "mean", "recovered_share"] == pytest.approx(won, abs=1e-6)
    shares = table[
        table.metric.isin(["accuracy", "accuracy_fixed", "fnmr_fixed", "fmr_fixed", "eer", "auc", "fte"])
    ]
    assert shares.value.dropna().between(0, 1).all()
    inside = table.dropna(subset=["ci_low", "ci_high", "value"])
    assert (inside.ci_low <= inside.value + 1e-6).all()
    assert (inside.ci_high >= inside.value - 1e-6).all()


def test_scores_repeat_the_accuracies(finished: Path) -> None:
    scores = pd.read_parquet(finished / "out" / "scores" / "mobilefacenet.parquet")
    table = pd.read_csv(finished / "out" / "results.csv", dtype={"kernel": str})
    assert set(scores.columns) >= {
        "pair", "genuine", "fold", "restorer", "kernel", "score", "sharp_score", "decision",
    }  # fmt: skip
    assert len(scores) == 12 * 2 * 3
    for column, metric in (("decision", "accuracy"), ("decision_fixed", "accuracy_fixed")):
        correct = scores.assign(correct=scores[column] == scores.genuine)
        folds = correct.groupby(["restorer", "kernel", "fold"], observed=True).correct.mean()
        means = folds.groupby(["restorer", "kernel"], observed=True).mean()
        for row in table[(table.metric == metric) & (table.kernel != "mean")].itertuples():
            assert means[row.restorer, row.kernel] == pytest.approx(row.value, abs=1e-6)
    sharp = scores[(scores.restorer == "none") & (scores.kernel == "sharp")]
    np.testing.assert_array_equal(sharp.score, sharp.sharp_score)


def test_records_say_what_was_run(finished: Path) -> None:
    record = json.loads((finished / "out" / "run.json").read_text())
    assert record["command"][:2] == ["blurface", "verify"]
    assert record["options"]["subset"] == 12
    assert record["versions"]["torch"]
    assert record["fingerprints"]["restorers"]["wiener"]["options"] == {"balance": 0.003}
    assert record["about"]["kernel_centre"] == "mass"
    # 8 columns of the crop lie on each side of the face; the rest of the margin repeats its edge.
    assert record["about"]["invented_share"]["112x96"] == pytest.approx(1 - 112 * 112 / (144 * 128), abs=1e-4)
    assert record["processor_seconds"].keys() >= {"read", "blur", "restore", "embed", "measure"}
    results = json.loads((finished / "out" / "results.json").read_text())
    assert results["definitions"].keys() == DEFINITIONS.keys()
    notes = {row.get("note") for row in results["results"] if row["metric"] == "tar@far=1e-3"}
    assert notes == {"insufficient data: 6 impostor pairs for FAR 0.001"}
    names = {path.name for path in (finished / "out" / "tables").iterdir()}
    assert {f"accuracy-mobilefacenet.{suffix}" for suffix in ("md", "tex", "csv")} <= names


def test_second_run_computes_nothing_and_writes_the_same(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an earlier run of another verifier was, nothing of it stays but what is the reader's own."""
    out = tmp_path / "out"
    for name in (
        "scores/old.parquet",
        "tables/old.md",
        "tables/old.tex",
        "tables/old.csv",
        "tables/notes.md",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("from before")
    monkeypatch.setenv("BLURFACE_CACHE", str(finished / "cache"))
    result = _run(*_arguments(data, out, "--restorer", "wiener", "--jobs", "1"))
    assert result.exit_code == 0, result.output
    assert "0 cells computed" in result.output
    assert (out / "tables" / "notes.md").read_text() == "from before"
    (out / "tables" / "notes.md").unlink()
    assert _contents(out) == _contents(finished / "out")


def test_killed_run_resumes_to_the_same_bytes(data: Path, finished: Path, tmp_path: Path) -> None:
    """kill -9 when a few chunks are there; the second run ends as if nothing had happened."""
    cache = tmp_path / "cache"
    arguments = _arguments(data, tmp_path / "out", "--restorer", "wiener", "--batch-size", "3")
    environment = os.environ | {"BLURFACE_CACHE": str(cache)}
    command = [sys.executable, "-m", "blurface", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(cache.glob("cells/*/*.parts/*.npz"))) >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(list(cache.glob("cells/**/*.npz")))
    assert left >= 5
    assert not (tmp_path / "out" / "run.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _contents(tmp_path / "out") == _contents(finished / "out")


def test_unreadable_picture_ends_in_status_1(data: Path, tmp_path: Path) -> None:
    crops = draw_crops(tmp_path / "crops", people=8, pictures=3)
    for path in crops.glob("*/*_0001.png"):
        path.write_bytes(b"")
    arguments = _arguments(data, tmp_path / "out", "--restorer", "none", "--kernels", "linear:5,0")
    arguments[2] = f"folder:{crops}"
    result = _run(*arguments)
    assert result.exit_code == 1
    assert "could not be read and count as non-matches: Person_" in result.output
    table = pd.read_csv(tmp_path / "out" / "results.csv", dtype={"kernel": str})
    assert (table[table.metric == "fte"].value > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--pairs", "lwf"], "Did you mean lfw", 2),
        (["--restorer", "fats"], "Did you mean fast", 2),
        (["--verifier", "mobilefacenat"], "Did you mean mobilefacenet", 2),
        (["--kernels", "levin9"], "Did you mean levin8", 2),
        (["--restorer-option", "krishnan"], "not NAME:KEY=VALUE", 1),
        (["--restorer", "none", "--restorer-option", "wiener:balance=1"], "which is not run", 1),
        (["--restorer", "wiener", "--restorer-option", "wiener:balance=-1"], "not positive", 1),
        (["--restorer", "wiener", "--restorer-option", "wiener:blance=1"], "cannot be built", 1),
        (["--noise", "2"], "Invalid value for '--noise'", 2),
        (["--seed", "-1"], "Invalid value for '--seed'", 2),
        (["--subset", "3"], "Invalid value for '--subset'", 2),
        (["--subset", "7000"], "7000", 1),
        (["--pairs", "folder:"], "No folder is named", 1),
        (["--jobs", "0"], "Invalid value for '--jobs'", 2),
        (["--device", "gpu9"], "device 'gpu9' cannot be used", 1),
        (["--restorer", "none", "--restorer", "none"], "named twice", 1),
    ],
)
def test_wrong_usage_is_one_line_and_a_mend(
    data: Path, tmp_path: Path, arguments: list[str], message: str, status: int
) -> None:
    base = ["--pairs", f"folder-aligned:{data / 'crops'}", "--data-root", str(data), "--restorer", "none"]
    given = [*base, "--kernels", "linear:5,0", *arguments] if "--restorer" not in arguments else [
        *base[:4], "--kernels", "linear:5,0", *arguments,
    ]  # fmt: skip
    result = _run("verify", *given)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_folder_that_cannot_be_written_fails_before_the_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _run(*_arguments(data, tmp_path / "file" / "out", "--restorer", "none"))
    assert result.exit_code == 1
    assert "blurface: Not a directory" in result.output
    assert "sharp faces" not in result.output


def test_options_are_typed() -> None:
    given = (
        "a:n=3",
        "a:x=0.5",
        "a:flag=true",
        "a:name=text",
        "b:kernel-size=[1,2]",
        "b:c:d=null",
        "b:path=a=b",
    )
    parsed = parse_options(given, ("a", "b", "b:c"))
    assert parsed == {
        "a": {"n": 3, "x": 0.5, "flag": True, "name": "text"},
        "b": {"kernel_size": [1, 2], "path": "a=b"},
        "b:c": {"d": None},
    }


def test_kernel_sets_join(data: Path) -> None:
    alone, origin = join_kernel_sets(("gp:2,0",), "mass", None)
    assert set(origin.values()) == {"gp:2,0"}
    assert alone.centre == "mass"
    joined, origin = join_kernel_sets(("gp:2,0", "gp:2,1", "linear:5,0"), "published", None)
    names = [kernel.name for kernel in joined.kernels]
    assert len(set(names)) == len(names) == 5
    assert joined.name == "gp:2,0+gp:2,1+linear:5,0"
    assert [origin[name] for name in names] == ["gp:2,0"] * 2 + ["gp:2,1"] * 2 + ["linear:5,0"]
    assert joined.centre == "published"


def test_crops_of_protocols(data: Path) -> None:
    folder = Experiment(pairs=f"folder:{data / 'crops'}")
    assert folder.replace(crops="aligned").protocol().prealigned
    assert not folder.protocol().prealigned
    with pytest.raises(InputError, match="no aligned crops"):
        Experiment(pairs="facescrub", crops="aligned", data_root=data).protocol()


def test_a_changed_copy_of_a_summary_has_its_own_rows() -> None:
    row = Row("p", "v", "r", "s", "1", "eer", 0.1)
    summary = Summary([row], {}, {}, ["v"], ["r"], ["1"])
    assert summary.row("v", "r", "1", "eer") is row
    other = dataclasses.replace(summary, rows=[dataclasses.replace(row, value=0.2)])
    assert other.value("v", "r", "1", "eer") == 0.2


def test_csv_leaves_out_what_there_is_none_of() -> None:
    row = Row("p", "v", "r", "s", "1", "eer", float("nan"), n=3, note="insufficient data")
    assert results_csv([row]).splitlines()[1] == "p,v,r,s,1,eer,,,,3"


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with PhaseProgress() as progress:
        for done in range(0, 5001, 100):
            progress("fast", done, 5000)
    with PhaseProgress(quiet=True) as progress:
        progress("quiet", 0, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "fast: 0 of 5,000 faces"
    assert lines[-1] == "fast: 5,000 of 5,000 faces"
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]


@pytest.mark.real
def test_real_faces(shared: Path, tmp_path: Path) -> None:
    """Twenty pairs of LFW, Levin's kernels: blur costs accuracy, the true kernel brings it back."""
    arguments = [
        "--pairs",
        "lfw",
        "--data-root",
        str(shared / "data"),
        "--subset",
        "20",
        "--out",
        str(tmp_path),
    ]
    result = _run("verify", *arguments, "--restorer", "wiener")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "results.csv", dtype={"kernel": str})
    cells = table.set_index(["restorer", "kernel", "metric"]).value
    assert set(table.kernel) == {*"12345678", "sharp", "mean"}
    assert cells["none", "sharp", "accuracy"] >= 0.9
    assert cells["none", "mean", "accuracy"] < cells["none", "sharp", "accuracy"] - 0.05
    assert cells["wiener", "mean", "accuracy"] > cells["none", "mean", "accuracy"] + 0.05
    assert cells["wiener", "mean", "psnr"] > cells["none", "mean", "psnr"] + 4
    about = json.loads((tmp_path / "run.json").read_text())["about"]
    assert about["faces_not_found"] == 0
    assert about["invented_share"]["112x96"] < 0.05
