"""``blurface data pack``: aligned faces into one training file, without people of the benchmark."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray

from blurface.errors import DataError, ImageError

from .options import jobs_option

if TYPE_CHECKING:
    from blurface.training.pack import PackedFace

    from .progress import PhaseProgress

Item = TypeVar("Item")

_BATCH = 256
MARGIN = 22
"""Pixels of a photograph kept around its face: half of ``training.pairs.WINDOW``, which the kernels fill."""


def find_faces(folder: Path) -> list[tuple[Path, str]]:
    """Pictures of a folder with their identities.

    ``identities.txt`` (a file name and an identity a line) says who is who; otherwise the name of
    the sub-folder does.

    Raises
    ------
    DataError
        If the folder is missing or holds no picture.
    """
    from blurface.images import picture_suffixes

    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.", "Give a folder of aligned face pictures.")
    table: dict[str, str] = {}
    listing = folder / "identities.txt"
    if listing.exists():
        try:
            text = listing.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{listing} cannot be read: {error}.", "Save it as UTF-8 text.") from error
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                name, identity = line.split(None, 1)
            except ValueError:
                raise DataError(
                    f"{listing}, line {number}: {line.strip()!r} is no file's name and an identity.",
                    "Write both, with a space between them.",
                ) from None
            table[name] = identity.strip()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in picture_suffixes())
    if not files:
        known = ", ".join(sorted(picture_suffixes()))
        raise DataError(f"{folder} holds no picture.", f"Expected files of {known}.")
    return [(path, table.get(path.name, path.parent.name)) for path in files]


def usable(
    found: Iterable[tuple[Path, str]], corner: tuple[int, int], told: Callable[[str], None]
) -> Iterator[tuple[PackedFace, NDArray[np.uint8]]]:
    """Faces to pack, each with its (112, 96, 3) crop; ``told`` gets a sentence on each other picture."""
    from blurface.images import name_of, read_rgb
    from blurface.training.pack import FACE, PackedFace, encode

    (top, left), (height, width) = corner, FACE
    for path, identity in found:
        try:
            pixels = read_rgb(path)
        except ImageError as error:
            told(str(error))
            continue
        if pixels.shape[0] < top + height or pixels.shape[1] < left + width:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            told(f"{name_of(path)}: {size} pixels hold no 96x112 face at {corner}. Check --corner.")
            continue
        jpeg = path.read_bytes() if path.suffix.lower() in (".jpg", ".jpeg") else encode(pixels)
        # Names may be no Unicode, which a Parquet file cannot hold.
        face = PackedFace(name_of(path.name), name_of(identity), jpeg, *corner)
        yield face, pixels[top : top + height, left : left + width]


def aligned(
    found: Sequence[tuple[Path, str]],
    told: Callable[[str], None],
    progress: PhaseProgress,
    jobs: int,
) -> Iterator[tuple[PackedFace, NDArray[np.uint8]]]:
    """As :func:`usable`, of photographs: the face that is meant, aligned, with :data:`MARGIN` around it."""
    from blurface.images import name_of, read_rgb
    from blurface.training.pack import PackedFace, encode
    from verification.align import align
    from verification.detect import locate

    bad: dict[int, ImageError | DataError] = {}
    detections = locate(
        [path for path, _ in found],
        jobs=jobs,
        progress=lambda done, total: progress("detecting", done, total),
        unreadable=bad.__setitem__,
    )
    for index, (path, identity) in enumerate(progress.track(found, "faces", len(found))):
        detection = detections[index]
        if detection is None:
            told(str(bad[index]) if index in bad else f"{name_of(path)}: no face was found.")
            continue
        pixels = align(read_rgb(path), detection.points, margin=MARGIN).pixels
        face = PackedFace(name_of(path.name), name_of(identity), encode(pixels), MARGIN, MARGIN)
        yield face, pixels[MARGIN:-MARGIN, MARGIN:-MARGIN]


def nearest_similarity(
    embeddings: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Largest cosine of each embedding with any reference, after subtracting the references' mean.

    NaN for an embedding of NaN: of no face can be said whom it is near without one.
    """
    mean = reference.mean(0)

    def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
        x = x - mean
        length: NDArray[np.float32] = np.linalg.norm(x, axis=1, keepdims=True)
        return x / length

    a, b = unit(embeddings), unit(reference)
    return np.concatenate([(a[i : i + 1024] @ b.T).max(1) for i in range(0, len(a), 1024)])


def _spelling(name: str) -> str:
    """``George W Bush``, ``george_w_bush`` and ``George_W_Bush`` as one."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


class Benchmark:
    """The people and faces of LFW's pair list, which training must not see.

    Attributes
    ----------
    people : set of str
        Names, however they are spelled.
    threshold : float
        Mean-subtracted cosine from which a face counts as near one of theirs.
    near : int
        Faces dropped for that so far.
    unknown : int
        Faces dropped so far because they have no embedding.

    Raises
    ------
    DataError
        If no face of theirs has an embedding.
    """

    def __init__(self, threshold: float, data_root: Path | None, progress: PhaseProgress) -> None:
        from protocols.datasets import create_protocol
        from verification import create_embedder
        from verification.align import crop_prealigned

        protocol = create_protocol("lfw", data_root=data_root, crops="aligned")
        images = protocol.pairs.images
        self.people = {_spelling(image.partition("/")[0]) for image in images}
        self.threshold = threshold
        self.near = self.unknown = 0
        self._embedder = create_embedder("mobilefacenet", data_root=data_root)
        crops = (crop_prealigned(protocol.read(image), "112x96") for image in images)
        batches = batched(progress.track(crops, "benchmark", len(images)), _BATCH)
        reference = np.concatenate([self._embed(batch) for batch in batches])
        # A row of NaN is a failure to enrol: in the mean it would make every cosine NaN.
        self._reference = reference[np.isfinite(reference).all(1)]
        if not len(self._reference):
            raise DataError(
                "The mobilefacenet verifier embeds no face of LFW's pair list.",
                "Check its weights and the aligned crops, or pack with --drop-near none.",
            )

    def names(self, identity: str) -> bool:
        """Whether somebody of this name is in the pair list."""
        return _spelling(identity) in self.people

    def apart(self, faces: Iterable[tuple[PackedFace, NDArray[np.uint8]]]) -> Iterator[PackedFace]:
        """Those that look like none of the benchmark's; the others are counted, by reason."""
        for batch in batched(faces, _BATCH):
            similarity = nearest_similarity(self._embed([crop for _, crop in batch]), self._reference)
            kept = [face for (face, _), cosine in zip(batch, similarity) if cosine <= self.threshold]
            unknown = int(np.isnan(similarity).sum())
            self.unknown += unknown
            self.near += len(batch) - len(kept) - unknown
            yield from kept

    def _embed(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        import torch

        return self._embedder.embed(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Items in tuples of ``size``, the last one shorter."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


@click.command()
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write."
)
@click.option(
    "--corner",
    type=(int, int),
    default=(0, 0),
    show_default=True,
    metavar="TOP LEFT",
    help="Where the 112x96 face lies in every picture.",
)
@click.option(
    "--detect",
    is_flag=True,
    help=f"FOLDERS hold photographs: find the face in each, align it, keep {MARGIN} pixels around it.",
)
@click.option(
    "--drop-near",
    type=click.Choice(["lfw", "none"]),
    default="lfw",
    show_default=True,
    help="Drop faces whose embedding is near one of this benchmark's.",
)
@click.option(
    "--threshold",
    type=float,
    default=0.5,
    show_default=True,
    help="Mean-subtracted cosine from which a face counts as near.",
)
@click.option("--data-root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@jobs_option
def pack(
    folders: tuple[Path, ...],
    out: Path,
    corner: tuple[int, int],
    detect: bool,
    drop_near: str,
    threshold: float,
    data_root: Path | None,
    jobs: int | None,
) -> None:
    """Pack FOLDERS of aligned faces, or with --detect of photographs, into one file for training.

    People named in the benchmark's pair list are dropped by name, and faces that look like one of
    theirs (by the mobilefacenet verifier) are dropped too, as are faces of which that cannot be told
    because they have no embedding; the counts are printed and kept in the file.
    Pictures that cannot be used are named and left out; the exit code is then 1.
    """
    from blurface.processes import processors
    from blurface.training.pack import write_pack

    from .progress import PhaseProgress

    if min(corner) < 0:
        raise click.UsageError("--corner must not be negative.")
    if detect and corner != (0, 0):
        raise click.UsageError("--corner is for aligned pictures, --detect for photographs.")
    everything = [item for folder in folders for item in find_faces(folder)]
    unusable = 0

    def told(message: str) -> None:
        nonlocal unusable
        unusable += 1
        click.echo(f"blurface: {message}", err=True)

    with PhaseProgress() as progress:
        benchmark = Benchmark(threshold, data_root, progress) if drop_near == "lfw" else None
        found = [item for item in everything if benchmark is None or not benchmark.names(item[1])]
        if detect:
            each = aligned(found, told, progress, jobs or processors())
        else:
            each = usable(progress.track(found, "faces", len(found)), corner, told)
        faces = list(benchmark.apart(each) if benchmark else (face for face, _ in each))
    if not faces:
        raise DataError("No picture can be used.", "The reasons stand above.")
    note: dict[str, Any] = {
        "folders": [folder.name for folder in folders],
        "found": len(everything),
        "unusable": unusable,
        "dropped": {},
    }
    if benchmark is not None:
        note["dropped"] = {
            "named in the pair list": len(everything) - len(found),
            f"within {threshold} of a face of the pair list": benchmark.near,
        }
        if benchmark.unknown:
            note["dropped"]["no embedding"] = benchmark.unknown
        note["threshold"] = threshold
    count = write_pack(out, faces, note)
    for reason, number in note["dropped"].items():
        click.echo(f"dropped {number}: {reason}", err=True)
    click.echo(f"{out}: {count} faces of {len({face.identity for face in faces})} people")
    if unusable:
        click.echo(f"blurface: {unusable} of {len(everything)} pictures were left out.", err=True)
        sys.exit(1)
