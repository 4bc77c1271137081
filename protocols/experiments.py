"""A run as data: what is asked for, made from options or read back from ``run.json``.

``blurface verify`` runs one; tables of many runs, and pictures of a finished one, build theirs in code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blurface.errors import DataError, InputError
from blurface.kernels import Centre, KernelSet, join_kernel_sets

from . import results
from .datasets import Protocol, create_protocol
from .degradation import Degradation
from .record import places, run_record, unhide
from .reduced import reduced
from .results import Summary
from .run_tables import run_tables
from .runner import Border, Choice, Evaluation, Progress, Settings, evaluate


@dataclass(frozen=True)
class Experiment:
    """What is run. Names as the options of ``blurface verify``.

    Attributes
    ----------
    pairs : str
        Protocol.
    data_root : Path or None
    crops : {"auto", "photographs", "aligned"}
        Of protocols that know both.
    subset : int or None
        Number of pairs; None: all.
    seed : int
        Of subset, noise and bootstrap.
    restorers : tuple of Choice
    kernel_sets : tuple of str
    kernel_centre : {"mass", "published"}
    verifiers : tuple of str
    noise, jpeg, border
        As :class:`protocols.degradation.Degradation` and :class:`protocols.runner.Settings`.
    size : float
        Share of width and height to which probes are reduced (:mod:`protocols.reduced`).
    mean_subtraction : bool
    device : str
    jobs, batch_size : int or None
    """

    pairs: str = "lfw"
    data_root: Path | None = None
    crops: str = "auto"
    subset: int | None = None
    seed: int = 0
    restorers: tuple[Choice, ...] = (Choice("none"), Choice("fast"))
    kernel_sets: tuple[str, ...] = ("levin8",)
    kernel_centre: Centre = "mass"
    verifiers: tuple[str, ...] = ("mobilefacenet",)
    noise: float = 0.0
    jpeg: int | None = None
    border: Border = "valid"
    size: float = 1.0
    mean_subtraction: bool = True
    device: str = "cpu"
    jobs: int | None = None
    batch_size: int | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any], data_root: Path | None = None) -> Experiment:
        """What a finished run was, from its ``run.json`` as :func:`protocols.run_folder.read_run` reads it.

        Parameters
        ----------
        record : mapping
        data_root : Path, optional
            Where the data lies now; by default where it lay then.

        Raises
        ------
        DataError
            If the record does not say what was run.
        """
        try:
            known = record.get("places", {})
            options = unhide(record["options"], known)
            chosen = unhide(record["about"].get("restorer_options", {}), known)
            root = options.get("data_root")
            if root in (None, "DATA"):
                # Where it lay, if that is a folder of this machine.
                lay = (path for path, name in known.items() if name == "DATA" and Path(path).is_dir())
                root = next(lay, None)
            return cls(
                pairs=str(options["pairs"]),
                data_root=data_root or (Path(root) if root else None),
                crops=str(options.get("crops", "auto")),
                subset=options.get("subset"),
                seed=int(options["seed"]),
                restorers=tuple(Choice(name, dict(chosen.get(name, {}))) for name in options["restorers"]),
                kernel_sets=tuple(options["kernel_sets"]),
                kernel_centre=options["kernel_centre"],
                verifiers=tuple(options["verifiers"]),
                noise=float(options["noise"]),
                jpeg=options["jpeg"],
                border=options["border"],
                size=float(options.get("size", 1.0)),
                mean_subtraction=bool(options["mean_subtraction"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"run.json does not say what was run ({error!r}).",
                "Run the same blurface verify command again.",
            ) from error

    def protocol(self) -> Protocol:
        """Photographs and pairs.

        Raises
        ------
        InputError
            If aligned crops are asked for where there are none, the part is larger than the list, or there
            is but one fold.
        """
        protocol = self._whole_protocol()
        if self.subset is not None and self.subset != len(protocol.pairs):
            protocol = protocol.subset(self.subset, self.seed)
        if protocol.pairs.folds < 2:
            raise InputError(
                f"{protocol.name} has one fold: a threshold is chosen on others.",
                "Use a list of two folds or more.",
            )
        return reduced(protocol, self.size)

    def _whole_protocol(self) -> Protocol:
        name, colon, argument = self.pairs.partition(":")
        if name == "lfw":
            return create_protocol(self.pairs, self.data_root, crops=self.crops)
        if name == "folder" and self.crops == "aligned":
            return create_protocol(f"folder-aligned{colon}{argument}", self.data_root)
        if name != "folder-aligned" and self.crops == "aligned":
            raise InputError(f"{self.pairs} has no aligned crops.", "Leave --crops out.")
        return create_protocol(self.pairs, self.data_root)

    @cached_property
    def kernels(self) -> tuple[KernelSet, dict[str, str]]:
        """All kernels as one set, and the set that each comes from."""
        return join_kernel_sets(self.kernel_sets, self.kernel_centre, self.data_root)

    def degradation(self) -> Degradation:
        """Noise and JPEG."""
        return Degradation(self.noise, self.jpeg, self.seed)

    def settings(self) -> Settings:
        """What the runner takes."""
        return Settings(
            restorers=self.restorers,
            verifiers=tuple(Choice(name) for name in self.verifiers),
            degradation=self.degradation(),
            border=self.border,
            device=self.device,
            jobs=self.jobs,
            batch_size=self.batch_size,
            data_root=self.data_root,
        )

    def options(self) -> dict[str, Any]:
        """As ``run.json`` keeps them."""
        return {
            "pairs": self.pairs,
            "data_root": str(self.data_root) if self.data_root else None,
            "crops": self.crops,
            "subset": self.subset,
            "seed": self.seed,
            "restorers": [choice.name for choice in self.settings().restorers],
            "kernel_sets": list(self.kernel_sets),
            "kernel_centre": self.kernel_centre,
            "verifiers": list(self.verifiers),
            "noise": self.noise,
            "jpeg": self.jpeg,
            "border": self.border,
            "size": self.size,
            "mean_subtraction": self.mean_subtraction,
            "device": self.device,
            "jobs": self.jobs,
            "batch_size": self.batch_size,
        }

    def replace(self, **changes: Any) -> Experiment:
        """The same with some things changed."""
        return dataclasses.replace(self, **changes)

    def evaluate(
        self,
        *,
        cache: Path | None = None,
        fresh: bool = False,
        progress: Progress = lambda phase, done, total: None,
    ) -> Evaluation:
        """Compute what is missing; see :func:`protocols.runner.evaluate`."""
        kernels, _ = self.kernels
        return evaluate(
            self.protocol(), kernels, self.settings(), cache=cache, fresh=fresh, progress=progress
        )

    def summarise(self, evaluation: Evaluation) -> Summary:
        """The figures of an evaluation of this."""
        _, origin = self.kernels
        return results.summarise(
            evaluation, mean_subtraction=self.mean_subtraction, seed=self.seed, kernel_sets=origin
        )

    def run(
        self,
        out: Path | None = None,
        *,
        cache: Path | None = None,
        progress: Progress = lambda phase, done, total: None,
    ) -> Summary:
        """Compute what is missing, and write the results.

        Parameters
        ----------
        out : Path, optional
            Folder for the result files, as ``blurface verify --out`` writes them.
        cache : Path, optional
        progress : callable
        """
        began = time.time()
        evaluation = self.evaluate(cache=cache, progress=progress)
        summary = self.summarise(evaluation)
        if out is not None:
            self.write(summary, out, run_record(self.options(), began, evaluation))
        return summary

    def write(self, summary: Summary, out: Path, record: Mapping[str, Any]) -> None:
        """Write results and their tables, with the names of folders in place of their paths.

        Parameters
        ----------
        summary : Summary
        out : Path
            Folder, created where missing.
        record : mapping
            As of :func:`protocols.record.run_record`.
        """
        known = places(self.data_root)
        shown = results.published(summary, known)
        results.write(shown, run_tables(shown), out, record, known)
