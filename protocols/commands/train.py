"""``blurface train``: train a network from a configuration file."""

from __future__ import annotations

import ast
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from blurface.errors import BlurfaceError, DataError

SHOWN = ("loss", "psnr", "blurry_psnr", "psnr_true_kernel", "cosine", "kernel_cosine", "sharp_psnr")
"""Figures of the progress line."""


def parse_override(text: str) -> tuple[str, Any]:
    """``name=value`` with a Python or a TOML literal, or a plain word.

    Raises
    ------
    BlurfaceError
        If there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise BlurfaceError(f"--set {text} is not understood.", "Write --set schedule.steps=1000.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, {"true": True, "false": False}.get(value, value)


def find_data(name: str, data_root: Path | None) -> Path:
    """A packed file by its path, or under a data root or the cache.

    Raises
    ------
    DataError
        If it is nowhere.
    """
    from blurface import assets

    places = [
        Path(name),
        *(root / name for root in assets.data_roots(data_root)),
        assets.cache_folder() / name,
    ]
    for place in places:
        if place.exists():
            return place
    raise DataError(
        f"The training faces {name} were not found (looked in {', '.join(str(p.parent) for p in places)}).",
        "Make the file with blurface data pack, or name yours with --data.",
    )


@click.command()
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the run [runs/NAME]."
)
@click.option(
    "--data",
    multiple=True,
    help="Faces: packed file, folder, WebDataset tar or RecordIO (replaces the configuration's).",
)
@click.option("--data-root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting, e.g. schedule.steps=9000.",
)
@click.option(
    "--init",
    metavar="NAME|FILE",
    help="Start from these weights with the schedule anew: a packaged model, .safetensors, or checkpoint.pt.",
)
@click.option("--fresh", is_flag=True, help="Start anew even if the folder holds a checkpoint.")
@click.option(
    "--stop-after",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Save and stop after this time.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads of the CPU to use [all].")
def train(
    config_path: Path,
    out: Path | None,
    data: tuple[str, ...],
    data_root: Path | None,
    overrides: tuple[str, ...],
    init: str | None,
    fresh: bool,
    stop_after: float | None,
    device: str,
    threads: int | None,
) -> None:
    """Train a network. A folder that holds a checkpoint is resumed, exactly.

    Several GPUs or machines: torchrun --nproc-per-node N -m blurface train ...
    """
    import torch
    from rich.console import Console

    from blurface.memory import keep_freed_memory
    from blurface.stage import resolve_device
    from blurface.training.config import read_config
    from blurface.training.loop import Trainer
    from blurface.training.sources import read_faces

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    device = str(resolve_device(device))
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    config = read_config(config_path, dict(parse_override(text) for text in overrides))
    out = out or Path("runs") / config.name
    console = Console(stderr=True)
    config = replace(config, data=data or config.data)
    faces = read_faces([find_data(name, data_root) for name in config.data])
    embed = None
    if config.embedder:
        from blurface.training.facial import frozen_embedder
        from verification import create_embedder

        module = create_embedder(config.embedder, data_root=data_root, device=device).module
        if module is None:
            raise BlurfaceError(
                f"The verifier {config.embedder!r} is not differentiable.", "Choose mobilefacenet."
            )
        embed = frozen_embedder(module)
    trainer = Trainer(config, faces, out, embed, device)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not fresh:
        trainer.load(checkpoint)
        unused = " --init is not used (--fresh begins anew)." if init else ""
        console.print(f"{checkpoint}: going on at step {trainer.step}.{unused}")
    elif init:
        trainer.start_from(init)
    quiet = trainer.group.rank > 0
    parameters = sum(p.numel() for p in trainer.network.parameters())
    if not quiet:
        console.print(
            f"{config.name}: {parameters / 1e6:.2f} M parameters, {len(trainer.stream.faces)} faces, "
            f"{len(trainer.held_out)} held out, "
            f"{config.schedule.steps} steps of {config.schedule.batch_size}, "
            f"{'bfloat16' if trainer.bf16 else 'float32'}, {torch.get_num_threads()} threads."
        )
    started, first = time.monotonic(), trainer.step
    shown = started
    for row in trainer.run():
        now = time.monotonic()
        if not quiet and ("psnr" in row or now - shown > 20):
            shown = now
            speed = (row["step"] - first) / (now - started)
            left = (config.schedule.steps - row["step"]) / speed / 60
            figures = "  ".join(f"{name} {row[name]:.4g}" for name in SHOWN if name in row)
            console.print(
                f"step {row['step']:>6.0f}  {speed * config.schedule.batch_size:.1f} faces/s  "
                f"{left:.0f} min left  {figures}",
                highlight=False,
            )
        if stop_after is not None and now - started > 60 * stop_after:
            trainer.stop()
    trainer.group.leave()
    if not quiet:
        click.echo(str(out / f"{config.name}.safetensors"))
