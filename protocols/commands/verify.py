"""``blurface verify``: blur the probes of a benchmark, restore them, verify, print the table."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import (
    border_option,
    check_writable,
    crops_option,
    data_root_option,
    device_option,
    jobs_option,
    kernel_centre_option,
    parse_options,
    quiet_option,
    restorer_options_option,
)

if TYPE_CHECKING:
    from blurface.kernels import Centre
    from protocols.runner import Border


@click.command()
@click.option("--pairs", default="lfw", show_default=True, help="Protocol: lfw, facescrub, folder:PATH.")
@data_root_option
@crops_option
@click.option(
    "--restorer",
    "restorers",
    multiple=True,
    default=("none", "fast"),
    show_default=True,
    help="Repeatable. The control 'none' is always run.",
)
@restorer_options_option
@click.option(
    "--kernels",
    "kernel_sets",
    multiple=True,
    default=("levin8",),
    show_default=True,
    help="Kernel set: levin8, linear:15,45, gp:8,0, file:PATH. Repeatable.",
)
@kernel_centre_option
@click.option(
    "--verifier",
    "verifiers",
    multiple=True,
    default=("mobilefacenet",),
    show_default=True,
    help="Repeatable.",
)
@click.option("--subset", type=click.IntRange(min=4), help="A random part of the pairs, balanced.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of subset, noise and bootstrap."
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Standard deviation of Gaussian noise on the scale of [0, 1].",
)
@click.option("--jpeg", type=click.IntRange(1, 100), help="JPEG quality of the blurred probes.")
@border_option
@click.option(
    "--mean-subtraction/--no-mean-subtraction",
    default=True,
    show_default=True,
    help="Subtract the mean embedding of the training folds.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the result files.")
@device_option
@jobs_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Faces restored at once.")
@click.option(
    "--resume/--fresh", default=True, show_default=True, help="Use finished cells, or compute all again."
)
@quiet_option
def verify(
    pairs: str,
    data_root: Path | None,
    crops: str,
    restorers: tuple[str, ...],
    restorer_options: tuple[str, ...],
    kernel_sets: tuple[str, ...],
    kernel_centre: Centre,
    verifiers: tuple[str, ...],
    subset: int | None,
    seed: int,
    noise: float,
    jpeg: int | None,
    border: Border,
    mean_subtraction: bool,
    out: Path | None,
    device: str,
    jobs: int | None,
    batch_size: int | None,
    resume: bool,
    quiet: bool,
) -> None:
    """Blur the probe of every pair, restore it, verify, and print how much of the accuracy returns.

    Finished work is kept in the cache: a run that was stopped goes on where it was, and a second run
    of the same command computes nothing. Exit status 1 if pictures of the benchmark could not be read.
    """
    from blurface import assets
    from blurface.stage import resolve_device
    from protocols.experiments import Experiment
    from protocols.kinds import unreadable
    from protocols.record import run_record
    from protocols.run_tables import run_tables
    from protocols.runner import Choice

    from .progress import PhaseProgress, duration

    began = time.time()
    options = parse_options(restorer_options, restorers)
    experiment = Experiment(
        pairs=pairs,
        data_root=data_root,
        crops=crops,
        subset=subset,
        seed=seed,
        restorers=tuple(Choice(name, options.get(name, {})) for name in restorers),
        kernel_sets=kernel_sets,
        kernel_centre=kernel_centre,
        verifiers=verifiers,
        noise=noise,
        jpeg=jpeg,
        border=border,
        mean_subtraction=mean_subtraction,
        device=str(resolve_device(device)),
        jobs=jobs,
        batch_size=batch_size,
    )
    if out is not None:
        check_writable(out)
    try:
        with PhaseProgress(quiet) as progress:
            evaluation = experiment.evaluate(fresh=not resume, progress=progress)
    except KeyboardInterrupt:
        click.echo("Stopped. Finished work is kept; the same command goes on from here.", err=True)
        sys.exit(130)
    summary = experiment.summarise(evaluation)
    for table in run_tables(summary):
        if table.name.startswith("accuracy") or table.name == "verifiers":
            click.echo(table.text())
    spent = time.time() - began
    if not quiet:
        click.echo(
            f"{evaluation.computed} cells computed, {evaluation.reused} found in "
            f"{assets.cache_folder() / 'cells'}; {duration(spent)}.",
            err=True,
        )
    if out is not None:
        experiment.write(summary, out, run_record(click.get_current_context().params, began, evaluation))
        click.echo(f"Results written to {out}.", err=True)
    if lacking := unreadable([summary]):
        click.echo(f"blurface: {lacking[0]}", err=True)
        sys.exit(1)
