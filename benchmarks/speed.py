"""How fast: every network on every backend, in one run, beside peers and a yardstick.

    python benchmarks/speed.py [--rounds 15] [--threads 2] [--out results/speed.json] [NAME ...]

All contenders are built first and then take turns, round after round, so that a change of the machine's
mood meets all of them alike. Medians are shown, and *ratios* to a yardstick that runs in the same rounds:
one 3x3 convolution from 64 to 64 channels at 112x96 in PyTorch, float32 (0.79 GFLOP). Ratios carry over
to other machines of the same kind; milliseconds only to this one when it is quiet (the load is printed).
Peak memory comes from a process of its own for each contender. Peers (deepinv, random weights) are left
out where they are not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blurface.backends import load_backend
from blurface.errors import BlurfaceError
from blurface.export import cached_export
from blurface.images import replacing
from blurface.restorers import create_restorer
from blurface.weights import FOLDER, bf16_is_fast, list_models

HEIGHT, WIDTH = 112, 96
LARGE = 64
"""Faces of the large batch."""

YARDSTICK = "yardstick"

Run = Callable[[NDArray[np.float32]], Any]


def faces(count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.random((count, 3, HEIGHT, WIDTH), dtype=np.float32)


def contenders() -> list[str]:
    """Names ``network/backend/precision``, the yardstick first and the peers last."""
    names = [YARDSTICK]
    for model in [name for name in ("fast", "plain", "deepdeblur") if name in list_models()]:
        names += [f"{model}/torch/float32"]
        names += [f"{model}/torch/bfloat16"] if bf16_is_fast() else []
        names += [f"{model}/onnxruntime/fp32", f"{model}/openvino/fp32"]
        names += [f"{model}/openvino/static"]
        names += [f"{model}/openvino/bf16"] if bf16_is_fast() else []
        if (FOLDER / f"{model}.int8.onnx").is_file():
            names += [f"{model}/onnxruntime/int8", f"{model}/openvino/int8"]
    return [*names, "peer/Restormer", "peer/DRUNet", "peer/RAM"]


def build(name: str, threads: int, weights: str | None) -> Run:
    """A contender ready to run; raises ImportError or BlurfaceError where it cannot."""
    if name == YARDSTICK:
        convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(1, 64, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
        return lambda batch: convolution(x if len(batch) == 1 else x.expand(len(batch), -1, -1, -1))
    if name.startswith("peer/"):
        return peer(name.partition("/")[2])
    model, backend, precision = name.split("/")
    options = {"weights": weights} if weights and model == "fast" else {}
    if backend == "torch":
        restorer = create_restorer(model, precision=precision, **options)
        return lambda batch: restorer.restore(torch.from_numpy(batch))
    path = FOLDER / f"{model}.int8.onnx" if precision == "int8" else cached_export(model, **options)
    static = [(1, HEIGHT, WIDTH), (LARGE, HEIGHT, WIDTH)] if precision == "static" else []
    arithmetic = "bf16" if precision == "bf16" else "fp32"
    return load_backend(backend, path, threads=threads, precision=arithmetic, static=static).run


def peer(name: str) -> Run:
    """A peer's network with random weights; its quality is not the question here."""
    import deepinv

    torch.manual_seed(0)
    if name == "RAM":
        model, physics = deepinv.models.RAM(pretrained=False).eval(), deepinv.physics.Denoising()
        return lambda batch: model(torch.from_numpy(batch), physics)
    model = getattr(deepinv.models, name)(pretrained=None).eval()
    if name == "DRUNet":
        return lambda batch: model(torch.from_numpy(batch), 0.05)
    return lambda batch: model(torch.from_numpy(batch))


def gflop(name: str, weights: str | None) -> float | None:
    """GFLOP a face (two per multiply-add, without FFTs), counted by PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    if name.split("/")[1:2] not in (["torch"], [YARDSTICK], []) and not name.startswith("peer/"):
        name = f"{name.split('/')[0]}/torch/float32"
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        build(name, 1, weights)(faces(1))
    return counter.get_total_flops() / 1e9


def clock(run: Run, batch: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began


def race(
    runs: dict[str, Run], rounds: int, batch: NDArray[np.float32], patience: float = 20
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; slow ones sit out once they have spent ``patience``."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        clock(run, batch)  # warm-up
    for number in range(rounds):
        for name, run in runs.items():
            if sum(seconds[name]) < patience or number < 3:
                seconds[name].append(clock(run, batch))
    return seconds


def peak_megabytes(name: str, threads: int, weights: str | None, batch: int) -> float | None:
    """Peak resident memory of a process that does nothing else."""
    command = [
        sys.executable,
        __file__,
        "--threads",
        str(threads),
        "--memory-of",
        name,
        "--batch",
        str(batch),
    ]
    command += ["--weights", weights] if weights else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def start_up(repeats: int = 7) -> dict[str, float]:
    """Median seconds of ``blurface --help`` and of a bare interpreter."""
    commands = {
        "blurface --help": [sys.executable, "-c", "from blurface.cli import main; main(['--help'])"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def machine(threads: int) -> dict[str, Any]:
    """What the figures belong to."""
    model, flags = platform.processor() or "?", set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    versions = {"torch": torch.__version__}
    for package in ("onnxruntime", "openvino"):
        with contextlib.suppress(ImportError):
            versions[package] = __import__(package).__version__
    return {
        "cpu": model,
        "features": [flag for flag in wanted if flag in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="contenders (default: all)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--weights", help="a .safetensors file for 'fast'")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    if given.memory_of:
        build(given.memory_of, given.threads, given.weights)(faces(given.batch))
        # Not getrusage: its peak is inherited from the process that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(int(status["VmHWM"].split()[0]) / 1024)
        return

    known = contenders()
    chosen = [YARDSTICK, *(name for name in known if name in given.names or not given.names)]
    if unknown := set(given.names) - set(known):
        raise SystemExit(f"Unknown: {', '.join(sorted(unknown))}. Known: {', '.join(known)}.")
    runs: dict[str, Run] = {}
    for name in dict.fromkeys(chosen):
        try:
            runs[name] = build(name, given.threads, given.weights)
            runs[name](faces(1))
        except (ImportError, BlurfaceError) as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    one = race(runs, given.rounds, faces(1))
    many = race(
        {n: r for n, r in runs.items() if not n.startswith("peer/")}, max(3, given.rounds // 3), faces(LARGE)
    )
    rows = []
    unit = statistics.median(one[YARDSTICK])
    unit_many = statistics.median(many[YARDSTICK])
    for name in runs:
        single = statistics.median(one[name])
        row: dict[str, Any] = {
            "name": name,
            "gflop": gflop(name, given.weights),
            "ms_batch_1": 1e3 * single,
            "ms_batch_1_spread": [1e3 * float(q) for q in np.quantile(one[name], [0.25, 0.75])],
            "ratio_batch_1": single / unit,
            "peak_mb_batch_1": peak_megabytes(name, given.threads, given.weights, 1),
        }
        if name in many:
            batch = statistics.median(many[name])
            row |= {
                "faces_per_second_batch_64": LARGE / batch,
                "ratio_batch_64": batch / unit_many,
                "peak_mb_batch_64": peak_megabytes(name, given.threads, given.weights, LARGE),
            }
        rows.append(row)
    result = {"machine": machine(given.threads), "start_up_seconds": start_up(), "contenders": rows}
    print(json.dumps(result["machine"]))
    print(f"{'':<26}{'GFLOP':>7}{'ms':>9}{'ratio':>8}{'MB':>7}{'faces/s at 64':>15}{'ratio':>8}{'MB':>7}")
    for row in rows:
        tail = ""
        if "ratio_batch_64" in row:
            tail = (
                f"{row['faces_per_second_batch_64']:>15.1f}{row['ratio_batch_64']:>8.2f}"
                f"{row['peak_mb_batch_64'] or float('nan'):>7.0f}"
            )
        print(
            f"{row['name']:<26}{row['gflop'] or float('nan'):>7.2f}{row['ms_batch_1']:>9.2f}"
            f"{row['ratio_batch_1']:>8.2f}{row['peak_mb_batch_1'] or float('nan'):>7.0f}{tail}"
        )
    for name, seconds in result["start_up_seconds"].items():
        print(f"{name}: {seconds:.3f} s")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(given.out) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
