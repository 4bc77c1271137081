"""The matrix restorer x kernel x verifier: streamed, cut into chunks, kept on disk.

For every kernel and restorer the probes go through one chain::

    aligned face with margin -> blur -> noise, 8 bits, JPEG -> restore -> 8 bits -> embed, measure

A *task* is one batch of probes on one (frame, kernel, restorer); all verifiers of the frame share its
restored faces, and a restorer behind its gate shares those of the restorer itself. Its results are stored
as they finish (:mod:`protocols.store`) and joined when the last chunk of a cell is there. Memory holds a
few batches, whatever the size of the matrix.

Every task computes on one processor thread, ``jobs`` of them side by side in processes of their own; so
no figure depends on ``jobs``, on the order in which tasks finish, or on where a run was interrupted.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import blurface.kernels.convolve
from blurface import assets, processes
from blurface.errors import BlurfaceError, InputError
from blurface.fingerprints import code_digest
from blurface.gate import kernel_spread
from blurface.kernels import Kernel, KernelSet
from blurface.restorers import create_restorer, restorers
from blurface.restorers.base import Restorer
from blurface.restorers.gated import Gated
from blurface.threads import one_thread
from verification import create_embedder, embedders
from verification.embedders.base import Embedder

from . import degradation as degradation_module
from . import quality as quality_module
from .aligned import FaceSet, align_faces
from .datasets import Protocol
from .degradation import Degradation, degrade, from_bytes, to_bytes
from .quality import PSNR_CAP, measure
from .store import Arrays, CellStore, cell_key

Border = Literal["valid", "replicate"]
Progress = Callable[[str, int, int], None]
"""Called with (phase, faces done, faces in all); a phase begins with none done."""

SHARP = "sharp"
"""Name of the column without blur."""

CONTROL = "none"
"""Name of the restorer that returns its input."""

_EMBED_CHUNK = 256
_EMBED_SECONDS = 0.015
_GFLOP_A_SECOND = 100


@dataclass(frozen=True)
class Choice:
    """A registered name and the options that its factory gets."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What is run, besides the protocol and the kernels.

    Attributes
    ----------
    restorers, verifiers : tuple of Choice
        The control ``none`` is put first where it is missing: the other rows are held against it.
    degradation : Degradation
    border : {"valid", "replicate"}
        Whether the blur sees the photograph around the aligned face, or the face's edge repeated.
    device : str
        ``"cpu"``, ``"cuda"`` ...
    jobs : int or None
        Processes of one thread each; None: as many as there are processors (1 on a GPU, or where
        there is little to do).
    batch_size : int or None
        Faces restored at once; None: what suits the restorer. Bounds memory; figures agree to
        rounding.
    data_root : Path or None
        Searched first for weights.
    """

    restorers: tuple[Choice, ...]
    verifiers: tuple[Choice, ...]
    degradation: Degradation = field(default_factory=Degradation)
    border: Border = "valid"
    device: str = "cpu"
    jobs: int | None = None
    batch_size: int | None = None
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if self.border not in ("valid", "replicate"):
            raise InputError(f"border={self.border!r} is unknown.", "Use valid or replicate.")
        for word, value in (("jobs", self.jobs), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise InputError(f"A {word} of {value} is not possible.", "Use 1 or more.")
        for word, choices in (("restorer", self.restorers), ("verifier", self.verifiers)):
            names = [choice.name for choice in choices]
            if twice := {name for name in names if names.count(name) > 1}:
                raise InputError(f"The {word} {sorted(twice)[0]!r} is named twice.", "Name each once.")
        if not self.verifiers:
            raise InputError("No verifier is named.", "Name one: mobilefacenet.")
        if CONTROL not in [choice.name for choice in self.restorers]:
            object.__setattr__(self, "restorers", (Choice(CONTROL), *self.restorers))


@dataclass(frozen=True)
class Context:
    """What every worker needs to know; goes to its process once."""

    faces: FaceSet
    store: Path
    settings: Settings


@dataclass(frozen=True)
class Product:
    """What a task makes of its batch with one restorer.

    Attributes
    ----------
    restorer : str or None
        None: the sharp faces.
    cells : tuple of (str, str)
        Verifier and key of each embedding cell that is wanted.
    quality : str or None
        Key of the quality cell, if it is wanted.
    """

    restorer: str | None
    cells: tuple[tuple[str, str], ...]
    quality: str | None = None


@dataclass(frozen=True)
class Task:
    """One batch: blur, restore, measure and embed some probes, or embed sharp faces.

    Attributes
    ----------
    phase : str
        What progress calls it.
    images : tuple of str
        Faces of this chunk.
    start, stop : int
        Their rows in the cell.
    frame : str
    kernel : Kernel or None
        None: no blur, no noise.
    products : tuple of Product
        Of restorers that share one restoration.
    spread : str or None
        Key of the cell of the estimated kernels' spread, if it is wanted.
    """

    phase: str
    images: tuple[str, ...]
    start: int
    stop: int
    frame: str
    kernel: Kernel | None
    products: tuple[Product, ...]
    spread: str | None = None


class Worker:
    """Computes tasks; creates each restorer and verifier once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = CellStore(context.store)
        self._restorers: dict[str, Restorer] = {}
        self._embedders: dict[str, Embedder] = {}

    def restorer(self, name: str) -> Restorer:
        """The restorer called ``name``, with the options of the settings."""
        if name not in self._restorers:
            settings = self.context.settings
            self._restorers[name] = build_restorer(_chosen(settings.restorers, name), settings.device)
        return self._restorers[name]

    def embedder(self, name: str) -> Embedder:
        """The verifier called ``name``."""
        if name not in self._embedders:
            settings = self.context.settings
            self._embedders[name] = build_embedder(
                _chosen(settings.verifiers, name), settings.device, settings.data_root
            )
        return self._embedders[name]

    def with_faces(self, faces: FaceSet) -> Worker:
        """A worker for other faces, with the restorers and verifiers that this one has created."""
        other = Worker(dataclasses.replace(self.context, faces=faces))
        other._restorers, other._embedders = self._restorers, self._embedders
        return other

    def compute(self, task: Task) -> dict[str, float]:
        """Compute a task and store its chunks.

        Returns
        -------
        dict
            Processor seconds of each step.
        """
        clock = _Clock()
        settings, faces = self.context.settings, self.context.faces
        window = face_window(faces, task.frame, task.images)
        sharp = without_margin(window, faces.margin)
        readable = faces.readable(task.images)
        clock.lap("read")
        blurry = sharp
        if task.products[0].restorer is not None:
            blurry = blurred(
                window,
                task.images,
                task.kernel,
                settings.degradation,
                margin=faces.margin,
                border=settings.border,
            )
            clock.lap("blur")
        once = _Once(self, task, from_bytes(blurry))
        reach = task.kernel.size // 2 if task.kernel is not None else 0
        for product in task.products:
            restored = blurry
            if product.restorer not in (None, CONTROL):
                restored = once.restored(str(product.restorer))
                clock.lap("restore")
            if product.quality is not None:
                self._save(product.quality, task, _quality(restored, sharp, reach, readable))
                clock.lap("measure")
            unit = from_bytes(restored)
            for verifier, key in product.cells:
                rows = self.embedder(verifier).embed(unit.to(settings.device))
                rows[~readable] = np.nan
                clock.lap("embed")
                self._save(key, task, {"embedding": rows})
                clock.lap("store")
        if task.spread is not None:
            spread = once.spread(str(task.products[0].restorer))
            clock.lap("restore")
            self._save(task.spread, task, {"spread": np.where(readable, spread, np.nan)})
        return clock.seconds

    def _save(self, key: str, task: Task, arrays: Arrays) -> None:
        self.store.save_chunk(key, task.start, task.stop, arrays)


class _Once:
    """A batch restored once, whichever of the restorers that share it is asked for."""

    def __init__(self, worker: Worker, task: Task, batch: Tensor) -> None:
        self._worker, self._task, self._batch = worker, task, batch
        self._made: tuple[Tensor, Tensor | None] | None = None

    def restored(self, name: str) -> Tensor:
        """8-bit faces.

        Raises
        ------
        BlurfaceError
            If the restorer returns what is no picture.
        """
        restorer = self._worker.restorer(name)
        result, spread = self._restore(restorer)
        if isinstance(restorer, Gated):
            assert spread is not None
            result = restorer.mix(self._batch, result, spread).clamp(0, 1)
        good = torch.isfinite(result).flatten(1).all(1)
        if not good.all():
            where = [image for image, fine in zip(self._task.images, good.tolist(), strict=True) if not fine]
            kernel = self._task.kernel.name if self._task.kernel else SHARP
            raise BlurfaceError(
                f"{name} returned NaN or infinite values for {where[0]} and {len(where) - 1} other "
                f"faces (kernel {kernel}).",
                "Finished cells are kept; run again without this restorer.",
            )
        return to_bytes(result)

    def spread(self, name: str) -> NDArray[np.float64]:
        """(N,) the gate's score: the spread of the estimated kernels in pixels."""
        spread = self._restore(self._worker.restorer(name))[1]
        assert spread is not None
        return spread.cpu().numpy().astype(np.float64)

    def _restore(self, restorer: Restorer) -> tuple[Tensor, Tensor | None]:
        if self._made is None:
            method, kernel = source(restorer), self._task.kernel
            psf = torch.ones((1, 1)) if kernel is None else torch.from_numpy(kernel.psf)
            with torch.inference_mode():
                if method.estimates_kernel:
                    made = method.restore(self._batch, return_kernel=True)
                    assert isinstance(made, tuple)
                    self._made = made[0], kernel_spread(made[1])
                else:
                    result = method.restore(self._batch, kernels=None if method.blind else psf[None])
                    assert isinstance(result, Tensor)
                    self._made = result, None
        return self._made


def margin_for(kernels: KernelSet) -> int:
    """Pixels around a face that its blur needs, in steps of 8 so that kernel sets share aligned faces."""
    return -(-max(16, kernels.half_width) // 8) * 8


def face_window(faces: FaceSet, frame: str, images: Sequence[str]) -> Tensor:
    """(n, 3, H + 2 margin, W + 2 margin) uint8: some faces in a frame, with their margin."""
    return torch.from_numpy(faces.window(frame, images)).permute(0, 3, 1, 2).contiguous()


def without_margin(window: Tensor, margin: int) -> Tensor:
    """The faces themselves, a view."""
    return window[..., margin : window.shape[-2] - margin, margin : window.shape[-1] - margin]


def blurred(
    window: Tensor,
    images: Sequence[str],
    kernel: Kernel | None,
    degradation: Degradation,
    *,
    margin: int,
    border: Border,
) -> Tensor:
    """Probes as a run makes them.

    Parameters
    ----------
    window : Tensor
        Faces with their margin, as :func:`face_window` gives them.
    images : sequence of str
        Identifier of each face.
    kernel : Kernel or None
        None: no blur, no noise, no JPEG.
    degradation : Degradation
    margin : int
        Of the window.
    border : {"valid", "replicate"}
        Whether the blur sees the margin, or the face's edge repeated.

    Returns
    -------
    Tensor
        (n, 3, H, W) uint8.
    """
    sharp = without_margin(window, margin)
    if kernel is None:
        return sharp.contiguous()
    replicate = border == "replicate"
    return degrade(
        sharp if replicate else window,
        torch.from_numpy(kernel.psf),
        images,
        kernel.name,
        degradation,
        margin=0 if replicate else margin,
        border=border,
    )


def source(restorer: Restorer) -> Restorer:
    """Whose restoration a restorer's result follows from: its own, or that of the one behind its gate."""
    return restorer.inner if isinstance(restorer, Gated) else restorer


class Evaluation:
    """A finished matrix: arrays of its cells, read from disk when asked for.

    Attributes
    ----------
    protocol : Protocol
    kernels : KernelSet
    settings : Settings
    faces : FaceSet
    frames : dict
        Frame of each verifier.
    metrics : dict
        How each verifier compares embeddings: ``"cosine"`` or ``"euclidean"``.
    fingerprints : dict
        Of everything that went in.
    seconds : dict
        Processor seconds of each step in this run, and wall seconds as ``"wall"``.
    computed, reused : int
        Cells computed in this run and found on disk.
    """

    def __init__(
        self,
        protocol: Protocol,
        kernels: KernelSet,
        settings: Settings,
        faces: FaceSet,
        worker: Worker,
        keys: dict[tuple[str, str | None, str | None], str],
        fingerprints: dict[str, Any],
    ) -> None:
        self.protocol = protocol
        self.kernels = kernels
        self.settings = settings
        self.faces = faces
        self.fingerprints = fingerprints
        self.frames = {c.name: worker.embedder(c.name).frame for c in settings.verifiers}
        self.metrics = {c.name: worker.embedder(c.name).metric for c in settings.verifiers}
        self.seconds: dict[str, float] = {}
        self.computed = self.reused = 0
        self._store = worker.store
        self._keys = keys

    @property
    def restorers(self) -> list[str]:
        """Names in the order of the rows; the control is among them."""
        return [choice.name for choice in self.settings.restorers]

    @property
    def verifiers(self) -> list[str]:
        """Names of the verifiers."""
        return [choice.name for choice in self.settings.verifiers]

    @property
    def columns(self) -> list[str]:
        """Kernel names in order, ``sharp`` last."""
        return [*(kernel.name for kernel in self.kernels.kernels), SHARP]

    def sharp_embeddings(self, verifier: str) -> NDArray[np.float32]:
        """(images, D) of all images of the pair list, in the order of ``protocol.pairs.images``."""
        return self._load((verifier, None, None))["embedding"]

    def probe_embeddings(self, verifier: str, restorer: str, kernel: str) -> NDArray[np.float32]:
        """(probes, D) of degraded and restored probes, in the order of ``protocol.pairs.probes``."""
        if restorer == CONTROL and kernel == SHARP:
            place = {image: i for i, image in enumerate(self.protocol.pairs.images)}
            return self.sharp_embeddings(verifier)[[place[image] for image in self.protocol.pairs.probes]]
        return self._load((verifier, restorer, kernel))["embedding"]

    def quality(self, frame: str, restorer: str, kernel: str) -> Arrays:
        """Arrays (probes,) ``psnr``, ``ssim``, ``psnr_shift``, ``ssim_shift`` and (probes, 2) ``shift``.

        NaN for images that could not be read.
        """
        if restorer == CONTROL and kernel == SHARP:
            readable = self.faces.readable(self.protocol.pairs.probes)
            same = {"psnr": PSNR_CAP, "ssim": 1.0, "psnr_shift": PSNR_CAP, "ssim_shift": 1.0}
            arrays: Arrays = {name: np.where(readable, value, np.nan) for name, value in same.items()}
            return arrays | {"shift": np.zeros((len(readable), 2), np.int64)}
        return self._load((f"quality {frame}", restorer, kernel))

    def spread(self, frame: str, restorer: str, kernel: str) -> NDArray[np.float64] | None:
        """(probes,) spread in pixels of the kernels that a restorer estimated: the gate's score.

        None where the restorer estimates none; NaN for images that could not be read.
        """
        place = (f"spread {frame}", restorer, kernel)
        return self._load(place)["spread"] if place in self._keys else None

    def _load(self, place: tuple[str, str | None, str | None]) -> Arrays:
        arrays = self._store.load(self._keys[place])
        if arrays is None:
            raise BlurfaceError(
                f"A finished cell went missing from {self._store.root} during the run.",
                "Run the same command again; what is left is used.",
            )
        return arrays


def evaluate(
    protocol: Protocol,
    kernels: KernelSet,
    settings: Settings,
    *,
    cache: Path | None = None,
    fresh: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> Evaluation:
    """Compute what is missing of the matrix and return all of it.

    Parameters
    ----------
    protocol : Protocol
    kernels : KernelSet
        Already centred as wanted.
    settings : Settings
    cache : Path, optional
        Holds ``cells/`` and ``faces/``; by default :func:`blurface.assets.cache_folder`.
    fresh : bool
        Compute every cell again.
    progress : callable
        See :data:`Progress`. May raise :class:`KeyboardInterrupt`; finished chunks are kept.

    Raises
    ------
    BlurfaceError
        If a name, option, weight file or restorer fails; finished chunks are kept.
    """
    began = time.perf_counter()
    cache = assets.cache_folder() if cache is None else cache
    names = [kernel.name for kernel in kernels.kernels]
    if twice := {name for name in names if names.count(name) > 1} | ({SHARP, "mean"} & set(names)):
        raise InputError(
            f"The kernel name {sorted(twice)[0]!r} is taken.", "Give every kernel a name of its own."
        )
    # Everything that can fail for a wrong name or a missing file does so before the long work.
    planner = Worker(Context(FaceSet.empty(), cache / "cells", settings))
    for choice in settings.restorers:
        planner.restorer(choice.name)
    for choice in settings.verifiers:
        planner.embedder(choice.name)
    planner.store.sweep()

    faces = align_faces(
        protocol, margin_for(kernels), cache, device=settings.device, jobs=settings.jobs, progress=progress
    )
    built = time.perf_counter()
    worker = planner.with_faces(faces)
    keys, fingerprints = _keys(protocol, kernels, settings, faces, worker)
    evaluation = Evaluation(protocol, kernels, settings, faces, worker, keys, fingerprints)
    plan = _Plan(evaluation, worker, keys, fresh)
    evaluation.reused, evaluation.computed = plan.found, len(plan.missing)
    seconds = _execute(plan.tasks(), worker, settings, progress)
    for key, chunks in plan.missing.items():
        if worker.store.merge(key, chunks) is None:
            raise BlurfaceError(
                f"A finished chunk went missing from {worker.store.root} during the run.",
                "Run the same command again; what is left is used.",
            )
    evaluation.seconds = {
        "wall": time.perf_counter() - began,
        "wall_faces": built - began,
        **{name: seconds[name] for name in sorted(seconds)},
    }
    return evaluation


class _Plan:
    """Which cells are missing, and the tasks that make them."""

    def __init__(
        self,
        evaluation: Evaluation,
        worker: Worker,
        keys: dict[tuple[str, str | None, str | None], str],
        fresh: bool,
    ) -> None:
        self.evaluation = evaluation
        self.worker = worker
        self.keys = keys
        self.fresh = fresh
        self.missing: dict[str, list[tuple[int, int]]] = {}
        self.found = 0

        pairs = evaluation.protocol.pairs
        chunks = _cut(len(pairs.images), _EMBED_CHUNK)
        done: set[str] = set()
        for (_, restorer, _), key in keys.items():
            count = len(pairs.images)
            if restorer is not None:
                count = len(pairs.probes)
                chunks = _cut(count, self.batch(restorer))
            if key in done:
                continue
            done.add(key)
            if not fresh and worker.store.has(key):
                self.found += 1
            else:
                self.missing[key] = chunks

    def batch(self, restorer: str) -> int:
        """Faces in a chunk: the batch of the restorer."""
        return self.evaluation.settings.batch_size or source(self.worker.restorer(restorer)).batch_size

    def tasks(self) -> list[Task]:
        """All tasks, the cheap ones first: sharp faces, then restorer by restorer."""
        tasks: list[Task] = []
        for frame in self._frames():
            tasks += self._cut("sharp faces", frame, [None], None)
        kernels: list[Kernel | None] = [*self.evaluation.kernels.kernels, None]
        for names in self._sharing():
            for kernel in kernels:
                if names == [CONTROL] and kernel is None:
                    continue
                for frame in self._frames():
                    tasks += self._cut(", ".join(names), frame, list(names), kernel)
        return tasks

    def _frames(self) -> list[str]:
        return sorted(set(self.evaluation.frames.values()))

    def _sharing(self) -> list[list[str]]:
        """Names of restorers, those together that share one restoration."""
        groups: dict[str, list[str]] = {}
        for name in self.evaluation.restorers:
            fingerprint = source(self.worker.restorer(name)).fingerprint()
            groups.setdefault(cell_key(fingerprint), []).append(name)
        return list(groups.values())

    def _cut(
        self, phase: str, frame: str, names: Sequence[str | None], kernel: Kernel | None
    ) -> Iterator[Task]:
        pairs = self.evaluation.protocol.pairs
        verifiers = [name for name, own in self.evaluation.frames.items() if own == frame]
        first = names[0]
        images, size = (pairs.images, _EMBED_CHUNK) if first is None else (pairs.probes, self.batch(first))
        column = None if first is None else SHARP if kernel is None else kernel.name
        estimate = self.keys.get((f"spread {frame}", first, column))
        for start, stop in _cut(len(images), size):

            def wanted(key: str | None, start: int = start, stop: int = stop) -> bool:
                return key is not None and self._wanted(key, start, stop)

            products = []
            for name in names:
                # The control has no cell without blur: those are the sharp faces.
                cells = [(verifier, self.keys.get((verifier, name, column))) for verifier in verifiers]
                left = tuple((verifier, key) for verifier, key in cells if key is not None and wanted(key))
                quality = self.keys.get((f"quality {frame}", name, column))
                quality = quality if wanted(quality) else None
                if left or quality is not None:
                    products.append(Product(name, left, quality))
            spread = estimate if wanted(estimate) else None
            if products or spread is not None:
                yield Task(
                    phase,
                    images[start:stop],
                    start,
                    stop,
                    frame,
                    kernel,
                    tuple(products) or (Product(first, ()),),
                    spread,
                )

    def _wanted(self, key: str, start: int, stop: int) -> bool:
        return key in self.missing and (self.fresh or not self.worker.store.has_chunk(key, start, stop))


def _keys(
    protocol: Protocol, kernels: KernelSet, settings: Settings, faces: FaceSet, worker: Worker
) -> tuple[dict[tuple[str, str | None, str | None], str], dict[str, Any]]:
    """Key of every cell by (verifier or ``quality FRAME``, restorer, kernel), and all fingerprints."""
    machine = {"torch": torch.__version__, "device": torch.device(settings.device).type}
    code = code_digest(degradation_module, blurface.kernels.convolve)
    measure_code, spread_code = code_digest(quality_module), code_digest(kernel_spread)
    restorer_prints = {c.name: worker.restorer(c.name).fingerprint() for c in settings.restorers}
    verifier_prints = {c.name: worker.embedder(c.name).fingerprint() for c in settings.verifiers}
    frames = {c.name: worker.embedder(c.name).frame for c in settings.verifiers}
    base = {"faces": faces.key, **machine}
    keys: dict[tuple[str, str | None, str | None], str] = {}
    for verifier, fingerprint in verifier_prints.items():
        keys[verifier, None, None] = cell_key(
            {"cell": "sharp", **base, "frame": frames[verifier], "verifier": fingerprint}
        )
    for restorer, fingerprint in restorer_prints.items():
        for kernel in (*kernels.kernels, None):
            if kernel is None and restorer == CONTROL:
                continue
            chain: dict[str, Any] = {**base, "code": code, "restorer": fingerprint}
            if kernel is not None:
                chain["psf"] = cell_key({"psf": kernel.psf.tolist()})
                chain["border"] = settings.border
                chain["degradation"] = settings.degradation.fingerprint()
                if settings.degradation.noise:
                    chain["kernel"] = kernel.name
            column = SHARP if kernel is None else kernel.name
            method = source(worker.restorer(restorer))
            for frame in set(frames.values()):
                keys[f"quality {frame}", restorer, column] = cell_key(
                    {"cell": "quality", **chain, "frame": frame, "measure": measure_code}
                )
                if method.estimates_kernel:
                    own = {**chain, "restorer": method.fingerprint(), "frame": frame, "measure": spread_code}
                    keys[f"spread {frame}", restorer, column] = cell_key({"cell": "spread", **own})
            for verifier, frame in frames.items():
                keys[verifier, restorer, column] = cell_key(
                    {"cell": "probes", **chain, "frame": frame, "verifier": verifier_prints[verifier]}
                )
    fingerprints = {
        "protocol": protocol.fingerprint(),
        "pairs": protocol.pairs.fingerprint(),
        "faces": faces.key,
        "kernels": kernels.fingerprint(),
        "restorers": restorer_prints,
        "verifiers": verifier_prints,
        "code": {"degradation": code, "quality": measure_code, "spread": spread_code},
    }
    return keys, fingerprints


def _execute(tasks: list[Task], worker: Worker, settings: Settings, progress: Progress) -> dict[str, float]:
    totals: dict[str, int] = {}
    for task in tasks:
        totals[task.phase] = totals.get(task.phase, 0) + len(task.images)
    done = dict.fromkeys(totals, 0)
    seconds: dict[str, float] = {}
    following = dict(zip(totals, list(totals)[1:], strict=False))

    def finished(task: Task, spent: dict[str, float]) -> None:
        phase = task.phase
        done[phase] += len(task.images)
        for step, value in spent.items():
            seconds[step] = seconds.get(step, 0.0) + value
        progress(phase, done[phase], totals[phase])
        if done[phase] == totals[phase] and (after := following.get(phase)) and not done[after]:
            progress(after, 0, totals[after])

    for phase in list(totals)[:1]:
        progress(phase, 0, totals[phase])
    jobs = settings.jobs or processes.default_jobs(settings.device, _rough_seconds(worker, tasks))
    if jobs == 1 or len(tasks) < 2:
        with one_thread():
            for task in tasks:
                finished(task, worker.compute(task))
    else:
        processes.run(tasks, jobs, _start, (worker.context,), _compute, finished)
    return seconds


def _rough_seconds(worker: Worker, tasks: Sequence[Task]) -> float:
    """What tasks may cost on one processor, for deciding whether to start processes at all."""

    @cache
    def restoring(name: str | None) -> float:
        if name in (None, CONTROL):
            return 0.0
        gflop = worker.restorer(str(name)).gflop()
        return 0.5 if gflop is None else gflop / _GFLOP_A_SECOND

    return sum(
        len(task.images)
        * (
            _EMBED_SECONDS * sum(len(product.cells) for product in task.products)
            + restoring(task.products[0].restorer)
        )
        for task in tasks
    )


_worker: Worker | None = None


def _start(context: Context) -> None:
    """In a new process: a worker."""
    global _worker
    processes.stay_on_one_thread()
    _worker = Worker(context)


def _compute(task: Task) -> dict[str, float]:
    assert _worker is not None
    return _worker.compute(task)


class _Clock:
    """Processor seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, step: str) -> None:
        now = time.process_time()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def _quality(restored: Tensor, sharp: Tensor, reach: int, readable: NDArray[np.bool_]) -> Arrays:
    reach = min(reach, (min(sharp.shape[-2:]) - 7) // 2)
    measured = measure(restored, sharp, reach)
    arrays: Arrays = {
        name: np.where(readable, getattr(measured, name).cpu().numpy(), np.nan)
        for name in ("psnr", "ssim", "psnr_shift", "ssim_shift")
    }
    return arrays | {"shift": measured.shift.cpu().numpy()}


def _cut(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _chosen(choices: tuple[Choice, ...], name: str) -> Choice:
    return next((choice for choice in choices if choice.name == name), Choice(name))


def build_restorer(choice: Choice, device: str = "cpu") -> Restorer:
    """Create a restorer; it gets the device if it takes one and its options name none."""
    options = dict(choice.options)
    if "device" in _parameters(restorers.entry(choice.name).load()):
        options.setdefault("device", device)
    return create_restorer(choice.name, **options)


def build_embedder(
    choice: Choice, device: str = "cpu", data_root: Path | None = None, *, download: bool = True
) -> Embedder:
    """Create a verifier; it gets the device and the folder of data if it takes them, as a restorer.

    Without ``download`` one that would fetch its weights is told not to.
    """
    options = dict(choice.options)
    accepted = _parameters(embedders.entry(choice.name).load())
    offered: dict[str, Any] = {"device": device, "data_root": data_root}
    if not download:
        offered["download"] = False
    for name, value in offered.items():
        if name in accepted:
            options.setdefault(name, value)
    return create_embedder(choice.name, **options)


def _parameters(factory: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except ValueError:
        return set()
