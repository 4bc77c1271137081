"""The command line: names and one-line helps only.

Each command lives in a module of its own that is imported when the command is called, so
``blurface --help`` starts without torch. A new command is one line in :data:`COMMANDS`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from . import __version__
from .errors import BlurfaceError

COMMANDS: dict[str, tuple[str, str]] = {
    "verify": ("protocols.commands.verify:verify", "Blur, restore and verify a benchmark's pairs."),
    "demo": ("protocols.commands.demo:demo", "The whole pipeline on one photograph, no download."),
    "restore": ("protocols.commands.restore:restore", "Restore files, folders, globs or standard input."),
    "train": ("protocols.commands.train:train", "Train a network from a configuration file."),
    "export": ("blurface.commands.export:export", "Export a network to ONNX or OpenVINO."),
    "tables": ("protocols.commands.tables:tables", "Print the paper's tables from finished runs."),
    "figures": ("protocols.commands.figures:figures", "Draw the paper's figures and those beyond it."),
    "report": ("protocols.commands.report:report", "Make one self-contained HTML page of a run."),
    "data": ("protocols.commands.data:data", "List, get, find, check, pack and clear data sets and weights."),
    "doctor": ("protocols.commands.doctor:doctor", "Show versions, data and weights, and what is missing."),
    "restorers": ("protocols.commands.listings:restorers", "List the registered restorers."),
    "verifiers": ("protocols.commands.listings:verifiers", "List the registered verifiers."),
    "kernels": ("protocols.commands.listings:kernels", "List the registered kernel sets."),
    "protocols": ("protocols.commands.listings:protocols", "List the registered protocols."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error made for the user becomes one line, not a traceback."""
        try:
            return super().invoke(ctx)
        except BlurfaceError as error:
            if os.environ.get("BLURFACE_TRACEBACK"):
                raise
            click.echo(f"blurface: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # The reader (head, less) went away: conventional and silent.
            sys.stderr.close()
            ctx.exit(141)
        except OSError as error:
            if os.environ.get("BLURFACE_TRACEBACK"):
                raise
            where = f" ({error.filename})" if error.filename else ""
            click.echo(f"blurface: {error.strerror or error}{where}.", err=True)
            ctx.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="blurface")
def main() -> None:
    """Sharpen motion-blurred faces in front of a face verifier, and measure whether it helps."""
