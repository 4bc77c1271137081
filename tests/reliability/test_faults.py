"""Kill -9, a full disk, two runs at once, no memory: nothing lost, nothing twice, the same result."""

from __future__ import annotations

import csv
import hashlib
import http.server
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from reliability_support import (
    contents,
    encoded,
    killed,
    killed_at_write,
    picture,
    run,
    small_disk,
    told,
)
from runner_support import draw_crops

from blurface import assets
from blurface.cli import main
from blurface.errors import BlurfaceError
from blurface.images import read_rgb
from blurface.training.config import Schedule, TrainConfig
from blurface.training.loop import Trainer
from blurface.training.pack import Faces

__all__ = ["small_disk"]  # a fixture

pytestmark = pytest.mark.usefixtures("toys")

POINTS = random.Random(20)
"""Where the runs are killed: random, and the same in every run of the tests."""


def kill_here_and_there(work: Callable[[], object], writes: int, seconds: float) -> int:
    """Kill work in front of two random writes and at two random times, and let it start again each time."""
    places = sorted(POINTS.sample(range(1, writes + 1), 2))
    at_writes = sum(killed_at_write(work, place) for place in places)
    assert at_writes >= 1
    return at_writes + sum(killed(work, POINTS.uniform(0.05, seconds)) for _ in range(2))


# ------------------------------------------------------------------------------------- kill -9


def test_restore_killed_anywhere_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02}.png").write_bytes(encoded("PNG", Image.fromarray(picture(seed=number))))
    arguments = ("restore", source, "--model", "invert-toy", "--batch-size", 2, "--out")
    assert run(*arguments, tmp_path / "whole").exit_code == 0
    out = tmp_path / "out"
    kill_here_and_there(lambda: run(*arguments, out), 10, 0.5)
    for path in out.glob("[0-9]*"):  # what is there is whole
        np.testing.assert_array_equal(read_rgb(path), 255 - read_rgb(source / path.name))
    result = run(*arguments, out)
    assert result.exit_code == 0, result.output
    assert "of 12." in result.stderr
    finished = {name: data for name, data in contents(out).items() if not name.startswith(".blurface-")}
    assert finished == contents(tmp_path / "whole")


def results(out: Path) -> dict[str, bytes]:
    """What a run says; not when and where it was made, nor what a killed one left under temporary names."""
    own = {"run.json", "local.json"}
    return {k: v for k, v in contents(out).items() if k not in own and not k.endswith(".tmp")}


def test_verify_killed_anywhere_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_crops(tmp_path / "crops", people=4, pictures=2)

    def work(name: str) -> Any:
        monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / name / "cache"))
        return run(
            *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--jobs", 1),
            *("--restorer", "none", "--restorer", "brighter", "--kernels", "linear:5,0;7,90"),
            *("--batch-size", 3, "--out", tmp_path / name / "out", "--quiet"),
        )

    whole = work("whole")
    assert whole.exit_code == 0, whole.output
    kill_here_and_there(lambda: work("cut"), 12, 3.0)
    again = work("cut")
    assert again.exit_code == 0, again.output
    assert again.stdout == whole.stdout
    assert results(tmp_path / "cut" / "out") == results(tmp_path / "whole" / "out")


def small_config(steps: int = 6, **schedule: Any) -> TrainConfig:
    return TrainConfig(
        name="small",
        network="plain",
        network_options={"width": 8, "deep": 8, "blocks": (1, 1, 1)},
        data=(),
        held_out=4,
        validate_every=1,
        sample_every=100,
        checkpoint_every=2,
        schedule=Schedule(steps=steps, batch_size=4, warmup=1, decay=2, **schedule),
    )


def some_faces(count: int = 12) -> Faces:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 156, 140, 3), dtype=np.uint8)
    names = [str(number) for number in range(count)]
    return Faces(pictures, (22, 22), names, [str(number // 2) for number in range(count)])


def train(out: Path, faces: Faces) -> Trainer:
    """What ``blurface train`` does: go on where the folder's checkpoint stands."""
    trainer = Trainer(small_config(), faces, out)
    if (out / "checkpoint.pt").exists():
        trainer.load(out / "checkpoint.pt")
    for _ in trainer.run():
        pass
    return trainer


def log_of(out: Path) -> list[dict[str, str]]:
    with open(out / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_train_killed_anywhere_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    faces = some_faces()
    whole = train(tmp_path / "whole", faces)
    kill_here_and_there(lambda: train(tmp_path / "cut", faces), 6, 2.0)
    cut = train(tmp_path / "cut", faces)
    assert cut.step == whole.step == 6
    for a, b in zip(cut.average.parameters(), whole.average.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    # Every step is logged once, though steps after a checkpoint were computed twice.
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
    assert [row["step"] for row in log_of(tmp_path / "cut")] == list("123456")


CONTENT = random.Random(0).randbytes(300_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the content slowly, from where it is asked for."""

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        for at in range(start, len(CONTENT), 10_000):
            try:
                self.wfile.write(CONTENT[at : at + 10_000])
            except OSError:
                return
            threading.Event().wait(0.01)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file.bin"
        server.shutdown()


def test_data_get_killed_anywhere_ends_as_if_nothing_had_happened(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    sha = hashlib.sha256(CONTENT).hexdigest()
    file = assets.RemoteFile(address, "weights/file.bin", sha, "this test")
    asset = assets.Asset("thing", "weights", "", "", ("weights/file.bin",), "", files=(file,))
    monkeypatch.setitem(assets.ASSETS, "thing", asset)
    stopped = sum(
        killed(lambda: run("data", "get", "thing", "--no-progress"), POINTS.uniform(0.05, 0.4))
        for _ in range(3)
    )
    stopped += killed_at_write(lambda: run("data", "get", "thing", "--no-progress"), 1)
    assert stopped
    result = run("data", "get", "thing", "--no-progress")
    assert result.exit_code == 0, result.output
    path = tmp_path / "cache" / "data" / "weights" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert result.stdout.strip() == str(path)


# -------------------------------------------------------------------------------- finding faces


FINDER = """
import os, signal, sys, time
from pathlib import Path
import verification.detect as detect
from blurface.cli import main

def find(detector, chunk):
    Path("pids", str(os.getpid())).touch()
    if sys.argv[1] == "sleep" and Path("0.png") in chunk.values():  # the other one soon waits for work
        time.sleep(600)
    if sys.argv[1] == "die" and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [detect._faces(None, None, None, 20, 16)]

def nothing(settings):
    pass

detect._CHUNK, detect.Detector, detect._read_and_find = 1, nothing, find  # in the workers as well

if __name__ == "__main__":
    main(["data", "pack", ".", "--detect", "--drop-near", "none", "--jobs", "2", "--out", "faces.parquet"])
"""


def find_faces(folder: Path, how: str) -> subprocess.Popen[bytes]:
    """Start to pack three photographs; what it tells goes into a file."""
    (folder / "pids").mkdir()
    (folder / "finder.py").write_text(FINDER)
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encoded("PNG", Image.fromarray(picture(seed=seed))))
    ours = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "BLURFACE_CACHE": str(folder / "cache")}
    with (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, "finder.py", how],
            cwd=folder,
            env={**os.environ, **ours},
            stderr=stderr,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )


def hear_interrupts() -> None:
    """In a process that starts: a shell's background commands, and what these start, are deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_process_that_dies_while_finding_faces_costs_nothing(tmp_path: Path) -> None:
    assert find_faces(tmp_path, "die").wait(120) == 1
    told = (tmp_path / "stderr").read_text()
    assert (tmp_path / "died").exists()
    assert told.count("no face was found") == 3
    assert "Traceback" not in told


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the process table of Linux")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_finding_faces_ends_with_its_run(tmp_path: Path, end: signal.Signals) -> None:
    """By kill -9, and by Ctrl-C, which a terminal sends to all processes."""
    run = find_faces(tmp_path, "sleep")
    pids = tmp_path / "pids"
    try:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        (os.kill if end == signal.SIGKILL else os.killpg)(run.pid, end)
        code = run.wait(120)
        wait_until(lambda: not any(running(int(path.name)) for path in pids.iterdir()))
    finally:
        run.kill()
    if end == signal.SIGINT:
        told = (tmp_path / "stderr").read_text().splitlines()
        assert (code, [line for line in told if "detecting: " not in line]) == (130, ["Stopped."])


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------------------------ full disk


def test_restore_onto_a_full_disk_tells_each_and_goes_on_later(tmp_path: Path, small_disk: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(8):
        pixels = picture(256, 256, number)  # some 180 KiB each: five fit
        (source / f"{number}.png").write_bytes(encoded("PNG", Image.fromarray(pixels)))
    out = small_disk / "out"
    arguments = ("restore", source, "--out", out, "--model", "invert-toy", "--batch-size", 1)
    result = run(*arguments)
    assert result.exit_code == 1
    lines = told(result)
    done = sorted(path.name for path in out.iterdir())
    assert 1 <= len(done) < 8
    assert f"{len(done)} restored, {8 - len(done)} failed of 8." in result.stderr
    assert len(lines) == 8 - len(done)
    assert all("No space left on device" in line for line in lines)
    for name in done:
        np.testing.assert_array_equal(read_rgb(out / name), 255 - read_rgb(source / name))
    (out / done[0]).unlink()
    assert "1 restored" in run(*arguments).stderr


def test_verify_onto_a_full_disk_is_one_error(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_crops(tmp_path / "crops", people=6, pictures=3)
    monkeypatch.setenv("BLURFACE_CACHE", str(small_disk / "cache"))
    (small_disk / "filler").write_bytes(bytes(900_000))
    arguments = ("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--jobs", 1)
    full = run(*arguments, "--restorer", "none", "--kernels", "linear:5,0", "--out", tmp_path / "out")
    assert full.exit_code == 1
    assert any("No space left on device" in line for line in told(full))
    assert len(told(full)) == 1
    assert not (tmp_path / "out" / "results.csv").exists()


def test_train_onto_a_full_disk_keeps_the_last_checkpoint(small_disk: Path) -> None:
    torch.set_num_threads(1)
    out = small_disk / "run"
    trainer = Trainer(small_config(), some_faces(), out)
    trainer.save()
    before = (out / "checkpoint.pt").read_bytes()
    (small_disk / "filler").write_bytes(bytes(2**20 - len(before) - 50_000))
    with pytest.raises(OSError, match="No space left"):
        trainer.save()
    assert (out / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]


def test_files_that_may_not_grow_are_told(tmp_path: Path) -> None:
    """The limit of a quota (RLIMIT_FSIZE) reads as a full disk does, where none can be mounted."""
    (tmp_path / "a.png").write_bytes(encoded("PNG", Image.fromarray(picture(256, 256))))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        result = run("restore", tmp_path / "a.png", "--out", tmp_path / "out", "--model", "invert-toy")
        assert result.exit_code == 1
        assert "File too large" in result.stderr
        assert list((tmp_path / "out").iterdir()) == []

    assert not killed(work, 60)


# -------------------------------------------------------------------------------- two runs at once


def both(work: Callable[[], object]) -> None:
    """Two processes at once; both must end well."""
    start = multiprocessing.get_context("fork")
    gate = start.Event()

    def waiting() -> None:
        gate.wait()
        torch.set_num_threads(1)
        work()

    processes = [start.Process(target=waiting) for _ in range(2)]
    for process in processes:
        process.start()
    gate.set()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_two_restores_into_one_folder(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02}.png").write_bytes(encoded("PNG", Image.fromarray(picture(seed=number))))

    def work() -> None:
        result = run("restore", source, "--out", tmp_path / "out", "--model", "invert-toy", "--batch-size", 1)
        assert result.exit_code == 0, result.output

    both(work)
    made = contents(tmp_path / "out")
    assert sorted(made) == [f"{number:02}.png" for number in range(12)]
    for name in made:
        np.testing.assert_array_equal(read_rgb(tmp_path / "out" / name), 255 - read_rgb(source / name))


def test_two_verifications_in_one_cache_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = draw_crops(tmp_path / "crops", people=4, pictures=2)

    def work(name: str = "both") -> None:
        monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / name / "cache"))
        result = run(
            *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--jobs", 1),
            *("--restorer", "brighter", "--kernels", "linear:5,0", "--batch-size", 3, "--quiet"),
            *("--out", tmp_path / name / "out"),
        )
        assert result.exit_code == 0, result.output

    both(work)
    work("alone")
    assert results(tmp_path / "both" / "out") == results(tmp_path / "alone" / "out")


@pytest.mark.parametrize("where", ["blurface.kernels.create_kernel_set", "importlib.import_module"])
def test_an_interrupt_ends_by_130_and_a_word_wherever_it_comes(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In the work, and while the command's module is still being imported."""
    import protocols.commands.listings  # noqa: F401 (imported before imports are cut off)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    done = CliRunner().invoke(main, ["kernels"])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "Stopped.\n")


def test_a_second_training_in_one_folder_is_refused(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    faces = some_faces()
    first = Trainer(small_config(), faces, tmp_path / "run").run()
    next(first)
    with pytest.raises(BlurfaceError, match="Another run is writing"):
        next(Trainer(small_config(), faces, tmp_path / "run").run())
    first.close()
    next(Trainer(small_config(), faces, tmp_path / "run").run())  # a run that ended holds nothing


# ---------------------------------------------------------------------------------------- memory


def test_a_picture_beyond_the_memory_is_refused_and_the_rest_is_done(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.new("L", (9000, 9000), 99).save(source / "large.png", compress_level=1)
    (source / "small.png").write_bytes(encoded("PNG"))

    def work() -> None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = held + 500 * 2**20  # decoded it takes 80 MB, as numbers 970
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        result = run("restore", source, "--out", tmp_path / "out", "--model", "invert-toy")
        assert result.exit_code == 1, result.output
        assert "1 restored, 1 failed of 2." in result.stderr
        (line,) = told(result)
        assert "large.png" in line
        assert "memory" in line
        assert "Reduce" in line or "reduce" in line

    assert not killed(work, 120)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.png"]
