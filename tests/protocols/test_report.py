from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from report_support import HOSTILE, register_toys, toy_run

from blurface import assets
from blurface.cli import main
from protocols import figures
from protocols.pictures import PicturesUnavailable, check_restorer, pictures_of_run
from protocols.report import make_page, write_report
from protocols.report.markup import data_table, escape, join, tag, vector
from protocols.run_folder import Run, read_run
from protocols.tables import Column, Table


class Reader(html.parser.HTMLParser):
    """Elements, attributes and text as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("report")
        patch.setenv("BLURFACE_CACHE", str(root / "cache"))
        register_toys(patch)
        return toy_run(root)


@pytest.fixture(scope="module")
def page(run: Run) -> Reader:
    return Reader(make_page(run, cache=run.folder.parent / "cache"))


@pytest.fixture(scope="module")
def bare(run: Run) -> str:
    """The page without faces."""
    return make_page(run, images=False)


def test_the_page_loads_nothing(page: Reader) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (name, value)
    assert not page.all("link")
    assert not page.all("iframe")
    style = " ".join(page.text)
    assert "@import" not in style
    assert not re.search(r"url\((?!#|&)", style)


def test_a_hostile_name_stays_text(page: Reader) -> None:
    name = HOSTILE.replace('"', "")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all(attributes.get("src") != "x" for attributes in page.all("img"))
    said = [a.get("alt") or "" for a in page.all("img")]
    assert any(name in text for text in said)  # it is there, as text
    assert len(page.all("script")) == 1


def test_the_policy_allows_this_script_alone(bare: str) -> None:
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", bare, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', bare)
    assert script is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in policy[1]
    assert "default-src &#x27;none&#x27;" in policy[1]


def test_what_the_page_says_is_what_was_measured(run: Run, page: Reader) -> None:
    text = " ".join(page.text)
    for name in ("none", "wiener"):
        accuracy = run.summary.value("thumbnails", name, "mean", "accuracy")
        assert f"{accuracy * 100:.2f}%" in text
    command = " ".join(str(part) for part in run.record["command"])
    assert command.split()[0] in text
    assert run.record["fingerprints"]["pairs"] in text
    assert run.record["versions"]["torch"] in text


def test_roles_for_keyboard_and_screen_reader(page: Reader) -> None:
    heads = [a for a in page.all("th") if a.get("scope") == "col"]
    assert heads
    assert all(a.get("aria-sort") == "none" for a in heads)
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("input") if a.get("type") == "range")
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    regions = [a for _, a in page.tags if a.get("role") == "region"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("aria-labelledby") for a in regions)
    identifiers = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(identifiers) == len(set(identifiers))
    targets = {a["href"] for a in page.all("a")}
    assert {str(t).removeprefix("#") for t in targets} <= set(identifiers)
    # What a figure refers to is in the page.
    used = re.findall(r"url\(#([^)]+)\)", " ".join(str(v) for _, a in page.tags for v in a.values()))
    assert set(used) <= set(identifiers)


def test_pictures_are_those_that_were_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding of a picture made again is the one behind the score."""
    from report_support import Thumbnails

    probe = run.summary.scores["thumbnails"]["probe"].iloc[5]
    pictures = pictures_of_run(run, [probe], verifier="thumbnails", cache=run.folder.parent / "cache")
    sharp = pictures.sharp(probe).astype(float)
    assert pictures.blurry(probe, "sharp").tobytes() == pictures.sharp(probe).tobytes()
    lines = run.summary.scores["thumbnails"]
    import torch

    from protocols.datasets import create_protocol
    from protocols.runner import SHARP
    from verification import scoring

    protocol = create_protocol(run.record["options"]["pairs"])
    line = next(p for p in protocol.pairs if p.probe == probe)
    embedder = Thumbnails()

    def embed(picture: np.ndarray) -> np.ndarray:
        return embedder.embed(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)

    pair_pictures = pictures_of_run(
        run, [line.reference, probe], verifier="thumbnails", cache=run.folder.parent / "cache"
    )
    # With the mean embedding of the other folds subtracted, as in the run.
    whole = pictures_of_run(
        run, protocol.pairs.images, verifier="thumbnails", cache=run.folder.parent / "cache"
    )
    number = list(protocol.pairs).index(line)
    for kernel, restorer in ((SHARP, "none"), ("line", "none"), ("box", "wiener")):
        others = [p for p in protocol.pairs if p.fold != line.fold]
        made = [whole.restored(p.probe, kernel, restorer) for p in others]
        rows = [embed(whole.sharp(p.reference)) for p in others] + [embed(picture) for picture in made]
        mean = np.concatenate(rows).astype(np.float64).mean(0)
        score = scoring.cosine_scores(
            embed(pair_pictures.sharp(line.reference)),
            embed(pair_pictures.restored(probe, kernel, restorer)),
            mean,
        )
        chosen = lines[(lines.pair == number) & (lines.kernel == kernel) & (lines.restorer == restorer)]
        assert score[0] == pytest.approx(chosen["score"].item(), abs=1e-5)
    assert np.abs(pictures.blurry(probe, "line").astype(float) - sharp).mean() > 1


def test_no_faces_when_asked(bare: str) -> None:
    without = Reader(bare)
    assert not without.all("img")
    assert "asked to hold no faces" in " ".join(without.text)


def test_without_the_data_the_page_says_so(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    import shutil

    shutil.copytree(run.folder, folder)
    record = (folder / "run.json").read_text()
    (folder / "run.json").write_text(record.replace("/crops", "/elsewhere"))
    text = " ".join(Reader(make_page(read_run(folder))).text)
    assert "No pictures: The data of the run cannot be read" in text
    (folder / "run.json").write_text(record.replace(run.record["fingerprints"]["protocol"], "0" * 64))
    with pytest.raises(PicturesUnavailable, match="not those of the run"):
        pictures_of_run(read_run(folder), ["x"], verifier="thumbnails")


def test_without_scores_the_page_has_its_tables(run: Run, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "kept"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("scores"))
    reader = Reader(make_page(read_run(folder)))
    assert " ".join(reader.text).count("scores of the pairs were not kept") == 2
    assert len(reader.all("table")) == 5
    assert not reader.all("img")


def test_a_restorer_that_changed_is_not_shown(run: Run, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(run.folder, folder)
    record = (folder / "run.json").read_text()
    (folder / "run.json").write_text(record.replace('"balance": 0.003', '"balance": 0.5'))
    changed = read_run(folder)
    cache = run.folder.parent / "cache"
    probe = run.summary.scores["thumbnails"]["probe"].iloc[0]
    pictures = pictures_of_run(changed, [probe], verifier="thumbnails", cache=cache)
    with pytest.raises(PicturesUnavailable, match="options"):
        check_restorer(changed, pictures, "wiener")
    text = " ".join(Reader(make_page(changed, cache=cache)).text)
    assert "No pictures of wiener" in text


def test_the_page_is_the_same_every_time(run: Run, bare: str) -> None:
    assert make_page(run, images=False) == bare


def test_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(run.folder.parent / "cache"))
    register_toys(monkeypatch)
    result = CliRunner().invoke(main, ["report", str(run.folder), "--pairs-shown", "1", "-q"])
    assert result.exit_code == 0, result.output
    path = Path(result.output.strip().splitlines()[-1])
    assert path == run.folder / "report.html"
    assert len(Reader(path.read_text()).all("input")) >= 2
    assert not list(run.folder.glob(".*"))
    nothing = CliRunner().invoke(main, ["report", str(run.folder.parent)])
    assert nothing.exit_code == 1
    assert "results.json" in nothing.output
    assert assets.cache_folder() == run.folder.parent / "cache"


def test_markup_escapes() -> None:
    assert tag("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
    assert join("a&", [tag("i", "b"), None, ["<"]]) == "a&amp;<i>b</i>&lt;"
    assert tag("input", disabled=True, checked=False, value=None) == "<input disabled>"
    assert escape("a\x00\x1bb\n") == "a\ufffd\ufffdb\n"


def test_table_cells_carry_their_values() -> None:
    table = Table("t", "<title>", [Column("name"), Column("value", 1, 100, "high")])
    table.add("a", 0.5)
    table.add("b", None)
    table.add("c", 0.75)
    reader = Reader(data_table(table, "t"))
    cells = reader.all("td")
    assert [cell.get("data-value") for cell in cells] == ["0.5", None, "0.75"]
    assert "75.0" in reader.text
    assert len(reader.all("strong")) == 1


def test_vector_follows_the_page(run: Run) -> None:
    svg = vector(figures.roc_curves(run.summary, "thumbnails"), "f-1", "<ROC>")
    assert 'aria-label="&lt;ROC&gt;"' in svg
    assert "var(--ink)" in svg
    assert "var(--c0)" in svg
    assert figures.INK not in svg
    assert all(name.startswith("f-1-") for name in re.findall(r'\bid="([^"]+)"', svg))


def test_write_is_atomic(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(run, images=False)
    before = path.read_text()

    def fail(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(run, images=False)
    assert path.read_text() == before
    assert not list(run.folder.glob(".report*"))
