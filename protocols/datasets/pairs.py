"""Pair lists in LFW's format: read, generate, write.

The format, of LFW's ``pairs.txt``: a line ``FOLDS<TAB>N``, then for each fold N genuine pairs
``name<TAB>i<TAB>j`` and N impostor pairs ``name<TAB>i<TAB>other<TAB>j``, where i and j number the
person's images. A first line ``N`` alone means one fold (``pairsDevTest.txt``). Two extensions
that LFW's own lists do not need: an image may be named instead of numbered, since other
collections do not number theirs, and lines that begin with ``#`` are remarks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blurface.errors import PairsError
from blurface.files import write_atomic

from .base import Gallery, Pair, PairList, carriable, distinct

FOLDS = 10
PER_FOLD = 300

Item = tuple[str, str]
"""Person and key of an image."""


@dataclass(frozen=True)
class PairLine:
    """One line of a pair list.

    Attributes
    ----------
    line : int
        Counted from 1.
    first, second : tuple of str
        Person and key of the reference and of the probe.
    fold : int
        Counted from 0.
    """

    line: int
    first: Item
    second: Item
    fold: int

    @property
    def genuine(self) -> bool:
        """Whether both images are of one person."""
        return self.first[0] == self.second[0]


def read_pairs(path: Path) -> tuple[list[PairLine], int]:
    """Read a pair list.

    Line ends may be CRLF, fields may be separated by spaces where a line has no tab, empty lines
    are skipped.

    Returns
    -------
    lines : list of PairLine
    folds : int

    Raises
    ------
    PairsError
        If the file cannot be read or a line is wrong: the message names the line and the mend.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PairsError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise PairsError(f"{path} is not UTF-8 text ({error.reason}).", "Save it as UTF-8.") from error
    return parse_pairs(text, str(path))


def parse_pairs(text: str, name: str) -> tuple[list[PairLine], int]:
    """Parse a pair list; see :func:`read_pairs`. ``name`` is used in messages."""

    def wrong(line: int, what: str, mend: str) -> PairsError:
        return PairsError(f"{name}, line {line}: {what}.", mend)

    rows = [(number, row) for number, row in enumerate(text.split("\n"), 1) if row.strip() and row[0] != "#"]
    if not rows:
        raise PairsError(f"{name} is empty.", "A pair list begins with FOLDS<TAB>PAIRS, e.g. 10<TAB>300.")
    number, header = rows[0]
    counts = header.split()
    if len(counts) > 2 or not all(c.isascii() and c.isdigit() and int(c[:9]) > 0 for c in counts):
        raise wrong(number, f"{_shown(header)} is no header", "Begin with FOLDS<TAB>PAIRS, e.g. 10<TAB>300")
    folds, size = (int(counts[0][:9]), int(counts[1][:9])) if len(counts) == 2 else (1, int(counts[0][:9]))
    lines: list[PairLine] = []
    seen: dict[frozenset[Item], int] = {}
    for number, row in rows[1:]:
        fields = [f.strip() for f in (row.split("\t") if "\t" in row.strip() else row.split())]
        while fields and not fields[-1]:
            fields.pop()
        if len(fields) not in (3, 4):
            raise wrong(
                number,
                f"{len(fields)} fields in {_shown(row)}",
                "A genuine pair has three (name, i, j), an impostor pair four (name, i, name, j).",
            )
        for text_of in fields:
            if not carriable(text_of):
                raise wrong(
                    number,
                    f"{_shown(text_of)} is no name",
                    "Names are single path components, numbers digits.",
                )
        first = (fields[0], fields[1])
        second = (fields[0], fields[2]) if len(fields) == 3 else (fields[2], fields[3])
        for _, key in (first, second):
            if key.isascii() and key.isdigit() and int(key[:9]) == 0:
                raise wrong(number, "image 0", "Images are counted from 1.")
        if first == second:
            raise wrong(number, f"an image is paired with itself in {_shown(row)}", "Name two images.")
        if len(fields) == 4 and first[0] == second[0]:
            raise wrong(
                number, f"an impostor pair names {first[0]} twice", "Write a genuine pair as: name, i, j."
            )
        both = frozenset((first, second))
        if both in seen:
            raise wrong(number, f"the pair of line {seen[both]} again", "Remove one of the two lines.")
        seen[both] = number
        fold, place = divmod(len(lines), 2 * size)
        if (place < size) != (len(fields) == 3):
            expected = "a genuine pair (3 fields)" if place < size else "an impostor pair (4 fields)"
            raise wrong(
                number,
                f"{expected} was expected as number {place + 1} of fold {min(fold, folds - 1) + 1}",
                f"Each fold has {size} genuine pairs and then {size} impostor pairs.",
            )
        lines.append(PairLine(number, first, second, fold))
    if len(lines) != 2 * size * folds:
        raise wrong(
            rows[-1][0],
            f"{len(lines)} pairs, but the header promises {folds} x 2 x {size} = {2 * size * folds}",
            "Complete the list or correct its first line.",
        )
    return lines, folds


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def resolve(
    name: str, lines: Sequence[PairLine], folds: int, gallery: Gallery, source: str
) -> tuple[PairList, dict[str, Path]]:
    """Find the pictures that a pair list names.

    Parameters
    ----------
    name : str
        Of the resulting list.
    lines, folds
        From :func:`read_pairs`.
    gallery : Gallery
    source : str
        The list, in messages.

    Returns
    -------
    pairs : PairList
    files : dict of str to Path

    Raises
    ------
    PairsError
        If pictures are missing: names the first one, its line, and how many.
    """
    found: dict[Item, tuple[str, Path]] = {}
    missing: dict[Item, int] = {}
    for line in lines:
        for item in (line.first, line.second):
            if item in found or item in missing:
                continue
            if (picture := gallery.find(*item)) is None:
                missing[item] = line.line
            else:
                found[item] = picture
    if missing:
        (person, key), number = next(iter(missing.items()))
        what = "picture" if person in gallery.people else "person"
        label = f"{person}, {key}" if what == "picture" else person
        raise PairsError(
            f"{source}, line {number}: {gallery.root} has no {what} {label} "
            f"({len(missing):,} of the {len(missing) + len(found):,} images of the list are missing).",
            "Complete the data set, name another with --data-root, or remove those lines.",
        )
    pairs = tuple(Pair(found[x.first][0], found[x.second][0], x.genuine, x.fold) for x in lines)
    # Again as the pictures that they are: a number and a file's name may mean the same one.
    seen: dict[frozenset[str], int] = {}
    for line, pair in zip(lines, pairs, strict=True):
        both, where = frozenset((pair.reference, pair.probe)), f"{source}, line {line.line}"
        if len(both) == 1:
            raise PairsError(f"{where}: {pair.probe} is paired with itself.", "Name two images.")
        if both in seen:
            raise PairsError(f"{where}: the pair of line {seen[both]} again.", "Remove one of the two lines.")
        seen[both] = line.line
    return PairList(name, pairs, folds), dict(found.values())


def generate_pairs(
    gallery: Gallery, folds: int | None = None, per_fold: int | None = None, seed: int = 0
) -> tuple[list[PairLine], int]:
    """Draw balanced genuine and impostor pairs from a collection.

    People take turns, so that one with many pictures does not dominate; no pair occurs twice.
    Where there are at least four people a fold, the folds share nobody, as LFW's; otherwise they
    share people (FaceScrub's twelve cannot fill ten folds of their own).

    Parameters
    ----------
    gallery : Gallery
    folds, per_fold : int, optional
        Folds, and pairs of each kind in a fold. By default 10 and 300, or as many as there are.
    seed : int
        The same seed and pictures give the same list, on any machine and version.

    Raises
    ------
    PairsError
        If there are not that many pairs.
    """
    people = sorted(gallery.people)
    wanted = folds or FOLDS
    own = len(people) >= 4 * wanted
    turn = [people[i] for i in distinct(random.Random(f"{seed}:people"), len(people))]
    groups = [sorted(turn[i::wanted]) for i in range(wanted)] if own else [people]
    sizes = {person: len(pictures) for person, pictures in gallery.people.items()}
    genuine = [sum(sizes[p] * (sizes[p] - 1) // 2 for p in group) for group in groups]
    squares = [sum(sizes[p] for p in group) ** 2 - sum(sizes[p] ** 2 for p in group) for group in groups]
    capacity = min(min(genuine), min(squares) // 2)
    if capacity == 0:
        raise PairsError(
            f"{gallery.root} holds {len(gallery)} pictures of {len(people)} people: not enough for pairs.",
            "Genuine pairs need two pictures of a person, impostor pairs two people.",
        )
    share = 1 if own else wanted
    if per_fold is None:
        if folds is None and capacity < share:
            wanted = share = capacity
        per_fold = min(PER_FOLD, capacity // share)
    if per_fold * share > capacity or per_fold < 1:
        raise PairsError(
            f"{gallery.root} has no {wanted} x {per_fold} genuine and as many impostor pairs.",
            f"Its {len(gallery)} pictures of {len(people)} people give {capacity // share} a fold at most.",
        )
    lines: list[PairLine] = []
    streams = [
        (_genuine(gallery, g, f"{seed}:{i}"), _impostor(gallery, g, f"{seed}:{i}"))
        for i, g in enumerate(groups)
    ]
    for fold in range(wanted):
        for stream in streams[fold % len(streams)]:
            for _ in range(per_fold):
                first, second = next(stream)
                lines.append(PairLine(len(lines) + 2, first, second, fold))
    return lines, wanted


def _genuine(gallery: Gallery, people: list[str], seed: str) -> Iterator[tuple[Item, Item]]:
    """All pairs of two pictures of a person, people taking turns."""
    waiting = {}
    for person in people:
        keys = sorted(gallery.people[person])
        order = distinct(random.Random(f"{seed}:genuine:{person}"), len(keys) * (len(keys) - 1) // 2)
        waiting[person] = (keys, order)
    while waiting:
        for person, (keys, order) in list(waiting.items()):
            index = next(order, None)
            if index is None:
                del waiting[person]
                continue
            low, high = _unrank(index)
            yield _item(gallery, person, keys[low]), _item(gallery, person, keys[high])


def _impostor(gallery: Gallery, people: list[str], seed: str) -> Iterator[tuple[Item, Item]]:
    """All pairs of pictures of two people, pairs of people taking turns."""
    orders: dict[int, Iterator[int]] = {}
    rng = random.Random(f"{seed}:people")
    waiting: Iterator[int] | list[int] = distinct(rng, len(people) * (len(people) - 1) // 2)
    while True:
        left: list[int] = []
        for couple in waiting:
            low, high = _unrank(couple)
            # Either of the two may come first: the reference is no smaller name.
            turned = random.Random(f"{seed}:turn:{couple}").random() < 0.5
            one, two = (people[high], people[low]) if turned else (people[low], people[high])
            ones, twos = sorted(gallery.people[one]), sorted(gallery.people[two])
            if couple not in orders:
                orders[couple] = distinct(random.Random(f"{seed}:impostor:{couple}"), len(ones) * len(twos))
            index = next(orders[couple], None)
            if index is None:
                continue
            left.append(couple)
            yield (
                _item(gallery, one, ones[index // len(twos)]),
                _item(gallery, two, twos[index % len(twos)]),
            )
        if not left:
            return
        waiting = left


def _unrank(index: int) -> tuple[int, int]:
    """The ``index``-th pair low < high in the order (0,1), (0,2), (1,2), (0,3), ..."""
    from math import isqrt

    high = (1 + isqrt(1 + 8 * index)) // 2
    return index - high * (high - 1) // 2, high


def _item(gallery: Gallery, person: str, name: str) -> Item:
    return person, gallery.key(person, name)


def format_pairs(lines: Sequence[PairLine], folds: int) -> str:
    """A pair list as text in LFW's format."""
    size = len(lines) // (2 * folds)
    rows = [f"{folds}\t{size}"]
    for line in lines:
        second = (line.second[1],) if line.genuine else line.second
        rows.append("\t".join((*line.first, *second)))
    return "\n".join(rows) + "\n"


def write_pairs(path: Path, lines: Sequence[PairLine], folds: int) -> None:
    """Write a pair list in LFW's format, atomically."""
    write_atomic(path, format_pairs(lines, folds))
