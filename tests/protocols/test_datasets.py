"""Protocols: pair lists in LFW's format, layouts on disk, drawn pairs."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blurface.errors import BlurfaceError, DataError, ImageError, InputError, PairsError, UnknownNameError
from protocols.datasets import Gallery, Pair, PairList, create_protocol, list_protocols
from protocols.datasets.base import carriable, distinct
from protocols.datasets.facescrub import check_list, read_list
from protocols.datasets.lfw import lfw_people
from protocols.datasets.pairs import (
    _unrank,
    format_pairs,
    generate_pairs,
    parse_pairs,
    read_pairs,
    resolve,
    write_pairs,
)

TWO_FOLDS = (
    "2\t2\n"
    "Ann_Lee\t1\t2\nBob_Ray\t1\t3\nAnn_Lee\t1\tBob_Ray\t2\nBob_Ray\t1\tCy\t1\n"
    "Ann_Lee\t2\t3\nBob_Ray\t2\t3\nAnn_Lee\t3\tBob_Ray\t1\nCy\t1\tAnn_Lee\t2\n"
)


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, 7, 9)).save(path, quality=95)


@pytest.fixture
def lfw_folder(tmp_path: Path) -> Path:
    """A tiny LFW: three people, three pictures each but for one with one."""
    for person, count in (("Ann_Lee", 3), ("Bob_Ray", 3), ("Cy", 1)):
        for number in range(1, count + 1):
            picture(tmp_path / f"lfw/lfw-deepfunneled/{person}/{person}_{number:04d}.jpg", 40 * number)
    (tmp_path / "lfw/pairs.txt").write_text(TWO_FOLDS)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_data_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))


# -------------------------------------------------------------------------------- pair lists


def test_the_reference_is_the_first_and_the_probe_the_second(lfw_folder: Path) -> None:
    protocol = create_protocol("lfw", lfw_folder)
    pairs = protocol.pairs.pairs
    assert pairs[2] == Pair("Ann_Lee/Ann_Lee_0001", "Bob_Ray/Bob_Ray_0002", genuine=False, fold=0)
    assert [(p.genuine, p.fold) for p in pairs] == [
        (True, 0), (True, 0), (False, 0), (False, 0), (True, 1), (True, 1), (False, 1), (False, 1)
    ]  # fmt: skip
    assert protocol.pairs.folds == 2
    assert len(protocol.pairs.images) == 7
    assert list(protocol.pairs.images) == sorted(protocol.pairs.images)
    assert set(protocol.pairs.probes) | set(protocol.pairs.references) == set(protocol.pairs.images)
    assert not protocol.prealigned


@pytest.mark.parametrize(
    "text",
    [
        TWO_FOLDS.replace("\n", "\r\n"),
        TWO_FOLDS.replace("\t", "  "),
        "\ufeff" + TWO_FOLDS,
        "# drawn with seed 3\n" + TWO_FOLDS.replace("\n", "\n\n"),
        TWO_FOLDS.replace("\t", " \t ").rstrip("\n"),
        TWO_FOLDS.replace("\n", "\t\n"),
    ],
    ids=["CRLF", "spaces", "BOM", "remark and empty lines", "padded", "trailing tabs"],
)
def test_harmless_differences_in_a_pair_list(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(text.encode())
    lines, folds = read_pairs(path)
    expected, _ = parse_pairs(TWO_FOLDS, "x")
    assert folds == 2
    assert [(x.first, x.second, x.fold) for x in lines] == [(x.first, x.second, x.fold) for x in expected]


def test_a_header_of_one_number_means_one_fold() -> None:
    lines, folds = parse_pairs("1\nA\t1\t2\nA\t1\tB\t1\n", "dev")
    assert folds == 1
    assert [x.genuine for x in lines] == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("A\t1\t2\n", "line 1: .*no header.*10<TAB>300"),
        ("0\t2\nA\t1\t2\n", "line 1: .*no header"),
        ("1\t1\nA\t1\nA\t1\tB\t1\n", "line 2: 2 fields"),
        ("1\t1\nA\t1\t2\tB\t1\n", "line 2: 5 fields"),
        ("1\t2\nA\t1\t2\nA\t1\tB\t1\nA\t2\tB\t1\nA\t3\tB\t1\n", "line 3: a genuine .* number 2 of fold 1"),
        ("1\t1\nA\t1\t2\nA\t1\t3\n", "line 3: an impostor pair .* number 2 of fold 1"),
        ("2\t1\nA\t1\t2\nA\t1\tB\t1\n", "line 3: 2 pairs, but the header promises 2 x 2 x 1 = 4"),
        ("1\t1\nA\t1\t2\nA\t1\tB\t1\nC\t1\t2\n", "line 4: 3 pairs, but the header promises"),
        ("1\t2\nA\t1\t2\nA\t2\t1\nA\t1\tB\t1\nA\t1\tB\t2\n", "line 3: the pair of line 2 again"),
        ("1\t1\nA\t1\t1\nA\t1\tB\t1\n", "line 2: an image is paired with itself"),
        ("1\t1\nA\t1\t2\nA\t1\tA\t2\n", "line 3: an impostor pair names A twice"),
        ("1\t1\nA\t0\t2\nA\t1\tB\t1\n", "line 2: image 0"),
        ("1\t1\n../A\t1\t2\nA\t1\tB\t1\n", "line 2: '../A' is no name"),
        ("1\t1\nA\t1\t../../x\nA\t1\tB\t1\n", "line 2: '../../x' is no name"),
        ("1\t1\n/etc\t1\t2\nA\t1\tB\t1\n", "line 2: '/etc' is no name"),
        ("1\t1\nA\\B\t1\t2\nA\t1\tB\t1\n", "is no name"),
        ("1\t1\nA\x00\t1\t2\nA\t1\tB\t1\n", "is no name"),
        ("1\t1\n.\t1\t2\nA\t1\tB\t1\n", "line 2: '.' is no name"),
        ("1\t1\nA\t\t2\nA\t1\tB\t1\n", "line 2: '' is no name"),
    ],
)  # fmt: skip
def test_a_broken_pair_list_names_the_line_and_the_mend(text: str, message: str) -> None:
    with pytest.raises(PairsError, match=message) as caught:
        parse_pairs(text, "pairs.txt")
    assert "pairs.txt" in caught.value.message
    assert caught.value.hint


def test_a_pair_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"10\t300\n\xff\xfe\n")
    with pytest.raises(PairsError, match="UTF-8"):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(PairsError, match="cannot be read"):
        read_pairs(tmp_path)


@given(st.text(alphabet=st.sampled_from("123A_.\t \n\r/#é"), max_size=80))
def test_the_parser_reads_a_list_or_raises_its_own_error(text: str) -> None:
    try:
        lines, folds = parse_pairs(text, "pairs.txt")
    except PairsError:
        return
    again, _ = parse_pairs(format_pairs(lines, folds), "again")
    assert [(x.first, x.second) for x in again] == [(x.first, x.second) for x in lines]


@given(st.text(max_size=12))
def test_names_that_a_list_carries_are_single_path_components(name: str) -> None:
    if carriable(name):
        assert Path(name).name == name
        assert (Path("/root") / name).parent == Path("/root")
        assert len(name.splitlines()) == 1
        assert "\t" not in name


# ---------------------------------------------------------------------------------- subsets


def listing(folds: int, size: int) -> PairList:
    pairs = []
    for fold in range(folds):
        for kind in (True, False):
            pairs += [Pair(f"{fold}{kind}{i}a", f"{fold}{kind}{i}b", kind, fold) for i in range(size)]
    return PairList("test", tuple(pairs), folds)


@given(st.integers(2, 400), st.integers(0, 5))
@settings(deadline=None)
def test_a_subset_is_balanced_spread_and_in_order(n: int, seed: int) -> None:
    whole = listing(10, 20)
    part = whole.subset(n, seed)
    assert len(part) == n
    assert len(set(part.pairs)) == n
    assert sum(p.genuine for p in part) == n - n // 2
    folds = Counter(p.fold for p in part)
    assert set(folds) == set(range(part.folds))
    assert part.folds == min(10, n // 2)
    assert max(folds.values()) - min(folds.values()) <= 1
    assert {p.fold for p in part if p.genuine} == {p.fold for p in part if not p.genuine} == set(folds)
    index = {p.reference: i for i, p in enumerate(whole)}
    assert all(index[a.reference] < index[b.reference] for a, b in pairwise(part))
    assert part == whole.subset(n, seed)


def test_a_subset_is_the_same_for_ever() -> None:
    chosen = [p.reference for p in listing(3, 4).subset(8, seed=5)]
    assert chosen == [
        "0True3a",
        "0False3a",
        "1True0a",
        "1True3a",
        "1False0a",
        "2True3a",
        "2False0a",
        "2False2a",
    ]


def test_fifty_pairs_of_lfw_have_five_in_each_fold() -> None:
    part = listing(10, 300).subset(50, 0)
    kinds = Counter((p.fold, p.genuine) for p in part)
    assert set(kinds.values()) == {2, 3}
    assert set(Counter(p.fold for p in part).values()) == {5}
    assert part.pairs != listing(10, 300).subset(50, 1).pairs


@pytest.mark.parametrize(("n", "message"), [(1, "balanced"), (0, "balanced"), (26, "12 genuine")])
def test_subsets_that_cannot_be(n: int, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        listing(3, 4).subset(n)


def test_a_subset_of_uneven_folds() -> None:
    pairs = [Pair("a", "b", True, 0)] + [Pair(f"x{i}", "y", True, 1) for i in range(5)]
    pairs += [Pair(f"i{i}", "j", False, 0) for i in range(5)] + [Pair("k", "l", False, 1)]
    part = PairList("uneven", tuple(pairs), 2).subset(12, 0)
    assert len(part) == 12


def test_lists_that_are_no_lists() -> None:
    with pytest.raises(PairsError, match="empty"):
        PairList("none", (), 1)
    with pytest.raises(PairsError, match="outside its 1 folds"):
        PairList("none", (Pair("a", "b", True, 1),), 1)


def test_fingerprints_follow_pairs_and_content(lfw_folder: Path) -> None:
    protocol = create_protocol("lfw", lfw_folder)
    again = create_protocol("lfw", lfw_folder)
    assert protocol.fingerprint() == again.fingerprint()
    assert protocol.subset(4).fingerprint() != protocol.fingerprint()
    assert protocol.subset(4).subset(4).path("Cy/Cy_0001") == protocol.path("Cy/Cy_0001")
    path = protocol.path("Ann_Lee/Ann_Lee_0001")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # the same size
    path.write_bytes(content)
    assert create_protocol("lfw", lfw_folder).fingerprint() != protocol.fingerprint()
    renamed = PairList("other", protocol.pairs.pairs, protocol.pairs.folds)
    assert renamed.fingerprint() == protocol.pairs.fingerprint()
    path.unlink()
    with pytest.raises(DataError, match=r"Ann_Lee_0001\.jpg.*data check lfw$"):
        again.subset(8, 1).fingerprint()


def test_a_folder_is_no_data_set_to_check(tmp_path: Path) -> None:
    protocol = create_protocol(f"folder:{people(tmp_path / 'faces', {'A': 2, 'B': 2})}")
    protocol.path(protocol.pairs.images[0]).unlink()
    with pytest.raises(DataError, match=r"cannot be read: .* Check the file and its rights\.$"):
        protocol.fingerprint()


# -------------------------------------------------------------------------------------- LFW


def test_pictures_are_read_as_rgb(lfw_folder: Path) -> None:
    protocol = create_protocol("lfw", lfw_folder)
    array = protocol.read("Ann_Lee/Ann_Lee_0002")
    assert array.shape == (4, 6, 3)
    assert array.dtype == np.uint8
    assert abs(int(array[..., 0].mean()) - 80) <= 2
    with pytest.raises(DataError, match="no image"):
        protocol.read("Ann_Lee/Ann_Lee_0009")
    protocol.path("Ann_Lee/Ann_Lee_0002").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"Ann_Lee_0002\.jpg"):
        protocol.read("Ann_Lee/Ann_Lee_0002")


@pytest.mark.parametrize("place", ["lfw/pairs.txt", "pairs.txt", "lfw/lfw-deepfunneled/pairs.txt"])
def test_places_of_the_pair_list(place: str, lfw_folder: Path) -> None:
    (lfw_folder / "lfw/pairs.txt").unlink()
    (lfw_folder / place).write_text(TWO_FOLDS)
    assert len(create_protocol("lfw", lfw_folder).pairs) == 8


def test_a_pair_list_of_ones_own(lfw_folder: Path) -> None:
    mine = lfw_folder / "mine.txt"
    mine.write_text("1\t1\nAnn_Lee\t1\t3\nAnn_Lee\t1\tCy\t1\n")
    protocol = create_protocol(f"lfw:{mine}", lfw_folder)
    assert (protocol.name, len(protocol.pairs)) == ("lfw:mine", 2)
    assert create_protocol("lfw", lfw_folder, pairs=mine).pairs == protocol.pairs


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("Cy", r"line 5: .*no person Cy \(1 of the 7"),
        ("Bob_Ray/Bob_Ray_0003.jpg", "line 3: .*no picture Bob_Ray, 3"),
    ],
)
def test_a_missing_picture_names_the_line(gone: str, message: str, lfw_folder: Path) -> None:
    path = lfw_folder / "lfw/lfw-deepfunneled" / gone
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()
    with pytest.raises(PairsError, match=message):
        create_protocol("lfw", lfw_folder)


def test_aligned_crops(lfw_folder: Path) -> None:
    photographs = create_protocol("lfw", lfw_folder)
    for image in photographs.pairs.images:
        picture(lfw_folder / f"lfw-pairs-aligned-112x112/{image}.jpg", size=(112, 112))
    aligned = create_protocol("lfw", lfw_folder, crops="aligned")
    assert aligned.prealigned
    assert aligned.read("Cy/Cy_0001").shape == (112, 112, 3)
    assert aligned.pairs == photographs.pairs
    assert aligned.fingerprint() != photographs.fingerprint()
    assert not create_protocol("lfw", lfw_folder).prealigned  # photographs come first
    (lfw_folder / "lfw/lfw-deepfunneled").rename(lfw_folder / "elsewhere")
    assert create_protocol("lfw", lfw_folder).prealigned
    with pytest.raises(DataError, match="lfw-deepfunneled/Name"):
        create_protocol("lfw", lfw_folder, crops="photographs")
    with pytest.raises(InputError, match="crops='both'"):
        create_protocol("lfw", lfw_folder, crops="both")


def test_a_data_root_that_is_the_folder_of_crops_itself(lfw_folder: Path) -> None:
    root = lfw_folder / "crops"
    for image in create_protocol("lfw", lfw_folder).pairs.images:
        picture(root / f"{image}.png", size=(112, 112))
    (root / "pairs.txt").write_text(TWO_FOLDS)
    assert create_protocol("lfw", root).prealigned
    with pytest.raises(DataError, match="112x112 crops, but crops='photographs'"):
        create_protocol("lfw", root, crops="photographs")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"blurface data get lfw"):
        create_protocol("lfw", tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean lfw"):
        create_protocol("lwf")
    with pytest.raises(BlurfaceError, match="sede"):
        create_protocol("lfw", tmp_path, sede=1)
    assert list_protocols()[:4] == ["lfw", "facescrub", "folder", "folder-aligned"]


def test_people_of_the_pair_list(lfw_folder: Path) -> None:
    assert lfw_people(lfw_folder) == {"Ann_Lee", "Bob_Ray", "Cy"}
    with pytest.raises(DataError):
        lfw_people(lfw_folder / "cache")


# ------------------------------------------------------------------------- folders, FaceScrub


def people(root: Path, counts: dict[str, int], name: str = "{person}_{i}_{j}.jpg") -> Path:
    for person, count in counts.items():
        (root / person).mkdir(parents=True)
        for i in range(count):
            (root / person / name.format(person=Path(person).name, i=100 + i, j=7 * i)).write_bytes(b"x" * i)
    return root


def test_drawn_pairs_are_balanced_distinct_and_reproducible(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {f"P{i}": 8 for i in range(6)})
    protocol = create_protocol(f"folder:{root}", folds=5, per_fold=12, seed=3)
    pairs = protocol.pairs
    assert protocol.name == "folder:faces"
    assert Counter((p.fold, p.genuine) for p in pairs) == {
        (f, k): 12 for f in range(5) for k in (True, False)
    }
    assert len({frozenset((p.reference, p.probe)) for p in pairs}) == len(pairs)
    for pair in pairs:
        same = pair.reference.split("/")[0] == pair.probe.split("/")[0]
        assert same == pair.genuine
        assert pair.reference != pair.probe
    counts = Counter(p.reference.split("/")[0] for p in pairs if p.genuine)
    assert set(counts.values()) == {10}  # people take turns
    assert create_protocol(f"folder:{root}", folds=5, per_fold=12, seed=3).pairs == pairs
    assert create_protocol(f"folder:{root}", folds=5, per_fold=12, seed=4).pairs != pairs


def test_folds_share_nobody_where_there_are_enough_people(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {f"P{i:02d}": 3 for i in range(20)})
    pairs = create_protocol(f"folder:{root}", folds=5, per_fold=6).pairs
    met: dict[str, set[int]] = {}
    for pair in pairs:
        for image in (pair.reference, pair.probe):
            met.setdefault(image.split("/")[0], set()).add(pair.fold)
    assert all(len(folds) == 1 for folds in met.values())


def test_a_small_folder_gives_what_it_can(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {"A": 3, "B": 2})  # 4 genuine and 6 impostor pairs
    pairs = create_protocol(f"folder:{root}").pairs
    assert (len(pairs), pairs.folds) == (8, 4)
    with pytest.raises(PairsError, match=r"no 2 x 3 genuine.*give 2 a fold"):
        create_protocol(f"folder:{root}", folds=2, per_fold=3)


@pytest.mark.parametrize("counts", [{"A": 5}, {"A": 1, "B": 1}, {}])
def test_too_few_pictures_for_pairs(counts: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    root = people(tmp_path / "faces", counts)
    with pytest.raises(PairsError, match="not enough for pairs"):
        create_protocol(f"folder:{root}")


def test_all_pairs_can_be_drawn(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {"A": 4, "B": 3})
    lines, _ = generate_pairs(Gallery(root), folds=1, per_fold=9)
    assert len({frozenset((x.first, x.second)) for x in lines if x.genuine}) == 9  # 6 + 3
    assert sum(not x.genuine for x in lines) == 9


def test_a_written_list_names_the_same_pairs(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {"Alec Baldwin": 4, "Åsa_Ö": 4, "C": 4})
    drawn = create_protocol(f"folder:{root}", folds=2, per_fold=3)
    lines, folds = generate_pairs(Gallery(root), folds=2, per_fold=3)
    write_pairs(root / "pairs.txt", lines, folds)
    read = create_protocol(f"folder:{root}")
    assert read.pairs.pairs == drawn.pairs.pairs
    assert "pairs of pairs.txt" in read.description
    text = (root / "pairs.txt").read_text(encoding="utf-8")
    assert text.startswith("2\t3\n")
    assert "Alec Baldwin\t10" in text
    assert sorted(p.name for p in root.iterdir() if p.is_file()) == ["pairs.txt"]
    (root / "pairs.txt").rename(tmp_path / "faces-pairs.txt")  # beside the folder
    assert create_protocol(f"folder:{root}").pairs.pairs == drawn.pairs.pairs


def test_lists_for_lfws_own_names_are_lfws_own_format(lfw_folder: Path) -> None:
    lines, folds = generate_pairs(Gallery(lfw_folder / "lfw/lfw-deepfunneled"), folds=1, per_fold=2)
    rows = format_pairs(lines, folds).splitlines()
    assert rows[0] == "1\t2"
    assert all(field in "123" for row in rows[1:3] for field in row.split("\t")[1:])


def test_names_in_a_gallery(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    for name in (
        "a.jpg",
        "a.png",
        "B_7.JPG",
        "B_0001.jpg",
        "0002.jpg",
        ".hidden.jpg",
        "note.txt",
        "x\ty.jpg",
        "v1.2.jpg",
    ):
        (root / "B").mkdir(parents=True, exist_ok=True)
        (root / "B" / name).touch()
    (root / "B/link.jpg").symlink_to(root / "nowhere.jpg")
    (root / ".cache").mkdir()
    gallery = Gallery(root)
    assert sorted(gallery.people["B"]) == ["0002", "B_0001", "B_7", "a", "a.png", "v1.2"]
    assert gallery.skipped == 1
    found = {
        key: gallery.find("B", key)
        for key in ("1", "2", "7", "a", "a.png", "a.jpg", "B_7", "v1.2", "3", "v1")
    }
    names = {key: None if value is None else value[1].name for key, value in found.items()}
    assert names == {
        "1": "B_0001.jpg", "2": "0002.jpg", "7": "B_7.JPG", "a": "a.jpg", "a.png": "a.png", "a.jpg": "a.jpg",
        "B_7": "B_7.JPG", "v1.2": "v1.2.jpg", "3": None, "v1": None,
    }  # fmt: skip
    assert gallery.find("Nobody", "1") is None
    for name in gallery.people["B"]:
        again = gallery.find("B", gallery.key("B", name))
        assert again is not None
        assert again[0] == f"B/{name}"


def test_groups_of_people(tmp_path: Path) -> None:
    root = people(tmp_path / "facescrub", {"actors/Al_B": 3, "actresses/Cy_D": 3, "Ed_F": 3})
    assert list(Gallery(root).people) == ["Ed_F", "Al_B", "Cy_D"]
    people(root, {"actresses/Al_B": 1})
    with pytest.raises(PairsError, match="two folders called Al_B"):
        Gallery(root)


def test_facescrub_layouts(tmp_path: Path) -> None:
    people(tmp_path / "facescrub", {"actors/Al_B": 6, "actresses/Cy_D": 6})
    protocol = create_protocol("facescrub", tmp_path, folds=3, per_fold=5)
    assert (protocol.name, len(protocol.pairs), protocol.prealigned) == ("facescrub", 30, False)
    with pytest.raises(PairsError, match="no 10 x 300 genuine"):
        create_protocol("facescrub", tmp_path)
    with pytest.raises(DataError, match="actresses"):
        create_protocol("facescrub", tmp_path / "cache")


def test_the_list_of_facescrub(tmp_path: Path) -> None:
    from blurface.assets import sha256_file

    root = people(tmp_path / "facescrub", {"actors/Al_B": 3})
    files = sorted((root / "actors/Al_B").iterdir())
    row = "Al B\t{}\t{}\thttp://example.invalid/a.jpg\t10,20,110,140\t{}"
    rows = ["name\timage_id\tface_id\turl\tbbox\tsha256"]
    rows.append(row.format(100, 0, sha256_file(files[0])))  # as downloaded
    rows.append(row.format(101, 7, "0" * 64))  # cropped since
    rows.append(row.format(900, 1, "1" * 64))  # its address is dead
    path = tmp_path / "facescrub_actors.txt"
    path.write_text("\r\n".join(rows))
    faces = read_list(path)
    assert faces[0].bbox == (10, 20, 110, 140)
    assert faces[0].stem == files[0].stem
    found = check_list(root, faces)
    assert (found.listed, found.present, found.identical) == (3, 2, 1)
    assert found.unlisted == (files[2].stem,)


@pytest.mark.parametrize(
    "row",
    [
        "Al B\t1\t2\thttp://x",
        "Al B\tx\t2\thttp://x\t1,2,3,4\t" + "0" * 64,
        "Al B\t1\t2\thttp://x\t1,2,3\t" + "0" * 64,
        "Al B\t1\t2\thttp://x\t3,2,1,4\t" + "0" * 64,
        "Al B\t1\t2\thttp://x\t1,2,3,4\t" + "z" * 64,
    ],
)
def test_a_wrong_line_in_the_list_of_facescrub(row: str, tmp_path: Path) -> None:
    path = tmp_path / "facescrub_actors.txt"
    path.write_text(f"\n{row}\n")
    with pytest.raises(PairsError, match=r"line 2: .* is no face"):
        read_list(path)
    wrong: list[PairsError] = []
    assert read_list(path, wrong.append) == []
    assert len(wrong) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        create_protocol(f"folder:{tmp_path / 'no'}")


def test_aligned_folder(tmp_path: Path) -> None:
    root = people(tmp_path / "faces", {"A": 3, "B": 2})
    assert create_protocol(f"folder-aligned:{root}").prealigned


# ---------------------------------------------------------------------------------- drawing


@given(st.integers(0, 60), st.integers())
def test_distinct_is_a_permutation(total: int, seed: int) -> None:
    assert sorted(distinct(random.Random(seed), total)) == list(range(total))


def test_distinct_is_uniform() -> None:
    # Each of the 24 orders of four: 2,400 draws, chi-squared with 23 degrees of freedom.
    rng = random.Random(0)
    counts = Counter(tuple(distinct(rng, 4)) for _ in range(2400))
    assert len(counts) == 24
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 49.7  # p = 0.001


def test_pairs_are_numbered_one_by_one() -> None:
    assert [_unrank(i) for i in range(6)] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    low, high = _unrank(10**15 + 7)
    assert high * (high - 1) // 2 + low == 10**15 + 7
    assert 0 <= low < high


@pytest.mark.parametrize(
    ("line", "message"),
    [("A\t1\tA_0001", "A_0001.* is paired with itself"), ("A\tA_0002\t1", "the pair of line 2 again")],
)
def test_a_picture_has_one_identity_whatever_it_is_called(tmp_path: Path, line: str, message: str) -> None:
    for name in ("A/A_0001.png", "A/A_0002.png", "B/B_0001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    text = f"1\t2\nA\t1\t2\n{line}\nA\t1\tB\t1\nA\t2\tB\t1\n"
    lines, folds = parse_pairs(text, "pairs.txt")
    with pytest.raises(PairsError, match=message):
        resolve("test", lines, folds, Gallery(tmp_path), "pairs.txt")
