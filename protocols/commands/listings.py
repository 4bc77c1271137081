"""``blurface restorers | verifiers | kernels | protocols``: what is registered, and what it costs.

Each entry is created where its dependencies, weights and data allow, to count parameters and
operations; where that fails the row says why, and the rest is listed all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blurface.errors import BlurfaceError
from blurface.registry import Entry, Registry

from .options import data_root_option
from .rows import format_option, render

if TYPE_CHECKING:
    from torch import nn

_COMMON = ("name", "summary", "source")

Describe = Callable[[str], dict[str, Any]]


def _rows(registry: Registry[Any], describe: Describe, brief: bool) -> list[dict[str, Any]]:
    return [_row(entry, describe, brief) for entry in registry.entries()]


def _row(entry: Entry, describe: Describe, brief: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "provider": entry.provider,
        "note": "",
    }
    if brief:
        return row
    try:
        if entry.provider != "blurface":
            # The first line of its docstring is the summary that a third party gives.
            documented = (entry.load().__doc__ or "").strip().partition("\n")[0]
            row["summary"] = documented or entry.summary
            row["source"] = row["source"] or entry.provider
        row.update(describe(entry.name))
    except BlurfaceError as error:
        row["note"] = _reason(entry, error)
    except Exception as error:  # another package's code: its faults must not hide the rest
        row["note"] = f"{type(error).__name__}: {error}"
    return row


def _reason(entry: Entry, error: BlurfaceError) -> str:
    """Why an entry could not be created; most often it wants an argument after a colon."""
    if "missing a required argument" in error.message:
        return f"takes an argument: {entry.name}:..."
    return str(error)


def _restorer(name: str) -> dict[str, Any]:
    from blurface.restorers import create_restorer

    restorer = create_restorer(name)
    return {
        "parameters": restorer.parameters(),
        "gflop": restorer.gflop(112, 96),
        "kernel": "blind" if restorer.blind else "given",
    }


def _verifier(name: str, data_root: Path | None) -> dict[str, Any]:
    from protocols.runner import Choice, build_embedder

    embedder = build_embedder(Choice(name), data_root=data_root, download=False)
    weights = getattr(embedder, "weights", None)
    on_disk = Path(weights) if isinstance(weights, str | Path) else None
    return {
        "frame": embedder.frame,
        "dimension": embedder.dimension,
        "metric": embedder.metric,
        "parameters": embedder.parameters(),
        "gflop": count_gflop(embedder.module, embedder.frame) if embedder.module is not None else None,
        "megabytes": on_disk.stat().st_size / 1e6 if on_disk is not None and on_disk.is_file() else None,
    }


def count_gflop(module: nn.Module, frame: str) -> float:
    """GFLOP (two per multiply-add) of a network for one face of a frame such as ``"112x96"``."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from verification.align import frame_size

    height, width = frame_size(frame)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.zeros(1, 3, height, width, device=device))
    return float(counter.get_total_flops()) / 1e9


def _kernels(name: str, data_root: Path | None) -> dict[str, Any]:
    from blurface.kernels import create_kernel_set

    kernels = create_kernel_set(name, data_root).kernels
    sizes = [kernel.size for kernel in kernels]
    return {"kernels": len(sizes), "sizes": " ".join(map(str, sizes))}


def _protocol(name: str, data_root: Path | None) -> dict[str, Any]:
    from protocols.datasets import create_protocol

    protocol = create_protocol(name, data_root)
    pairs = protocol.pairs
    return {
        "pairs": len(pairs),
        "genuine": sum(pair.genuine for pair in pairs),
        "folds": pairs.folds,
        "images": len(pairs.images),
        "pictures": "aligned 112x112" if protocol.prealigned else "photographs",
    }


_brief = click.option("--brief", is_flag=True, help="Names, summaries and sources only; creates nothing.")


@click.command()
@_brief
@format_option
def restorers(brief: bool, format_: str) -> None:
    """List the registered restorers: parameters and GFLOP for one 112x96 face."""
    from blurface.restorers import restorers as registry

    columns = () if brief else ("kernel", "parameters", "gflop", "note")
    click.echo(render(_rows(registry, _restorer, brief), (*_COMMON, *columns), format_))


@click.command()
@_brief
@data_root_option
@format_option
def verifiers(brief: bool, data_root: Path | None, format_: str) -> None:
    """List the registered verifiers: input, dimension, parameters, GFLOP for one face, weights."""
    from verification.embedders import embedders

    columns = () if brief else ("frame", "dimension", "metric", "parameters", "gflop", "megabytes", "note")
    rows = _rows(embedders, lambda name: _verifier(name, data_root), brief)
    click.echo(render(rows, (*_COMMON, *columns), format_))


@click.command()
@_brief
@data_root_option
@format_option
def kernels(brief: bool, data_root: Path | None, format_: str) -> None:
    """List the registered kernel sets: how many kernels, and their sizes in pixels."""
    from blurface.kernels import kernel_sets

    columns = () if brief else ("kernels", "sizes", "note")
    rows = _rows(kernel_sets, lambda name: _kernels(name, data_root), brief)
    click.echo(render(rows, (*_COMMON, *columns), format_))


@click.command()
@_brief
@data_root_option
@format_option
def protocols(brief: bool, data_root: Path | None, format_: str) -> None:
    """List the registered protocols: pairs, folds, images."""
    from protocols.datasets import protocols as registry

    columns = () if brief else ("pairs", "genuine", "folds", "images", "pictures", "note")
    rows = _rows(registry, lambda name: _protocol(name, data_root), brief)
    click.echo(render(rows, (*_COMMON, *columns), format_))
