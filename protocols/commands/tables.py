"""``blurface tables``: the paper's tables, measured, beside the paper's numbers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blurface.errors import BlurfaceError, InputError

from .options import (
    border_option,
    check_writable,
    choose_restorers,
    crops_option,
    data_root_option,
    device_option,
    jobs_option,
    kernel_centre_option,
    models_option,
    parse_models,
    parse_options,
    parse_which,
    quiet_option,
    restorer_options_option,
)

if TYPE_CHECKING:
    from blurface.kernels import Centre
    from blurface.restorers.base import Restorer
    from protocols.experiments import Experiment
    from protocols.results import Summary
    from protocols.runner import Border, Choice
    from protocols.tables import Table

WHICH = ("1", "2", "3", "4", "5", "robustness")
ALL = ("1", "2", "3", "4", "5")
DEFAULT_RESTORERS = (
    "fast",
    "gated:fast",
    "deepdeblur",
    "plain",
    "krishnan",
    "levin",
    "pan",
    "perrone",
    "sun",
    "michaeli",
    "chakrabarti",
)

LEARNED = ("fast", "gated:fast", "deepdeblur", "plain")
"""Those that are quick enough for tables 3 to 5 and robustness, where none are named."""

Costs = dict[str, tuple[int | None, float | None]]


@click.command()
@click.option("--which", default=",".join(ALL), show_default=True, help="1 to 5, and robustness.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Finished run to take tables 2 to 5 and robustness from; nothing is computed then. Repeatable.",
)
@click.option("--pairs", default="lfw", show_default=True, help="Protocol.")
@data_root_option
@click.option(
    "--restorer",
    "restorers",
    multiple=True,
    help="Repeatable.  [default: networks, in tables 1 and 2 also all that the paper compares]",
)
@restorer_options_option
@models_option("Weights of a trained model for table 5.")
@click.option("--verifier", "verifiers", multiple=True, default=("mobilefacenet",), show_default=True)
@click.option(
    "--subset",
    "subsets",
    multiple=True,
    type=click.IntRange(min=2),
    default=(50,),
    show_default=True,
    help="Pairs of table 2. Repeatable; tables 4, 5 and robustness take the first.",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(min=0),
    default=(0,),
    show_default=True,
    help="Draws of table 2.",
)
@click.option(
    "--limit", type=click.IntRange(min=2), help="At most this many pairs in any table, to try it out."
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 32),
    show_default=True,
    help="Faces a call in table 1.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=16, show_default=True, help="Timed calls in table 1."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Seconds for one method and batch size in table 1; one call of a single face is made in any case.",
)
@crops_option
@border_option
@kernel_centre_option
@device_option
@jobs_option
@quiet_option
def tables(
    which: str,
    out: Path,
    runs: tuple[Path, ...],
    pairs: str,
    data_root: Path | None,
    restorers: tuple[str, ...],
    restorer_options: tuple[str, ...],
    models: tuple[str, ...],
    verifiers: tuple[str, ...],
    subsets: tuple[int, ...],
    seeds: tuple[int, ...],
    limit: int | None,
    batches: tuple[int, ...],
    rounds: int,
    time_limit: float,
    crops: str,
    border: Border,
    kernel_centre: Centre,
    device: str,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Measure the paper's tables and write each as Markdown, LaTeX and CSV beside the paper's numbers.

    Finished cells are taken from the cache, as by ``blurface verify``; every run behind a table is
    written to OUT/runs, for ``blurface report``. With --run, tables come from finished runs alone.
    OUT/tables.json says how each was made: command, seeds, versions, machine, fingerprints.
    Exit status 1 if a table could not be made.
    """
    from blurface.stage import resolve_device
    from protocols.experiments import Experiment
    from protocols.record import hide, places, run_record
    from protocols.run_folder import read_runs

    from .progress import PhaseProgress

    began = time.time()
    wanted = parse_which(which, WHICH)
    labelled = parse_models(models)
    check_writable(out)
    options = parse_options(restorer_options, restorers or (*DEFAULT_RESTORERS, "none"))
    finished = read_runs(runs)
    missing: list[str] = []
    chosen: list[Choice] = []
    if "1" in wanted or not finished:
        chosen, missing = choose_restorers(restorers, options, DEFAULT_RESTORERS)
    base = Experiment(
        pairs=pairs,
        data_root=data_root,
        restorers=tuple(chosen),
        verifiers=verifiers,
        crops=crops,
        border=border,
        kernel_centre=kernel_centre,
        device=str(resolve_device(device)),
        jobs=jobs,
    )
    if data_root is not None:
        base = base.replace(data_root=data_root.absolute())
    if missing:
        click.echo(f"tables: without {'; '.join(missing)}", err=True)
    with PhaseProgress(quiet) as progress:
        maker = Maker(base, out, finished, subsets, seeds, limit, labelled, progress, not restorers)
        made: list[Table] = []
        failed: list[str] = []
        for table in wanted:
            try:
                if table == "1":
                    made += maker.times(batches, rounds, time_limit)
                else:
                    made += maker.make(table)
            except BlurfaceError as error:
                failed.append(f"table {table}: {error}")
    for each in made:
        if missing and (each.name.startswith(("table1", "table2"))):
            each.notes.append(f"Not measured: {'; '.join(missing)}.")
        each.write(out)
        click.echo(each.text())
    if made:
        record = run_record(click.get_current_context().params, began) | {
            "tables": [each.name for each in made],
            "runs": maker.prints | {run.name: run.record["fingerprints"] for run in finished},
        }
        _keep_record(out / "tables.json", hide(record, places(data_root)))
        click.echo(f"Tables written to {out}.", err=True)
    for message in failed:
        click.echo(f"blurface: {message}", err=True)
    if failed:
        sys.exit(1)


def _keep_record(path: Path, record: dict[str, Any]) -> None:
    """Put how tables were made before how others in the folder were; each table stands in one record."""
    from blurface.files import write_atomic

    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        earlier = [entry for entry in earlier if isinstance(entry["tables"], list)]
    except (OSError, ValueError, TypeError, KeyError):
        earlier = []
    kept = [record]
    for entry in earlier:
        if left := [name for name in entry["tables"] if name not in record["tables"]]:
            kept.append({**entry, "tables": left})
    write_atomic(path, json.dumps(kept, indent=1, default=str) + "\n")


class Maker:
    """Makes tables: from finished runs where there are any, else from experiments."""

    def __init__(
        self,
        base: Experiment,
        out: Path,
        finished: Sequence[Any],
        subsets: tuple[int, ...],
        seeds: tuple[int, ...],
        limit: int | None,
        models: dict[str, Path],
        progress: Callable[[str, int, int], None],
        usual: bool = False,
    ) -> None:
        self.base = base
        self.usual = usual
        self.out = out
        self.finished = finished
        self.subsets = tuple(dict.fromkeys(min(n, limit) if limit else n for n in subsets))
        self.seeds = tuple(dict.fromkeys(seeds))
        self.limit = limit
        self.models = models
        self.progress = progress
        self.prints: dict[str, Any] = {}

    def make(self, which: str) -> list[Table]:
        """One of the tables 2 to 5 or robustness, under every verifier."""
        return {
            "2": self.subset,
            "3": self.whole,
            "4": self.linear,
            "5": self.ablation,
            "robustness": self.robustness,
        }[which]()

    def times(self, batches: Sequence[int], rounds: int, limit: float) -> list[Table]:
        """Table 1, and ``timing.json`` with every call."""
        import torch

        from blurface.files import write_atomic
        from protocols.degradation import from_bytes
        from protocols.pictures import Pictures
        from protocols.processes import processor_name, processors
        from protocols.record import hide, places
        from protocols.reproduction import time_table
        from protocols.timing import time_restorers
        from verification.align import frame_size

        experiment = self.base.replace(kernel_sets=("levin8",), subset=8, seed=0)
        pictures = Pictures(experiment)
        images = list(pictures.protocol.pairs.probes)
        probes = []
        for kernel in pictures.kernels.kernels:
            faces = torch.stack([torch.from_numpy(pictures.blurry(image, kernel.name)) for image in images])
            probes.append(
                (
                    from_bytes(faces.permute(0, 3, 1, 2).contiguous()).to(self.base.device),
                    torch.from_numpy(kernel.psf).to(self.base.device),
                )
            )
        methods = {c.name: self._build(c) for c in self.base.restorers if c.name != "none"}
        timings = time_restorers(
            methods, probes, batches=batches, rounds=rounds, limit=limit, progress=self.progress
        )
        height, width = frame_size(pictures.frame)
        costs = {name: (method.parameters(), method.gflop(height, width)) for name, method in methods.items()}
        device = self.base.device
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()
        about = (
            f"{height}x{width} faces of {pictures.protocol.name} under {len(probes)} kernels; {device}: "
            f"{name}, {processors()} processors, {torch.get_num_threads()} threads; "
            f"PyTorch {torch.__version__}."
        )
        record = {
            "command": hide(["blurface", *sys.argv[1:]], places(self.base.data_root)),
            "about": about,
            "timings": [vars(timing) for timing in timings],
        }
        write_atomic(self.out / "timing.json", json.dumps(record, indent=1) + "\n")
        return [time_table(timings, costs, about)]

    def subset(self) -> list[Table]:
        """Table 2, one for each size of subset."""
        from protocols.reproduction import subset_table

        if self.finished:
            found = [run.summary for run in self._levin_runs("2") if run.record["options"].get("subset")]
            self._need(found, "2", "over levin8 on a subset of LFW")
            sizes = sorted({summary.about["pairs"] for summary in found})
            groups = [[summary for summary in found if summary.about["pairs"] == size] for size in sizes]
        else:
            groups = [
                [
                    self._run(f"table2-{size}-seed{seed}", self.base.replace(subset=size, seed=seed))
                    for seed in self.seeds
                ]
                for size in self.subsets
            ]
        return [subset_table(group, verifier) for group in groups for verifier in _verifiers(group)]

    def whole(self) -> list[Table]:
        """Table 3."""
        from protocols.reproduction import whole_table

        if self.finished:
            found = self._levin_runs("3")
            largest = _pairs_of(max(found, key=lambda run: run.summary.about["pairs"]))
            whole = [run.summary for run in found if _pairs_of(run) == largest]
        else:
            whole = [self._run("table3", self._quick().replace(subset=self.limit))]
        return [whole_table(whole, verifier) for verifier in _verifiers(whole)]

    def linear(self) -> list[Table]:
        """Table 4 and the grid of lengths."""
        from protocols import paper
        from protocols.reproduction import grid_set, linear_grid, linear_name, linear_place, linear_table

        kernel = linear_name(*paper.LINEAR)
        if self.finished:
            runs = [run.summary for run in self.finished]
            grids = [
                summary for summary in runs if len({p for k in summary.kernels if (p := linear_place(k))}) > 1
            ]
            over = [summary for summary in runs if kernel in summary.kernels]
            # The grid holds that line as well: it serves where no run is over the line alone.
            single = [summary for summary in over if not any(summary is grid for grid in grids)] or over
            self._need([*single, *grids], "4", "over linear:15,45")
            if len(single) > 1 or len(grids) > 1:
                raise InputError(
                    "Table 4 is made of one run over linear:15,45 and one over several lines.",
                    "Run the restorers together, or name fewer runs.",
                )
        else:
            subset = self.subsets[0]
            name = f"linear:{paper.LINEAR[0]},{paper.LINEAR[1]}"
            # The paper compares with one method here, which is quick as well.
            one = self._quick("krishnan").replace(kernel_sets=(name,), subset=subset)
            grid = self._quick().replace(kernel_sets=(grid_set(),), subset=subset)
            single, grids = [self._run("table4", one)], [self._run("table4-grid", grid)]
        made = [linear_table(summary, verifier) for summary in single[:1] for verifier in summary.verifiers]
        for summary in grids[:1]:
            for verifier in summary.verifiers:
                made += [linear_grid(summary, verifier, metric) for metric in ("psnr", "accuracy")]
        return made

    def ablation(self) -> list[Table]:
        """Table 5."""
        from protocols.reproduction import ablation_table
        from protocols.runner import Choice

        models: list[tuple[str, Summary, str]] = []
        costs: Costs = {}
        if self.finished:
            self._alike("5")
            for run in self.finished:
                options = run.summary.about.get("restorer_options", {})
                for restorer in run.restored:
                    if "weights" in options.get(restorer, {}):
                        models.append((f"{run.name}: {restorer}", run.summary, restorer))
        else:
            from blurface.weights import network_name
            from protocols.results import slug

            for label, path in self.models.items():
                choice = Choice(network_name(path), {"weights": str(path.absolute())})
                method = self._build(choice)
                costs[label] = (method.parameters(), method.gflop())
                experiment = self.base.replace(restorers=(Choice("none"), choice), subset=self.subsets[0])
                models.append((label, self._run(f"table5-{slug(label)}", experiment), choice.name))
        if not models:
            raise InputError("No model is named for table 5.", "Name trained weights: --model LABEL=PATH.")
        return [ablation_table(models, costs, verifier) for verifier in models[0][1].verifiers]

    def robustness(self) -> list[Table]:
        """The grid of noise, JPEG and size."""
        from protocols.robustness import Condition, conditions, robustness_table

        measured: list[tuple[Condition, Summary]] = []
        if self.finished:
            self._alike("robustness", {"noise", "jpeg", "size"})
            for run in self.finished:
                measured.append((Condition.from_options(run.record["options"]), run.summary))
        else:
            for condition in conditions():
                experiment = condition.of(self._quick().replace(subset=self.subsets[0]))
                measured.append((condition, self._run(f"robustness-{condition.name}", experiment)))
        return [robustness_table(measured, verifier) for verifier in measured[0][1].verifiers]

    def _quick(self, *others: str) -> Experiment:
        """The experiment with restorers that take milliseconds a face, unless restorers were named."""
        if not self.usual:
            return self.base
        names = {"none", *LEARNED, *others}
        return self.base.replace(restorers=tuple(c for c in self.base.restorers if c.name in names))

    def _run(self, name: str, experiment: Experiment) -> Summary:
        folder = self.out / "runs" / name
        summary = experiment.run(folder, progress=self.progress)
        self.prints[name] = json.loads((folder / "run.json").read_text())["fingerprints"]
        return summary

    def _build(self, choice: Choice) -> Restorer:
        from protocols.runner import build_restorer

        return build_restorer(choice, self.base.device)

    def _levin_runs(self, table: str) -> list[Any]:
        """Runs on LFW over Levin's kernels, under the same conditions."""
        found = [
            run
            for run in self.finished
            if run.protocol.startswith("lfw") and "levin8" in run.record["options"].get("kernel_sets", ())
        ]
        self._need(found, table, "over levin8 on LFW")
        for run in found:
            if list(run.record["options"]["kernel_sets"]) != ["levin8"]:
                raise InputError(
                    f"Table {table} is over Levin's eight kernels alone; {run.name} has others as well.",
                    "Run it with --kernels levin8 (what is computed is found again).",
                )
        self._of_one_kind(found, table)
        return found

    def _alike(self, table: str, free: Collection[str] = ()) -> None:
        """Refuse runs of other pairs, kernels, verifiers or conditions than the first one's."""
        runs = self.finished
        for what in ("pairs", "kernels"):
            _refuse_mixed(
                table, what, {r.name: str(r.record["fingerprints"].get(what)) for r in runs}, told=False
            )
        _refuse_mixed(table, "verifiers", {run.name: ", ".join(run.summary.verifiers) for run in runs})
        self._of_one_kind(runs, table, free)

    @staticmethod
    def _of_one_kind(runs: Sequence[Any], table: str, free: Collection[str] = ()) -> None:
        # What was taken, not what was asked for: --crops auto takes either.
        taken = {run.name: run.summary.about.get("face_selection", "central-largest") for run in runs}
        _refuse_mixed(table, "face_selection", taken)
        for key, usual in _CONDITIONS.items():
            if key not in free:
                _refuse_mixed(table, key, {run.name: run.record["options"].get(key, usual) for run in runs})

    @staticmethod
    def _need(found: Sequence[Any], table: str, what: str) -> None:
        if not found:
            raise InputError(f"None of the runs is {what}.", f"Leave out --run, or --which {table}.")


_CONDITIONS = {
    "kernel_centre": "mass",
    "noise": 0.0,
    "jpeg": None,
    "border": "valid",
    "size": 1.0,
    "mean_subtraction": True,
}
"""Options that runs of one table share, and what records of before an option was there stand for."""


def _refuse_mixed(table: str, what: str, values: Mapping[str, Any], *, told: bool = True) -> None:
    """Refuse runs, by name, that do not have one value in common; ``told``: say each one's."""
    if len({str(value) for value in values.values()}) < 2:
        return
    each = f" ({', '.join(f'{name}: {value}' for name, value in values.items())})" if told else ""
    raise InputError(f"Table {table} cannot hold runs of different {what}{each}.", "Name runs of one kind.")


def _pairs_of(run: Any) -> str:
    """Fingerprint of a run's pairs."""
    return str(run.record["fingerprints"]["pairs"])


def _verifiers(summaries: Sequence[Summary]) -> list[str]:
    """Verifiers that all runs have."""
    return [v for v in summaries[0].verifiers if all(v in summary.verifiers for summary in summaries)]
