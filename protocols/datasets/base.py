"""What a protocol is: photographs, and pairs of them that are or are not of one person."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from blurface.assets import ASSETS, sha256_file
from blurface.errors import DataError, PairsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pair:
    """Two images and whether they show one person.

    Attributes
    ----------
    reference : str
        Image that stays sharp: the first of the pair.
    probe : str
        Image that is blurred, then restored: the second.
    genuine : bool
        One person (True) or two (False).
    fold : int
        Counted from 0.
    """

    reference: str
    probe: str
    genuine: bool
    fold: int


@dataclass(frozen=True)
class PairList:
    """Pairs in order, in folds.

    Attributes
    ----------
    name : str
    pairs : tuple of Pair
    folds : int
        Every pair's fold is below this.
    """

    name: str
    pairs: tuple[Pair, ...]
    folds: int

    def __post_init__(self) -> None:
        if not self.pairs:
            raise PairsError(f"The pair list {self.name} is empty.")
        if not all(0 <= pair.fold < self.folds for pair in self.pairs):
            raise PairsError(f"The pair list {self.name} has pairs outside its {self.folds} folds.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Ids of all images, each once, sorted."""
        return tuple(sorted({image for pair in self.pairs for image in (pair.reference, pair.probe)}))

    @cached_property
    def references(self) -> tuple[str, ...]:
        """Ids of the images that stay sharp, each once, sorted."""
        return tuple(sorted({pair.reference for pair in self.pairs}))

    @cached_property
    def probes(self) -> tuple[str, ...]:
        """Ids of the images that are blurred, each once, sorted."""
        return tuple(sorted({pair.probe for pair in self.pairs}))

    def subset(self, n: int, seed: int = 0) -> PairList:
        """A random part: half genuine and half impostor pairs, spread evenly over the folds.

        The choice depends on the list and the seed alone. Where ``n`` is too small for every fold to
        hold a pair of both kinds, fewer folds are used; they are numbered anew from 0.

        Parameters
        ----------
        n : int
            Number of pairs, at least 2; of an odd number the larger half is genuine.
        seed : int

        Raises
        ------
        PairsError
            If there are not enough genuine or impostor pairs.
        """
        if n < 2:
            raise PairsError(f"A subset of {n} pairs cannot be balanced.", "Ask for two pairs or more.")
        wanted = {True: n - n // 2, False: n // 2}
        pools: dict[bool, list[list[int]]] = {kind: [[] for _ in range(self.folds)] for kind in wanted}
        for index, pair in enumerate(self.pairs):
            pools[pair.genuine][pair.fold].append(index)
        for kind, word in ((True, "genuine"), (False, "impostor")):
            there = sum(map(len, pools[kind]))
            if wanted[kind] > there:
                raise PairsError(
                    f"{self.name} has {there} {word} pairs; a subset of {n} needs {wanted[kind]}.",
                    f"Ask for at most {2 * there} pairs.",
                )
        full = [fold for fold in range(self.folds) if pools[True][fold] and pools[False][fold]]
        order = shuffled(full, random.Random(f"{seed}:folds"))[: wanted[False]]
        if any(sum(len(pools[kind][fold]) for fold in order) < wanted[kind] for kind in wanted):
            order = shuffled(list(range(self.folds)), random.Random(f"{seed}:folds"))
        chosen: list[int] = []
        turn = 0  # impostors go on in the fold where the genuine pairs stopped: equal sums
        for kind in (True, False):
            rest = {f: shuffled(pools[kind][f], random.Random(f"{seed}:{f}:{kind}")) for f in order}
            end = len(chosen) + wanted[kind]
            while len(chosen) < end:
                if pool := rest[order[turn % len(order)]]:
                    chosen.append(pool.pop(0))
                turn += 1
        pairs = [self.pairs[index] for index in sorted(chosen)]
        number = {fold: i for i, fold in enumerate(sorted({pair.fold for pair in pairs}))}
        moved = tuple(dataclasses.replace(pair, fold=number[pair.fold]) for pair in pairs)
        return PairList(f"{self.name}-{n}-seed{seed}", moved, len(number))

    def fingerprint(self) -> str:
        """SHA-256 over images, kinds and folds of all pairs in order (not the name)."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(f"{pair.reference}\t{pair.probe}\t{pair.genuine:d}\t{pair.fold}\n".encode())
        return digest.hexdigest()


def shuffled(items: list[int], rng: random.Random) -> list[int]:
    """The items in an order drawn from ``rng``."""
    return [items[i] for i in distinct(rng, len(items))]


def distinct(rng: random.Random, total: int) -> Iterator[int]:
    """All integers below ``total`` in random order, drawn one by one in constant memory each.

    Sparse Fisher-Yates shuffle. Only ``rng.random()`` is used, whose sequence Python promises to
    keep between its versions, so that a seed names the same pairs for ever.
    """
    moved: dict[int, int] = {}
    for last in range(total - 1, -1, -1):
        drawn = int(rng.random() * (last + 1))
        yield moved.get(drawn, drawn)
        moved[drawn] = moved.pop(last, last)


@dataclass(frozen=True)
class Protocol:
    """Photographs and their pair list.

    Attributes
    ----------
    name : str
    pairs : PairList
    files : mapping of str to Path
        Where each image of the pair list lies.
    prealigned : bool
        True: the pictures are 112x112 crops aligned to the ArcFace template, without margin;
        False: photographs in which a face has to be found.
    description : str
        What the pictures and pairs are, for reports.
    """

    name: str
    pairs: PairList
    files: Mapping[str, Path] = field(repr=False)
    prealigned: bool = False
    description: str = ""

    def path(self, image_id: str) -> Path:
        """File of an image.

        Raises
        ------
        DataError
            If the protocol has no such image.
        """
        try:
            return self.files[image_id]
        except KeyError:
            raise DataError(f"{self.name} has no image {image_id!r}.", "See protocol.pairs.images.") from None

    def read(self, image_id: str) -> NDArray[np.uint8]:
        """Decode an image.

        Returns
        -------
        ndarray
            (H, W, 3) uint8 RGB.

        Raises
        ------
        DataError
            If the protocol has no such image.
        ImageError
            If its file cannot be decoded; the message names it.
        """
        from blurface.images import read_rgb

        return read_rgb(self.path(image_id))

    def subset(self, n: int, seed: int = 0) -> Protocol:
        """The same photographs with a part of the pairs; see :meth:`PairList.subset`."""
        return dataclasses.replace(self, pairs=self.pairs.subset(n, seed))

    def fingerprint(self) -> str:
        """SHA-256 over the pairs and the content of every image that they name.

        Reads each file once and remembers the answer (LFW: 7,701 files, about 100 MB).

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.pairs.fingerprint()}:{self.prealigned:d}\n".encode())
        for image in self.pairs.images:
            path = self.path(image)
            try:
                digest.update(f"{image}\t{sha256_file(path)}\n".encode())
            except OSError as error:
                asset = self.name.partition(":")[0]
                raise DataError(
                    f"{path} cannot be read: {error.strerror}.",
                    f"Check it with: blurface data check {asset}"
                    if asset in ASSETS
                    else "Check the file and its rights.",
                ) from error
        return digest.hexdigest()


class Gallery:
    """Pictures of people: one folder a person, below a root or below groups of it.

    Parameters
    ----------
    root : Path
        Holds ``Person/picture.jpg`` or ``group/Person/picture.jpg`` (as FaceScrub's ``actors`` and
        ``actresses``). Hidden names are passed over.

    Attributes
    ----------
    skipped : int
        Pictures left out because a pair list cannot carry their name or their person's (tabs, line
        breaks, a leading ``#``); see :func:`carriable`.

    Raises
    ------
    PairsError
        If two groups hold a person of the same name.
    DataError
        If the folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped = 0
        self._people: dict[str, dict[str, Path]] = {}
        for path in _folders(root):
            if pictures := self._pictures(path):
                self._add(path.name, pictures)
                continue
            for inner in _folders(path):
                if pictures := self._pictures(inner):
                    self._add(inner.name, pictures)

    def _add(self, person: str, pictures: dict[str, Path]) -> None:
        if not carriable(person):
            self.skipped += len(pictures)
            return
        if person in self._people:
            raise PairsError(
                f"{self.root} holds two folders called {person}.", "Merge them, or rename one of them."
            )
        self._people[person] = pictures

    def _pictures(self, folder: Path) -> dict[str, Path]:
        """Pictures of a folder by key: the stem, or the whole name where two share a stem."""
        from blurface.images import picture_suffixes

        found: dict[str, Path] = {}
        for path in _entries(folder):
            if path.suffix.lower() not in picture_suffixes() or not path.is_file():
                continue
            if not carriable(path.name):
                self.skipped += 1
                continue
            found[path.name if path.stem in found else path.stem] = path
        return found

    @property
    def people(self) -> dict[str, dict[str, Path]]:
        """Person -> key -> file, in the order of the names."""
        return self._people

    def __len__(self) -> int:
        return sum(map(len, self._people.values()))

    def find(self, person: str, key: str) -> tuple[str, Path] | None:
        """The image that a pair list calls ``key`` of ``person``: its id and file.

        A number n means ``Person_000n`` as in LFW, else ``n``; anything else is the stem or name of
        the file, with or without the person's name before it.
        """
        pictures = self._people.get(person, {})
        keys = [key, f"{person}_{key}"]
        if key.isascii() and key.isdigit():
            keys = [f"{person}_{int(key):04d}", f"{int(key):04d}", *keys]
        for candidate in keys:
            for name in (candidate, candidate.rpartition(".")[0]):
                if name in pictures and (name == candidate or pictures[name].name == candidate):
                    return f"{person}/{name}", pictures[name]
        return None

    def key(self, person: str, name: str) -> str:
        """What a pair list calls a picture: the shortest of its names that :meth:`find` takes back."""
        short = name.removeprefix(f"{person}_")
        number = str(int(short)) if short.isascii() and short.isdigit() else short
        for candidate in (number, short, name):
            found = self.find(person, candidate)
            if candidate and found is not None and found[0] == f"{person}/{name}":
                return candidate
        return self._people[person][name].name


def carriable(name: str) -> bool:
    """Whether a pair list can carry this name: one plain, visible path component."""
    return (
        name.isprintable()
        and name == name.strip()
        and not name.startswith((".", "#"))
        and not any(c in name for c in '/\\:"')
        and bool(name)
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}.", "Check the path and its rights."
        ) from error


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]
