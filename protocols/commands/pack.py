"""``blurface data pack``: aligned faces into one training file, without people of the benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from blurface.errors import DataError, ImageError

if TYPE_CHECKING:
    from verification.embedders.base import Embedder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_faces(folder: Path) -> list[tuple[Path, str]]:
    """Pictures of a folder with their identities.

    ``identities.txt`` (a file name and an identity a line) says who is who; otherwise the name of
    the sub-folder does.

    Raises
    ------
    DataError
        If the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.", "Give a folder of aligned face pictures.")
    table: dict[str, str] = {}
    listing = folder / "identities.txt"
    if listing.exists():
        try:
            text = listing.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{listing} cannot be read: {error}.", "Save it as UTF-8 text.") from error
        for line in text.splitlines():
            name, _, identity = line.strip().partition(" ")
            table[name] = identity
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no picture.", f"Expected files of {', '.join(SUFFIXES)}.")
    return [(path, table.get(path.name, path.parent.name)) for path in files]


def keep_usable(
    found: list[tuple[Path, str]], corner: tuple[int, int], told: Callable[[str], None]
) -> list[tuple[Path, str]]:
    """Pictures that can be decoded and hold the whole face; ``told`` gets a sentence on each other one."""
    from blurface.images import name_of, read_rgb
    from blurface.training.pack import FACE

    kept = []
    height, width = corner[0] + FACE[0], corner[1] + FACE[1]
    for path, identity in found:
        try:
            pixels = read_rgb(path)
        except ImageError as error:
            told(str(error))
            continue
        if pixels.shape[0] < height or pixels.shape[1] < width:
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            told(f"{name_of(path)}: {size} pixels hold no 96x112 face at {corner}. Check --corner.")
            continue
        kept.append((path, identity))
    return kept


def nearest_similarity(
    embeddings: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Largest cosine of each embedding with any reference, after subtracting the references' mean."""
    mean = reference.mean(0)

    def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
        x = x - mean
        length: NDArray[np.float32] = np.linalg.norm(x, axis=1, keepdims=True)
        return x / length

    a, b = unit(embeddings), unit(reference)
    return np.concatenate([(a[i : i + 1024] @ b.T).max(1) for i in range(0, len(a), 1024)])


def _embed(
    embedder: Embedder, crops: Iterator[NDArray[np.uint8]], total: int, label: str
) -> NDArray[np.float32]:
    import torch
    from rich.progress import track

    parts: list[NDArray[np.float32]] = []
    held: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if held:
            batch = torch.from_numpy(np.stack(held)).permute(0, 3, 1, 2).float() / 255
            parts.append(embedder.embed(batch))
            held.clear()

    for crop in track(crops, label, total=total):
        held.append(crop)
        if len(held) == 256:
            flush()
    flush()
    return np.concatenate(parts)


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
def pack(
    folders: tuple[Path, ...],
    out: Path,
    corner: tuple[int, int],
    drop_near: str,
    threshold: float,
    data_root: Path | None,
) -> None:
    """Pack FOLDERS of aligned faces into one file for training.

    People named in the benchmark's pair list are dropped by name, and faces that look like one of
    theirs (by the mobilefacenet verifier) are dropped too; both counts are printed and kept in the
    file.
    Pictures that cannot be used are named and left out; the exit code is then 1.
    """
    from blurface.images import name_of, read_rgb
    from blurface.training.pack import FACE, PackedFace, encode, write_pack

    if min(corner) < 0:
        raise click.UsageError("--corner must not be negative.")
    everything = [item for folder in folders for item in find_faces(folder)]
    unusable: list[str] = []
    found = keep_usable(everything, corner, unusable.append)
    for message in unusable:
        click.echo(f"blurface: {message}", err=True)
    if not found:
        raise DataError("No picture can be used.", "The reasons stand above.")
    note: dict[str, Any] = {
        "folders": [folder.name for folder in folders],
        "found": len(everything),
        "unusable": len(unusable),
        "dropped": {},
    }
    if drop_near != "none":
        from protocols.datasets import create_protocol
        from verification import create_embedder
        from verification.align import crop_prealigned

        protocol = create_protocol("lfw", data_root=data_root, crops="aligned")
        people = {image.rpartition("_")[0] for image in protocol.pairs.images}
        named = [item for item in found if item[1] not in people]
        note["dropped"]["named in the pair list"] = len(found) - len(named)
        found = named
        embedder = create_embedder("mobilefacenet", data_root=data_root)
        images = protocol.pairs.images
        reference = _embed(
            embedder, (crop_prealigned(protocol.read(i), "112x96") for i in images), len(images), "benchmark"
        )
        top, left = corner
        crops = (read_rgb(path)[top : top + FACE[0], left : left + FACE[1]] for path, _ in found)
        similarity = nearest_similarity(_embed(embedder, crops, len(found), "faces"), reference)
        note["dropped"][f"within {threshold} of a face of the pair list"] = int(
            (similarity > threshold).sum()
        )
        note["threshold"] = threshold
        found = [item for item, near in zip(found, similarity > threshold) if not near]

    def faces() -> Iterator[PackedFace]:
        for path, identity in found:
            data = path.read_bytes()
            if path.suffix.lower() not in (".jpg", ".jpeg"):
                data = encode(read_rgb(path))
            # Names may be no Unicode, which a Parquet file cannot hold.
            yield PackedFace(name_of(path.name), name_of(identity), data, *corner)

    count = write_pack(out, faces(), note)
    for reason, number in note["dropped"].items():
        click.echo(f"dropped {number}: {reason}", err=True)
    click.echo(f"{out}: {count} faces of {len({identity for _, identity in found})} people")
    if unusable:
        click.echo(f"blurface: {len(unusable)} of {len(everything)} pictures were left out.", err=True)
        sys.exit(1)
