"""Blur kernels: families, files, and the registry of kernel sets."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..registry import Registry
from .base import Centre, Kernel, KernelSet, centre_by_mass, centre_of_mass, check_psf, rms_radius

__all__ = [
    "Centre",
    "Kernel",
    "KernelSet",
    "centre_by_mass",
    "centre_of_mass",
    "check_psf",
    "create_kernel_set",
    "join_kernel_sets",
    "kernel_sets",
    "rms_radius",
]

kernel_sets: Registry[KernelSet] = Registry("kernel set", "blurface.kernel_sets")

_HERE = "blurface.kernels"
for _name, _target, _summary, _source in (
    (
        "levin8",
        f"{_HERE}.files:levin_set",
        "eight camera-shake kernels, 13 to 27 pixels",
        "Levin et al. 2009",
    ),
    ("linear", f"{_HERE}.linear:linear_set", "straight motion; linear:LENGTH,ANGLE", "section 4.5, table 4"),
    ("gp", f"{_HERE}.gaussian_process:gp_set", "random trajectories; gp:N,SEED", "section 3.1, eq. 4"),
    ("defocus", f"{_HERE}.defocus:defocus_set", "disc; defocus:RADIUS", "disc"),
    ("file", f"{_HERE}.files:file_set", "file or folder of png, npy, npz, mat; file:PATH", "the file"),
):
    kernel_sets.register(_name, _target, summary=_summary, source=_source)


def create_kernel_set(name: str, data_root: Path | None = None, **options: Any) -> KernelSet:
    """Build the kernel set called ``name`` (``"levin8"``, ``"linear:15,45"``, ``"file:PATH"`` ...).

    Parameters
    ----------
    name : str
    data_root : Path, optional
        Where sets that need data look first.
    **options
        Passed to the set's factory.

    Raises
    ------
    UnknownNameError, KernelError, DataError
    """
    if data_root is not None and "data_root" in inspect.signature(kernel_sets.entry(name).load()).parameters:
        options["data_root"] = data_root
    return kernel_sets.create(name, **options)


def join_kernel_sets(
    names: Sequence[str], centre: Centre, data_root: Path | None = None
) -> tuple[KernelSet, dict[str, str]]:
    """One kernel set of several, and the set that each kernel comes from.

    Where two sets name a kernel alike, all names get their set's before them; of a file's path the last
    part, counted where two have the same.

    Parameters
    ----------
    names : sequence of str
        As :func:`create_kernel_set` takes them.
    centre : {"mass", "published"}
        See :meth:`KernelSet.centred`.
    data_root : Path, optional
    """
    sets = [create_kernel_set(name, data_root).centred(centre) for name in names]
    every = [kernel.name for each in sets for kernel in each.kernels]
    clash = len(set(every)) < len(every)
    titles: dict[str, str] = {}
    for each in sets:
        title = each.name.rpartition("/")[2]
        number = sum(other.rpartition("/")[2] == title for other in titles)
        titles.setdefault(each.name, f"{title}-{number + 1}" if number else title)
    named = [
        (f"{titles[each.name]}/{kernel.name}" if clash and len(sets) > 1 else kernel.name, kernel, each.name)
        for each in sets
        for kernel in each.kernels
    ]
    origin = {name: set_name for name, _, set_name in named}
    if len(sets) == 1:
        return sets[0], origin
    kernels = tuple(Kernel(name, kernel.psf) for name, kernel, _ in named)
    source = "; ".join(each.source for each in sets)
    return KernelSet("+".join(each.name for each in sets), kernels, source, sets[0].centre), origin
