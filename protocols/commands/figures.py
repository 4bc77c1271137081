"""``blurface figures``: the paper's figures and those beyond it, as PNG and SVG."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blurface.errors import BlurfaceError, InputError

from .options import (
    check_writable,
    choose_restorers,
    data_root_option,
    models_option,
    parse_models,
    parse_options,
    parse_which,
    quiet_option,
    restorer_options_option,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from protocols.experiments import Experiment
    from protocols.pictures import Pictures
    from protocols.run_folder import Run
    from protocols.tables import Table

WHICH = (
    "2",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "10",
    "11",
    "accuracy",
    "tar",
    "roc",
    "det",
    "length",
    "shift",
    "reject",
    "robustness",
)
COMPARED = ("krishnan", "levin", "pan", "perrone", "sun", "fast", "deepdeblur")
HARDEST = "4"
"""Levin's largest kernel: that of figures 4, 5 and 9."""

Drawn = tuple[str, "Figure | Table"]


def _photograph(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """The file of ``--photograph``."""
    if value == "astronaut":
        import skimage

        value = str(Path(skimage.__file__).parent / "data" / "astronaut.png")
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    return None if value is None else file.convert(value, parameter, context)


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--which", help=f"Comma-separated: {', '.join(WHICH)}.  [default: all that can be drawn]")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@data_root_option
@click.option(
    "--restorer",
    "restorers",
    multiple=True,
    help="Of figures 5, 6, 10, 11. Repeatable.  [default: those that the paper compares]",
)
@restorer_options_option
@models_option("Trained weights: of figure 9, and the first deepdeblur of figure 4.")
@click.option(
    "--faces", type=click.IntRange(min=1), default=4, show_default=True, help="In figures 10 and 11."
)
@click.option(
    "--photograph",
    metavar="PATH|astronaut",
    callback=_photograph,
    help="Whose face figures 4, 5, 6, 9 and 10 show instead of LFW's: one that may be published, such as "
    "scikit-image's astronaut.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of kernels and the choice of faces.",
)
@quiet_option
def figures(
    runs: tuple[Path, ...],
    which: str | None,
    out: Path,
    data_root: Path | None,
    restorers: tuple[str, ...],
    restorer_options: tuple[str, ...],
    models: tuple[str, ...],
    faces: int,
    photograph: Path | None,
    seed: int,
    quiet: bool,
) -> None:
    """Draw figures into OUT, as PNG for pages and SVG for print.

    RUNS are folders that ``blurface verify --out`` wrote: figures 7, 8 and those beyond the paper
    show their values. Figures of faces take LFW and FaceScrub from the data root. Exit status 1 if a
    figure that was asked for could not be drawn.
    """
    from protocols.figures import save
    from protocols.run_folder import read_runs
    from protocols.tables import Table

    wanted = parse_which(which, WHICH) if which else list(WHICH)
    options = parse_options(restorer_options, restorers or COMPARED)
    check_writable(out)
    chosen, missing = choose_restorers(restorers, options, COMPARED)
    artist = Artist(
        read_runs(runs),
        data_root,
        tuple(chosen),
        parse_models(models),
        faces,
        photograph,
        seed,
        not restorers,
    )
    failed = []
    if missing and set(wanted) & {"5", "10", "11"}:
        click.echo(f"figures: without {'; '.join(missing)}", err=True)
    for name in wanted:
        try:
            for file, drawn in artist.draw(name):
                if not quiet:
                    click.echo(f"figures: {file}", err=True)
                for path in drawn.write(out) if isinstance(drawn, Table) else save(drawn, out, file):
                    click.echo(str(path))
        except BlurfaceError as error:
            failed.append(name)
            click.echo(f"figures: {name} cannot be drawn: {error}", err=True)
    if which and failed:
        sys.exit(1)


class Artist:
    """Draws one figure after the other, from runs and faces."""

    def __init__(
        self,
        runs: Sequence[Run],
        data_root: Path | None,
        restorers: tuple[Any, ...],
        models: dict[str, Path],
        faces: int,
        photograph: Path | None,
        seed: int,
        usual: bool = True,
    ) -> None:
        self.usual = usual
        self.runs = runs
        self.data_root = data_root
        self.restorers = restorers
        self.models = models
        self.faces = faces
        self.photograph = photograph
        self.seed = seed
        self._pictures: dict[str, Pictures] = {}

    def draw(self, which: str) -> Iterator[Drawn]:
        """File names and figures.

        Raises
        ------
        BlurfaceError
            If what it shows is not at hand.
        """
        paper: dict[str, Callable[[], Iterator[Drawn]]] = {
            "2": self.kernels,
            "4": self.responses,
            "5": self.compared,
            "6": self.per_kernel,
            "9": self.losses,
            "10": lambda: self.rows("lfw", f"figure-10-{self.photograph.stem if self.photograph else 'lfw'}"),
            "11": lambda: self.rows("facescrub", "figure-11-facescrub"),
        }
        return paper[which]() if which in paper else self.of_runs(which)

    def kernels(self) -> Iterator[Drawn]:
        """Figure 2."""
        import numpy as np

        from blurface.kernels.gaussian_process import sample_kernels
        from protocols.figures import kernel_samples

        rows = []
        for size in (8, 12, 16, 20):
            rng = np.random.default_rng([self.seed, size])
            rows.append((f"size {size}", sample_kernels(8, rng, valid_size=(size, size))))
        yield "figure-02-kernels", kernel_samples(rows)

    def responses(self) -> Iterator[Drawn]:
        """Figure 4."""
        import torch

        from blurface.networks.deepdeblur import DeepDeblurNet
        from protocols.figures import module_responses

        network, note = self._deepdeblur()
        pictures = self._faces_of("lfw")
        face = self._choose(pictures, 1)[0]
        blurry = pictures.blurry(face, HARDEST)
        batch = torch.from_numpy(blurry).permute(2, 0, 1)[None].float() / 255
        assert isinstance(network, DeepDeblurNet)
        first = network.body[0]
        with torch.inference_mode():
            answers = first.responses(network.features(batch))  # type: ignore[operator]
        sizes = [int(branch.kernel_size[0]) for branch in first.branches]  # type: ignore[union-attr]
        maps = {f"{size}x{size}": answer[0].numpy() for size, answer in zip(sizes, answers, strict=True)}
        psf = pictures.kernel(HARDEST).psf
        yield "figure-04-responses", module_responses(blurry, psf, maps, note)

    def compared(self) -> Iterator[Drawn]:
        """Figure 5: one face under the largest kernel."""
        from protocols.figures import face_grid

        pictures = self._faces_of("lfw")
        face = self._choose(pictures, 1)[0]
        names = self._methods()
        row = [pictures.blurry(face, HARDEST)]
        row += [pictures.restored(face, HARDEST, name) for name in names]
        columns = ["blurry", *names, "sharp"]
        note = f"{face}, kernel {HARDEST} of {pictures.kernels.name}"
        yield "figure-05-compared", face_grid([[*row, pictures.sharp(face)]], columns, note=note)

    def per_kernel(self) -> Iterator[Drawn]:
        """Figure 6: kernels, blurry and restored faces."""
        from protocols.figures import face_grid

        pictures = self._faces_of("lfw")
        face = self._choose(pictures, 1)[0]
        names = self._methods()
        if self.usual:
            names = [name for name in ("fast", "deepdeblur") if name in names] or names[:1]
        kernels = pictures.kernels.kernels
        rows = [[pictures.blurry(face, kernel.name) for kernel in kernels]]
        rows += [[pictures.restored(face, kernel.name, name) for kernel in kernels] for name in names]
        yield (
            "figure-06-kernels",
            face_grid(
                rows,
                [kernel.name for kernel in kernels],
                ["blurry", *names],
                [kernel.psf for kernel in kernels],
            ),
        )

    def rows(self, protocol: str, file: str) -> Iterator[Drawn]:
        """Figures 10 and 11: several faces, each under another kernel, restored by all methods."""
        from protocols.figures import face_grid

        pictures = self._faces_of(protocol)
        names = self._methods()
        if protocol == "facescrub" and self.usual:
            names = [name for name in names if name in ("levin", "krishnan", "fast", "deepdeblur")] or names
        kernels = [kernel.name for kernel in pictures.kernels.kernels]
        rows, titles = [], []
        for i, face in enumerate(self._choose(pictures, self.faces)):
            kernel = kernels[(3 + 2 * i) % len(kernels)]
            row = [pictures.blurry(face, kernel)]
            row += [pictures.restored(face, kernel, name) for name in names]
            rows.append([*row, pictures.sharp(face)])
            titles.append(f"kernel {kernel}")
        yield file, face_grid(rows, ["blurry", *names, "sharp"], titles)

    def losses(self) -> Iterator[Drawn]:
        """Figure 9: one face restored by models trained with different losses."""
        from blurface.weights import network_name
        from protocols.figures import face_grid
        from protocols.runner import Choice

        if not self.models:
            raise InputError("No trained models are named.", "Name them: --model 'alpha/beta = 0.2=PATH'.")
        pictures = self._faces_of("lfw")
        face = self._choose(pictures, 1)[0]
        row = [pictures.blurry(face, HARDEST)]
        for path in self.models.values():
            choice = Choice(network_name(path), {"weights": str(path)})
            own = self._faces_of("lfw", (choice,), key=str(path))
            row.append(own.restored(face, HARDEST, choice.name))
        yield (
            "figure-09-losses",
            face_grid([[*row, pictures.sharp(face)]], ["blurry", *self.models, "sharp"], note=face),
        )

    def of_runs(self, which: str) -> Iterator[Drawn]:
        """Figures of finished runs."""
        if not self.runs:
            raise InputError("It shows a run, and none is named.", "Name folders of finished runs.")
        drawn = 0
        for each in self._robustness() if which == "robustness" else self._of_each(which):
            drawn += 1
            yield each
        if not drawn:
            raise InputError("None of the runs has what it shows.", "Run more pairs or other restorers.")

    def _of_each(self, which: str) -> Iterator[Drawn]:
        """A figure of every run that has what it shows."""
        from protocols.results import slug

        runs = self.runs
        if which in ("7", "8"):
            protocol = {"7": "lfw", "8": "facescrub"}[which]
            runs = [run for run in runs if run.protocol.startswith(protocol)]
            if not runs:
                raise InputError(f"None of the runs is on {protocol}.", "Name one that is.")
        for run in runs:
            suffix = "" if len(self.runs) == 1 else f"-{run.name}"
            for verifier in run.summary.verifiers:
                try:
                    for name, figure in self._one(which, run, verifier):
                        yield f"{name}-{slug(verifier)}{suffix}", figure
                except BlurfaceError as error:
                    # The other runs may have it.
                    click.echo(
                        f"figures: {which} of {run.name}, {verifier}, cannot be drawn: {error}", err=True
                    )

    def _one(self, which: str, run: Run, verifier: str) -> Iterator[Drawn]:
        import math

        from protocols import figures
        from protocols.analysis import blur_extents
        from protocols.pictures import kernels_of_run

        summary = run.summary
        where = f"{run.protocol}, {summary.about.get('pairs', 0):,} pairs, {verifier}"
        if which in ("7", "8"):
            figure = figures.metric_per_kernel(
                summary, verifier, "psnr", title=f"PSNR: {where}", unit="PSNR (dB)"
            )
            yield f"figure-0{which}-psnr", figure
        elif which == "accuracy":
            for metric, file, word in (
                ("accuracy", "accuracy", "Verification accuracy"),
                ("accuracy_fixed", "accuracy-fixed", "Accuracy at the sharp pairs' threshold"),
            ):
                figure = figures.metric_per_kernel(
                    summary, verifier, metric, title=f"{word}: {where}", unit="accuracy (%)", scale=100
                )
                yield file, figure
        elif which == "tar":
            for metric in ("tar@far=1e-1", "tar@far=1e-2", "tar@far=1e-3"):
                values = [
                    summary.value(verifier, n, k, metric) for n in summary.restorers for k in summary.kernels
                ]
                if any(math.isfinite(value) for value in values):
                    far = float(metric.partition("=")[2])
                    figure = figures.metric_per_kernel(
                        summary,
                        verifier,
                        metric,
                        title=f"TAR at FAR {far:g}: {where}",
                        unit="true accept rate (%)",
                        scale=100,
                    )
                    yield f"tar-{far:g}", figure
        elif which == "roc":
            yield "roc", figures.roc_curves(summary, verifier)
        elif which == "det":
            yield "det", figures.det_curves(summary, verifier)
        elif which == "length" and len(summary.kernels) > 1:
            kernels = kernels_of_run(run, self.data_root)
            yield (
                "accuracy-blur",
                figures.accuracy_against_blur(summary, verifier, blur_extents(kernels.kernels)),
            )
        elif which == "shift" and run.restored:
            yield "score-shift", figures.score_shift(summary, verifier)
        elif which == "reject":
            yield from self._reject(run, verifier)

    def _reject(self, run: Run, verifier: str) -> Iterator[Drawn]:
        """Error against reject, by the spread of the kernels that a restorer of the run estimates."""
        from protocols import figures
        from protocols.analysis import reject_curves, reject_table
        from protocols.results import slug

        name, curves = reject_curves(run.summary, verifier)
        note = (
            f"{run.summary.about.get('pairs', 0):,} pairs of {run.protocol} under each kernel and without "
            f"blur, {verifier}, threshold of the sharp pairs; blur: spread of the kernels that {name} finds"
        )
        suffix = "" if len(self.runs) == 1 else f"-{run.name}"
        title = f"Error against reject: {note}"
        yield "error-reject", reject_table(curves, f"error-reject-{slug(verifier)}{suffix}", title)
        yield "error-reject", figures.reject_curves(curves, note)

    def _robustness(self) -> Iterator[Drawn]:
        import numpy as np

        from protocols.figures import lines_against, value_grid
        from protocols.results import MEAN, slug
        from protocols.robustness import conditions_of, grid_of

        measured = conditions_of(self.runs, "Figure robustness")
        if len(measured) < 2:
            raise InputError(
                "The runs are all under one condition.",
                "Make them with: blurface tables --which robustness; then name OUT/runs/robustness-*.",
            )
        sized = sorted(
            ((c.size, s) for c, s in measured if c.noise == 0 and c.jpeg is None), key=lambda each: each[0]
        )
        for verifier in measured[0][1].verifiers:
            for restorer in dict.fromkeys(name for _, summary in measured for name in summary.restorers):
                values, noises, jpegs = grid_of(measured, verifier, restorer)
                if np.isfinite(values).sum() > 1:
                    figure = value_grid(
                        values * 100,
                        [f"{noise:g}" for noise in noises],
                        ["none" if jpeg is None else str(jpeg) for jpeg in jpegs],
                        x="JPEG quality",
                        y="noise",
                        title=f"{'blurry' if restorer == 'none' else restorer}: accuracy (%)",
                    )
                    yield f"robustness-{slug(restorer)}-{slug(verifier)}", figure
            if len(sized) > 1:
                lines: dict[str, list[tuple[float, float, float]]] = {}
                for restorer in sized[0][1].restorers:
                    found = [summary.row(verifier, restorer, MEAN, "accuracy") for _, summary in sized]
                    rows = [(r.value * 100, r.ci_low * 100, r.ci_high * 100) for r in found if r is not None]
                    # A line is that of a restorer of all sizes.
                    if len(rows) == len(sized):
                        lines[restorer] = rows
                figure = lines_against(
                    [size for size, _ in sized],
                    lines,
                    xlabel="share of the photograph's width and height",
                    ylabel="verification accuracy (%)",
                    title=f"Smaller probes: {verifier}",
                )
                yield f"robustness-size-{slug(verifier)}", figure

    def _faces_of(self, protocol: str, choices: tuple[Any, ...] = (), key: str = "") -> Pictures:
        """A few faces of a protocol under Levin's kernels; in LFW's place the face of the photograph."""
        from protocols.experiments import Experiment
        from protocols.pictures import Pictures, of_photograph

        place = f"{protocol} {key}"
        if place not in self._pictures:
            experiment: Experiment = Experiment(
                pairs=protocol,
                data_root=self.data_root,
                subset=max(4, 2 * self.faces),  # fewer make one fold
                seed=self.seed,
                restorers=choices or self.restorers,
            )
            single = of_photograph(self.photograph) if self.photograph and protocol == "lfw" else None
            self._pictures[place] = Pictures(experiment, protocol=single)
        return self._pictures[place]

    def _choose(self, pictures: Pictures, count: int) -> list[str]:
        genuine = [pair.probe for pair in pictures.protocol.pairs if pair.genuine]
        return list(dict.fromkeys(genuine))[:count]

    def _methods(self) -> list[str]:
        names = [choice.name for choice in self.restorers if choice.name != "none"]
        if not names:
            raise InputError("There is no restorer to show.", "Name one: --restorer fast.")
        return names

    def _deepdeblur(self) -> tuple[Any, str]:
        """The paper's network and what its weights are."""
        import torch

        from blurface.networks.deepdeblur import DeepDeblurNet
        from blurface.weights import list_models, load_model, network_name

        for label, path in self.models.items():
            if network_name(path) == "deepdeblur":
                return load_model(path)[0].eval(), f"first module of deepdeblur, trained: {label}"
        if "deepdeblur" in list_models():
            return load_model("deepdeblur")[0].eval(), "first module of deepdeblur, packaged weights"
        torch.manual_seed(self.seed)
        return (
            DeepDeblurNet().eval(),
            f"first module of deepdeblur, NOT TRAINED: random weights, seed {self.seed}",
        )
