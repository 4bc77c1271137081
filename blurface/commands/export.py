"""``blurface export``: a network as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from ..errors import InputError


@click.command()
@click.option("--model", default="fast", show_default=True, help="A network (blurface restorers).")
@click.option("--weights", type=click.Path(path_type=Path), help="Its weights from a .safetensors file.")
@click.option(
    "--format", "format_", type=click.Choice(["onnx", "openvino"]), default="onnx", show_default=True
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="File to write; default MODEL.onnx or MODEL.xml."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the weights (fp16: openvino) or of the convolutions (int8: onnx).",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True),
    help="Sharp aligned training faces, for int8: a folder or a packed file (blurface data pack).",
)
@click.option(
    "--faces", type=click.IntRange(8), default=128, show_default=True, help="Faces to calibrate on, for int8."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the calibration's blur, for int8.")
@click.pass_context
def export(
    context: click.Context,
    model: str,
    weights: Path | None,
    format_: Literal["onnx", "openvino"],
    out: Path | None,
    precision: Literal["fp32", "fp16", "int8"],
    calibration: Path | None,
    faces: int,
    seed: int,
) -> None:
    """Export a network to ONNX or OpenVINO, with dynamic batch and size.

    What is written has been run and compared with PyTorch over random sizes; the largest
    difference is printed. With int8, the PSNR of the quantised network's results against the full
    one's on faces that it was not calibrated on is printed beside both networks' PSNR against the
    sharp faces.
    """
    if precision == "fp16" and format_ != "openvino":
        raise click.UsageError("--precision fp16 is for --format openvino.")
    if precision == "int8" and format_ != "onnx":
        raise click.UsageError("--precision int8 is for --format onnx (OpenVINO reads it, too).")
    if precision == "int8" and calibration is None:
        raise click.UsageError("--precision int8 needs --calibration FACES.")
    for option in ("calibration", "faces", "seed"):
        if precision != "int8" and context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option} needs --precision int8.")
    from ..restorers import create_restorer

    options = {"weights": weights} if weights is not None else {}
    restorer = create_restorer(model, device="cpu", **options)
    suffix = ".xml" if format_ == "openvino" else ".int8.onnx" if precision == "int8" else ".onnx"
    path = out or Path(f"{restorer.name}{suffix}")
    if path.is_dir() or (path.suffix == ".xml") != (format_ == "openvino"):
        raise InputError(f"{path} is no name for a file of {format_}.", f"Use e.g. {restorer.name}{suffix}.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist.", "Make it, or use another --out.")
    from ..export import export_onnx, export_openvino

    if precision == "int8":
        from ..quantise import export_int8

        assert calibration is not None
        report = export_int8(restorer, path, calibration, faces=faces, seed=seed)
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {report}")
        return
    parity = (
        export_onnx(restorer, path)
        if format_ == "onnx"
        else export_openvino(restorer, path, half=precision == "fp16")
    )
    size = path.stat().st_size + (path.with_suffix(".bin").stat().st_size if format_ == "openvino" else 0)
    click.echo(
        f"{path}: {size / 1e6:.1f} MB, largest difference to PyTorch {parity.restored:.1e} "
        f"(kernel {parity.kernel:.1e}) over {parity.sizes} sizes"
    )
