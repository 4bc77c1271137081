"""The training loop: exact resume, moving average, validation, samples."""

from __future__ import annotations

import contextlib
import copy
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..assets import sha256_file
from ..errors import BlurfaceError, WeightsError
from ..files import replacing
from ..images import write_image
from ..networks import build_network
from ..networks.fast import Estimate, FastNet, grow_state
from ..weights import bf16_is_fast, load_model, model_path, not_finite, save_model
from .config import TrainConfig, as_dict, check_config
from .distributed import Group
from .log import append_row, drop_after
from .losses import Embed, restoration_terms
from .optim import make_optimisers, state_dicts
from .pack import FACE, Faces
from .pairs import GROUP, Batch, PairStream, make_pairs, part_of


def estimate_of(network: nn.Module, blurry: Tensor, **options: Any) -> Estimate:
    """All intermediate results of ``fast``; of another network its result alone."""
    if isinstance(network, FastNet):
        return network.estimate(blurry, **options)
    return Estimate([network(blurry)], [], [], [])


def psnr(estimate: Tensor, sharp: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, after rounding to 8 bits."""
    rounded = (estimate.clamp(0, 1) * 255).round() / 255
    return -10 * torch.log10((rounded - sharp).square().mean((1, 2, 3)).clamp_min(1e-10))


def facial_faces(count: int, share: float) -> NDArray[np.int64]:
    """Which faces of a batch the facial term looks at: the first of each group of pairs.

    So it is the same faces however many processes share a batch, each with as many.
    """
    numbers = np.arange(count)
    # of the last group, which may be smaller, too
    size = np.minimum(GROUP, count - numbers // GROUP * GROUP)
    # at least one of each: of the whole batch it would be another number than of its parts
    return numbers[numbers % GROUP < np.maximum(1, np.round(share * size))]


def central_face(images: Tensor) -> Tensor:
    """The 112x96 face, which the embedder of the facial loss takes, of a wider picture."""
    top, left = ((there - here) // 2 for there, here in zip(images.shape[-2:], FACE))
    return images[..., top : top + FACE[0], left : left + FACE[1]]


def split_by_identity(faces: Faces, held_out: int, seed: int) -> tuple[Faces, Faces]:
    """Training and validation faces that share no identity.

    The latter come from the first source alone: another source beside it leaves them as they are.
    """
    own = faces.identities[: faces.first]
    order = np.random.default_rng([seed, 4]).permutation(sorted(set(own)))
    counts: dict[str, int] = {}
    for identity in own:
        counts[identity] = counts.get(identity, 0) + 1
    chosen: set[str] = set()
    total = 0
    for identity in order:
        if total >= held_out:
            break
        chosen.add(str(identity))
        total += counts[str(identity)]
    mask = np.array([identity in chosen for identity in faces.identities])
    return faces.subset(~mask), faces.subset(mask)


class Trainer:
    """One run of a configuration.

    Parameters
    ----------
    config : TrainConfig
    faces : Faces
        All faces; ``config.held_out`` of them are split off for validation.
    out : Path
        Folder of the run: ``checkpoint.pt``, ``stable.pt`` (before the rate falls), ``log.csv``,
        ``samples/``, ``NAME.safetensors``.
    embed : callable, optional
        Differentiable embedder for the facial loss and the validation cosine.
    device : torch.device or str

    Raises
    ------
    InputError
        If the processes cannot share the batch equally.
    BlurfaceError
        If a setting means nothing, or no face is left for training or for validation.
    """

    def __init__(
        self,
        config: TrainConfig,
        faces: Faces,
        out: Path,
        embed: Embed | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        check_config(config)
        self.config, self.out, self.embed = config, out, embed
        self.device = torch.device(device)
        self.group = Group.join(self.device)
        size = self.group.size
        part = part_of(config.schedule.batch_size, size)
        self.bf16 = bf16_is_fast(self.device)
        torch.manual_seed(config.seed)
        network = build_network(config.network, **config.network_options)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.teacher: nn.Module | None = None
        if config.teacher_network:
            self.teacher = load_model(config.teacher_network)[0].to(self.device)
        schedule = config.schedule
        self.optimisers = make_optimisers(self.network, schedule.optimiser, schedule.lr, schedule.adam_lr)
        train, self.held_out = split_by_identity(faces, config.held_out, config.seed)
        if not len(train) or not len(self.held_out):
            raise BlurfaceError(
                f"{len(faces)} faces of {len(set(faces.identities))} people, {config.held_out} of them held "
                f"out, leave {len(train)} for training and {len(self.held_out)} for validation.",
                "Name more faces, or set held_out lower.",
            )
        self.stream = PairStream(
            train,
            config.degradation,
            part,
            config.seed,
            self.group.rank,
            size,
        )
        self.validation = self._validation_pairs()
        self.step = 0
        self.faces = 0
        self.seconds = 0.0
        self.damping = 1.0
        self.best = -np.inf
        self.stale = 0
        self.init: str | dict[str, str] | None = None
        self.terms: dict[str, Tensor] = {}
        self._stop = False

    def _validation_pairs(self) -> list[Batch]:
        batches = []
        for start in range(0, len(self.held_out), 40):
            index = np.arange(start, min(start + 40, len(self.held_out)))
            rng = np.random.default_rng([self.config.seed, 5, start])
            batches.append(make_pairs(self.held_out, index, rng, self.config.degradation, augment=False))
        return batches

    # -- one step ----------------------------------------------------------------------------

    def rate(self) -> float:
        """Factor on the learning rates at this step."""
        return self.config.schedule.rate(self.step) * self.damping

    def train_step(self) -> float:
        """One update; returns the loss (the mean over the processes)."""
        schedule, step = self.config.schedule, self.step
        batch = self.stream.batch(step).to(self.device)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * self.rate()
        options = self._options()
        if isinstance(self.network, FastNet):
            teacher = schedule.teacher_at(step)
            if teacher > 0:
                # Each face its own share, so that the passes meet good and bad kernels from the start.
                # Drawn for the global batch: what a face gets does not depend on the number of processes.
                rng = np.random.default_rng([self.config.seed, 6, step, 0])
                own = slice(self.group.rank * len(batch.sharp), (self.group.rank + 1) * len(batch.sharp))
                drawn = rng.uniform(0, 2 * teacher, self.group.size * len(batch.sharp)).clip(0, 1)[own]
                share = teacher if teacher >= 1 else drawn
                blend = torch.as_tensor(share, dtype=torch.float32, device=self.device)
                options |= {
                    "kernel": batch.kernels,
                    "blend": blend.expand(len(batch.sharp)).view(-1, 1, 1, 1),
                }
        blurry = batch.blurry.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            estimate = estimate_of(self.network, blurry, **options)
        weight = schedule.facial_at(step)
        target = None
        chosen = facial_faces(len(batch.sharp), schedule.facial_share)
        if self.embed is not None and weight > 0:
            with torch.no_grad():
                target = functional.normalize(self._embed_cheaply(batch.sharp[chosen]), dim=1)
        terms = restoration_terms(
            estimate,
            batch.sharp,
            batch.kernels,
            self.config.loss,
            facial_weight=weight,
            embed=self._embed_cheaply,
            facial_target=target,
            facial_faces=chosen,
            taught=self._taught(blurry),
        )
        loss = torch.stack(list(terms.values())).sum()
        self.terms = {name: term.detach() for name, term in terms.items()}
        value = self.group.mean(float(loss.detach()))
        if not np.isfinite(value):
            raise BlurfaceError(
                f"The loss of step {step} is {value}: training diverges. The last checkpoint is kept.",
                "Lower schedule.lr, and go on from it with the same command.",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.average(self.network)
        if schedule.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), schedule.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        # Early on the average would remember the initial weights: its decay grows with the steps.
        decay = min(schedule.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, current in zip(self.average.parameters(), self.network.parameters()):
                kept.lerp_(current, 1 - decay)
            for kept, current in zip(self.average.buffers(), self.network.buffers()):
                kept.copy_(current)
        self.step += 1
        self.faces += schedule.batch_size
        return value

    def _options(self) -> dict[str, Any]:
        """How many loops the schedule has the network run at this step."""
        return (
            {"loops": self.config.schedule.loops_at(self.step)} if isinstance(self.network, FastNet) else {}
        )

    def _taught(self, blurry: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad(), self._autocast():
            result: Tensor = self.teacher(blurry)
        return result.float()

    def _embed_cheaply(self, images: Tensor) -> Tensor:
        assert self.embed is not None
        with self._autocast():
            return self.embed(central_face(images)).float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    # -- looking -----------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures on faces and kernels never trained on, with the averaged weights."""
        rows: dict[str, list[Tensor]] = {}

        def note(name: str, values: Tensor) -> None:
            rows.setdefault(name, []).append(values.float().cpu())

        options = self._options()
        for batch in self.validation:
            batch = batch.to(self.device)
            with self._autocast():
                estimate = estimate_of(self.average, batch.blurry, **options)
            image = estimate.images[-1].float()
            note("psnr", psnr(image, batch.sharp))
            note("blurry_psnr", psnr(batch.blurry, batch.sharp))
            if estimate.kernels:
                note("kernel_cosine", functional.cosine_similarity(
                    estimate.kernels[-1].flatten(1), batch.kernels.flatten(1), dim=1))  # fmt: skip
            if self.embed is not None:
                sharp = self.embed(batch.sharp)
                note("cosine", functional.cosine_similarity(self.embed(image.clamp(0, 1)), sharp, dim=1))
                note("blurry_cosine", functional.cosine_similarity(self.embed(batch.blurry), sharp, dim=1))
        batch = self.validation[0].to(self.device)
        with self._autocast():
            note(
                "sharp_psnr",
                psnr(estimate_of(self.average, batch.sharp, **options).images[-1].float(), batch.sharp),
            )
            if isinstance(self.average, FastNet):
                blend = torch.ones(len(batch.sharp), 1, 1, 1, device=self.device)
                forced = self.average.estimate(batch.blurry, kernel=batch.kernels, blend=blend, **options)
                note("psnr_true_kernel", psnr(forced.images[-1].float(), batch.sharp))
        return {name: float(torch.cat(values).mean()) for name, values in rows.items()}

    @torch.no_grad()
    def samples(self, path: Path) -> None:
        """A picture of eight faces, one a column: blurry, restored, sharp, estimated and true kernel."""
        batch = self.validation[0].to(self.device)
        blurry, sharp, kernels = batch.blurry[:8], batch.sharp[:8], batch.kernels[:8]
        with self._autocast():
            estimate = estimate_of(self.average, blurry, **self._options())

        def tile(kernels: Tensor) -> Tensor:
            shown = kernels / kernels.amax((2, 3), keepdim=True)
            return functional.pad(shown, (26, 26, 0, 0)).expand(-1, 3, -1, -1)

        rows = [blurry, estimate.images[-1].float().clamp(0, 1), sharp]
        if estimate.kernels:
            rows += [tile(estimate.kernels[-1].float()), tile(kernels)]
        sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, (sheet.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))

    # -- keeping -----------------------------------------------------------------------------

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write everything that a resumed run needs, atomically.

        Raises
        ------
        BlurfaceError
            If a weight is not finite: nothing is written.
        """
        self._check_finite(self.network.state_dict())
        self._check_finite(self.average.state_dict())
        if self.group.rank:
            return
        state = {
            "config": as_dict(self.config),
            "step": self.step,
            "faces": self.faces,
            "seconds": self.seconds,
            "damping": self.damping,
            "best": float(self.best),
            "stale": self.stale,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "init": self.init,
            "optimisers": state_dicts(self.optimisers),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        # Through a stream: on a full disk torch's own writer raises a RuntimeError that hides why.
        with replacing(self.out / name) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, exactly.

        Parameters
        ----------
        path : Path

        Raises
        ------
        WeightsError
            If it is damaged, belongs to another network or was trained with another optimiser.
        """
        optimiser_here = self.config.schedule.optimiser
        with self._explained(path):
            state = self._checkpoint(path)
            before = state["config"]["schedule"]
            optimiser_there = str(before["optimiser"])
        if optimiser_there != optimiser_here:
            raise WeightsError(
                f"{path} was trained with the optimiser {optimiser_there!r}, not {optimiser_here!r}.",
                f"Set schedule.optimiser={optimiser_there}, or take its weights alone: "
                f"--init {path} with another --out.",
            )
        with self._explained(path):
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.init = state.get("init")
            for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(values)
            counters = {name: float(state[name]) for name in ("step", "seconds", "damping", "best", "stale")}
            # Checkpoints of earlier versions do not count faces.
            self.faces = int(state.get("faces", int(counters["step"]) * int(before["batch_size"])))
        # The configuration's peak rates win over the checkpoint's, so that a run can be prolonged
        # with other ones.
        schedule = self.config.schedule
        for optimiser in self.optimisers:
            beside = schedule.optimiser == "muon" and isinstance(optimiser, torch.optim.AdamW)
            for group in optimiser.param_groups:
                group["peak"] = schedule.adam_lr if beside else schedule.lr
        self.step, self.stale = int(counters["step"]), int(counters["stale"])
        self.seconds, self.damping, self.best = (counters[name] for name in ("seconds", "damping", "best"))

    def start_from(self, model: str | Path) -> None:
        """Take finished weights and start the schedule anew.

        A network of more stages than theirs starts with their last one in each of those beyond, additional
        blocks of its kernel nets as nothing.

        Parameters
        ----------
        model : str or Path
            A packaged model's name, a ``.safetensors`` file, or a run's ``.pt`` checkpoint, of which
            the averaged weights are taken.

        Raises
        ------
        WeightsError
            If it is missing, damaged or belongs to another network.
        """
        path = Path(model)
        if path.suffix != ".pt":
            state = load_model(model)[0].state_dict()
        elif not path.is_file():
            raise WeightsError(f"{path} does not exist.", "Check the path.")
        else:
            with self._explained(path):
                state = self._checkpoint(path)["average"]
        with self._explained(path):
            if isinstance(self.network, FastNet):
                state = grow_state(state, self.network)
            for network in (self.network, self.average):
                network.load_state_dict(state)
        file = path if path.suffix == ".pt" else model_path(model)
        self.init = {"name": path.name, "sha256": sha256_file(file)}

    def _checkpoint(self, path: Path) -> dict[str, Any]:
        # weights_only: no code in the file is executed.
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        return state

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # torch.load raises many kinds on a damaged file
            reason = str(error).partition("\n")[0]
            if isinstance(error, pickle.UnpicklingError):  # torch's text advises to execute it
                reason = "it is no checkpoint, or holds code"
            raise WeightsError(
                f"{path} is damaged or belongs to another network than {self.config.network!r}: {reason}.",
                "Name a file of this network; remove a damaged checkpoint to start anew.",
            ) from error

    def publish(self, path: Path) -> None:
        """Write the averaged weights as a model.

        Raises
        ------
        BlurfaceError
            If a weight is not finite: nothing is written.
        """
        kind: torch.dtype = getattr(torch, self.config.weights_type)
        state = {key: value.to(kind) for key, value in self.average.state_dict().items()}
        self._check_finite(state)
        if self.group.rank:
            return
        options = dict(self.config.network_options)
        loops = self.config.schedule.loops_at(self.step)
        if isinstance(self.average, FastNet) and loops is not None:
            options["loops"] = loops
        account = {
            # Of what a run read the names, not where on this machine it lay.
            "config": as_dict(self.config) | {"data": [Path(name).name for name in self.config.data]},
            **({"init": self.init} if self.init else {}),
            "step": self.step,
            "faces": self.faces,
            "seconds": round(self.seconds),
        }
        save_model(path, state, self.config.network, options, account)

    def _check_finite(self, state: dict[str, Tensor]) -> None:
        # In every process, before any of them writes: all stop together.
        if spoilt := not_finite(state):
            raise BlurfaceError(
                f"At step {self.step} {spoilt} holds NaN or infinite weights: training diverges. "
                "They are not saved; the last checkpoint is kept.",
                "Lower schedule.lr, and go on from it with the same command.",
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder: two runs would overwrite each other's checkpoints in turn."""
        if self.group.rank:
            yield
            return
        self.out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BlurfaceError(
                f"Another run is writing to {self.out}.", "Wait for it, or choose another --out."
            ) from None
        try:
            yield
        finally:
            lock.release()

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end, or to the first interrupt; yields every step's figures.

        The first Ctrl-C or SIGTERM saves and stops; a second one interrupts at once.

        Raises
        ------
        BlurfaceError
            If another run is writing to the folder.
        """
        with self._alone():
            if not self.group.rank:
                drop_after(self.out / "log.csv", self.step)
            yield from self._run()

    def _run(self) -> Iterator[dict[str, float]]:
        schedule, config = self.config.schedule, self.config
        handlers = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        started = time.monotonic() - self.seconds
        try:
            while self.step < schedule.steps and not self._agreed_to_stop():
                loss = self.train_step()
                self.seconds = time.monotonic() - started
                row = {"step": self.step, "faces": self.faces, "seconds": self.seconds,
                       "rate": self.rate(), "loss": loss}  # fmt: skip
                last = self.step == schedule.steps
                if self.step % config.validate_every == 0 or last:
                    row |= {f"loss_{name}": self.group.mean(float(term)) for name, term in self.terms.items()}
                    row |= self.validate()
                    if not self.group.rank:
                        append_row(self.out / "log.csv", row)
                    self._watch_plateau(row["psnr"])
                if self.step == schedule.steps - schedule.decay:
                    self.save("stable.pt")
                if self.step % config.sample_every == 0 and not self.group.rank:
                    self.samples(self.out / "samples" / f"{self.step:07d}.png")
                if self.step % config.checkpoint_every == 0 or last:
                    self.save()
                    self.publish(self.out / f"{config.name}.safetensors")
                yield row
            if self._stop:
                self.save()
                self.publish(self.out / f"{config.name}.safetensors")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _agreed_to_stop(self) -> bool:
        """Whether any process was interrupted: all stop at the same step, or some would wait forever."""
        self._stop = self.group.mean(float(self._stop)) > 0
        return self._stop

    def _watch_plateau(self, value: float) -> None:
        if value > self.best + 0.01:
            self.best, self.stale = value, 0
            return
        self.stale += 1
        limit = self.config.schedule.halve_on_plateau
        if limit and self.stale >= limit:
            self.damping, self.stale = self.damping / 2, 0

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self.stop()

    def stop(self) -> None:
        """Save and end the run after the current step."""
        self._stop = True
