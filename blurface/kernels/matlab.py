"""MATLAB files older than v7.3, read in a process of their own.

SciPy's reader takes numbers of a damaged file for places in memory and can end the process that it
runs in. This file is that process's program as well, so that it imports nothing of the package.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SECONDS = 60


def read_matlab(path: Path, most: int) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """The arrays of a file, and how many values each of its variables holds.

    Parameters
    ----------
    path : Path
    most : int
        If a variable holds more values, no array is read.

    Returns
    -------
    dict of str to ndarray, dict of str to int
        Entries of a cell array are named 1, 2, ...; what holds no numbers comes as an empty array.

    Raises
    ------
    ValueError
        If the file cannot be read, or its reading ends the process or takes more than a minute.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__, str(path.absolute()), str(most)],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("reading takes too long") from None
    if done.returncode == 1:
        raise ValueError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    if done.returncode:
        raise ValueError("its reader crashed")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        counts = dict(zip(archive["variables"].tolist(), archive["counts"].tolist(), strict=True))
        names = archive["names"].tolist()
        return {name: archive[f"arr_{i}"] for i, name in enumerate(names)}, counts


def _main(path: str, most: int) -> None:
    from scipy.io import loadmat, whosmat

    counts = {name: min(math.prod(shape), 2**62) for name, shape, _ in whosmat(path)}
    arrays: dict[str, NDArray[Any]] = {}
    if max(counts.values(), default=0) <= most:
        for name, value in loadmat(path).items():
            if name.startswith("__"):
                continue
            if value.dtype == object:
                arrays.update({str(i + 1): np.asarray(entry) for i, entry in enumerate(value.ravel())})
            else:
                arrays[name] = value
    values = [array if array.dtype.kind in "buifc" else np.zeros(0) for array in arrays.values()]
    stream = io.BytesIO()
    np.savez(
        stream,
        *values,
        names=np.array(list(arrays), str),
        variables=np.array(list(counts), str),
        counts=np.array(list(counts.values()), np.int64),
    )
    sys.stdout.buffer.write(stream.getvalue())


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
