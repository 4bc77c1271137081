from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blurface.errors import InputError
from blurface.restorers.base import Restorer
from protocols.timing import time_restorers


class Clock:
    """A clock that only the restorers move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(Restorer):
    """Takes a time that is told to it, call by call."""

    name = "takes"

    def __init__(self, clock: Clock, seconds: Callable[[int], float], blind: bool = True) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0
        self.blind = blind  # type: ignore[misc]
        self.batches: list[int] = []

    def _restore(self, batch: Tensor, kernels: Tensor | None, return_kernel: bool) -> tuple[Tensor, None]:
        self.clock.now += self.seconds(self.calls)
        self.calls += 1
        self.batches.append(len(batch))
        return batch, None


PROBES = [(torch.rand(3, 3, 8, 8), torch.ones(3, 3) / 9), (torch.rand(2, 3, 8, 8), torch.ones(5, 5) / 25)]


def test_warm_up_does_not_count_and_the_median_ignores_an_interruption() -> None:
    clock = Clock()
    method = Takes(clock, lambda call: {0: 50.0, 3: 9.0}.get(call, 0.4))
    (timing,) = time_restorers(
        {"a": method}, PROBES, batches=(4,), rounds=6, limit=1000, clock=clock, processor=clock
    )
    assert method.batches == [4] * 7  # faces are repeated to fill the batch
    assert timing.median == pytest.approx(0.1)  # a face, not a call
    assert max(timing.wall) == pytest.approx(9 / 4)
    assert timing.quartiles == pytest.approx((0.1, 0.1))
    assert timing.processor_median == pytest.approx(0.1)


def test_methods_take_turns_and_a_slow_one_stops_at_its_limit() -> None:
    clock = Clock()
    fast, slow = Takes(clock, lambda call: 0.01), Takes(clock, lambda call: 30.0, blind=False)
    order: list[str] = []
    timings = time_restorers(
        {"fast": fast, "slow": slow},
        PROBES,
        rounds=5,
        limit=100,
        clock=clock,
        processor=clock,
        progress=lambda phase, done, total: order.append(phase),
    )
    assert order[:4] == ["fast", "slow", "fast", "slow"]
    assert len(timings[0].wall) == 5
    assert slow.calls == 4  # warm-up and three calls: 120 s
    assert timings[1].median == pytest.approx(30)


def test_one_call_is_all_there_is_where_it_takes_longer_than_the_limit() -> None:
    clock = Clock()
    method = Takes(clock, lambda call: 400.0)
    (timing,) = time_restorers({"a": method}, PROBES, rounds=5, limit=100, clock=clock, processor=clock)
    assert timing.wall == [400.0]
    assert method.calls == 1


def test_a_slow_method_is_timed_face_by_face_only() -> None:
    clock = Clock()
    fast, slow = Takes(clock, lambda call: 0.01), Takes(clock, lambda call: 5.0)
    timings = time_restorers(
        {"fast": fast, "slow": slow},
        PROBES,
        batches=(32, 1),
        rounds=3,
        limit=100,
        clock=clock,
        processor=clock,
    )
    assert [(timing.restorer, timing.batch) for timing in timings] == [("fast", 1), ("slow", 1), ("fast", 32)]
    assert slow.batches == [1] * 4


def test_nothing_to_time_with() -> None:
    with pytest.raises(InputError):
        time_restorers({}, [])
    with pytest.raises(InputError):
        time_restorers({}, PROBES, rounds=0)
    with pytest.raises(InputError):
        time_restorers({}, PROBES, batches=(0,))
