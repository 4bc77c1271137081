"""Pictures of a run, made again: a run keeps scores, not faces.

The same functions with the same seeds give the same pixels, so that what is shown is what was
measured. Where the data, the weights or the restorer are no longer those of the run, the pictures
are not made and :class:`PicturesUnavailable` says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blurface import assets
from blurface.errors import BlurfaceError, DataError
from blurface.kernels import Kernel, KernelSet
from blurface.restorers.base import Restorer

from .aligned import FaceSet, align_faces
from .datasets import Pair, PairList, Protocol
from .degradation import from_bytes, to_bytes
from .experiments import Experiment
from .record import hide, places
from .run_folder import Run
from .runner import CONTROL, SHARP, Choice, blurred, build_restorer, face_window, margin_for

Picture = NDArray[np.uint8]


class PicturesUnavailable(DataError):
    """The pictures of a run cannot be made again; the message says why."""


class Pictures:
    """Faces of an experiment: sharp, blurred, restored.

    Parameters
    ----------
    experiment : Experiment
    images : iterable of str, optional
        Identifiers of the faces that are needed; default: all of the pair list.
    protocol : Protocol, optional
        The experiment's, where it is at hand already.
    cache : Path, optional
        Where aligned faces and landmarks are kept.
    frame : str

    Raises
    ------
    BlurfaceError
        If the data is missing.
    """

    def __init__(
        self,
        experiment: Experiment,
        images: Iterable[str] | None = None,
        *,
        protocol: Protocol | None = None,
        cache: Path | None = None,
        frame: str = "112x96",
    ) -> None:
        self.experiment = experiment
        self.frame = frame
        whole = experiment.protocol() if protocol is None else protocol
        wanted = set(whole.pairs.images if images is None else images)
        self.protocol = _naming(whole, wanted)
        self.kernels: KernelSet
        self.kernels, _ = experiment.kernels
        self.faces: FaceSet = align_faces(
            self.protocol, margin_for(self.kernels), cache or assets.cache_folder(), jobs=1
        )
        self._restorers: dict[str, Restorer] = {}

    @property
    def images(self) -> tuple[str, ...]:
        """Identifiers of the faces at hand (of whole pairs)."""
        return self.protocol.pairs.images

    def kernel(self, name: str) -> Kernel:
        """The kernel of a name.

        Raises
        ------
        DataError
            If the experiment has no such kernel.
        """
        for kernel in self.kernels.kernels:
            if kernel.name == name:
                return kernel
        raise DataError(f"There is no kernel {name!r} in {self.kernels.name}.", "See blurface kernels.")

    def sharp(self, image: str) -> Picture:
        """(H, W, 3) uint8, as photographed."""
        window = self.faces.window(self.frame, [image])[0]
        margin = self.faces.margin
        cut: Picture = window[margin : window.shape[0] - margin, margin : window.shape[1] - margin]
        return np.ascontiguousarray(cut)

    def blurry(self, image: str, kernel: str) -> Picture:
        """(H, W, 3) uint8, degraded as in the run; the sharp face for ``"sharp"``."""
        return _picture(self._blurry([image], kernel))

    def restored(self, image: str, kernel: str, restorer: str) -> Picture:
        """(H, W, 3) uint8, degraded and restored as in the run."""
        return self.restored_batch([image], kernel, restorer)[0]

    def restored_batch(self, images: list[str], kernel: str, restorer: str) -> list[Picture]:
        """Several faces at once."""
        blurry = self._blurry(images, kernel)
        if restorer == CONTROL:
            return _pictures(blurry)
        method = self.restorer(restorer)
        psf = torch.ones((1, 1)) if kernel == SHARP else torch.from_numpy(self.kernel(kernel).psf)
        with torch.inference_mode():
            result = method.restore(from_bytes(blurry), kernels=None if method.blind else psf[None])
        assert isinstance(result, Tensor)
        return _pictures(to_bytes(result))

    def restorer(self, name: str) -> Restorer:
        """The restorer, with the experiment's options."""
        if name not in self._restorers:
            # A finished run has folders by name in it.
            known = places(self.experiment.data_root)
            named = (c for c in self.experiment.restorers if name in (c.name, hide(c.name, known)))
            choice = next(named, Choice(name))
            self._restorers[name] = build_restorer(choice, self.experiment.device)
        return self._restorers[name]

    def _blurry(self, images: list[str], kernel: str) -> Tensor:
        return blurred(
            face_window(self.faces, self.frame, images),
            images,
            None if kernel == SHARP else self.kernel(kernel),
            self.experiment.degradation(),
            margin=self.faces.margin,
            border=self.experiment.border,
        )


def pictures_of_run(
    run: Run,
    images: Iterable[str],
    *,
    verifier: str,
    data_root: Path | None = None,
    cache: Path | None = None,
) -> Pictures:
    """The faces behind a finished run.

    Parameters
    ----------
    run : Run
    images : iterable of str
        Identifiers of the faces that are needed.
    verifier : str
        Faces come in its frame.
    data_root : Path, optional
        Where the data lies now.
    cache : Path, optional

    Raises
    ------
    PicturesUnavailable
        If the data is missing, or is not that of the run.
    """
    try:
        experiment = Experiment.from_record(run.record, data_root)
        protocol = experiment.protocol()
        fingerprints = run.record.get("fingerprints", {})
        if protocol.pairs.fingerprint() != fingerprints.get("pairs"):
            raise PicturesUnavailable(f"The pairs of {protocol.name} are not those of the run.")
        if protocol.fingerprint() != fingerprints.get("protocol"):
            raise PicturesUnavailable(f"The photographs of {protocol.name} are not those of the run.")
        frame = str(run.summary.about.get("frames", {}).get(verifier, "112x96"))
        made = Pictures(experiment, images, protocol=protocol, cache=cache, frame=frame)
        _check_kernels(run, made.kernels)
        return made
    except PicturesUnavailable:
        raise
    except BlurfaceError as error:
        raise PicturesUnavailable(
            f"The data of the run cannot be read: {error.message}", error.hint
        ) from error


def kernels_of_run(run: Run, data_root: Path | None = None) -> KernelSet:
    """The kernels of a finished run, read again.

    Raises
    ------
    PicturesUnavailable
        If they cannot be read, or are not those of the run.
    """
    try:
        kernels, _ = Experiment.from_record(run.record, data_root).kernels
    except BlurfaceError as error:
        raise PicturesUnavailable(
            f"The kernels of the run cannot be read: {error.message}", error.hint
        ) from error
    _check_kernels(run, kernels)
    return kernels


def _check_kernels(run: Run, kernels: KernelSet) -> None:
    if kernels.fingerprint() != run.record.get("fingerprints", {}).get("kernels"):
        raise PicturesUnavailable(f"The kernels {kernels.name} are not those of the run.")


def check_restorer(run: Run, pictures: Pictures, name: str) -> None:
    """Whether a restorer is still the one that was measured.

    Raises
    ------
    PicturesUnavailable
        If it cannot be built, or its weights, options or code have changed since.
    """
    if name == CONTROL:
        return
    measured = run.record.get("fingerprints", {}).get("restorers", {}).get(name)
    try:
        now = hide(pictures.restorer(name).fingerprint(), run.record["places"])
    except BlurfaceError as error:
        raise PicturesUnavailable(f"{name} cannot be built: {error.message}", error.hint) from error
    if now != measured:
        changed = [key for key in now if not isinstance(measured, dict) or now[key] != measured.get(key)]
        raise PicturesUnavailable(
            f"{name} is no longer the one that was measured: its {' and '.join(changed) or 'parts'} changed.",
            "Run the same blurface verify command again.",
        )


def of_photograph(path: Path) -> Protocol:
    """One photograph as a protocol of one pair, it and itself: for figures, not for measuring."""
    pair = Pair(path.stem, path.stem, genuine=True, fold=0)
    return Protocol(path.stem, PairList(path.stem, (pair,), 1), {path.stem: path})


def _naming(protocol: Protocol, images: set[str]) -> Protocol:
    """The protocol with as few pairs as show all of the images."""
    if images >= set(protocol.pairs.images):
        return protocol
    pairs = [p for p in protocol.pairs if {p.reference, p.probe} <= images]
    missing = images - {image for p in pairs for image in (p.reference, p.probe)}
    for pair in protocol.pairs:
        if missing & {pair.reference, pair.probe}:
            pairs.append(pair)
            missing -= {pair.reference, pair.probe}
    if missing or not pairs:
        raise DataError(f"{protocol.name} has no image {min(missing, default='')!r}.", "See its pair list.")
    return dataclasses.replace(protocol, pairs=dataclasses.replace(protocol.pairs, pairs=tuple(pairs)))


def _pictures(batch: Tensor) -> list[Picture]:
    return [np.ascontiguousarray(face.permute(1, 2, 0).cpu().numpy()) for face in batch]


def _picture(batch: Tensor) -> Picture:
    return _pictures(batch)[0]
