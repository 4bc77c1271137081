"""``blurface report``: one self-contained HTML page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from .options import quiet_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--no-images", is_flag=True, help="No faces in the page.")
@click.option(
    "--pairs-shown",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Worst and best pairs of each restorer.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the photographs lie now.  [default: where they lay when the run was made]",
)
@quiet_option
def report(run: Path, no_images: bool, pairs_shown: int, data_root: Path | None, quiet: bool) -> None:
    """Write RUN/report.html: tables that sort, figures, worst and best pairs, and how it was made.

    RUN is a folder that ``blurface verify --out`` wrote. The page is one file and loads nothing. It
    holds faces of the worst and best pairs, made again from the photographs, unless --no-images.
    """
    from protocols.report import write_report
    from protocols.run_folder import read_run

    def tell(text: str) -> None:
        if not quiet:
            click.echo(f"report: {text}", err=True)

    path = write_report(
        read_run(run), images=not no_images, shown=pairs_shown, data_root=data_root, progress=tell
    )
    click.echo(str(path))
