"""``blurface restore``: pictures in, sharper pictures out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from blurface.collection import Job, Mend, Options, Outcome


@dataclass(frozen=True)
class Recipe:
    """What restores, as plain values that travel to another process; called, it is built there."""

    model: str
    backend: str
    device: str
    gate: bool
    batch_size: int | None
    faces: bool
    precision: str = "auto"

    def __call__(self) -> Mend:
        """Build the stage, and the face finder where faces are wanted."""
        from blurface.collection import by_stage
        from blurface.stage import DeblurStage

        options: dict[str, Any] = {} if self.precision == "auto" else {"precision": self.precision}
        stage = DeblurStage.from_pretrained(
            self.model,
            device=self.device,
            backend=self.backend,
            gate=self.gate,
            batch_size=self.batch_size,
            **options,
        )
        if not self.faces:
            return by_stage(stage)
        from protocols.faces import by_faces

        return by_faces(stage, device=self.device)


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("--out", "-o", help="Folder to write to (names and subfolders stay), or one file.")
@click.option("--suffix", help="Put after each name; default -restored without --out.")
@click.option("--model", default="fast", show_default=True, help="Restorer (blurface restorers).")
@click.option(
    "--backend",
    type=click.Choice(["torch", "onnxruntime", "openvino", "auto"]),
    default="torch",
    show_default=True,
    help="Who runs the network.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="Of the arithmetic; int8 with onnxruntime, openvino or auto.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--gate/--no-gate", default=True, help="Leave sharp pictures as they are (default).")
@click.option("--faces", is_flag=True, help="Whole photographs: find every face, restore it, paste it back.")
@click.option("--compare", is_flag=True, help="Also write NAME-compare: before and after side by side.")
@click.option("--overwrite", is_flag=True, help="Do again what is finished.")
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of JPEG.")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures at once; default what suits the model.")
@click.option("--column", default="image", show_default=True, help="Picture column of Parquet files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line a picture on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary; errors only.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This process, or actors on a Ray cluster.",
)
@click.option("--ray-address", help="Of a running cluster; default a local one.")
@click.option("--actors", type=click.IntRange(1), help="Size of the Ray actor pool; default what fits.")
def restore(
    inputs: tuple[str, ...],
    out: str | None,
    suffix: str | None,
    model: str,
    backend: str,
    precision: str,
    device: str,
    gate: bool,
    faces: bool,
    compare: bool,
    overwrite: bool,
    quality: int,
    batch_size: int | None,
    column: str,
    as_json: bool,
    quiet: bool,
    engine: Literal["local", "ray"],
    ray_address: str | None,
    actors: int | None,
) -> None:
    r"""Restore pictures: files, folders, glob patterns, Parquet files, or - for standard input.

    Format, size, EXIF block and colour profile stay; sharp pictures are copied as they are. What
    is finished is skipped, so a run that was cut off goes on when it is started again.

    \b
    blurface restore face.png                      writes face-restored.png
    blurface restore IN_DIR --out OUT_DIR          the same names in another folder
    blurface restore photo.jpg --faces --compare   every face in a photograph
    blurface restore - < blurry.png > sharp.png    through a pipe (--out - for a file's result)

    Exit code 0 when all is done, 1 when some or all failed (the rest is done), 2 for wrong usage.
    """
    if precision == "int8" and backend == "torch":
        raise click.UsageError("--precision int8 needs --backend onnxruntime, openvino or auto.")
    recipe = Recipe(model, backend, device, gate, batch_size, faces, precision)
    if "-" in inputs or out == "-":
        if len(inputs) > 1 or suffix is not None or compare or engine == "ray":
            raise click.UsageError(
                "- (standard input or output) is for one picture, without --suffix, --compare or Ray."
            )
        _restore_one(recipe, inputs[0], out, quality, as_json, quiet)
        return
    from blurface.collection import Options, collect, is_table

    jobs = collect(inputs, out, suffix, compare=compare)
    if compare and any(is_table(job.source) for job in jobs):
        raise click.UsageError("--compare is for picture files; restore Parquet files without it.")
    options = Options(overwrite=overwrite, compare=compare, quality=quality, column=column)
    if engine == "ray":
        outcomes = _with_ray(jobs, recipe, options, batch_size or 32, actors, ray_address)
    else:
        outcomes = _locally(jobs, recipe, options, batch_size)
    counts, failures, notes = _follow(outcomes, len(jobs), as_json, quiet)
    if not quiet:
        told = ", ".join(f"{counts[word]} {word}" for word in _WORDS if counts[word])
        click.echo(f"{told or 'nothing done'} of {len(jobs)}.", err=True)
        for note in notes:
            click.echo(f"note: {note}", err=True)
    for failure in failures:
        click.echo(f"blurface: {failure}", err=True)
    if failures:
        sys.exit(1)


_WORDS = ("restored", "blended", "passed", "skipped", "failed")


def _locally(jobs: list[Job], recipe: Recipe, options: Options, batch_size: int | None) -> Iterator[Outcome]:
    from blurface.collection import restore_jobs
    from blurface.memory import keep_freed_memory

    keep_freed_memory()
    return restore_jobs(jobs, recipe(), options, batch_size=batch_size or 32)


def _with_ray(
    jobs: list[Job],
    recipe: Recipe,
    options: Options,
    batch_size: int,
    actors: int | None,
    address: str | None,
) -> Iterator[Outcome]:
    from blurface.ray_engine import restore_with_ray

    # What cannot be built is told here, before a cluster starts; the GPUs may be elsewhere.
    replace(recipe, device="cpu")()
    gpus: float | None = 1 if recipe.device.startswith("cuda") else 0
    if recipe.device == "auto" and recipe.backend in ("torch", "auto") and recipe.precision != "int8":
        gpus = None  # one an actor, where there are any
    return restore_with_ray(
        jobs, recipe, options, batch_size=batch_size, actors=actors, gpus=gpus, address=address
    )


def _follow(
    outcomes: Iterator[Outcome], total: int, as_json: bool, quiet: bool
) -> tuple[Counter[str], list[str], list[str]]:
    """Show progress, print lines, and count."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts: Counter[str] = Counter()
    failures: list[str] = []
    notes: list[str] = []
    console = Console(stderr=True)
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for outcome in outcomes:
            counts[outcome.status] += 1
            if outcome.status == "failed":
                failures.append(outcome.message)
            elif outcome.message:
                notes.append(f"{_shown(outcome.source)}: {outcome.message}.")
            if as_json:
                click.echo(json.dumps(asdict(outcome)))
            progress.advance(task)
    return counts, failures, notes


def _shown(path: str) -> str:
    from blurface.images import name_of

    return name_of(path)


def _restore_one(
    recipe: Recipe, source: str, out: str | None, quality: int, as_json: bool, quiet: bool
) -> None:
    """Restore standard input (``-``) or a file, to standard output or a file."""
    from blurface.collection import STATUS, restore_stream
    from blurface.errors import InputError
    from blurface.files import write_atomic
    from blurface.images import format_of

    to_stdout = out is None or out == "-"
    if to_stdout and as_json:
        raise click.UsageError("--json and the picture cannot both go to standard output; use --out.")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("A picture does not go to a terminal; redirect it or use --out.")
    if source == "-":
        data, name = sys.stdin.buffer.read(), "<stdin>"
    else:
        if not Path(source).is_file():
            raise InputError(f"{_shown(source)} is no picture file.", "Name one for --out -.")
        data, name = Path(source).read_bytes(), source
    target = Path(str(out))
    format = None if to_stdout or not target.suffix else format_of(target)
    restored, decision, note = restore_stream(data, recipe(), quality=quality, name=name, format=format)
    if to_stdout:
        sys.stdout.buffer.write(restored)
        sys.stdout.buffer.flush()
    else:
        write_atomic(target, restored)
    if note and not quiet:
        click.echo(f"note: {_shown(name)}: {note}.", err=True)
    if as_json:
        told = {"status": STATUS[decision.action], **asdict(decision), "message": note}
        click.echo(json.dumps({"source": source, "target": out, **told}))
