"""The real data sets: counts that their papers state, and files that are what they claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from blurface import assets
from protocols.datasets import create_protocol
from protocols.datasets.facescrub import check_list, read_list
from protocols.datasets.lfw import lfw_people

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def root(shared: Path) -> Path:
    return shared / "data"


@pytest.mark.parametrize(("crops", "shape"), [("photographs", (250, 250, 3)), ("aligned", (112, 112, 3))])
def test_lfw_view_2(root: Path, crops: str, shape: tuple[int, ...]) -> None:
    protocol = create_protocol("lfw", root, crops=crops)
    pairs = protocol.pairs
    assert (len(pairs), pairs.folds, len(pairs.images)) == (6000, 10, 7701)
    assert set(Counter((p.fold, p.genuine) for p in pairs).values()) == {300}
    assert len({image.split("/")[0] for image in pairs.images}) == 4281
    assert protocol.prealigned == (crops == "aligned")
    assert protocol.read(pairs.images[0]).shape == shape
    assert protocol.read(pairs.images[-1]).dtype == np.uint8
    first, last = pairs.pairs[0], pairs.pairs[-1]
    assert (first.reference, first.probe) == (
        "Abel_Pacheco/Abel_Pacheco_0001",
        "Abel_Pacheco/Abel_Pacheco_0004",
    )
    assert (last.genuine, last.fold) == (False, 9)


def test_photographs_come_first_and_folds_share_nobody(root: Path) -> None:
    protocol = create_protocol("lfw", root)
    assert not protocol.prealigned
    met: dict[str, set[int]] = {}
    for pair in protocol.pairs:
        for image in (pair.reference, pair.probe):
            met.setdefault(image.split("/")[0], set()).add(pair.fold)
    assert all(len(folds) == 1 for folds in met.values())


def test_people_of_lfw(root: Path) -> None:
    people = lfw_people(root)
    assert len(people) == 4281
    assert "Abel_Pacheco" in people
    assert "AJ_Cook" not in people


def test_official_lists_have_their_published_checksums(root: Path) -> None:
    for name in ("lfw-pairs", "lfw-pairs-dev-train", "lfw-pairs-dev-test"):
        assert assets.check(name, root).status == "ok"


def test_view_1_lists_are_read(root: Path) -> None:
    from protocols.datasets.pairs import read_pairs

    lines, folds = read_pairs(assets.find("lfw-pairs-dev-test", root))
    assert (len(lines), folds) == (1000, 1)


def test_developers_layout_is_found(root: Path) -> None:
    for name in ("levin-kernels", "mobilefacenet", "edgeface-xs", "edgeface-xxs", "facescrub", "lfw-aligned"):
        assert assets.find(name, root).exists()


def test_facescrub(root: Path) -> None:
    protocol = create_protocol("facescrub", root)
    pairs = protocol.pairs
    assert (len(pairs), pairs.folds) == (6000, 10)
    assert set(Counter((p.fold, p.genuine) for p in pairs).values()) == {300}
    assert len({frozenset((p.reference, p.probe)) for p in pairs}) == 6000
    people = Counter(p.reference.split("/")[0] for p in pairs if p.genuine)
    assert len(people) == 12
    assert set(people.values()) == {250}
    assert len(pairs.images) <= 1641
    assert protocol.read(pairs.images[0]).shape == (250, 250, 3)
    # The list that the published figures were measured on.
    assert pairs.fingerprint() == "731906a345928920fc14b0e40737068fc07d5e4f0ddbe87144dca90e940067e8"


def test_facescrub_list_names_every_picture(root: Path) -> None:
    folder = assets.find("facescrub", root)
    wrong: list[Exception] = []
    faces = [f for path in sorted(folder.glob("facescrub_act*.txt")) for f in read_list(path, wrong.append)]
    found = check_list(folder, faces)
    assert found.present == 1641
    assert found.unlisted == ()
    assert len(wrong) <= 1  # the developers' copy of a list ends in the middle of a line
