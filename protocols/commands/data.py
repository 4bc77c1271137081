"""``blurface data``: list, get, find, check and clear data sets and weights; pack training faces."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from blurface import assets
from blurface.errors import BlurfaceError, DataError

from .options import data_root_option
from .rows import format_option, render, size_text

if TYPE_CHECKING:
    from protocols.datasets import Protocol


class DataGroup(click.Group):
    """The group, with ``pack`` imported when it is called: it needs torch."""

    _LAZY: ClassVar[dict[str, tuple[str, str]]] = {"pack": ("protocols.commands.pack", "pack")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, the lazy ones included."""
        return [*self.commands, *self._LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command, importing its module if need be."""
        if cmd_name in self._LAZY:
            module, attribute = self._LAZY[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=DataGroup)
def data() -> None:
    """List, get, find, check, pack and clear data sets and weights."""


def asset_row(asset: assets.Asset, data_root: Path | None) -> dict[str, Any]:
    """One asset as listings show it: what it is, where it was found, what to do if it was not."""
    try:
        path: Path | None = assets.find(asset.name, data_root)
        mend = ""
    except DataError as error:
        path, mend = None, error.hint or ""
    unpublished = [file.checksum_source for file in asset.files if file.sha256 is None]
    download = sum(file.size or 0 for file in asset.files) or asset.size
    return {
        "name": asset.name,
        "kind": asset.kind,
        "description": asset.description,
        "size": size_text(download),
        "get": "download" if asset.files else "by hand",
        "checksum": "unpublished" if unpublished else "SHA-256" if asset.files else "",
        "found": str(path) if path else "",
        "bytes": download,
        "terms": asset.terms,
        "home": asset.home,
        "place": asset.place,
        "urls": [file.url for file in asset.files],
        "sha256": [file.sha256 for file in asset.files],
        "checksum_note": unpublished[0] if unpublished else "",
        "mend": mend,
    }


@data.command("list")
@click.option("--kind", type=click.Choice(["dataset", "weights", "kernels", "list"]), help="Only these.")
@data_root_option
@format_option
def list_(kind: str | None, data_root: Path | None, format_: str) -> None:
    """List data sets and weights: size, where each was found, how it can be had."""
    rows = [asset_row(a, data_root) for a in assets.ASSETS.values() if kind in (None, a.kind)]
    columns = ["name", "kind", "description", "size", "get", "checksum", "found"]
    if format_ == "csv":
        columns += ["terms", "home", "place", "mend"]
    click.echo(render(rows, columns, format_))


@data.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Download even if a data root has it already.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar (default: on a terminal).")
@data_root_option
def get(names: tuple[str, ...], force: bool, progress: bool | None, data_root: Path | None) -> None:
    """Download NAMES into the cache and print their paths; resumes what was cut."""
    if progress is None:
        progress = sys.stderr.isatty()
    for name in names:
        assets.get_asset(name)  # a misspelt name stops everything before anything is downloaded
    failed = 0
    for name in names:
        try:
            click.echo(_get(name, force, progress, data_root))
        except DataError as error:
            failed += 1
            if len(names) == 1:
                raise
            click.echo(f"blurface: {error}", err=True)
    if failed:
        raise DataError(f"{failed} of {len(names)} were not got.", "The reasons stand above.")


def _get(name: str, force: bool, progress: bool, data_root: Path | None) -> Path:
    if not force:
        try:
            return assets.find(name, data_root)
        except DataError:
            pass
    for file in assets.get_asset(name).files:
        if file.sha256 is None:
            click.echo(f"{name}: {file.checksum_source}; trusting the first download.", err=True)
    return assets.fetch(name, progress)


@data.command()
@click.argument("name")
@data_root_option
def path(name: str, data_root: Path | None) -> None:
    """Print where NAME is."""
    click.echo(assets.find(name, data_root))


@data.command()
@click.argument("names", nargs=-1)
@click.option("--decode", is_flag=True, help="Also decode every picture of the pair lists (LFW: a minute).")
@data_root_option
@format_option
def check(names: tuple[str, ...], decode: bool, data_root: Path | None, format_: str) -> None:
    """Compare NAMES (default: all that are there) with checksums and pair lists.

    Exit code 1 if anything is damaged, or missing though named.
    """
    rows = []
    for name in names or tuple(assets.ASSETS):
        result = assets.check(name, data_root)
        status, detail = result.status, result.detail
        if status == "missing" and not names:
            continue
        if result.path is not None and name in _CONTENTS:
            try:
                detail = _contents(_CONTENTS[name](data_root, result.path), result.path, decode)
            except BlurfaceError as error:
                status, detail = "damaged", str(error)
        rows.append({"name": name, "status": status, "path": str(result.path or ""), "detail": detail})
    click.echo(render(rows, ("name", "status", "path", "detail"), format_))
    bad = [row["name"] for row in rows if row["status"] in ("damaged", "missing")]
    if bad:
        raise DataError(f"Not in order: {', '.join(bad)}.", "The table says why and what to do.")


def _lfw(crops: str) -> Callable[[Path | None, Path], Protocol]:
    def build(data_root: Path | None, path: Path) -> Protocol:
        from protocols.datasets import create_protocol

        return create_protocol("lfw", data_root, crops=crops)

    return build


def _facescrub(data_root: Path | None, path: Path) -> Protocol:
    from protocols.datasets import create_protocol

    return create_protocol("facescrub", path=path)


_CONTENTS: dict[str, Callable[[Path | None, Path], Protocol]] = {
    "lfw": _lfw("photographs"),
    "lfw-aligned": _lfw("aligned"),
    "facescrub": _facescrub,
}


def _contents(protocol: Protocol, root: Path, decode: bool) -> str:
    """What was found of a protocol's pictures, in a sentence; raises where one is missing or broken."""
    images = protocol.pairs.images
    if decode:
        for image in images:
            protocol.read(image)
    else:
        empty = [image for image in images if not protocol.path(image).stat().st_size]
        if empty:
            raise DataError(f"{protocol.path(empty[0])} is empty ({len(empty)} such).", "Get them again.")
    how = "decoded" if decode else "present"
    text = f"{len(protocol.pairs):,} pairs in {protocol.pairs.folds} folds, {len(images):,} pictures {how}"
    return text + "".join(f"; {line}" for line in _lists(protocol, root))


def _lists(protocol: Protocol, root: Path) -> Iterator[str]:
    """FaceScrub's official lists, where they lie beside the pictures, compared with the files."""
    if protocol.name != "facescrub":
        return
    from protocols.datasets.facescrub import check_list, read_list

    for folder in (root, root.parent):
        if files := sorted(folder.glob("facescrub_act*.txt")):
            wrong: list[BlurfaceError] = []
            found = check_list(root, [face for file in files for face in read_list(file, wrong.append)])
            yield f"{found.present:,} of {found.listed:,} listed faces, {len(found.unlisted):,} unlisted"
            yield f"{found.identical:,} as downloaded, the others cropped or saved anew (by SHA-256)"
            yield from (error.message.rstrip(".") for error in wrong)
            return


@data.command()
@click.argument("protocol")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--folds", type=click.IntRange(1), help="Folds [default: 10, or what the pictures give].")
@click.option("--per-fold", type=click.IntRange(1), help="Pairs of each kind in a fold [default: 300].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@data_root_option
def pairs(
    protocol: str, out: Path, folds: int | None, per_fold: int | None, seed: int, data_root: Path | None
) -> None:
    """Draw pairs for PROTOCOL (facescrub, folder:PATH) and write them in LFW's format.

    A list named pairs.txt in the folder is used from then on, so that it can be shared and cited.
    """
    from protocols.datasets import Gallery
    from protocols.datasets.pairs import generate_pairs, write_pairs

    name, _, argument = protocol.partition(":")
    if name == "facescrub":
        root = Path(argument) if argument else assets.find("facescrub", data_root)
    elif name in ("folder", "folder-aligned") and argument:
        root = Path(argument)
    else:
        raise DataError(f"No pairs can be drawn for {protocol!r}.", "Use facescrub or folder:PATH.")
    gallery = Gallery(root.expanduser())
    if gallery.skipped:
        click.echo(
            f"blurface: {gallery.skipped} pictures are left out: a pair list cannot carry their name or "
            "their person's (tabs, quotes, a leading # ...).",
            err=True,
        )
    lines, count = generate_pairs(gallery, folds, per_fold, seed)
    write_pairs(out, lines, count)
    click.echo(f"{out}: {len(lines):,} pairs in {count} folds, seed {seed}")


@data.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="Downloads too, not only what runs left behind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(names: tuple[str, ...], all_: bool, yes: bool) -> None:
    """Remove face embeddings, landmarks and measurements from the cache, or the downloads NAMES.

    Without NAMES, what runs keep to be resumed and repeated; with --all the downloads as well.
    Data that you placed under a data root yourself is never touched, nor are the output folders of
    runs.
    """
    cache = assets.cache_folder()
    for name in names:
        assets.get_asset(name)
    parts = [] if names else [p for p in assets.CACHE_PARTS if all_ or p != "data"]
    parts = [part for part in parts if (cache / part).is_dir()]
    if not names and not parts:
        click.echo(f"Nothing to remove in {cache}.", err=True)
        return
    for part in parts:
        click.echo(
            f"{cache / part}: {assets.CACHE_PARTS[part]}, {size_text(folder_size(cache / part))}", err=True
        )
    if not yes:
        click.confirm(f"Remove {', '.join(names or parts)}?", abort=True, err=True)
    removed = [path for name in names for path in assets.clear(name)]
    removed += [path for part in parts if (path := assets.clear_cache(part)) is not None]
    for gone in removed:
        click.echo(gone)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
