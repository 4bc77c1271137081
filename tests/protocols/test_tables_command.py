from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from report_support import register_toys
from runner_support import draw_crops

from blurface.cli import main
from blurface.errors import WeightsError
from blurface.kernels import Kernel, KernelSet, kernel_sets
from blurface.weights import network_name, save_model
from protocols import paper, reproduction
from protocols.analysis import pair_shares
from protocols.commands.options import choose_restorers, parse_models, parse_which
from protocols.commands.tables import Maker
from protocols.datasets import create_protocol, protocols
from protocols.run_folder import cell, read_run, read_runs
from protocols.tables import Table
from verification import statistics


def _eight(data_root: Path | None = None) -> KernelSet:
    """Eight lines of growing length, by the names of Levin's kernels."""
    kernels = []
    for i in range(8):
        psf = np.zeros((2 * i + 3, 2 * i + 3), np.float32)
        psf[i + 1] = 1
        kernels.append(Kernel(str(i + 1), psf))
    return KernelSet("levin8", tuple(kernels), "toy")


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``lfw`` of drawn crops and a ``levin8`` of lines."""
    register_toys(monkeypatch)
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_sets, "_entries", dict(kernel_sets._entries))
    monkeypatch.setattr(protocols, "_entries", dict(protocols._entries))
    kernel_sets.register("levin8", _eight)
    crops = draw_crops(tmp_path / "crops", people=8)

    def lfw(crops: str = "auto", root: Path = crops) -> object:
        made = create_protocol(f"folder-aligned:{root}")
        return dataclasses.replace(made, name="lfw")

    protocols.register("lfw", lfw)
    return tmp_path


def _call(out: Path, *arguments: str) -> Result:
    fixed = ["--jobs", "1", "-q"]
    if "--run" not in arguments:
        fixed += ["--border", "replicate", "--verifier", "thumbnails", "--restorer", "wiener"]
    return CliRunner().invoke(main, ["tables", "--out", str(out), *fixed, *arguments])


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_tables_2_3_and_4(toys: Path) -> None:
    out = toys / "out"
    result = _call(out, "--which", "2,3", "--subset", "20", "--seed", "0", "--seed", "1", "--limit", "20")
    assert result.exit_code == 0, result.output
    assert "(table 2)" in result.stdout
    assert "(table 3)" in result.stdout
    runs = [read_run(out / "runs" / f"table2-20-seed{seed}").summary for seed in (0, 1)]

    rows = _rows(out / "table2-20-thumbnails.csv")
    named = {(row["Method"], row["Source"]): row for row in rows}
    wiener, blurry = named["wiener", "here"], named["none (blurry)", "here"]
    for kernel in reproduction.LEVIN:
        mean = np.mean([run.value("thumbnails", "wiener", kernel, "accuracy") for run in runs])
        assert wiener[kernel] == f"{mean * 100:.2f}"
    shares = [
        np.concatenate([pair_shares(r, "thumbnails", name) for r in runs]) for name in ("wiener", "none")
    ]
    p = statistics.clustered_mcnemar(*shares)
    assert wiener["p"] == ("< 0.0001" if p < 1e-4 else f"{p:.2g}")
    assert blurry["p"] == ""
    genuine = np.concatenate([reproduction._genuine(run, "thumbnails") for run in runs])
    interval = statistics.bootstrap_mean(shares[0], groups=genuine)
    assert wiener["95% interval"] == f"{interval.low * 100:.2f} to {interval.high * 100:.2f}"
    assert wiener["draws"] == "2"
    # Every row of the paper is there, as it stands in the paper.
    for method, values in paper.SUBSET_ACCURACY.items():
        row = named[paper.TITLES[method], "paper"]
        assert [float(row[kernel]) for kernel in reproduction.LEVIN] == list(values)
        assert float(row["mean"]) == paper.SUBSET_MEAN[method]

    three = _rows(out / "table3-thumbnails.csv")
    assert [(row["Probes"], row["Source"]) for row in three] == [
        ("blurry", "here"),
        ("blurry", "paper"),
        ("wiener", "here"),
        ("DeepDeblur", "paper"),
    ]
    assert three[3]["4"] == "95.00"
    assert three[3]["5"] == ""  # not known, not made up
    whole = read_run(out / "runs" / "table3").summary
    assert three[2]["mean"] == f"{whole.value('thumbnails', 'wiener', 'mean', 'accuracy') * 100:.2f}"
    assert three[2]["without blur"] == f"{whole.value('thumbnails', 'wiener', 'sharp', 'accuracy') * 100:.2f}"

    # LaTeX: bold where it was measured, never what is quoted.
    latex = (out / "table2-20-thumbnails.tex").read_text()
    assert all(r"\textbf" not in line for line in latex.splitlines() if "& paper &" in line)
    assert any(r"\textbf" in line for line in latex.splitlines() if "& here &" in line)

    # The same from finished runs, without computing.
    # Each table stands in the record of the command that made it last.
    assert _call(out, "--which", "3", "--limit", "20").exit_code == 0
    records = json.loads((out / "tables.json").read_text())
    assert [record["tables"] for record in records] == [["table3-thumbnails"], ["table2-20-thumbnails"]]
    assert [record["options"]["which"] for record in records] == ["3", "2,3"]

    again = toys / "again"
    folders = [
        x for run in ("table2-20-seed0", "table2-20-seed1") for x in ("--run", str(out / "runs" / run))
    ]
    result = _call(again, "--which", "2", *folders)
    assert result.exit_code == 0, result.output
    assert (again / "table2-20-thumbnails.csv").read_text() == (out / "table2-20-thumbnails.csv").read_text()
    assert not (again / "runs").exists()
    # Table 1 would be timed anew: only where it is named.
    result = _call(toys / "unnamed", *folders)
    assert "table 1" not in result.output + result.stderr
    assert "table2-20-thumbnails.csv" in {path.name for path in (toys / "unnamed").iterdir()}
    # Table 3 joins runs of the same pairs, and leaves out those of others.
    more = toys / "more"
    result = _call(more, "--which", "3", "--limit", "20", "--restorer", "richardson-lucy")
    assert result.exit_code == 0, result.output
    joined = [out / "runs" / "table3", more / "runs" / "table3", out / "runs" / "table2-20-seed1"]
    result = _call(again, "--which", "3", *(x for run in joined for x in ("--run", str(run))))
    assert result.exit_code == 0, result.output
    rows = _rows(again / "table3-thumbnails.csv")
    assert [row["Probes"] for row in rows if row["Source"] == "here"] == [
        "blurry",
        "wiener",
        "richardson-lucy",
    ]
    assert rows[:3] == three[:3]
    assert "tables: in none of them: table2-20-seed1\n" in result.stderr
    # Of other pairs a table has another name, and none of the paper's numbers on LFW.
    about = whole.about | {"protocol": "facescrub", "folds": 4}
    elsewhere = dataclasses.replace(whole, about=about)
    other = reproduction.whole_table([elsewhere], "thumbnails")
    assert other.title == "Accuracy (%) on facescrub, 20 pairs, thumbnails (table 3)"
    assert "on the other 3 folds" in other.notes[0]
    part = reproduction.subset_table([elsewhere], "thumbnails")
    assert part.title == "Accuracy (%) on 20 pairs of facescrub, thumbnails (table 2)"
    for each in (other, part):
        assert {row[1] for row in each.rows} == {"here"}
        assert "LFW" not in each.markdown()
    # A single draw needs no more than what is published of a run, which is not the scores of its pairs.
    one, published = out / "runs" / "table2-20-seed0", toys / "published"
    shutil.copytree(one, published, ignore=shutil.ignore_patterns("scores", "local.json"))
    for folder in (one, published):
        result = _call(toys / f"of-{folder.name}", "--which", "2", "--run", str(folder))
        assert result.exit_code == 0, result.output
    written = [toys / f"of-{folder.name}" / "table2-20-thumbnails.csv" for folder in (one, published)]
    assert written[0].read_text() == written[1].read_text()
    row = {(row["Method"], row["Source"]): row for row in _rows(written[1])}["wiener", "here"]
    share = pair_shares(runs[0], "thumbnails", "wiener")
    interval = statistics.bootstrap_mean(share, groups=reproduction._genuine(runs[0], "thumbnails"))
    assert row["95% interval"] == f"{interval.low * 100:.2f} to {interval.high * 100:.2f}"
    p = statistics.clustered_mcnemar(share, pair_shares(runs[0], "thumbnails", "none"))
    assert row["p"] == ("< 0.0001" if p < 1e-4 else f"{p:.2g}")

    # As if a method of grey pictures had made them.
    assert "grey" not in (toys / "of-published" / "table2-20-thumbnails.md").read_text()
    for name in ("results.csv", "results.json", "run.json"):
        text = (published / name).read_text()
        (published / name).write_text(text.replace("wiener", "levin"))
    assert _call(toys / "grey", "--which", "2", "--run", str(published)).exit_code == 0
    note = "PSNR misses the colour of grey pictures, as by their authors: Levin et al. 2011."
    assert note in (toys / "grey" / "table2-20-thumbnails.md").read_text()

    lacking = _call(again, "--which", "2,4", *folders)
    assert lacking.exit_code == 1
    assert "table 4: None of the runs is over linear:15,45." in lacking.stderr
    assert "(table 2)" in lacking.stdout  # the others are made all the same
    # Options that the runs have decided are not passed over; table 1, which no run holds, takes some.
    decided = _call(
        again, "--which", "2", *folders, "--pairs", "facescrub", "--subset", "9", "--border", "valid"
    )
    assert decided.exit_code == 2
    assert "--pairs, --subset, --border would change nothing" in decided.stderr
    decided = _call(again, "--which", "1,2", *folders, "--pairs", "facescrub", "--verifier", "dlib")
    assert "Error: --verifier would change nothing" in decided.stderr


def test_runs_of_different_conditions_are_not_joined(toys: Path) -> None:
    out = toys / "out"
    assert _call(out, "--which", "3", "--limit", "20").exit_code == 0
    first = out / "runs" / "table3"

    def changed(name: str, **options: object) -> str:
        copy = toys / name
        shutil.copytree(first, copy)
        record = json.loads((copy / "run.json").read_text())
        record["options"] |= options
        (copy / "run.json").write_text(json.dumps(record))
        return str(copy)

    noisy, other = changed("noisy", noise=0.1), changed("other", kernel_sets=["file:mine.npy"])
    joined = _call(toys / "a", "--which", "3", "--run", str(first), "--run", noisy)
    assert joined.exit_code == 1
    assert "runs of different noise" in joined.output
    # Photographs are photographs, whether asked for or taken for want of crops.
    asked = changed("asked", crops="photographs")
    assert _call(toys / "auto", "--which", "3", "--run", str(first), "--run", asked).exit_code == 0
    detected = Path(changed("detected"))
    about = json.loads((detected / "results.json").read_text())
    about["about"]["face_selection"] = "central-largest"
    (detected / "results.json").write_text(json.dumps(about))
    joined = _call(toys / "a", "--which", "3", "--run", str(first), "--run", str(detected))
    assert joined.exit_code == 1
    assert "runs of different face_selection (table3: prealigned, detected: central-largest)" in joined.output
    alone = _call(toys / "b", "--which", "3", "--run", other)  # eight kernels of those names are not Levin's
    assert alone.exit_code == 1
    assert "None of the runs is over levin8" in alone.output
    more = changed("more", kernel_sets=["levin8", "linear:15,45"])  # its means are over nine kernels
    wider = _call(toys / "c", "--which", "3", "--run", more)
    assert wider.exit_code == 1
    assert "over Levin's eight kernels alone" in wider.output
    record = json.loads((first / "run.json").read_text())
    record["fingerprints"]["pairs"] = "others"
    # Of one name in two folders: each keeps its own.
    elsewhere = toys / "elsewhere" / "table3"
    shutil.copytree(first, elsewhere)
    assert [run.name for run in read_runs([first, elsewhere, first])] == ["runs-table3", "elsewhere-table3"]
    strangers = toys / "strangers"
    shutil.copytree(first, strangers)
    (strangers / "run.json").write_text(json.dumps(record))
    # Restorers and verifiers of one name are the same in all runs, whatever code and precision they had.
    for part, name, change, said in (
        ("restorers", "wiener", {"code": "later", "options": {"precision": "bfloat16"}}, None),
        ("restorers", "wiener", {"options": {"balance": 9}}, "balance of wiener (table3: 0.003, later: 9)"),
        ("restorers", "wiener", {"inner": {"weights": "w"}}, "inner weights of wiener"),
        ("verifiers", "thumbnails", {"weights": "w"}, "weights of thumbnails (table3: none, later: w)"),
    ):
        later, record = toys / "later", json.loads((first / "run.json").read_text())
        for key, value in change.items():
            before = record["fingerprints"][part][name]
            before[key] = before[key] | value if key == "options" else value
        shutil.copytree(first, later, dirs_exist_ok=True)
        (later / "run.json").write_text(json.dumps(record))
        joined = _call(toys / "d", "--which", "3", "--run", str(first), "--run", str(later))
        assert joined.exit_code == (1 if said else 0), joined.output
        assert said is None or f"runs of different {said}" in joined.stderr
    twice = _call(toys / "d", "--which", "robustness", "--run", str(first), "--run", asked)
    assert twice.exit_code == 1
    assert "two runs under noise0-jpegnone-size1: table3 and asked" in twice.stderr
    # Pictures that could not be read count as non-matches: the table says so, and the exit status.
    about = json.loads((first / "results.json").read_text())
    about["about"]["unreadable"] = ["Person_1/a.png"]
    (Path(asked) / "results.json").write_text(json.dumps(about))
    note = "1 pictures could not be read and count as non-matches: Person_1/a.png."
    damaged = _call(toys / "e", "--which", "3,robustness", "--run", asked)
    assert damaged.exit_code == 1
    assert f"blurface: {note}" in damaged.stderr
    for name in ("table3", "robustness"):
        assert note in (toys / "e" / f"{name}-thumbnails.md").read_text()
    for which in ("5", "robustness"):
        mixed = _call(toys / which, "--which", which, "--run", str(first), "--run", str(strangers))
        assert mixed.exit_code == 1
        assert f"Table {which} cannot hold runs of different pairs" in mixed.output
        assert "Tables written" not in mixed.output


def test_linear_motion(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "LENGTHS", (5, 15))
    monkeypatch.setattr(reproduction.grid_set, "__defaults__", ((5, 15), (0, 45)))
    out = toys / "out"
    result = _call(out, "--which", "4", "--subset", "12")
    assert result.exit_code == 0, result.output
    rows = {row["Method"]: row for row in _rows(out / "table4-thumbnails.csv")}
    summary = read_run(out / "runs" / "table4").summary
    assert rows["wiener"]["PSNR (dB)"] == f"{summary.value('thumbnails', 'wiener', 'L15@45', 'psnr'):.2f}"
    assert rows["none (blurry)"]["PSNR in the paper (dB)"] == "24.95"
    assert rows["Krishnan et al. 2011"]["PSNR in the paper (dB)"] == "22.83"
    assert rows["DeepDeblur"]["PSNR in the paper (dB)"] == "27.38"
    lengths = {row["Method"]: row for row in _rows(out / "table4-lengths-accuracy-thumbnails.csv")}
    summary = read_run(out / "runs" / "table4-grid").summary
    turned = [f"L15@{angle}" for angle in (0, 45)]
    shares = [pair_shares(summary, "thumbnails", name, turned) for name in ("wiener", "none")]
    interval = statistics.bootstrap_mean(shares[0], groups=reproduction._genuine(summary, "thumbnails"))
    assert lengths["wiener: 95% interval"]["15"] == f"{interval.low * 100:.2f} to {interval.high * 100:.2f}"
    p = statistics.clustered_mcnemar(*shares)
    assert lengths["wiener: p"]["15"] == ("< 0.0001" if p < 1e-4 else f"{p:.2g}")
    assert "none (blurry): p" not in lengths
    # At the sharp pairs' threshold as well, a gain comes with its p.
    lines = summary.scores["thumbnails"]
    single = summary.value("thumbnails", "wiener", "L15@0", "mcnemar_p_fixed")
    decided = [cell(lines, name, "L15@0") for name in ("wiener", "none")]
    right = [(each["decision_fixed"] == each["genuine"]).to_numpy() for each in decided]
    assert single == pytest.approx(statistics.mcnemar(*right).p_mid)
    (made,) = json.loads((out / "tables.json").read_text())
    assert made["runs"]["table4-grid"]["pairs"]
    assert "table4-lengths-accuracy-thumbnails" in made["tables"]
    grid = {row["Method"]: row for row in _rows(out / "table4-lengths-psnr-thumbnails.csv")}
    lines = read_run(out / "runs" / "table4-grid").summary
    for length in ("5", "15"):
        values = [lines.value("thumbnails", "none", f"L{length}@{angle}", "psnr") for angle in (0, 45)]
        assert grid["none (blurry)"][length] == f"{np.mean(values):.2f}"
    assert float(grid["none (blurry)"]["5"]) > float(grid["none (blurry)"]["15"])
    # From the two finished runs, of which the grid holds the single line as well.
    runs = [
        argument for name in ("table4", "table4-grid") for argument in ("--run", str(out / "runs" / name))
    ]
    again = _call(toys / "again", "--which", "4", *runs)
    assert again.exit_code == 0, again.output
    for path in out.glob("table4*.csv"):
        assert (toys / "again" / path.name).read_text() == path.read_text()
    # A grid without the paper's line makes the lengths, and says that table 4 is not there.
    monkeypatch.setattr(paper, "LINEAR", (15, 90))
    without = _call(toys / "without", "--which", "4", *runs[2:])
    assert without.exit_code == 1
    assert "table 4: None of the runs is over linear:15,45." in without.stderr
    (record,) = json.loads((toys / "without" / "tables.json").read_text())
    assert record["tables"] == [f"table4-lengths-{metric}-thumbnails" for metric in ("psnr", "accuracy")]


def test_ablation_of_two_networks(toys: Path) -> None:
    """Two untrained networks of the paper, with and without the reduction, through the whole table."""
    import torch

    from blurface.networks import build_network

    labels = {"with 1x1 reduction": True, "alpha=0.2, no reduction": False}
    arguments = []
    for label, reduction in labels.items():
        torch.manual_seed(0)
        options = {
            "channels": 4,
            "modules": 1,
            "sizes": [1, 3],
            "reduction": reduction,
            "global_residual": True,
        }
        path = toys / f"{reduction}.safetensors"
        save_model(path, build_network("deepdeblur", **options).state_dict(), "deepdeblur", options, {})
        assert network_name(path) == "deepdeblur"
        arguments += ["--model", f"{label}={path}"]
    out = toys / "out"
    result = _call(out, "--which", "5", "--subset", "12", *arguments)
    assert result.exit_code == 0, result.output
    rows = _rows(out / "table5-thumbnails.csv")
    assert [row["Model"] for row in rows] == [*labels, "without 1x1 reduction"]
    # Heads of zeros return the input: both have the accuracy of the blurry probes, and do not differ.
    blurry = read_run(next((out / "runs").iterdir())).summary.value("thumbnails", "none", "mean", "accuracy")
    assert {row["accuracy (%)"] for row in rows[:2]} == {f"{blurry * 100:.2f}"}
    assert rows[1]["p against the first"] == "1"
    assert rows[0]["paper: PSNR (dB)"] == "25.63"
    assert rows[2]["paper: accuracy (%)"] == "88.5"


def test_times(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Maker, "whole", full)
    out = toys / "out"
    arguments = ["--rounds", "2", "--batch", "1", "--batch", "3", "--restorer", "richardson-lucy"]
    result = _call(out, "--which", "1,3", *arguments)
    # What stops a later table leaves those before it.
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert "(table 1)" in result.stdout
    assert [record["tables"] for record in json.loads((out / "tables.json").read_text())] == [["table1-time"]]
    rows = _rows(out / "table1-time.csv")
    assert [(row["Method"], row["Faces a call"]) for row in rows[:4]] == [
        ("wiener", "1"),
        ("richardson-lucy", "1"),
        ("wiener", "3"),
        ("richardson-lucy", "3"),
    ]
    assert all(float(row["median (s a face)"]) > 0 for row in rows[:4])
    assert {row["Method"]: float(row["paper (s)"]) for row in rows[4:]} == {
        paper.TITLES[name]: seconds for name, seconds in paper.SECONDS.items()
    }
    record = json.loads((out / "timing.json").read_text())
    assert [len(timing["wall"]) for timing in record["timings"]] == [2] * 4
    assert record["command"][0] == "blurface"


def test_default_has_table_5_where_there_are_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Maker, "times", lambda *_: [])
    monkeypatch.setattr(Maker, "make", lambda self, which: asked.append(which) or [])
    assert _call(tmp_path).exit_code == 0
    # Asked for without models, it is refused before the hours of table 2.
    none = _call(tmp_path, "--which", "2,5")
    assert none.exit_code == 2
    assert "--model LABEL=PATH" in none.stderr
    assert asked == ["2", "3", "4"]
    (tmp_path / "weights").touch()
    assert _call(tmp_path, "--model", f"a={tmp_path / 'weights'}").exit_code == 0
    assert asked[3:] == ["2", "3", "4", "5"]


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments, said in (
        (["--which", "6"], "--which 6 is unknown"),
        (["--which", ","], "names nothing"),
        (["--which", "2", "--subset", "3"], "x>=4"),
        (["--model", "x"], "not LABEL=PATH"),
        (["--model", f"x={tmp_path}/none"], "does not exist"),
        (["--restorer", "wienner"], "wienner"),
    ):
        result = CliRunner().invoke(main, ["tables", "--out", str(tmp_path / "out"), *arguments])
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.output


def test_parsing(tmp_path: Path) -> None:
    assert parse_which("3, 1,3", ("1", "2", "3")) == ["1", "3"]
    weights = tmp_path / "a=b.safetensors"
    plain = tmp_path / "a.safetensors"
    for path in (weights, plain):
        path.write_bytes(b"x")
    assert parse_models([f"alpha/beta = 0.2={plain}"]) == {"alpha/beta = 0.2": plain}
    with pytest.raises(click.UsageError, match="twice"):
        parse_models([f"a={plain}", f"a={plain}"])
    with pytest.raises(WeightsError, match="no safetensors"):
        network_name(plain)
    chosen, missing = choose_restorers((), {}, ("wiener", "nothing"))
    assert [choice.name for choice in chosen] == ["none", "wiener"]
    assert missing[0].startswith("nothing (")


def test_linear_names_go_both_ways() -> None:
    assert reproduction.linear_place(reproduction.linear_name(15, 45)) == (15, 45)
    assert reproduction.linear_place("set/L7.5@-30") == (7.5, -30)
    assert reproduction.linear_place("1") is None
    assert reproduction.linear_place("L@x") is None
    made = kernel_sets.create(reproduction.grid_set((5, 9), (0, 45)))
    assert [reproduction.linear_place(kernel.name) for kernel in made.kernels] == [
        (5, 0),
        (5, 45),
        (9, 0),
        (9, 45),
    ]


def test_no_table_has_an_empty_title() -> None:
    table = reproduction.time_table([], {}, "about")
    assert isinstance(table, Table)
    assert [row[-1] for row in table.rows] == [f"{seconds:g}" for seconds in paper.SECONDS.values()]
