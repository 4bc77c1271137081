from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from protocols.store import CellStore, CellWarning, cell_key


@pytest.fixture
def cells(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path / "cells")


KEY = cell_key({"name": "a"})


def test_key_depends_on_values_not_on_order() -> None:
    assert cell_key({"a": 1, "b": [1, 2]}) == cell_key({"b": [1, 2], "a": 1})
    assert len({cell_key({"a": v}) for v in (1, 2, "1", None, 1.5, [1])}) == 6
    with pytest.raises(TypeError):
        cell_key({"a": Path("x")})


def test_round_trip(cells: CellStore) -> None:
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "flag": np.array([True, False, True])}
    assert cells.load(KEY) is None
    assert not cells.has(KEY)
    cells.save(KEY, arrays)
    loaded = cells.load(KEY)
    assert loaded is not None
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_chunks_merge_in_order_and_go(cells: CellStore) -> None:
    chunks = [(0, 2), (2, 4), (4, 5)]
    for start, stop in reversed(chunks):
        assert cells.merge(KEY, chunks) is None
        cells.save_chunk(KEY, start, stop, {"x": np.arange(start, stop)})
    merged = cells.merge(KEY, chunks)
    assert merged is not None
    np.testing.assert_array_equal(merged["x"], np.arange(5))
    assert cells.has(KEY)
    assert not any(cells.has_chunk(KEY, *chunk) for chunk in chunks)
    # A second run that finished the same chunks finds the merged cell.
    again = cells.merge(KEY, chunks)
    assert again is not None
    np.testing.assert_array_equal(again["x"], np.arange(5))


@pytest.mark.parametrize("fault", ["truncate", "flip", "empty", "text", "pickle"])
def test_unusable_file_is_removed_with_a_warning(cells: CellStore, fault: str) -> None:
    cells.save(KEY, {"x": np.arange(1000)})
    path = cells.path(KEY)
    data = bytearray(path.read_bytes())
    if fault == "truncate":
        data = data[: len(data) // 2]
    elif fault == "flip":
        data[len(data) // 3] ^= 1
    elif fault == "empty":
        data = bytearray()
    elif fault == "text":
        data = bytearray(b"not a cell")
    path.write_bytes(data)
    if fault == "pickle":
        np.savez(path, x=np.array([{"code": 1}], dtype=object), _key=np.array(KEY))
    with pytest.warns(CellWarning, match="computed again"):
        assert cells.load(KEY) is None
    assert not path.exists()


@pytest.mark.filterwarnings("ignore::protocols.store.CellWarning")
def test_a_flipped_bit_never_changes_a_value(cells: CellStore) -> None:
    """A fifth of the bits of what describes the arrays, and a few of their values'."""
    stored = np.arange(2500, dtype=np.float32).reshape(50, 50)  # more than zipfile reads at once
    cells.save(KEY, {"x": stored})
    path = cells.path(KEY)
    whole = path.read_bytes()
    values = range(whole.index(stored.tobytes()), whole.index(b"PK", stored.nbytes))
    flips = [bit for bit in range(0, 8 * len(whole), 5) if bit // 8 not in values or bit % 97 == 0]
    gone = 0
    for bit in flips:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        loaded = cells.load(KEY)
        if loaded is None:
            gone += 1
            assert not path.exists()
        else:  # a bit that nobody reads, such as of the time
            assert loaded.keys() == {"x"}
            assert (loaded["x"].shape, loaded["x"].dtype) == (stored.shape, stored.dtype)
            assert loaded["x"].tobytes() == stored.tobytes()
    assert gone > len(flips) / 2


def test_cell_under_another_key_is_refused(cells: CellStore) -> None:
    cells.save(KEY, {"x": np.arange(3)})
    other = cell_key({"name": "b"})
    cells.path(other).parent.mkdir(parents=True, exist_ok=True)
    os.replace(cells.path(KEY), cells.path(other))
    with pytest.warns(CellWarning, match="another cell"):
        assert cells.load(other) is None


def test_unreadable_folder_is_an_error_not_a_miss(cells: CellStore) -> None:
    cells.root.parent.mkdir(parents=True, exist_ok=True)
    cells.root.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"."):
        cells.save(KEY, {"x": np.arange(3)})


def test_sweep_removes_old_temporaries_only(cells: CellStore) -> None:
    cells.save(KEY, {"x": np.arange(3)})
    old, new = (cells.path(KEY).with_name(f".blurface-{name}.part") for name in ("old", "new"))
    old.write_text("x")
    new.write_text("x")
    before = time.time() - 2 * 86400
    os.utime(old, (before, before))
    cells.sweep()
    assert not old.exists()
    assert new.exists()
    assert cells.has(KEY)


def test_reading_a_good_cell_warns_of_nothing(cells: CellStore) -> None:
    cells.save(KEY, {"x": np.arange(3)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cells.has(KEY)
