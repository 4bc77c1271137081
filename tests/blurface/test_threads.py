"""One thread inside, the others back afterwards."""

from __future__ import annotations

import threading

import pytest
import torch

from blurface.threads import one_thread


def test_nested_it_stays_at_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_come_back_whoever_leaves_last() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def stay() -> None:
        with one_thread():
            seen.append(torch.get_num_threads())
            entered.set()
            leave.wait(20)
        seen.append(torch.get_num_threads())

    other, later = (
        threading.Thread(target=stay),
        threading.Thread(target=lambda: seen.append(torch.get_num_threads())),
    )
    try:
        with one_thread():
            other.start()
            assert entered.wait(20)
        leave.set()
        other.join(20)
        later.start()
        later.join(20)
        assert seen == [1, 3, 3]
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        leave.set()
        torch.set_num_threads(before)
