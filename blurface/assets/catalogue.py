"""What is known about every data set and foreign weight file: places, addresses, checksums, terms."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from ..errors import UnknownNameError

Kind = Literal["dataset", "weights", "kernels", "list"]

_NOBODY = "no checksum is published, and the file has not been downloaded to compute one"


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
        What :func:`blurface.assets.fetch` downloads; empty: only by hand.
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
