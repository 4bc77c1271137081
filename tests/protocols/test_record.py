from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_support import register_toys, toy_experiment

from blurface.restorers import create_restorer, restorers
from protocols.experiments import Experiment
from protocols.pictures import Pictures, check_restorer
from protocols.record import LOCAL, hide, places, unhide
from protocols.run_folder import read_run
from protocols.runner import Choice


def test_paths_become_names_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "some data", tmp_path / "cache"
    monkeypatch.setenv("BLURFACE_DATA", str(data))
    monkeypatch.setenv("BLURFACE_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    known = places()
    record = {
        "pairs": f"folder:{data}/people",
        "data_root": data,
        "weights": [f"{cache}/runs/a.safetensors", f"{data}base/b"],
        "out": f"{tmp_path}/results/x",
        "n": 3,
        f"exported:{data}/x.onnx": {"within": f"/mnt{data}/y"},
    }
    hidden = hide(record, known)
    assert hidden == {
        "pairs": "folder:DATA/people",
        "data_root": "DATA",
        # A folder whose name begins alike is another folder.
        "weights": ["CACHE/runs/a.safetensors", "./some database/b"],
        "out": "./results/x",
        "n": 3,
        # Names are keys as well; a path that ends like a folder is another's.
        "exported:DATA/x.onnx": {"within": f"/mnt{data}/y"},
    }
    back = unhide(hidden, known)
    assert (back["pairs"], back["data_root"], back["weights"][0]) == (
        record["pairs"],
        str(data),
        f"{cache}/runs/a.safetensors",
    )
    assert f"exported:{data}/x.onnx" in back
    assert unhide({"restorer": "DATABASE", "x": "NODATA/y"}, known) == {
        "restorer": "DATABASE",
        "x": "NODATA/y",
    }


def test_published_files_name_no_folder_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run writes holds no path, is found again here, and is readable elsewhere."""
    register_toys(monkeypatch)
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BLURFACE_DATA", str(tmp_path))
    marked = f"marked:{tmp_path}/weights.onnx"
    restorers.register("marked", lambda path: create_restorer("wiener", balance=0.01))
    experiment = toy_experiment(
        tmp_path, data_root=tmp_path, restorers=(Choice("wiener", {"balance": 0.003}), Choice(marked))
    )
    experiment.run(tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and path.name != LOCAL:
            assert str(tmp_path).encode() not in path.read_bytes(), path
    about = json.loads((tmp_path / "run" / "results.json").read_text())["about"]
    assert about["kernel_set"] == "file:DATA/kernels"
    run = read_run(tmp_path / "run")
    assert run.summary.restorers == ["none", "wiener", "marked:DATA/weights.onnx"]
    assert set(run.summary.scores["thumbnails"]["restorer"]) == set(run.summary.restorers)
    again = Experiment.from_record(run.record)
    assert [choice.name for choice in again.restorers] == ["none", "wiener", marked]
    check_restorer(run, Pictures(again, cache=tmp_path / "cache"), "marked:DATA/weights.onnx")
    assert again.pairs == experiment.pairs
    assert again.kernel_sets == experiment.kernel_sets
    assert again.data_root == tmp_path
    # Copied to another machine, without local.json and with the data elsewhere.
    (tmp_path / "run" / LOCAL).unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("BLURFACE_DATA", str(elsewhere))
    moved = Experiment.from_record(read_run(tmp_path / "run").record)
    assert moved.data_root == elsewhere
    assert moved.kernel_sets == (f"file:{elsewhere}/kernels",)
    monkeypatch.delenv("BLURFACE_DATA")
    assert Experiment.from_record(read_run(tmp_path / "run").record).data_root is None
