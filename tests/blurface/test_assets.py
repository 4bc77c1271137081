"""Finding and downloading data: against a loopback server that misbehaves on demand."""

from __future__ import annotations

import hashlib
import io
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blurface import assets
from blurface.assets import Asset, RemoteFile, catalogue
from blurface.errors import DataError, UnknownNameError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content``; attributes say how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.status = 200
        self.ranges = True
        self.etag = '"one"'
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.hang = threading.Event()  # set: an answer that is cut waits for the client to go first
        self.location = ""
        self.seen: list[tuple[str, str]] = []  # path and Range header of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.seen.append((self.path, asked))
        if server.location:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        total, start = len(server.content), 0
        condition = self.headers.get("If-Range")
        if asked and server.ranges and condition in (None, server.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else total
        self.wfile.write(server.content[start:end])
        if end < total:
            self.wfile.flush()
            if server.hang.is_set():
                self.rfile.read(1)
            self.connection.close()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    monkeypatch.setattr("blurface.assets.download.time.sleep", lambda seconds: None)
    return tmp_path / "cache" / "data"


def offer(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    sha256: str | None = SHA,
    target: str = "weights/file.bin",
    archive: bool = False,
    marker: str = "",
) -> str:
    """Register an asset ``thing`` with one file at ``url``."""
    file = RemoteFile(url, target, sha256, "this test", archive=archive)
    candidates = ("tree/pictures",) if archive else (target,)
    thing = Asset("thing", "weights", "a thing", "none", candidates, target, marker, (file,))
    monkeypatch.setitem(assets.ASSETS, "thing", thing)
    return "thing"


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / ".downloads").glob("*") if not p.name.endswith((".lock", ".json")))


# ------------------------------------------------------------------------------------ download


def test_a_download_arrives_whole_and_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, server.url)
    path = assets.fetch(name, progress=False)
    assert path == cache / "weights/file.bin"
    assert path.read_bytes() == CONTENT
    assert assets.find(name) == path
    assert assets.fetch(name, progress=False) == path
    assert len(server.seen) == 1
    assert leftovers(cache) == []
    assert assets.check(name).status == "ok"


def test_a_damaged_file_is_noticed_and_got_again(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, server.url)
    path = assets.fetch(name, progress=False)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert assets.check(name).status == "damaged"
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_not_kept(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, server.url, "0" * 64)
    with pytest.raises(DataError, match="expected SHA-256 0000"):
        assets.fetch(name, progress=False)
    assert not (cache / "weights/file.bin").exists()
    assert leftovers(cache) == []
    assert assets.check(name).status == "missing"


def test_a_cut_connection_is_resumed_where_it_stopped(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = [1_000_000, 500_000]
    name = offer(monkeypatch, server.url)
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT
    ranges = [asked for _, asked in server.seen]
    assert ranges[0] == ""
    assert ranges[1].startswith("bytes=")
    assert 0 < int(ranges[1][6:-1]) <= 1_000_000
    assert int(ranges[1][6:-1]) < int(ranges[2][6:-1])


def test_a_killed_download_goes_on_in_the_next_run(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blurface.assets.download._ATTEMPTS", 1)
    server.cuts = [1_000_000]
    name = offer(monkeypatch, server.url)
    with pytest.raises(DataError, match="try again"):
        assets.fetch(name, progress=False)
    assert not (cache / "weights/file.bin").exists()
    assert leftovers(cache) == ["weights-file.bin.part"]
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT
    assert int(server.seen[-1][1][6:-1]) > 0


def test_resuming_a_server_that_ignores_ranges_starts_anew(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts, server.ranges = [1_000_000], False
    name = offer(monkeypatch, server.url)
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_together(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blurface.assets.download._ATTEMPTS", 1)
    server.cuts = [1_000_000]
    name = offer(monkeypatch, server.url, sha256=None)
    with pytest.raises(DataError):
        assets.fetch(name, progress=False)
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("kept", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_already_whole_or_too_long(
    kept: int, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cache / ".downloads" / "weights-file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((CONTENT + b"extra")[:kept])
    name = offer(monkeypatch, server.url)
    assert assets.fetch(name, progress=False).read_bytes() == CONTENT


def test_not_found_says_what_to_place_where(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 404
    name = offer(monkeypatch, server.url)
    with pytest.raises(DataError, match=r"HTTP 404.*Place weights/file.bin under a data root"):
        assets.fetch(name, progress=False)
    assert len(server.seen) == 1  # a missing page does not appear by asking again


def test_a_failing_server_is_asked_again(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 503

    def recover(seconds: float) -> None:
        server.status = 200

    monkeypatch.setattr("blurface.assets.download.time.sleep", recover)
    assert assets.fetch(offer(monkeypatch, server.url), progress=False).read_bytes() == CONTENT
    assert len(server.seen) == 2


def test_no_network_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as closed:
        url = closed.url
    name = offer(monkeypatch, url)
    with pytest.raises(DataError) as caught:
        assets.fetch(name, progress=False)
    assert "Connection refused" in caught.value.message
    assert "weights/file.bin" in str(caught.value.hint)


def test_only_https(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="not an HTTPS address"):
        assets.fetch(offer(monkeypatch, "http://example.invalid/file.bin"), progress=False)
    server.location = "http://example.invalid/file.bin"
    with pytest.raises(DataError):
        assets.fetch(offer(monkeypatch, server.url), progress=False)
    assert all(file.url.startswith("https://") for asset in catalogue._ALL for file in asset.files)


def test_without_a_published_checksum_the_first_download_is_trusted(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, server.url, sha256=None)
    path = assets.fetch(name, progress=False)
    assert assets.check(name).detail == "SHA-256 as noted at its download"
    path.unlink()
    server.content = b"another"
    with pytest.raises(DataError, match="another file"):
        assets.fetch(name, progress=False)
    assert not path.exists()
    assets.clear(name)
    assert assets.fetch(name, progress=False).read_bytes() == b"another"


def test_clear_removes_downloads_only(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, server.url)
    own = tmp_path / "own/weights/file.bin"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    fetched = assets.fetch(name, progress=False)
    assert fetched in assets.clear(name)
    assert not fetched.exists()
    assert assets.find(name, tmp_path / "own") == own
    assert assets.clear(name) == []


def test_the_progress_bar_goes_to_standard_error(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assets.fetch(offer(monkeypatch, server.url), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "thing" in err


def test_a_killed_program_loses_nothing(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cuts = [1_000_000]
    server.hang.set()
    code = f"""
from blurface import assets
file = assets.RemoteFile({server.url!r}, "weights/file.bin", {SHA!r}, "this test")
assets.ASSETS["thing"] = assets.Asset("thing", "weights", "", "", ("weights/file.bin",), "", files=(file,))
assets.fetch("thing", progress=False)
"""
    program = subprocess.Popen([sys.executable, "-c", code])
    part = cache / ".downloads/weights-file.bin.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    program.send_signal(signal.SIGKILL)
    program.wait()
    kept = part.stat().st_size
    assert 0 < kept <= 1_000_000
    assert not (cache / "weights/file.bin").exists()
    assert assets.fetch(offer(monkeypatch, server.url), progress=False).read_bytes() == CONTENT
    assert server.seen[-1][1] == f"bytes={kept}-"


def test_two_at_once_download_once(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = offer(monkeypatch, server.url)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: assets.fetch(name, progress=False), range(2)))
    assert paths[0] == paths[1]
    assert len(server.seen) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = cache / ".downloads/weights-file.bin.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"No space left on device.*BLURFACE_CACHE"):
        assets.fetch(offer(monkeypatch, server.url), progress=False)


def test_a_cache_that_cannot_be_made(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(DataError, match="BLURFACE_CACHE"):
        assets.fetch(offer(monkeypatch, server.url), progress=False)
    assert server.seen == []


# ------------------------------------------------------------------------------------ archives


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def serve_archive(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes) -> str:
    server.content = content
    return offer(monkeypatch, server.url, hashlib.sha256(content).hexdigest(), "tree", True, "*/*.jpg")


def test_an_archive_is_unpacked_and_removed(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar((member("pictures/A/A_0001.jpg"), b"a"), (member("pictures/B/B_0001.jpg"), b"b"))
    name = serve_archive(server, monkeypatch, content)
    path = assets.fetch(name, progress=False)
    assert path == cache / "tree/pictures"
    assert (path / "B/B_0001.jpg").read_bytes() == b"b"
    assert leftovers(cache) == []
    assert sorted(p.name for p in (cache / "tree").iterdir()) == ["pictures"]
    assets.fetch(name, progress=False)
    assert len(server.seen) == 1
    assert path in assets.clear(name)
    assert not path.exists()


def test_a_zip_archive(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("pictures/A/A_0001.jpg", b"a")
    path = assets.fetch(serve_archive(server, monkeypatch, out.getvalue()), progress=False)
    assert (path / "A/A_0001.jpg").read_bytes() == b"a"


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside.jpg"),
        member("pictures/../../outside.jpg"),
        member("pictures/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("pictures/hard.jpg", tarfile.LNKTYPE, "pictures/A/A_0001.jpg"),
        member("pictures/pipe", tarfile.FIFOTYPE),
        member("pictures/device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name,
)
def test_unsafe_members_stop_the_whole_archive(
    bad: tarfile.TarInfo, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tar((member("pictures/A/A_0001.jpg"), b"a"), (bad, b""))
    name = serve_archive(server, monkeypatch, content)
    with pytest.raises(DataError, match="no plain file"):
        assets.fetch(name, progress=False)
    assert list((cache / "tree").iterdir()) == []
    assert not list(cache.parent.parent.rglob("outside.jpg"))


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "/outside.jpg", "..\\outside.jpg", "C:/outside.jpg", "link"]
)
def test_unsafe_names_in_a_zip(
    name: str, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "link" else 0
        file.writestr(info, b"/etc/passwd")
    with pytest.raises(DataError, match="no plain file"):
        assets.fetch(serve_archive(server, monkeypatch, out.getvalue()), progress=False)
    assert list((cache / "tree").iterdir()) == []


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no archive", lambda b: b""])
def test_a_damaged_archive(damage: Any, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = damage(tar((member("pictures/A/A_0001.jpg"), CONTENT[:10_000])))
    with pytest.raises(DataError, match="damaged"):
        assets.fetch(serve_archive(server, monkeypatch, content), progress=False)
    assert list((cache / "tree").iterdir()) == []
    assert leftovers(cache) == []


# ----------------------------------------------------------------------------------- on disk


def test_the_registry_is_sound() -> None:
    names = [asset.name for asset in catalogue._ALL]
    assert len(names) == len(set(names))
    for asset in catalogue._ALL:
        assert set(asset.also) <= set(names)
        assert asset.description
        assert asset.terms
        assert asset.place
        for file in asset.files:
            assert file.sha256 is None or (
                len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef")
            )
            assert file.checksum_source
            assert not Path(file.target).is_absolute()
            assert ".." not in Path(file.target).parts
    downloads = [file.name for asset in catalogue._ALL for file in asset.files]
    assert len(downloads) == len(set(downloads))


def test_lfw_addresses_and_checksums_are_scikit_learns() -> None:
    lfw = pytest.importorskip("sklearn.datasets._lfw")
    theirs = {(f.url, f.checksum) for f in (lfw.ARCHIVE, lfw.FUNNELED_ARCHIVE, *lfw.TARGETS)}
    ours = {(f.url, f.sha256) for a in catalogue._ALL for f in a.files if "sklearn" in f.checksum_source}
    assert ours == theirs


def test_roots_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("BLURFACE_DATA", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    expected = [tmp_path / "x", tmp_path / "a", tmp_path / "b", tmp_path / "c/data"]
    assert assets.data_roots(tmp_path / "x") == expected
    assert assets.data_roots() == expected[1:]
    monkeypatch.delenv("BLURFACE_DATA")
    assert assets.data_roots() == expected[3:]


@pytest.mark.parametrize(
    "layout",
    [
        "lfw/lfw-deepfunneled",
        "lfw/lfw_funneled",
        "lfw/lfw-funneled",
        "lfw_funneled",
        "lfw_home/lfw_funneled",
        "lfw",
        ".",
    ],
)
def test_layouts_of_lfw(layout: str, tmp_path: Path) -> None:
    picture = tmp_path / layout / "A_B/A_B_0001.jpg"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert assets.find("lfw", tmp_path) == picture.parents[1]


def test_an_empty_folder_is_not_taken_for_the_data(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "lfw/lfw-deepfunneled").mkdir(parents=True)
    with pytest.raises(DataError, match=r"lfw-deepfunneled/Name/Name_0001\.jpg"):
        assets.find("lfw", tmp_path)


def test_weights_beside_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "weights").mkdir()
    weights = tmp_path / "weights/edgeface_xs_q.pt"
    weights.touch()
    assert assets.find("edgeface-xs", tmp_path / "data") == weights


def test_facenet_weights_in_the_cache_of_facenet_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = tmp_path / "checkpoints/20180402-114759-vggface2.pt"
    weights.parent.mkdir()
    weights.touch()
    assert assets.find("facenet-vggface2") == weights


def test_missing_data_says_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        assets.find("lfw", tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "blurface data get lfw" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"no public address.*img_align_celeba"):
        assets.fetch("celeba")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="lfw-pairs"):
        assets.find("lfw-pars")


def test_a_part_of_the_cache_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path))
    (tmp_path / "cells/a").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    assert assets.clear_cache("cells") == tmp_path / "cells"
    assert assets.clear_cache("cells") is None
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UnknownNameError):
        assets.clear_cache("..")
