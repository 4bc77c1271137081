"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blurface.errors import BlurfaceError, InputError

if TYPE_CHECKING:
    from protocols.runner import Choice

F = TypeVar("F", bound=Callable[..., Any])

data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Searched first for data and weights (then BLURFACE_DATA, then the cache).",
)
restorer_options_option = click.option(
    "--restorer-option",
    "restorer_options",
    multiple=True,
    metavar="NAME:KEY=VALUE",
    help="Option of a restorer; VALUE is read as JSON, else as text. Repeatable.",
)
crops_option = click.option(
    "--crops",
    type=click.Choice(["auto", "photographs", "aligned"]),
    default="auto",
    show_default=True,
    help="Photographs, or 112x112 crops aligned to the ArcFace template.",
)
border_option = click.option(
    "--border",
    type=click.Choice(["valid", "replicate"]),
    default="valid",
    show_default=True,
    help="Blur sees the photograph around the face, or the face's edge repeated.",
)
kernel_centre_option = click.option(
    "--kernel-centre",
    type=click.Choice(["mass", "published"]),
    default="mass",
    show_default=True,
    help="Centre kernels by mass, or leave them as published.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes of one thread each.  [default: processors]"
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress.")


def models_option(use: str) -> Callable[[F], F]:
    """``--model LABEL=PATH``; ``use`` says what for."""
    return click.option("--model", "models", multiple=True, metavar="LABEL=PATH", help=f"{use} Repeatable.")


def parse_options(given: tuple[str, ...], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """``NAME:KEY=VALUE`` to options by name; values are JSON where they can be, else text.

    Raises
    ------
    InputError
        If one is not of this form or names a restorer that is not run.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in given:
        head, equals, value = text.partition("=")
        name, colon, key = head.rpartition(":")
        if not (equals and colon and key):
            raise InputError(f"{text!r} is not NAME:KEY=VALUE.", "For example: krishnan:kernel_size=19.")
        if name not in names:
            raise InputError(f"{text!r} is for {name!r}, which is not run.", f"Add --restorer {name}.")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        options.setdefault(name, {})[key.replace("-", "_")] = parsed
    return options


def check_writable(folder: Path) -> None:
    """Fail before the long work if the results could not be written after it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".writable-", dir=folder):
        pass


def parse_which(text: str, known: Sequence[str]) -> list[str]:
    """``1,3`` to names, each once, in the order of ``known``.

    Raises
    ------
    click.UsageError
        If one is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in known]:
        raise click.UsageError(f"--which {wrong[0]} is unknown. Known: {', '.join(known)}.")
    if not names:
        raise click.UsageError(f"--which names nothing. Known: {', '.join(known)}.")
    return [name for name in known if name in names]


def parse_models(given: Sequence[str]) -> dict[str, Path]:
    """``LABEL=PATH`` to paths by label. The label may hold equals signs; the path may not.

    Raises
    ------
    click.UsageError
        If one is not of this form, a label comes twice, or a file is missing.
    """
    models: dict[str, Path] = {}
    for text in given:
        label, equals, path = text.rpartition("=")
        if not (equals and label and path):
            raise click.UsageError(
                f"{text!r} is not LABEL=PATH. For example: 'no TV=runs/a/deepdeblur.safetensors'."
            )
        if label in models:
            raise click.UsageError(
                f"The model {label!r} is named twice. Give every model a label of its own."
            )
        if not Path(path).is_file():
            raise click.UsageError(
                f"{path} does not exist. Name a .safetensors file that blurface train wrote."
            )
        models[label] = Path(path)
    return models


def choose_restorers(
    names: tuple[str, ...],
    options: dict[str, dict[str, Any]],
    usual: tuple[str, ...],
) -> tuple[list[Choice], list[str]]:
    """Restorers that are asked for, or of the usual ones those that can be built.

    Returns
    -------
    list of Choice, list of str
        And why the others cannot.
    """
    from blurface.restorers import create_restorer
    from protocols.runner import Choice

    chosen, missing = [Choice("none")], []
    for name in names or usual:
        if name == "none":
            continue
        given = options.get(name, {})
        try:
            create_restorer(name, **given)
        except BlurfaceError as error:
            if names:
                raise
            missing.append(f"{name} ({error.message.rstrip('.')})")
        else:
            chosen.append(Choice(name, given))
    return chosen, missing
