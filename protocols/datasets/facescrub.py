"""FaceScrub (Ng & Winkler 2014): photographs of actors and actresses from the web.

The data set is a list of addresses, most of them dead by now; nothing is fetched here. Pictures on
disk are accepted as ``{actors,actresses}/Person_Name/*.jpg`` or one folder a person. Names of the
form ``Person_Name_IMAGEID_FACEID.jpg`` tie them to the official list, which is read for checking.

The developers' own part (twelve people, 1,641 pictures) is cropped around the official face box,
1.9 times its larger side, and reduced to 250x250: photographs with a margin, like LFW's, not
aligned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blurface import assets
from blurface.assets import sha256_file
from blurface.errors import PairsError

from .base import Gallery, Protocol
from .folder import build

_COLUMNS = ("name", "image_id", "face_id", "url", "bbox", "sha256")


def facescrub(
    path: str | Path | None = None,
    *,
    data_root: Path | None = None,
    pairs: str | Path | None = None,
    folds: int = 10,
    per_fold: int = 300,
    seed: int = 0,
) -> Protocol:
    """FaceScrub on disk with 3,000 genuine and 3,000 impostor pairs.

    FaceScrub publishes no pairs; unless a list is given (``pairs``, ``pairs.txt`` in the folder or
    ``<folder>-pairs.txt`` beside it) they are drawn, see
    :func:`~protocols.datasets.pairs.generate_pairs`.

    Parameters
    ----------
    path : path, optional
        The folder; by default looked for under the data roots.
    data_root : Path, optional
        Searched first; see :func:`blurface.assets.data_roots`.
    pairs, folds, per_fold, seed
        As in :func:`~protocols.datasets.folder.folder`.

    Raises
    ------
    DataError
        If it is not found; says what to place where.
    PairsError
        If the list is malformed or names pictures that are missing, or if there are not enough
        pictures.
    """
    root = Path(path) if path is not None else assets.find("facescrub", data_root)
    return build("facescrub", root, pairs, folds, per_fold, seed, False, "FaceScrub")


@dataclass(frozen=True)
class ListedFace:
    """A line of FaceScrub's official lists.

    Attributes
    ----------
    name : str
        Person, with spaces.
    image_id, face_id : int
    url : str
        Where the photograph was; not fetched.
    bbox : tuple of int
        Left, top, right, bottom of the face in pixels of the photograph.
    sha256 : str
        Of the photograph's file.
    """

    name: str
    image_id: int
    face_id: int
    url: str
    bbox: tuple[int, int, int, int]
    sha256: str

    @property
    def stem(self) -> str:
        """Name of the picture's file: ``Person_Name_IMAGEID_FACEID``."""
        return f"{self.name.replace(' ', '_')}_{self.image_id}_{self.face_id}"


def read_list(path: Path, on_error: Callable[[PairsError], None] | None = None) -> list[ListedFace]:
    """Read ``facescrub_actors.txt`` or ``facescrub_actresses.txt``.

    Tab-separated name, image_id, face_id, url, bbox, sha256, with or without a heading line.

    Parameters
    ----------
    path : Path
    on_error : callable, optional
        Called for each line that is wrong, which is then skipped; by default it is raised.

    Raises
    ------
    PairsError
        If the file cannot be read or a line is wrong: the message names it.
    """
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise PairsError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise PairsError(f"{path} is not UTF-8 text ({error.reason}).", "Save it as UTF-8.") from error
    faces = []
    for number, row in enumerate(rows, 1):
        fields = [field.strip() for field in row.split("\t")]
        if not row.strip() or (number == 1 and tuple(fields) == _COLUMNS):
            continue
        try:
            name, image, face, url, box, digest = fields
            left, top, right, bottom = (int(v) for v in box.split(","))
            if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name or right <= left or bottom <= top:
                raise ValueError
            faces.append(ListedFace(name, int(image), int(face), url, (left, top, right, bottom), digest))
        except ValueError:
            wrong = PairsError(
                f"{path}, line {number}: {row[:60]!r} is no face.",
                f"Expected tab-separated {', '.join(_COLUMNS)}.",
            )
            if on_error is None:
                raise wrong from None
            on_error(wrong)
    return faces


@dataclass(frozen=True)
class ListCheck:
    """How the pictures on disk compare with the official list.

    Attributes
    ----------
    listed : int
        Faces in the list.
    present : int
        Of these, on disk.
    identical : int
        Of these, with the listed SHA-256: photographs as downloaded. The others were cropped or
        saved anew.
    unlisted : tuple of str
        Pictures on disk that the list does not know.
    """

    listed: int
    present: int
    identical: int
    unlisted: tuple[str, ...]


def check_list(root: Path, faces: Iterable[ListedFace]) -> ListCheck:
    """Compare a FaceScrub folder with lines of the official list, by name and SHA-256."""
    listed = {face.stem: face for face in faces}
    files = {path.stem: path for person in Gallery(root).people.values() for path in person.values()}
    both = sorted(listed.keys() & files.keys())
    identical = sum(sha256_file(files[stem]) == listed[stem].sha256 for stem in both)
    return ListCheck(len(listed), len(both), identical, tuple(sorted(files.keys() - listed.keys())))
