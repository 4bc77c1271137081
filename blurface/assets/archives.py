"""Unpack archives of strangers: plain files and folders below one's own folder, or nothing."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ..errors import DataError


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack a tar or zip file into ``folder``; return the names of its top level.

    Only plain files and folders below the top are taken; anything else stops the whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, staging)
        else:
            _untar(archive, staging)
        names = sorted(path.name for path in staging.iterdir())
        for name in names:
            target = folder / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(staging / name, target)
        return names
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        archive.unlink()
        raise DataError(
            f"The archive {archive.name} is damaged: {error}.", "Get it again: it was removed."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _untar(archive: Path, folder: Path) -> None:
    # Not extractall(filter="data"), which Python has from 3.11.4 on.
    with tarfile.open(archive) as file:
        for member in file:
            _check_name(archive, member.name)
            target = folder / member.name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = file.extractfile(member) if member.isfile() else None
            if content is None:
                raise _unsafe(archive, member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as out:
                shutil.copyfileobj(content, out)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _check_name(archive, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _unsafe(archive, member.filename)
        file.extractall(folder)


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise _unsafe(archive, name)


def _unsafe(archive: Path, name: str) -> DataError:
    return DataError(
        f"The archive {archive.name} holds {name!r}, which is no plain file below its own folder.",
        "Nothing was unpacked; do not use this archive.",
    )
