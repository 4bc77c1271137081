"""Freed memory stays with a process that asked for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from blurface.memory import keep_freed_memory

CODE = """
import resource, sys
from blurface.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def fill():
    block = bytearray(1 << 24)
    block[::4096] = b"x" * (1 << 12)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_taken_once() -> None:
    faults = {
        word: int(subprocess.run([sys.executable, "-c", CODE, word], capture_output=True, check=True).stdout)
        for word in ("keep", "not")
    }
    assert faults["keep"] < 100
    assert faults["not"] >= 10 * faults["keep"]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert keep_freed_memory() is False
