from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from report_support import register_toys, toy_experiment, toy_run
from runner_support import draw_crops

from blurface.cli import main
from blurface.kernels import Kernel, KernelSet, kernel_sets
from protocols import figures
from protocols.analysis import blur_extents, error_against_reject
from protocols.datasets import protocols
from protocols.run_folder import Run, cell
from protocols.runner import CONTROL


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("figures")
        patch.setenv("BLURFACE_CACHE", str(root / "cache"))
        register_toys(patch)
        return toy_run(root)


def _pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figures.render(figure, "png"))).convert("RGB"))


def _points(figure: Figure, label: str) -> np.ndarray:
    """(N, 2) x and y of the markers of an error-bar series."""
    for container in figure.axes[0].containers:
        if container.get_label() == label:
            return np.column_stack(container.lines[0].get_data())
    raise AssertionError(label)


def test_dots_and_bars_are_the_rows(run: Run) -> None:
    figure = figures.metric_per_kernel(run.summary, "thumbnails", "accuracy", title="t", unit="%", scale=100)
    kernels = [*run.summary.kernels, "mean"]
    for name in run.summary.restorers:
        rows = [run.summary.row("thumbnails", name, kernel, "accuracy") for kernel in kernels]
        np.testing.assert_allclose(
            _points(figure, figures.label(name))[:, 1], [r.value * 100 for r in rows if r]
        )
        bars = next(c for c in figure.axes[0].containers if c.get_label() == figures.label(name)).lines[2][0]
        for row, (low, high) in zip(rows, (s[:, 1] for s in bars.get_segments()), strict=True):
            assert row is not None
            assert low == pytest.approx(row.ci_low * 100)
            assert high == pytest.approx(row.ci_high * 100)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == kernels


def test_roc_starts_and_ends_where_a_roc_does(run: Run) -> None:
    figure = figures.roc_curves(run.summary, "thumbnails")
    assert len(figure.axes) == len(run.summary.kernels)
    for axis in figure.axes:
        names = [line.get_label() for line in axis.lines]
        assert names == ["blurry", "wiener", "sharp"]
        for line in axis.lines:
            x, y = line.get_data()
            assert y[0] == 0
            assert (x[-1], y[-1]) == (1, 100)
            assert (np.diff(y) >= 0).all()


def test_det_is_on_normal_deviate_axes(run: Run) -> None:
    axis = figures.det_curves(run.summary, "thumbnails").axes[0]
    places = dict(zip((t.get_text() for t in axis.get_xticklabels()), axis.get_xticks(), strict=True))
    assert places["50"] == pytest.approx(0, abs=1e-12)
    assert places["20"] == pytest.approx(-0.8416, abs=1e-4)
    assert places["80"] == pytest.approx(0.8416, abs=1e-4)


def test_shift_shows_every_pair_that_has_scores(run: Run) -> None:
    axis = figures.score_shift(run.summary, "thumbnails").axes[0]
    drawn = sum(len(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "None")
    assert drawn == run.summary.about["pairs"] * len(run.summary.kernels)
    before = cell(run.summary.scores["thumbnails"], CONTROL, run.summary.kernels[0])["score_fixed"]
    every = np.concatenate([np.asarray(line.get_xdata(), float) for line in axis.lines])
    assert np.isin(before.to_numpy(), every).all()


def test_accuracy_against_blur_is_in_the_order_of_the_spread(run: Run) -> None:
    kernels = [Kernel("line", np.eye(15)), Kernel("box", np.ones((9, 9)))]
    figure = figures.accuracy_against_blur(run.summary, "thumbnails", blur_extents(kernels))
    x = np.asarray(figure.axes[0].lines[0].get_xdata(), float)
    assert (np.diff(x) > 0).all()


def _apart(axis: Axes) -> bool:
    """Whether no two names of an axis' ticks lie on one another, and all lie in the figure."""
    boxes = [text.get_window_extent() for text in axis.get_xticklabels()]
    page = axis.figure.bbox
    inside = all(box.y0 >= 0 and box.x0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes)
    return inside and all(a.x1 <= b.x0 for a, b in itertools.pairwise(sorted(boxes, key=lambda b: b.x0)))


def test_names_of_many_kernels_do_not_overlap(run: Run) -> None:
    """The grid of lengths and angles has 32 kernels, of which eight to each of four lengths."""
    names = [f"L{length}@{angle}" for length in (5, 10, 15, 20) for angle in range(0, 180, 23)]
    rows = [row for row in run.summary.rows if row.kernel == "line"]
    many = [dataclasses.replace(row, kernel=name) for name in names for row in rows]
    others = [row for row in run.summary.rows if row.kernel in ("sharp", "mean")]
    summary = dataclasses.replace(run.summary, rows=[*many, *others], kernels=names)
    figure = figures.metric_per_kernel(summary, "thumbnails", "accuracy", title="t", unit="%", scale=100)
    figure.draw_without_rendering()
    assert _apart(figure.axes[0])
    extents = {name: float(name[1:].split("@")[0]) + 0.1 * i % 1 for i, name in enumerate(names)}
    figure = figures.accuracy_against_blur(summary, "thumbnails", extents)
    figure.draw_without_rendering()
    (top,) = figure.axes[0].child_axes
    assert _apart(top)
    # Few names are written the way they are read.
    few = figures.metric_per_kernel(run.summary, "thumbnails", "accuracy", title="t", unit="%", scale=100)
    assert {text.get_rotation() for text in few.axes[0].get_xticklabels()} == {0}


def test_reject_curve_starts_at_the_error_of_all() -> None:
    rng = np.random.default_rng(0)
    blur = rng.uniform(0, 9, 200)
    curve = error_against_reject(rng.uniform(size=200) < blur / 12, blur)
    figure = figures.reject_curves({"none": curve}, "a note that is long " * 12)
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_ydata())[0] == pytest.approx(curve.area_random * 100)
    assert np.asarray(line.get_xdata()).max() <= 90
    # The small print is broken so that it stays on the page.
    picture = _pixels(figure)
    assert (picture[:, :3] == 255).all()
    assert (picture[:, -3:] == 255).all()


def test_value_grid_writes_numbers_that_can_be_read() -> None:
    figure = figures.value_grid(
        [[90.0, 50.0], [np.nan, 70.0]], ["a", "b"], ["c", "d"], x="x", y="y", title="t"
    )
    texts = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert texts == {"90.0": "black", "50.0": "white", "70.0": "white"}


def test_face_grid_shows_the_pixels_that_it_is_given() -> None:
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, (28, 24, 3), np.uint8) for _ in range(3)]
    figure = figures.face_grid(
        [[faces[0], faces[1]], [faces[2], None]], ["a", "b"], ["r", "s"], [np.eye(3)] * 2
    )
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    np.testing.assert_array_equal(shown[2], faces[0])
    np.testing.assert_array_equal(shown[4], faces[2])
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 1, 0]


def test_restorers_differ_without_colour() -> None:
    """Marker and dash alone tell up to eight methods apart; in grey print colours do not."""
    names = ["none", *"abcdefgh"]
    looks = [figures.look(name, names) for name in names]
    assert len({look["marker"] for look in looks}) == len(names)
    assert len({look["color"] for look in looks}) == len(names)


def test_same_figure_same_bytes_whatever_the_users_style(run: Run, tmp_path: Path) -> None:
    import matplotlib as mpl

    def draw() -> tuple[bytes, bytes]:
        figure = figures.metric_per_kernel(run.summary, "thumbnails", "psnr", title="t", unit="dB")
        return figures.render(figure, "png"), figures.render(figure, "svg")

    first = draw()
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9}):
        assert draw() == first
    assert b"<dc:date>" not in first[1]
    paths = figures.save(
        figures.metric_per_kernel(run.summary, "thumbnails", "psnr", title="t", unit="dB"), tmp_path, "x"
    )
    assert [path.name for path in paths] == ["x.png", "x.svg"]
    assert paths[0].read_bytes() == first[0]


def _two_lines(data_root: Path | None = None) -> KernelSet:
    kernels = (Kernel("4", np.eye(15)), Kernel("5", np.ones((9, 9))))
    return KernelSet("levin8", kernels, "toy")


def _text_of(figure: Path) -> str:
    """What an SVG file says in words."""
    return re.sub(r"<[^>]+>", "", figure.read_text())


def test_command_draws_what_it_can(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_toys(monkeypatch)
    monkeypatch.setenv("BLURFACE_CACHE", str(run.folder.parent / "cache"))
    monkeypatch.setattr(kernel_sets, "_entries", dict(kernel_sets._entries))
    monkeypatch.setattr(protocols, "_entries", dict(protocols._entries))
    kernel_sets.register("levin8", _two_lines)
    crops = draw_crops(tmp_path / "crops", people=8)
    from protocols.datasets import create_protocol

    protocols.register("lfw", lambda crops_="auto", **_: create_protocol(f"folder-aligned:{crops}"))
    out = tmp_path / "figures"
    arguments = ["figures", str(run.folder), "--out", str(out), "--restorer", "wiener", "--faces", "1", "-q"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()}
    for name in ("02-kernels", "04-responses", "05-compared", "06-kernels", "10-lfw"):
        assert {f"figure-{name}.png", f"figure-{name}.svg"} <= names
    for name in ("roc", "det", "score-shift", "accuracy", "accuracy-fixed", "accuracy-blur"):
        assert f"{name}-thumbnails.svg" in names
    assert "figures: 9 cannot be drawn: No trained models are named." in result.stderr
    assert "figures: 8 cannot be drawn" in result.stderr
    assert "figures: reject cannot be drawn" in result.stderr
    # A figure says whose weights it shows, and where they are random.
    responses = out / "figure-04-responses.svg"
    assert "packaged weights" in _text_of(responses)
    with monkeypatch.context() as without:
        without.setattr("blurface.weights.list_models", list)
        CliRunner().invoke(main, [*arguments, "--which", "4"], catch_exceptions=False)
    assert "NOT TRAINED" in _text_of(responses)
    asked = CliRunner().invoke(main, [*arguments, "--which", "2,8"])
    assert asked.exit_code == 1
    # What one run has not, the others may have.
    bare = tmp_path / "bare"
    shutil.copytree(run.folder, bare, ignore=shutil.ignore_patterns("scores"))
    both = CliRunner().invoke(main, [*arguments[:1], str(bare), *arguments[1:], "--which", "roc"])
    assert both.exit_code == 0, both.output
    assert "figures: roc of bare, thumbnails, cannot be drawn: The scores of the pairs" in both.stderr
    assert (out / "roc-thumbnails-run.svg").exists()
    wrong = CliRunner().invoke(main, [*arguments, "--which", "12"])
    assert wrong.exit_code == 2
    assert "12 is unknown" in wrong.stderr


def test_figures_show_the_face_of_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LFW; the note of the figure names the photograph."""
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_sets, "_entries", dict(kernel_sets._entries))
    kernel_sets.register("levin8", _two_lines)
    out = tmp_path / "figures"
    arguments = ["figures", "--which", "5,10", "--restorer", "wiener", "--photograph", "astronaut"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out), "-q"])
    assert result.exit_code == 0, result.output
    drawn = _text_of(out / "figure-05-compared.svg")
    assert "astronaut" in drawn
    assert (out / "figure-10-astronaut.png").exists()
    missing = CliRunner().invoke(main, [*arguments[:-1], str(tmp_path / "no.png"), "--out", str(out)])
    assert missing.exit_code == 2
    assert "no.png" in missing.stderr


def test_robustness_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two conditions of each kind, run and drawn; the grid holds their accuracies."""
    register_toys(monkeypatch)
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    from protocols.robustness import Condition, conditions, grid_of, robustness_table

    base = toy_experiment(tmp_path, subset=20)
    chosen = conditions(noises=(0.0, 0.2), jpegs=(None, 5), sizes=(1.0, 0.2))
    assert len(chosen) == 5
    measured = []
    for condition in chosen:
        experiment = condition.of(base)
        measured.append((condition, experiment.run(tmp_path / "runs" / condition.name)))
        assert Condition.from_options(experiment.options()) == condition
    values, noises, jpegs = grid_of(measured, "thumbnails", "none")
    assert (noises, jpegs) == ([0.0, 0.2], [None, 5])
    assert values[1, 0] == measured[2][1].value("thumbnails", "none", "mean", "accuracy")
    table = robustness_table(measured, "thumbnails")
    assert len(table.rows) == 2 * len(chosen)
    psnr = {(row[0], row[1], row[2]): row[-1] for row in table.rows if row[3] == "none (blurry)"}
    assert psnr[0.2, "none", 1.0] < psnr[0.0, "none", 1.0]
    assert psnr[0.0, "5", 1.0] < psnr[0.0, "none", 1.0]
    folders = [str(tmp_path / "runs" / condition.name) for condition in chosen]

    def draw(name: str, *folders: str) -> tuple[Result, set[str]]:
        out = tmp_path / name
        arguments = ["figures", *folders, "--which", "robustness", "--out", str(out)]
        return CliRunner().invoke(main, arguments), {path.stem for path in out.iterdir()}

    result, names = draw("out", *folders)
    assert result.exit_code == 0, result.output
    assert names == {
        "robustness-none-thumbnails",
        "robustness-wiener-thumbnails",
        "robustness-size-thumbnails",
    }
    # The table of the same runs.
    named = [argument for folder in folders for argument in ("--run", folder)]
    made = CliRunner().invoke(
        main, ["tables", "--which", "robustness", *named, "--out", str(tmp_path / "table")]
    )
    assert made.exit_code == 0, made.output
    assert (tmp_path / "table" / "robustness-thumbnails.md").read_text() == table.markdown()
    sharp, smaller = Path(folders[0]), Path(folders[-1])
    # The same condition again, other kernels, another draw of smaller probes.
    for name, file, old, new, said in (
        ("again", "run.json", "x", "x", "two runs under noise0-jpegnone-size1"),
        ("other", "run.json", '"kernels": "', '"kernels": "x', "of different kernels"),
        ("drawn", "results.json", '"seed": 0', '"seed": 1', "of different pairs"),
    ):
        copy = shutil.copytree(smaller if name == "drawn" else sharp, tmp_path / name)
        (copy / file).write_text((copy / file).read_text().replace(old, new))
        result, names = draw("refused", *folders[:4], str(copy))
        assert (result.exit_code, names) == (1, set())
        assert said in result.stderr
    # Neither a grid nor a line.
    result, names = draw("refused", folders[2], folders[-1])
    assert (result.exit_code, names) == (1, set())
    # A restorer that one run lacks, by a name that is a path.
    for folder in (sharp, Path(folders[1]), smaller):
        found = json.loads((folder / "results.json").read_text())
        rows = found["results"]
        if folder == smaller:
            rows = [row for row in rows if row["restorer"] == CONTROL]
        found["results"] = [
            row | ({} if row["restorer"] == CONTROL else {"restorer": "exported:a/b.onnx"}) for row in rows
        ]
        (folder / "results.json").write_text(json.dumps(found))
    result, names = draw("lacking", str(sharp), folders[1], str(smaller))
    assert result.exit_code == 0, result.output
    assert names == {
        "robustness-none-thumbnails",
        "robustness-exported-a-b.onnx-thumbnails",
        "robustness-size-thumbnails",
    }
