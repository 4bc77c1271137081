"""Data sets and foreign weights: where they are, what they should hash to, how to get them.

Nothing here is ours to ship. :func:`find` looks for a file or folder in the places where people
keep it; :func:`fetch` downloads what has a public address into the cache. Our own networks'
weights are the business of :mod:`blurface.weights`.

Downloads use HTTPS and are checked against SHA-256 where a checksum is published by a party we
can name (each file says where its checksum comes from). For the others, the checksum of the first
download is kept beside the file and every later download or check is compared with it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from .errors import DataError, UnknownNameError

__all__ = [
    "ASSETS",
    "CACHE_PARTS",
    "Asset",
    "CheckResult",
    "RemoteFile",
    "cache_folder",
    "check",
    "clear",
    "clear_cache",
    "data_roots",
    "fetch",
    "find",
    "get_asset",
    "sha256_file",
]

Kind = Literal["dataset", "weights", "kernels", "list"]

_NOBODY = "no checksum is published and the file could not be downloaded where this list was written"


@dataclass(frozen=True)
class RemoteFile:
    """A file with a public address.

    Attributes
    ----------
    url : str
        HTTPS address.
    target : str
        Path below a data root where it is kept, or, for an archive, below which it is unpacked.
    sha256 : str or None
        Its checksum, or None where nobody whom we can name publishes one.
    checksum_source : str
        Who published the checksum, or why there is none.
    size : int or None
        Bytes, where known.
    archive : bool
        A tar or zip file: unpacked into the folder ``target`` and then removed.
    """

    url: str
    target: str
    sha256: str | None
    checksum_source: str
    size: int | None = None
    archive: bool = False

    @property
    def name(self) -> str:
        """Name of the file while it is downloaded."""
        if self.archive:
            return f"{self.target.strip('/').replace('/', '-')}-{PurePosixPath(urlsplit(self.url).path).name}"
        return self.target.replace("/", "-")


@dataclass(frozen=True)
class Asset:
    """A data set, a weight file, a set of kernels or a list.

    Attributes
    ----------
    name : str
    kind : {"dataset", "weights", "kernels", "list"}
    description : str
        What it is, in one line.
    terms : str
        Licence or terms of use.
    candidates : tuple of str
        Paths below a data root (``..`` allowed) in order of preference.
    place : str
        What to place where, for the message when it is missing.
    marker : str
        Glob below a candidate folder that has to match something; empty: existence is enough.
    files : tuple of RemoteFile
        What :func:`fetch` downloads; empty: only by hand.
    also : tuple of str
        Assets fetched along with it.
    home : str
        Page or repository it comes from.
    size : int or None
        Bytes on disk, where known.
    sha256 : str or None
        Checksum of a single file that is not downloaded.
    elsewhere : tuple of callables
        Further absolute places, e.g. another library's cache.
    """

    name: str
    kind: Kind
    description: str
    terms: str
    candidates: tuple[str, ...]
    place: str
    marker: str = ""
    files: tuple[RemoteFile, ...] = ()
    also: tuple[str, ...] = ()
    home: str = ""
    size: int | None = None
    sha256: str | None = None
    elsewhere: tuple[Callable[[], Path], ...] = field(default=(), repr=False)

    @property
    def checksum(self) -> str | None:
        """SHA-256 of the file on disk, for assets that are one plain file with a known one."""
        if self.sha256 is not None:
            return self.sha256
        plain = [file.sha256 for file in self.files if not file.archive]
        return plain[0] if len(plain) == 1 else None


def _torch_checkpoint(name: str) -> Callable[[], Path]:
    """Where facenet-pytorch keeps what it downloads."""

    def path() -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "checkpoints" / name

    return path


_SKLEARN = "scikit-learn, sklearn/datasets/_lfw.py"
_FIGSHARE = "https://ndownloader.figshare.com/files/"
_LFW_TERMS = "research use; the photographs belong to their photographers"
_LFW_HOME = "http://vis-www.cs.umass.edu/lfw/ (gone; scikit-learn's mirrors serve it)"
_FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
_EDGEFACE = "https://gitlab.idiap.ch/bob/bob.paper.tbiom2023_edgeface/-/raw/master/checkpoints/"
_PERSON = "*/*_0001.*"


def _weights(name: str) -> tuple[str, ...]:
    return (f"weights/{name}", f"../weights/{name}", name)


def _lfw_list(
    name: str, file: str, what: str, number: int | None = None, size: int | None = None, sha256: str = ""
) -> Asset:
    remote: tuple[RemoteFile, ...] = ()
    if number is not None:
        remote = (RemoteFile(f"{_FIGSHARE}{number}", f"lfw/{file}", sha256, _SKLEARN, size),)
    return Asset(
        name=name,
        kind="list",
        description=what,
        terms=_LFW_TERMS,
        candidates=(f"lfw/{file}", file, f"lfw_home/{file}", f"../{file}"),
        place=f"lfw/{file}",
        files=remote,
        home=_LFW_HOME,
    )


_ALL = (
    Asset(
        name="lfw",
        kind="dataset",
        description="Labeled Faces in the Wild: 13,233 photographs of 5,749 people, 250x250",
        terms=_LFW_TERMS,
        candidates=(
            "lfw/lfw-deepfunneled",
            "lfw-deepfunneled",
            "lfw/lfw_funneled",
            "lfw_funneled",
            "lfw/lfw-funneled",
            "lfw-funneled",
            "lfw_home/lfw_funneled",
            "lfw/lfw",
            "lfw_home/lfw",
            "lfw",
            ".",
        ),
        place="lfw/lfw-deepfunneled/Name/Name_0001.jpg (or lfw_funneled, or lfw)",
        marker=_PERSON,
        files=(
            RemoteFile(
                f"{_FIGSHARE}5976018",
                "lfw",
                "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
                _SKLEARN,
                size=180_566_744,
                archive=True,
            ),
        ),
        also=("lfw-pairs",),
        home=_LFW_HOME,
    ),
    Asset(
        name="lfw-funneled",
        kind="dataset",
        description="LFW, funneled (Huang et al. 2007)",
        terms=_LFW_TERMS,
        candidates=(
            "lfw/lfw_funneled",
            "lfw_funneled",
            "lfw/lfw-funneled",
            "lfw-funneled",
            "lfw_home/lfw_funneled",
        ),
        place="lfw/lfw_funneled/Name/Name_0001.jpg",
        marker=_PERSON,
        files=(
            RemoteFile(
                f"{_FIGSHARE}5976015",
                "lfw",
                "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
                _SKLEARN,
                size=243_346_528,
                archive=True,
            ),
        ),
        also=("lfw-pairs",),
        home=_LFW_HOME,
    ),
    Asset(
        name="lfw-aligned",
        kind="dataset",
        description="The images of LFW's pairs.txt aligned to the ArcFace 112x112 template",
        terms=_LFW_TERMS,
        candidates=(
            "lfw-pairs-aligned-112x112",
            "lfw/lfw-pairs-aligned-112x112",
            "lfw-aligned-112x112",
            "lfw-112x112",
            ".",
        ),
        place="lfw-pairs-aligned-112x112/Name/Name_0001.jpg",
        marker=_PERSON,
    ),
    _lfw_list(
        "lfw-pairs",
        "pairs.txt",
        "LFW view 2: 10 folds of 300 genuine and 300 impostor pairs",
        5976006,
        155_335,
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    ),
    _lfw_list(
        "lfw-pairs-dev-train",
        "pairsDevTrain.txt",
        "LFW view 1: 1,100 + 1,100 training pairs",
        5976012,
        56_579,
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    _lfw_list(
        "lfw-pairs-dev-test",
        "pairsDevTest.txt",
        "LFW view 1: 500 + 500 test pairs",
        5976009,
        26_002,
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
    _lfw_list("lfw-people", "people.txt", "LFW view 2: people and image counts of the folds"),
    Asset(
        name="facescrub",
        kind="dataset",
        description="FaceScrub: photographs of 530 actors and actresses (or a part of it)",
        terms="research use; a list of addresses, the photographs belong to their owners",
        candidates=("facescrub", "facescrub-12", "FaceScrub", "facescrub/faces"),
        place="facescrub/{actors,actresses}/Person_Name/*.jpg (or facescrub/Person_Name/*.jpg)",
        marker="*/*",
        home="Ng & Winkler 2014, vintage.winklerbros.net/facescrub.html",
    ),
    Asset(
        name="celeba",
        kind="dataset",
        description="CelebA, aligned and cropped: 202,599 photographs of 10,177 people, 178x218",
        terms="non-commercial research",
        candidates=("celeba/img_align_celeba", "img_align_celeba", "celeba"),
        place="celeba/img_align_celeba/000001.jpg",
        marker="*.jpg",
        home="Liu et al. 2015, mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    ),
    Asset(
        name="celeba-5k",
        kind="dataset",
        description="4,998 aligned CelebA photographs cut to 140x158: a face with its margin",
        terms="non-commercial research",
        candidates=("celeba-5k",),
        place="celeba-5k/NNNNNN.jpg and identities.txt",
        marker="*.jpg",
    ),
    Asset(
        name="celeba-wild",
        kind="dataset",
        description="4,668 original CelebA photographs warped to the frame of celeba-5k",
        terms="non-commercial research",
        candidates=("celeba-wild",),
        place="celeba-wild/NNNNNN.jpg and identities.txt",
        marker="*.jpg",
    ),
    Asset(
        name="casia-webface",
        kind="dataset",
        description="CASIA-WebFace: 494,414 photographs of 10,575 people, the paper's training set",
        terms="non-commercial research, on application",
        candidates=("casia-webface", "CASIA-WebFace", "casia-webface.rec", "casia-webface/train.rec"),
        place="casia-webface/PERSON/*.jpg, or casia-webface/train.rec with train.idx",
        home="Yi et al. 2014",
    ),
    Asset(
        name="real-blur",
        kind="dataset",
        description="20 faces blurred by a real camera, 128x128, without sharp partners",
        terms="research use",
        candidates=("real-blur",),
        place="real-blur/N.png",
        marker="*.png",
    ),
    Asset(
        name="levin-kernels",
        kind="kernels",
        description="Levin et al.'s eight camera-shake kernels, 13 to 27 pixels wide",
        terms="research use",
        candidates=(
            "kernels/Levin09.mat",
            "Levin09.mat",
            "../kernels/Levin09.mat",
            "kernels/Levin09.npz",
            "Levin09.npz",
        ),
        place="kernels/Levin09.mat (or Levin09.npz)",
        files=(
            RemoteFile(
                "https://github.com/cszn/KAIR/raw/master/kernels/Levin09.mat",
                "kernels/Levin09.mat",
                None,
                _NOBODY + "; the sizes of its eight kernels are checked when it is read",
            ),
        ),
        home="Levin et al. 2009, webee.technion.ac.il/people/anat.levin",
        size=32_224,
    ),
    Asset(
        name="mobilefacenet",
        kind="weights",
        description="MobileFaceNet trained on CASIA-WebFace, input 112x96, 128-D",
        terms="none stated by its authors",
        candidates=_weights("mobilefacenet-casia-112x96.ckpt"),
        place="weights/mobilefacenet-casia-112x96.ckpt",
        home="Chen et al. 2018; a checkpoint as github.com/Xiaoccer/MobileFaceNet_Pytorch writes them",
        size=4_130_855,
    ),
    Asset(
        name="edgeface-xs",
        kind="weights",
        description="EdgeFace-XS, int8 linear layers, input 112x112, 512-D",
        terms="BSD-3-Clause",
        candidates=_weights("edgeface_xs_q.pt"),
        place="weights/edgeface_xs_q.pt",
        files=(RemoteFile(f"{_EDGEFACE}edgeface_xs_q.pt", "weights/edgeface_xs_q.pt", None, _NOBODY),),
        home="George et al. 2024, github.com/otroshi/edgeface",
        size=2_993_451,
    ),
    Asset(
        name="edgeface-xxs",
        kind="weights",
        description="EdgeFace-XXS, int8 linear layers, input 112x112, 512-D",
        terms="BSD-3-Clause",
        candidates=_weights("edgeface_xxs_q.pt"),
        place="weights/edgeface_xxs_q.pt",
        files=(RemoteFile(f"{_EDGEFACE}edgeface_xxs_q.pt", "weights/edgeface_xxs_q.pt", None, _NOBODY),),
        home="George et al. 2024, github.com/otroshi/edgeface",
        size=1_734_661,
    ),
    Asset(
        name="facenet-vggface2",
        kind="weights",
        description="FaceNet (Inception-ResNet-v1) trained on VGGFace2, input 160x160, 512-D",
        terms="MIT",
        candidates=_weights("20180402-114759-vggface2.pt"),
        place="weights/20180402-114759-vggface2.pt",
        files=(
            RemoteFile(
                f"{_FACENET}20180402-114759-vggface2.pt",
                "weights/20180402-114759-vggface2.pt",
                None,
                _NOBODY,
            ),
        ),
        home="github.com/timesler/facenet-pytorch",
        elsewhere=(_torch_checkpoint("20180402-114759-vggface2.pt"),),
    ),
    Asset(
        name="facenet-casia-webface",
        kind="weights",
        description="FaceNet (Inception-ResNet-v1) trained on CASIA-WebFace, input 160x160, 512-D",
        terms="MIT",
        candidates=_weights("20180408-102900-casia-webface.pt"),
        place="weights/20180408-102900-casia-webface.pt",
        files=(
            RemoteFile(
                f"{_FACENET}20180408-102900-casia-webface.pt",
                "weights/20180408-102900-casia-webface.pt",
                None,
                _NOBODY,
            ),
        ),
        home="github.com/timesler/facenet-pytorch",
        elsewhere=(_torch_checkpoint("20180408-102900-casia-webface.pt"),),
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ALL}
"""Every asset by name."""


def get_asset(name: str) -> Asset:
    """The asset called ``name``.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists the nearest names.
    """
    if name not in ASSETS:
        import difflib

        near = difflib.get_close_matches(name, ASSETS, n=3, cutoff=0.4)
        known = "Did you mean " + " or ".join(near) + "?" if near else f"Known: {', '.join(ASSETS)}."
        raise UnknownNameError(f"No data set or weight file is called {name!r}.", known)
    return ASSETS[name]


def cache_folder() -> Path:
    """Where downloads, landmarks and finished cells are kept: ``BLURFACE_CACHE`` or the user's cache."""
    given = os.environ.get("BLURFACE_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("blurface"))


def data_roots(data_root: Path | None = None) -> list[Path]:
    """Folders searched for data, in order: the argument, ``BLURFACE_DATA``, ``<cache>/data``.

    ``BLURFACE_DATA`` may hold several folders, separated as in ``PATH``.
    """
    roots = [Path(data_root).expanduser()] if data_root is not None else []
    roots += [Path(p).expanduser() for p in os.environ.get("BLURFACE_DATA", "").split(os.pathsep) if p]
    roots.append(cache_folder() / "data")
    return list(dict.fromkeys(roots))


def find(name: str, data_root: Path | None = None) -> Path:
    """Path of the file or folder of an asset.

    Parameters
    ----------
    name : str
        A key of :data:`ASSETS`.
    data_root : Path, optional
        Searched first; see :func:`data_roots`.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    DataError
        If it is in none of the places; the message says what to place where.
    """
    asset = get_asset(name)
    roots = data_roots(data_root)
    for path in _places(asset, roots):
        if _present(path, asset.marker):
            return path
    searched = ", ".join(str(root) for root in roots)
    hint = f"Place {asset.place} under one of them, or name another folder with --data-root or BLURFACE_DATA"
    if asset.files:
        hint += f"; with a network: blurface data get {name}"
    elif asset.home:
        hint += f" (source: {asset.home})"
    raise DataError(f"{name} ({asset.description}) is not in {searched}.", hint + ".")


def _places(asset: Asset, roots: list[Path]) -> Iterator[Path]:
    for root in roots:
        for candidate in asset.candidates:
            path = root / candidate
            yield path.resolve() if ".." in path.parts else path
    for place in asset.elsewhere:
        yield place()


def _present(path: Path, marker: str) -> bool:
    try:
        if not marker:
            return path.exists()
        return path.is_dir() and next(path.glob(marker), None) is not None
    except OSError:  # an unreadable folder is as good as absent
        return False


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str, progress: bool = True) -> Path:
    """Download an asset into ``<cache>/data`` and return its path.

    What is there already, complete, is not downloaded again; a download that was cut goes on
    where it stopped. Files appear under their names only when complete and checked.

    Parameters
    ----------
    name : str
        A key of :data:`ASSETS`.
    progress : bool
        Draw a progress bar on standard error.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    DataError
        If it has no public address, the network or the server fails, the checksum differs, or
        an archive is damaged or holds unsafe names.
    """
    asset = get_asset(name)
    root = cache_folder() / "data"
    if not asset.files:
        source = f"; source: {asset.home}." if asset.home else "."
        raise DataError(
            f"{name} ({asset.description}) has no public address to download from.",
            f"Place {asset.place} under a data root{source}",
        )
    for file in asset.files:
        with _locked(root / _DOWNLOADS / f"{file.name}.lock"):
            if not _complete(file, root):
                _download(asset, file, root, progress)
    for other in asset.also:
        fetch(other, progress)
    for path in _places(asset, [root]):
        if _present(path, asset.marker):
            return path
    raise DataError(
        f"{name} was downloaded to {root}, but holds nothing like {asset.place}.",
        f"Remove it with: blurface data clear {name}; then report the address {asset.files[0].url}.",
    )


_DOWNLOADS = ".downloads"
_ATTEMPTS = 5
_CHUNK = 1 << 18


def _receipt(file: RemoteFile, root: Path) -> Path:
    return root / _DOWNLOADS / f"{file.name}.json"


def _read_receipt(file: RemoteFile, root: Path) -> dict[str, Any]:
    """What was noted when a file was downloaded into ``root``; empty where it was not."""
    try:
        receipt = json.loads(_receipt(file, root).read_text())
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def _complete(file: RemoteFile, root: Path) -> bool:
    """Whether a download is finished: its receipt, and what it describes, are there."""
    receipt = _read_receipt(file, root)
    if not receipt or (file.sha256 is not None and receipt.get("sha256") != file.sha256):
        return False
    if file.archive:
        return all((root / file.target / name).exists() for name in receipt.get("unpacked", ["?"]))
    target = root / file.target
    return target.is_file() and sha256_file(target) == receipt.get("sha256")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
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


def _download(asset: Asset, file: RemoteFile, root: Path, progress: bool) -> None:
    import pooch

    folder = root / _DOWNLOADS
    earlier = _read_receipt(file, root).get("sha256")
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
        receipt["unpacked"] = _unpack(done, root / file.target)
        done.unlink()
    else:
        (root / file.target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(done, root / file.target)
    _write_text(_receipt(file, root), json.dumps(receipt))


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(text)
    os.replace(beside, path)


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
            _write_text(self.note, json.dumps({"url": url, "etag": strong}))
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


def _unpack(archive: Path, folder: Path) -> list[str]:
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


@dataclass(frozen=True)
class CheckResult:
    """What :func:`check` found.

    Attributes
    ----------
    name : str
    status : {"ok", "unverified", "damaged", "missing"}
        ``unverified``: there, but no checksum is known to compare with.
    path : Path or None
    detail : str
        The reason, in a sentence.
    """

    name: str
    status: Literal["ok", "unverified", "damaged", "missing"]
    path: Path | None
    detail: str


def check(name: str, data_root: Path | None = None) -> CheckResult:
    """Compare an asset on disk with what is known about it.

    Single files are compared with their SHA-256 (published, or noted at their download); folders
    are looked at for the layout only.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    """
    asset = get_asset(name)
    try:
        path = find(name, data_root)
    except DataError as error:
        return CheckResult(name, "missing", None, str(error))
    if path.is_dir():
        return CheckResult(name, "ok", path, f"a folder laid out as {asset.place}")
    digest = sha256_file(path)
    root = cache_folder() / "data"
    expected, source = asset.checksum, "published"
    if expected is None and path.is_relative_to(root):
        noted = [_read_receipt(file, root).get("sha256") for file in asset.files]
        expected, source = (noted[0] if noted else None), "noted at its download"
    if expected is None:
        why = asset.files[0].checksum_source if asset.files else "no checksum is published"
        return CheckResult(name, "unverified", path, f"SHA-256 {digest}; {why}")
    if digest != expected:
        detail = f"SHA-256 {digest}, {source}: {expected}; remove {path} and get it again"
        return CheckResult(name, "damaged", path, detail)
    return CheckResult(name, "ok", path, f"SHA-256 as {source}")


def clear(name: str) -> list[Path]:
    """Remove what :func:`fetch` put into the cache for an asset; return what was removed.

    Data that others placed under a data root is never touched.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    """
    root = cache_folder() / "data"
    removed: list[Path] = []
    for file in get_asset(name).files:
        unpacked = _read_receipt(file, root).get("unpacked", [])
        targets = [root / file.target / part for part in unpacked] if file.archive else [root / file.target]
        downloads = root / _DOWNLOADS
        targets += [downloads / f"{file.name}{end}" for end in ("", ".json", ".part", ".part.json", ".lock")]
        for target in targets:
            if target.is_dir():
                shutil.rmtree(target)
            elif target.exists():
                target.unlink()
            else:
                continue
            removed.append(target)
    return removed


CACHE_PARTS = {
    "cells": "finished cells of runs: face embeddings and measurements",
    "faces": "aligned faces and where they lie in their photographs",
    "landmarks": "where faces lie in their photographs",
    "exports": "networks exported for other runtimes",
    "data": "downloaded data sets and weights",
}
"""Folders that blurface makes in :func:`cache_folder` and can make again, and what they hold.

Runs of the training program are not among them.
"""


def clear_cache(part: str) -> Path | None:
    """Remove one of :data:`CACHE_PARTS`; return its path, or None where there was none.

    Raises
    ------
    UnknownNameError
        If the cache has no such part.
    """
    if part not in CACHE_PARTS:
        raise UnknownNameError(f"The cache has no part {part!r}.", f"Known: {', '.join(CACHE_PARTS)}.")
    folder = cache_folder() / part
    if folder.is_symlink():  # somebody moved it elsewhere: only the link is ours
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
    else:
        return None
    return folder
