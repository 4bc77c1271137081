"""``blurface tables``: the paper's tables, measured, beside the paper's numbers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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
    from protocols.run_folder import Run
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

WITH_RUNS = {"which", "out", "runs", "data_root", "device", "jobs", "quiet"}
"""Options that may stand beside ``--run``: finished runs have decided the others."""

TIMED = {
    "pairs",
    "restorers",
    "restorer_options",
    "batches",
    "rounds",
    "time_limit",
    "crops",
    "border",
    "kernel_centre",
}
"""Those that table 1, which no run holds, takes nevertheless."""

Costs = dict[str, tuple[int | None, float | None]]


@click.command()
@click.option(
    "--which",
    help="1 to 5, robustness; comma-separated.  [default: 1 to 4, with --model also 5; 2 to 5 with --run]",
)
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
    type=click.IntRange(min=4),
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
    "--limit", type=click.IntRange(min=4), help="At most this many pairs in any table, to try it out."
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
    which: str | None,
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
    Exit status 1 if a table could not be made, or pictures of the benchmark could not be read.
    """
    from blurface.stage import resolve_device
    from protocols.experiments import Experiment
    from protocols.kinds import unreadable
    from protocols.record import hide, places, run_record
    from protocols.run_folder import read_runs

    began = time.time()
    context = click.get_current_context()
    labelled = parse_models(models)
    wanted = (
        parse_which(which, WHICH)
        if which is not None
        # Table 1 is timed anew: not where finished runs are all that is asked for, unless it is named.
        else [t for t in ALL if (t != "5" or models or runs) and (t != "1" or not runs)]
    )
    if "5" in wanted and not (models or runs):
        raise click.UsageError("No model is named for table 5. Name trained weights: --model LABEL=PATH.")
    if runs:
        _refuse_decided(context, WITH_RUNS | TIMED if "1" in wanted else WITH_RUNS)
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
    maker = Maker(base, out, finished, subsets, seeds, limit, labelled, quiet, not restorers)
    made: list[str] = []
    failed: list[str] = []
    for table in wanted:
        try:
            for each in maker.times(batches, rounds, time_limit) if table == "1" else maker.make(table):
                if missing and (table == "1" or (table == "2" and not finished)):
                    each.notes.append(f"Not measured: {'; '.join(missing)}.")
                # At once: what comes after it may take hours, and fail.
                each.write(out)
                click.echo(each.text())
                made.append(each.name)
                record = run_record(context.params, began) | {
                    "tables": made,
                    "runs": {name: run.record["fingerprints"] for name, run in maker.used.items()},
                }
                _keep_record(out / "tables.json", hide(record, places(data_root)))
        except BlurfaceError as error:
            failed.append(f"table {table}: {error}")
    if made:
        click.echo(f"Tables written to {out}.", err=True)
        if unused := [run.name for run in finished if run.name not in maker.used]:
            click.echo(f"tables: in none of them: {', '.join(unused)}", err=True)
    failed += unreadable(run.summary for run in maker.used.values())
    for message in failed:
        click.echo(f"blurface: {message}", err=True)
    if failed:
        sys.exit(1)


def _refuse_decided(context: click.Context, allowed: set[str]) -> None:
    """Refuse options that were given and that finished runs have decided."""
    given = [
        option
        for option in context.command.params
        if option.name not in allowed
        and context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        names = ", ".join(option.opts[0] for option in given)
        timed = any(option.name in TIMED for option in given)
        raise click.UsageError(
            f"{names} would change nothing: with --run tables are made of finished runs. "
            f"Leave it out, or --run{', or name table 1, which is timed: --which 1' if timed else ''}."
        )


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
    """Makes tables: from finished runs where there are any, else from experiments.

    Attributes
    ----------
    used : dict of str to Run
        What the tables made so far are of.
    """

    def __init__(
        self,
        base: Experiment,
        out: Path,
        finished: Sequence[Run],
        subsets: tuple[int, ...],
        seeds: tuple[int, ...],
        limit: int | None,
        models: dict[str, Path],
        quiet: bool,
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
        self.quiet = quiet
        self.used: dict[str, Run] = {}

    def make(self, which: str) -> Iterator[Table]:
        """One of the tables 2 to 5 or robustness, under every verifier; each when its runs are finished."""
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
        from blurface.processes import processor_name, processors
        from protocols.degradation import from_bytes
        from protocols.pictures import Pictures
        from protocols.record import hide, places
        from protocols.reproduction import time_table
        from protocols.timing import time_restorers
        from verification.align import frame_size

        from .progress import PhaseProgress

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
        with PhaseProgress(self.quiet) as progress:
            timings = time_restorers(
                methods, probes, batches=batches, rounds=rounds, limit=limit, progress=progress
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

    def subset(self) -> Iterator[Table]:
        """Table 2, one for each size of subset."""
        from protocols.kinds import require_one_kind
        from protocols.reproduction import subset_table

        groups: Iterable[list[Run]]
        if self.finished:
            found = [run for run in self._levin_runs("2") if run.record["options"].get("subset")]
            self._need(found, "2", "over levin8 on a subset of LFW")
            require_one_kind(found, "Table 2")
            sizes = sorted({run.summary.about["pairs"] for run in found})
            groups = [[run for run in found if run.summary.about["pairs"] == size] for size in sizes]
        else:
            groups = (
                [
                    self._run(f"table2-{size}-seed{seed}", self.base.replace(subset=size, seed=seed))
                    for seed in self.seeds
                ]
                for size in self.subsets
            )
        for group in groups:
            summaries = self._use(group)
            for verifier in _verifiers(summaries):
                yield subset_table(summaries, verifier)

    def whole(self) -> Iterator[Table]:
        """Table 3."""
        from protocols.kinds import require_one_kind
        from protocols.reproduction import whole_table

        if self.finished:
            found = self._levin_runs("3")
            largest = _pairs_of(max(found, key=lambda run: run.summary.about["pairs"]))
            runs = [run for run in found if _pairs_of(run) == largest]
            require_one_kind(runs, "Table 3")
        else:
            runs = [self._run("table3", self._quick().replace(subset=self.limit))]
        summaries = self._use(runs)
        for verifier in _verifiers(summaries):
            yield whole_table(summaries, verifier)

    def linear(self) -> Iterator[Table]:
        """Table 4 and the grid of lengths."""
        from protocols import paper
        from protocols.reproduction import grid_set, linear_grid, linear_name, linear_place, linear_table

        subset = self.subsets[0]
        if self.finished:
            kernels = {run.name: run.summary.kernels for run in self.finished}
            lines = {name: {linear_place(k) for k in each} - {None} for name, each in kernels.items()}
            grids = [run for run in self.finished if len(lines[run.name]) > 1]
            over = [run for run in self.finished if linear_name(*paper.LINEAR) in kernels[run.name]]
            # The grid holds that line as well: it serves where no run is over the line alone.
            single = [run for run in over if len(lines[run.name]) == 1] or over
            if len(single) > 1 or len(grids) > 1:
                raise InputError(
                    "Table 4 is made of one run over linear:15,45 and one over several lines.",
                    "Run the restorers together, or name fewer runs.",
                )
        else:
            name = f"linear:{paper.LINEAR[0]},{paper.LINEAR[1]}"
            # The paper compares with one method here, which is quick as well.
            one = self._quick("krishnan").replace(kernel_sets=(name,), subset=subset)
            single = [self._run("table4", one)]
        for summary in self._use(single):
            for verifier in summary.verifiers:
                yield linear_table(summary, verifier)
        if not self.finished:
            many = self._quick().replace(kernel_sets=(grid_set(),), subset=subset)
            grids = [self._run("table4-grid", many)]
        for summary in self._use(grids):
            for verifier in summary.verifiers:
                for metric in ("psnr", "accuracy"):
                    yield linear_grid(summary, verifier, metric)
        self._need(single, "4", "over linear:15,45")

    def ablation(self) -> Iterator[Table]:
        """Table 5."""
        from protocols.kinds import require_alike
        from protocols.reproduction import ablation_table
        from protocols.runner import Choice

        models: list[tuple[str, Summary, str]] = []
        costs: Costs = {}
        if self.finished:
            # Restorers of one name are what is compared.
            require_alike(self.finished, "Table 5", {"restorers"})
            having: list[Run] = []
            for run in self.finished:
                options = run.summary.about.get("restorer_options", {})
                own = [name for name in run.restored if "weights" in options.get(name, {})]
                models += [(f"{run.name}: {name}", run.summary, name) for name in own]
                having += [run] if own else []
            self._need(having, "5", "of a model by its weights")
            self._use(having)
        else:
            from blurface.weights import network_name
            from protocols.results import slug

            for label, path in self.models.items():
                choice = Choice(network_name(path), {"weights": str(path.absolute())})
                method = self._build(choice)
                costs[label] = (method.parameters(), method.gflop())
                experiment = self.base.replace(restorers=(Choice("none"), choice), subset=self.subsets[0])
                (summary,) = self._use([self._run(f"table5-{slug(label)}", experiment)])
                models.append((label, summary, choice.name))
        for verifier in models[0][1].verifiers:
            yield ablation_table(models, costs, verifier)

    def robustness(self) -> Iterator[Table]:
        """The grid of noise, JPEG and size."""
        from protocols.robustness import conditions, conditions_of, robustness_table

        runs = self.finished
        if not runs:
            base = self._quick().replace(subset=self.subsets[0])
            runs = [self._run(f"robustness-{c.name}", c.of(base)) for c in conditions()]
        measured = conditions_of(runs, "Table robustness")
        self._use(runs)
        for verifier in measured[0][1].verifiers:
            yield robustness_table(measured, verifier)

    def _quick(self, *others: str) -> Experiment:
        """The experiment with restorers that take milliseconds a face, unless restorers were named."""
        if not self.usual:
            return self.base
        names = {"none", *LEARNED, *others}
        return self.base.replace(restorers=tuple(c for c in self.base.restorers if c.name in names))

    def _run(self, name: str, experiment: Experiment) -> Run:
        """An experiment, run and read back as a finished one."""
        from protocols.run_folder import read_run

        from .progress import PhaseProgress

        folder = self.out / "runs" / name
        with PhaseProgress(self.quiet) as progress:
            experiment.run(folder, progress=progress)
        return read_run(folder)

    def _use(self, runs: Sequence[Run]) -> list[Summary]:
        self.used |= {run.name: run for run in runs}
        return [run.summary for run in runs]

    def _build(self, choice: Choice) -> Restorer:
        from protocols.runner import build_restorer

        return build_restorer(choice, self.base.device)

    def _levin_runs(self, table: str) -> list[Run]:
        """Runs on LFW over Levin's kernels."""
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
        return found

    @staticmethod
    def _need(found: Sequence[Run], table: str, what: str) -> None:
        if not found:
            raise InputError(f"None of the runs is {what}.", f"Leave out --run, or --which {table}.")


def _pairs_of(run: Run) -> str:
    """Fingerprint of a run's pairs."""
    return str(run.record["fingerprints"]["pairs"])


def _verifiers(summaries: Sequence[Summary]) -> list[str]:
    """Verifiers that all runs have."""
    return [v for v in summaries[0].verifiers if all(v in summary.verifiers for summary in summaries)]
