"""Kernels from files: Levin's eight, and any PNG, npy, npz or mat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, KernelError
from .base import MAX_SIZE, Kernel, KernelSet, check_size, odd_square

SUFFIXES = (".mat", ".npz", ".npy", ".png", ".tif", ".tiff")

LEVIN_SIZES = (19, 17, 15, 27, 13, 21, 23, 23)

_MAX_VALUES = 16 * MAX_SIZE**2
"""In one array of a file: it may hold several kernels."""


def read_kernels(path: str | Path) -> list[Kernel]:
    """Read the kernels of one file, or of all kernel files of a folder in the order of their names.

    MATLAB files (v7.3, which are HDF5, and older), ``.npz`` (one array a kernel, named by its key),
    ``.npy`` ((K, K) or (N, K, K)) and grey pictures. Arrays that are not odd squares are padded
    with zeros; values are divided by their sum.

    Raises
    ------
    KernelError
        If a file cannot be read or holds no kernel; the message names it.
    """
    from ..images import name_of, open_image

    path = Path(path)
    shown = name_of(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        kernels = [kernel for file in files for kernel in read_kernels(file)]
        if not kernels:
            raise KernelError(f"{shown} holds no kernel file.", f"Expected {', '.join(SUFFIXES)}.")
        return kernels
    if not path.exists():
        raise KernelError(f"{shown} does not exist.", "Give a kernel file or a folder of them.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".mat":
            arrays = _read_mat(path)
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                for member in archive.zip.infolist():  # before anything is unpacked
                    _check_count(path, member.filename, member.file_size // 8)
                arrays = {name: archive[name] for name in archive.files}
        elif suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            arrays = {path.stem: array} if array.ndim == 2 else {str(i + 1): a for i, a in enumerate(array)}
        elif suffix in SUFFIXES:
            picture = open_image(path, max_pixels=MAX_SIZE**2)
            wide = picture.mode.startswith(("I", "F"))
            arrays = {path.stem: np.asarray(picture if wide else picture.convert("L"), dtype=np.float64)}
        else:
            raise KernelError(f"{shown} is no kernel file.", f"Expected {', '.join(SUFFIXES)}.")
    except KernelError:
        raise
    except ImageError as error:
        raise KernelError(error.message, error.hint) from error
    except Exception as error:  # the readers raise anything on a broken file
        reason = " ".join(str(error).split())[:200]
        raise KernelError(
            f"{shown} cannot be read as a kernel: {reason}.", "Is the file complete?"
        ) from error
    if suffix in (".mat", ".npz"):
        # What else a workspace holds: texts, and numbers alone.
        arrays = {
            name: values
            for name, values in arrays.items()
            if np.size(values) != 1 and np.asarray(values).dtype.kind not in "USO"
        }
    if not arrays:
        raise KernelError(f"{shown} holds no array.", "Expected one array a kernel.")
    kernels = []
    for name, values in ((name_of(name), values) for name, values in arrays.items()):
        if np.ndim(values) != 2 or np.asarray(values).dtype.kind not in "buif":
            raise KernelError(f"{shown}: {name} is no two-dimensional array of real numbers.")
        check_size(max(np.shape(values)), f"{shown}: {name}")
        label = name[1:] if name[:1] == "k" and name[1:].isdigit() else name
        try:
            kernels.append(Kernel(label, _in_range(odd_square(values))))
        except KernelError as error:
            raise KernelError(f"{shown}: {error.message}", error.hint) from None
    return kernels


def _in_range(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values too large or small for float32 divided by the largest: a kernel's sum becomes one anyway."""
    largest = float(np.abs(values).max())
    if np.isfinite(largest) and largest and not 1e-30 < largest < 1e30:
        values = values / largest
    return values.astype(np.float32)


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    import h5py

    if h5py.is_hdf5(path):
        arrays: dict[str, NDArray[Any]] = {}
        with h5py.File(path, "r") as file:
            for name, item in file.items():
                if not isinstance(item, h5py.Dataset):
                    continue
                _check_count(path, name, item.size or 0)
                if item.dtype == h5py.ref_dtype:
                    # A cell array of references; MATLAB stores column-major, so arrays come transposed.
                    for number, reference in enumerate(np.asarray(item).ravel()):
                        entry = file[reference]
                        _check_count(path, str(number + 1), entry.size or 0)
                        arrays[str(number + 1)] = np.asarray(entry).T
                elif item.ndim == 2:
                    arrays[name] = np.asarray(item).T
        return arrays
    from .matlab import read_matlab

    arrays, counts = read_matlab(path, _MAX_VALUES)
    for name, count in counts.items():
        _check_count(path, name, count)
    return arrays


def _check_count(path: Path, name: str, count: int) -> None:
    """Refuse an array that would fill memory before it could be found to be no kernel."""
    if count > _MAX_VALUES:
        raise KernelError(
            f"{path}: {name} holds {count:,} values, too many for kernels.",
            f"Kernels have at most {MAX_SIZE} pixels a side.",
        )


def levin_set(*, data_root: Path | None = None) -> KernelSet:
    """Levin et al.'s eight camera-shake kernels (CVPR 2009), as published (not centred).

    Raises
    ------
    DataError
        If ``Levin09.mat`` is not found.
    KernelError
        If the file does not hold eight kernels of the known sizes.
    """
    from .. import assets

    path = assets.find("levin-kernels", data_root)
    kernels = read_kernels(path)
    if tuple(kernel.size for kernel in kernels) != LEVIN_SIZES:
        raise KernelError(
            f"{path} does not hold Levin's eight kernels: sizes {[k.size for k in kernels]}.",
            f"Expected sizes {list(LEVIN_SIZES)}.",
        )
    named = tuple(Kernel(str(i + 1), kernel.psf) for i, kernel in enumerate(kernels))
    return KernelSet("levin8", named, "Levin et al. 2009")


def file_set(argument: str) -> KernelSet:
    """``file:PATH``: a kernel file or a folder of kernel files.

    Raises
    ------
    KernelError
        If nothing usable is there.
    """
    if not argument:
        raise KernelError("No file is named.", "Put it after the colon, e.g. file:kernels.npz.")
    return KernelSet(f"file:{argument}", tuple(read_kernels(argument)), argument)
