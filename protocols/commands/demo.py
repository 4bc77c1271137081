"""``blurface demo``: the whole pipeline on one photograph that a dependency ships."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blurface.errors import BlurfaceError, DataError, ImageError, MissingDependencyError, UnknownNameError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blurface.kernels import KernelSet
    from blurface.restorers.base import Restorer
    from protocols.tables import Table
    from verification.embedders.base import Embedder

FRAME = "112x112"
MARGIN = 16
THRESHOLD = 0.6
"""Distance below which dlib's authors take two faces for one person's."""

NOTICE = (
    "This is a demonstration on one photograph (scikit-image's astronaut: Eileen Collins, by NASA, public "
    "domain), blurred here. It shows that the pipeline runs; it is not a benchmark and no figure of it says "
    "how well a restorer does. For that: blurface verify --pairs lfw."
)


@dataclass
class Demonstration:
    """What the demonstration measured.

    Attributes
    ----------
    kernels : KernelSet
    restorer : str
    sharp : ndarray
        (112, 112, 3) uint8.
    blurry, restored : ndarray
        (kernels, 112, 112, 3) uint8.
    quality : dict
        ``blurry`` and ``restored``, each (kernels, 2): PSNR in dB and SSIM.
    distance : dict or None
        ``blurry`` and ``restored``, each (kernels,): dlib's distance to the sharp face.
    """

    kernels: KernelSet
    restorer: str
    sharp: NDArray[np.uint8]
    blurry: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    quality: dict[str, NDArray[np.float64]]
    distance: dict[str, NDArray[np.float64]] | None


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("blurface-demo.png"),
    show_default=True,
    help="Picture to write: kernels, blurry, restored, sharp.",
)
@click.option("--restorer", default="fast", show_default=True)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where Levin's kernels may lie.",
)
def demo(out: Path, restorer: str, data_root: Path | None) -> None:
    """Detect, align, blur with eight kernels, restore and compare one face: nothing to download."""
    from blurface.images import format_of

    try:
        format_of(out)  # before minutes of work, not after
    except ImageError as error:
        raise click.BadParameter(str(error), param_hint="--out") from error
    click.echo(NOTICE)
    kernels = demo_kernels(data_root)
    chosen = demo_restorer(restorer)
    shown = demonstrate(kernels, chosen, demo_verifier())
    click.echo()
    click.echo(demo_table(shown).text(), nl=False)
    draw(shown, out)
    click.echo(f"Picture: {out}")


def demo_kernels(data_root: Path | None) -> KernelSet:
    """Levin's eight kernels where they are on disk, else eight random trajectories; says which."""
    from blurface.kernels import create_kernel_set

    try:
        kernels = create_kernel_set("levin8", data_root)
        click.echo("Kernels: Levin's eight (levin8), centred by mass.")
    except DataError:
        kernels = create_kernel_set("gp:8,0")
        click.echo(
            "Kernels: eight random trajectories (gp:8,0), centred by mass; Levin's are not on this machine."
        )
    return kernels.centred("mass")


def demo_restorer(name: str) -> Restorer:
    """The restorer, or, where its weights are missing, a filter that is told the kernel; says which."""
    from blurface.restorers import create_restorer, restorers

    restorers.entry(name)  # a name that is not registered is an error, missing weights are not
    try:
        return create_restorer(name)
    except (DataError, UnknownNameError) as error:
        click.echo(f"blurface: {error}", err=True)
        click.echo("Restorer: wiener instead, which is told the true kernel that nobody knows in practice.")
        return create_restorer("wiener")


def demo_verifier() -> Embedder | None:
    """dlib, or None where the extra is not installed; says so."""
    from verification import create_embedder

    try:
        return create_embedder("dlib")
    except MissingDependencyError as error:
        click.echo(f"blurface: no similarity is shown: {error}", err=True)
        return None


def demonstrate(kernels: KernelSet, restorer: Restorer, verifier: Embedder | None) -> Demonstration:
    """Run the pipeline on the photograph."""
    import numpy as np
    import torch
    from skimage.data import astronaut

    from protocols.degradation import Degradation, degrade, from_bytes, to_bytes
    from protocols.quality import psnr, ssim
    from verification.align import align
    from verification.detect import Detector

    photograph = astronaut()  # type: ignore[no-untyped-call]
    (found,) = Detector().detect([photograph])
    if found is None:
        raise BlurfaceError("No face was found in scikit-image's astronaut.", "Reinstall scikit-image.")
    margin = max(MARGIN, kernels.half_width)
    face = torch.from_numpy(align(photograph, found.points, FRAME, margin).pixels).permute(2, 0, 1)[None]
    sharp = face[..., margin:-margin, margin:-margin].contiguous()
    blurry, restored = [], []
    for kernel in kernels.kernels:
        psf = torch.from_numpy(kernel.psf)
        probe = degrade(face, psf, ["astronaut"], kernel.name, Degradation(), margin=margin)
        result = restorer.restore(from_bytes(probe), kernels=None if restorer.blind else psf[None])
        assert isinstance(result, torch.Tensor)
        blurry.append(probe)
        restored.append(to_bytes(result))
    batches = {"blurry": torch.cat(blurry), "restored": torch.cat(restored)}
    many = sharp.expand(len(blurry), -1, -1, -1)
    quality = {
        name: torch.stack([psnr(batch, many), ssim(batch, many)], 1).numpy()
        for name, batch in batches.items()
    }
    distance = None
    if verifier is not None:
        reference = verifier.embed(from_bytes(sharp))
        distance = {
            name: np.linalg.norm(verifier.embed(from_bytes(batch)).astype(np.float64) - reference, axis=1)
            for name, batch in batches.items()
        }

    def pixels(batch: torch.Tensor) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = batch.permute(0, 2, 3, 1).numpy()
        return array

    return Demonstration(
        kernels,
        restorer.name,
        pixels(sharp)[0],
        pixels(batches["blurry"]),
        pixels(batches["restored"]),
        quality,
        distance,
    )


def demo_table(shown: Demonstration) -> Table:
    """PSNR, SSIM and distance before and after, kernel by kernel."""
    from protocols.tables import Column, Table

    columns = [Column("Kernel"), Column("size", 0)]
    columns += [Column("PSNR blurry", 2, unit="dB"), Column("restored", 2, unit="dB")]
    columns += [Column("SSIM blurry", 4), Column("restored", 4)]
    columns += [Column("distance blurry", 3), Column("restored", 3)]
    table = Table("demo", f"One photograph, restorer {shown.restorer}: blurry and restored", columns)
    sides = ("blurry", "restored")
    lines: list[list[Any]] = []
    for i, kernel in enumerate(shown.kernels.kernels):
        values = [float(shown.quality[side][i, j]) for j in (0, 1) for side in sides]
        far = [math.nan if shown.distance is None else float(shown.distance[side][i]) for side in sides]
        lines.append([kernel.name, kernel.size, *values, *far])
        table.add(*lines[-1])
    table.add("mean", None, *(sum(line[j] for line in lines) / len(lines) for j in range(2, 8)))
    if shown.distance is not None:
        table.notes.append(
            f"Distance: of dlib's embedding to that of the same photograph, sharp. Below {THRESHOLD} its "
            "authors take two faces for one person's; two photographs of a person lie farther apart."
        )
    return table


def draw(shown: Demonstration, path: Path) -> None:
    """Write one picture: a column a kernel with kernel, blurry and restored face, the sharp one beside."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from blurface.images import write_image

    kernels = shown.kernels.kernels
    figure = Figure(figsize=(1.25 * (len(kernels) + 1) + 0.6, 4.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(kernels) + 1)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, kernel in enumerate(kernels):
        axes[0, i].imshow(kernel.psf, cmap="gray", interpolation="nearest")
        axes[0, i].set_title(kernel.name, fontsize=9)
        for row, side, faces in ((1, "blurry", shown.blurry), (2, "restored", shown.restored)):
            axes[row, i].imshow(faces[i], interpolation="nearest")
            label = f"{shown.quality[side][i, 0]:.1f} dB"
            if shown.distance is not None:
                label += f", {shown.distance[side][i]:.2f}"
            axes[row, i].set_title(label, fontsize=8)
    for row, text in enumerate(("kernel", "blurry", f"restored\n({shown.restorer})")):
        axes[row, 0].text(
            -0.08, 0.5, text, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=9
        )
    axes[1, -1].imshow(shown.sharp, interpolation="nearest")
    axes[1, -1].set_title("sharp", fontsize=9)
    caption = "One photograph (scikit-image's astronaut): a demonstration, not a benchmark. PSNR"
    caption += (
        "." if shown.distance is None else f"; dlib's distance to the sharp face (threshold {THRESHOLD})."
    )
    figure.supxlabel(caption, fontsize=8)
    stream = io.BytesIO()
    canvas.print_png(stream)  # type: ignore[no-untyped-call]
    stream.seek(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image.open(stream).convert("RGB"))
