"""Downloads: resumed where they were cut, checked, and under their names only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import DataError
from ..files import write_atomic
from .archives import unpack
from .catalogue import Asset, RemoteFile

DOWNLOADS = ".downloads"
"""Folder below the root for what is under way, locks and receipts."""

_ATTEMPTS = 5
_CHUNK = 1 << 18


def _receipt(file: RemoteFile, root: Path) -> Path:
    return root / DOWNLOADS / f"{file.name}.json"


def read_receipt(file: RemoteFile, root: Path) -> dict[str, Any]:
    """What was noted when a file was downloaded into ``root``; empty where it was not."""
    try:
        receipt = json.loads(_receipt(file, root).read_text())
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def is_complete(file: RemoteFile, root: Path) -> bool:
    """Whether a download is finished: its receipt, and what it describes, are there."""
    receipt = read_receipt(file, root)
    if not receipt or (file.sha256 is not None and receipt.get("sha256") != file.sha256):
        return False
    if file.archive:
        return all((root / file.target / name).exists() for name in receipt.get("unpacked", ["?"]))
    target = root / file.target
    return target.is_file() and sha256_file(target) == receipt.get("sha256")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two programs do not write the same partial download."""
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Free some space, or name another folder with BLURFACE_CACHE.",
    )


def download_file(asset: Asset, file: RemoteFile, root: Path, progress: bool) -> None:
    """Download one file of an asset below ``root``, check it, unpack it, and leave a receipt."""
    import pooch

    folder = root / DOWNLOADS
    earlier = read_receipt(file, root).get("sha256")
    level = pooch.get_logger().level
    pooch.get_logger().setLevel("WARNING")
    try:
        done = Path(
            pooch.retrieve(
                file.url,
                known_hash=f"sha256:{file.sha256}" if file.sha256 else None,
                fname=file.name,
                path=folder,
                downloader=_Resuming(asset, file, folder / f"{file.name}.part", progress),
            )
        )
    except ValueError as error:  # pooch's word for another checksum
        raise DataError(
            f"What {file.url} sent for {asset.name} does not have the expected SHA-256 {file.sha256}.",
            f"Nothing was kept. Try again later, or place {asset.place} under a data root by hand.",
        ) from error
    finally:
        pooch.get_logger().setLevel(level)
    digest = file.sha256 or sha256_file(done)
    if file.sha256 is None and earlier not in (None, digest):
        done.unlink()
        raise DataError(
            f"{file.url} now sends another file: SHA-256 {digest}, the first download had {earlier}.",
            f"If the change is known and wanted: blurface data clear {asset.name}, then get it again.",
        )
    receipt: dict[str, Any] = {"url": file.url, "sha256": digest, "size": done.stat().st_size}
    if file.archive:
        receipt["unpacked"] = unpack(done, root / file.target)
        done.unlink()
    else:
        (root / file.target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(done, root / file.target)
    write_atomic(_receipt(file, root), json.dumps(receipt))


class _Resuming:
    """A pooch downloader that keeps what it has and asks for the rest (RFC 9110, section 14)."""

    def __init__(self, asset: Asset, file: RemoteFile, part: Path, progress: bool) -> None:
        self.asset = asset
        self.file = file
        self.part = part
        self.note = part.with_name(f"{part.name}.json")
        self.progress = progress

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        import requests

        failures = 0
        while True:
            before = self._have()
            try:
                self._continue(url)
                break
            except requests.exceptions.RequestException as error:
                # A cut that brought something forward is no failure: a slow line gets there.
                failures = 1 if self._have() > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise self._offline(url, error) from error
                time.sleep(min(0.2 * 2**failures, 5.0))
        os.replace(self.part, output_file)
        self.note.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _offline(self, url: str, error: Exception) -> DataError:
        return DataError(
            f"{self.asset.name} cannot be downloaded from {url}: {_reason(error)}.",
            f"Check the network and try again (what came stays), or place {self.asset.place} under a "
            "data root (--data-root, BLURFACE_DATA).",
        )

    def _continue(self, url: str) -> None:
        import requests

        _require_https(url)
        have = self._have()
        headers = {"Accept-Encoding": "identity", "User-Agent": "blurface"}
        validator = self._validator(url)
        if have and (validator or self.file.sha256):
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        with requests.get(url, headers=headers, stream=True, timeout=(15, 60)) as response:
            for hop in [*response.history, response]:
                _require_https(hop.url)
            if response.status_code == 416:  # nothing after what is here: too much, or all of it
                if response.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                    return
                self.part.unlink(missing_ok=True)
                raise requests.exceptions.ConnectionError("the server has less than was kept")
            if response.status_code >= 500 or response.status_code == 429:
                raise requests.exceptions.ConnectionError(f"HTTP {response.status_code}")
            if response.status_code not in (200, 206):
                raise DataError(
                    f"{self.asset.name} cannot be downloaded: {url} answers HTTP "
                    f"{response.status_code} {response.reason}.",
                    f"Place {self.asset.place} under a data root (--data-root, BLURFACE_DATA).",
                )
            start = _start(response) if response.status_code == 206 else 0
            if start not in (0, have):
                self.part.unlink(missing_ok=True)
                raise requests.exceptions.ConnectionError("the server sent another part of the file")
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            etag = response.headers.get("ETag", "")
            strong = etag if etag and not etag.startswith("W/") else ""
            write_atomic(self.note, json.dumps({"url": url, "etag": strong}))
            self._write(response, start, total)
            if total is not None and self._have() != total:
                raise requests.exceptions.ConnectionError(f"cut after {self._have():,} of {total:,} bytes")

    def _validator(self, url: str) -> str:
        try:
            note = json.loads(self.note.read_text())
            return str(note["etag"]) if note["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _write(self, response: Any, start: int, total: int | None) -> None:
        import requests

        try:
            with self.part.open("ab" if start else "wb") as out, self._bar(start, total) as advance:
                for chunk in response.iter_content(_CHUNK):
                    out.write(chunk)
                    advance(len(chunk))
        except requests.exceptions.RequestException:  # an OSError too, but the network's
            raise
        except OSError as error:
            raise _unwritable(self.part, error) from error

    @contextlib.contextmanager
    def _bar(self, start: int, total: int | None) -> Iterator[Callable[[int], object]]:
        if not self.progress:
            yield lambda count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, Remaining(), console=Console(stderr=True)) as bar:
            task = bar.add_task(self.asset.name, total=total, completed=start)
            yield lambda count: bar.advance(task, count)


def _reason(error: Exception) -> str:
    """The innermost message of a requests error, which wraps urllib3's, which wraps the system's."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(getattr(inner, "strerror", None) or inner).rstrip(".") or type(inner).__name__


def _start(response: Any) -> int:
    """First byte of a partial answer: ``Content-Range: bytes START-END/TOTAL``."""
    first = str(response.headers.get("Content-Range", "")).removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise DataError(f"{url} is not an HTTPS address.", "Data is only downloaded over HTTPS.")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
