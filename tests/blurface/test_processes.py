from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blurface import processes
from blurface.errors import BlurfaceError, InputError


def _die_once(item: tuple[int, str]) -> int:
    number, marker = item
    if number == 2 and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def _die(item: int) -> int:
    os._exit(3)


def _fail(item: int) -> int:
    raise InputError(f"Item {item} is wrong.", "Mend it.")


def _nothing() -> None:
    pass


def test_a_process_that_dies_costs_nothing(tmp_path: Path) -> None:
    marker = str(tmp_path / "died")
    found: dict[int, int] = {}
    items = [(n, marker) for n in range(6)]
    processes.run(items, 2, _nothing, (), _die_once, lambda item, value: found.update({item[0]: value}))
    assert found == {n: n * n for n in range(6)}
    assert os.path.exists(marker)


def test_processes_that_keep_dying_are_an_error() -> None:
    with pytest.raises(BlurfaceError, match="keep dying"):
        processes.run([1, 2], 1, _nothing, (), _die, lambda item, value: None)


def test_errors_of_processes_reach_the_user() -> None:
    with pytest.raises(InputError, match=r"is wrong\. Mend it"):
        processes.run([1, 2], 2, _nothing, (), _fail, lambda item, value: None)


def _write_pid(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(0.5)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
def test_an_interrupt_ends_the_pool_and_not_the_hosts_processes(tmp_path: Path) -> None:
    host = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    host.start()

    def interrupt(item: str, value: None) -> None:
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            processes.run([str(tmp_path)] * 2, 2, _nothing, (), _write_pid, interrupt)
        host.join(0.5)
        assert host.is_alive()
        pids = [int(path.name) for path in tmp_path.iterdir()]
        assert pids
        assert not any(map(_alive, pids))
    finally:
        host.kill()
        host.join()


def test_default_jobs() -> None:
    assert processes.default_jobs("cuda", 1e6) == 1
    assert processes.default_jobs("cpu", 1.0) == 1
    assert processes.default_jobs("cpu", 1e6) == min(processes.processors(), 32)


_SLEEPERS = """
import os, sys, time
from pathlib import Path
from blurface import processes

def nothing():
    pass

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    processes.run([sys.argv[1]] * 2, 2, nothing, (), sleep, print)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for_two(pids: Path) -> list[int]:
    """The processes that have told their numbers."""
    deadline = time.monotonic() + 120
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [int(path.name) for path in pids.iterdir()]
    assert len(children) == 2
    return children


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """kill -9 of a run leaves nothing behind that computes on."""
    script, pids = tmp_path / "sleepers.py", tmp_path / "pids"
    script.write_text(_SLEEPERS)
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(pids)])
    children = _wait_for_two(pids)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children))


_IMPORTERS = """
import os, sys, time
from pathlib import Path
from blurface import processes

def nothing(*item):
    pass

if __name__ == "__main__":
    processes.run([1, 2], 2, nothing, (), nothing, nothing)
else:
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
def test_processes_that_still_import_leave_an_interrupt_to_their_parent(tmp_path: Path) -> None:
    script, pids = tmp_path / "importers.py", tmp_path / "pids"
    script.write_text(_IMPORTERS)
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pids)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background commands, and what these start, are deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        children = _wait_for_two(pids)
        for child in children:
            os.kill(child, signal.SIGINT)
        time.sleep(0.3)
        assert all(map(_alive, children))
        parent.send_signal(signal.SIGINT)
        told = parent.communicate(timeout=120)[1]
    finally:
        parent.kill()
    assert told.count("Traceback") == 1  # the parent's own
    assert not any(map(_alive, children))
