"""What the fuzzer found and started from, replayed; and random changes of it by hypothesis."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", ROOT / "fuzz" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = load("targets").TARGETS
SEEDS: dict[str, dict[str, bytes]] = load("seeds").every()


@pytest.mark.parametrize("target", list(TARGETS))
def test_seeds_and_corpus_hold_the_promises(target: str) -> None:
    found = sorted((CORPUS / target).glob("*"))
    assert found, "the corpus is missing"
    for path in found:
        TARGETS[target](path.read_bytes())
    for data in SEEDS[target].values():
        TARGETS[target](data)


@pytest.mark.parametrize("target", list(TARGETS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_changed_seeds_hold_the_promises(target: str, data: st.DataObject) -> None:
    seeds = SEEDS[target]
    body = bytearray(seeds[data.draw(st.sampled_from(sorted(seeds)))])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1)) if body else 0
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip" if body:
                body[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case "repeat":
                body[at:at] = body[at : at + data.draw(st.integers(1, 30))]
    TARGETS[target](bytes(body))
