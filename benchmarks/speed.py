"""How fast: every network on every backend, in one run, beside peers and a yardstick.

    python benchmarks/speed.py [--rounds 15] [--threads 2] [--out results/speed.json] [NAME ...]
    python benchmarks/speed.py --rounds 15 --out results/speed.json --page docs/speed.md

All contenders are built first and then take turns, round after round, so that a change of the machine's
mood meets all of them alike; a turn is a call that does not count and, of short ones, the mean of up to ten.
Medians over the rounds are shown, and *ratios* to a yardstick that runs in the same rounds:
one 3x3 convolution from 64 to 64 channels at 112x96 in PyTorch, float32 (0.79 GFLOP). Ratios carry over
to other machines of the same kind; milliseconds only to this one when it is quiet (the load is printed).
CPU time is that of all threads in the fastest round: it can be trusted on a busy machine, too.
Peak memory comes from a process of its own for each contender. Networks without packaged weights and the
peers (deepinv; left out where it is not installed) have random ones: speed does not depend on them.
``--page`` writes the tables between the marks of that page.
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
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut
from torch import nn

from blurface import DeblurStage
from blurface.backends import load_backend
from blurface.errors import BlurfaceError
from blurface.export import cached_export
from blurface.files import replacing
from blurface.kernels.convolve import blur
from blurface.kernels.linear import linear_psf
from blurface.memory import keep_freed_memory
from blurface.networks import build_network
from blurface.quantise import quantise_onnx
from blurface.restorers import create_restorer
from blurface.weights import bf16_is_fast, list_models, save_model
from protocols.commands.doctor import cpu

HEIGHT, WIDTH = 112, 96
LARGE = 64
"""Faces of the large batch."""

YARDSTICK = "yardstick"

NETWORKS = ("fast", "plain", "deepdeblur")

MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")

Run = Callable[[NDArray[np.float32]], Any]


def faces(count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return rng.random((count, 3, HEIGHT, WIDTH), dtype=np.float32)


def photographs(count: int, blurred: bool) -> list[Image.Image]:
    """One photograph that scikit-image ships, each cut a pixel elsewhere, sharp or blurred by a line."""
    picture = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
    places = [(56 + index // 8, 168 + index % 8) for index in range(count)]
    batch = torch.cat([picture[..., y : y + HEIGHT, x : x + WIDTH] for y, x in places])
    if blurred:
        batch = blur(batch, torch.from_numpy(linear_psf(17, 30)), border="replicate")
    pixels = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(face) for face in pixels]


def contenders() -> list[str]:
    """Names ``network/backend/precision``, the yardstick first and the peers last.

    ``stage``: PIL pictures of blurred or of sharp faces through the stage with its gate.

    ``int8+bf16``: quantised convolutions, and bfloat16 for what is not quantised.
    """
    names = [YARDSTICK, "fast/stage/blurred", "fast/stage/sharp"]
    for model in NETWORKS:
        names += [f"{model}/torch/float32"]
        names += [f"{model}/torch/bfloat16"] if bf16_is_fast() else []
        names += [f"{model}/onnxruntime/fp32", f"{model}/openvino/fp32", f"{model}/openvino/static"]
        names += [f"{model}/onnxruntime/int8", f"{model}/openvino/int8", f"{model}/openvino/int8+static"]
        if bf16_is_fast():
            names += [f"{model}/openvino/{how}" for how in ("bf16", "bf16+static", "int8+bf16+static")]
    return [*names, "peer/Restormer", "peer/DRUNet", "peer/RAM"]


@lru_cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="blurface-")


def options_of(model: str, weights: str | None) -> dict[str, Any]:
    """Weights to use; random ones, the same in every process, where the package holds none."""
    if model == "fast" and weights:
        return {"weights": weights}
    if model in list_models():
        return {}
    path = Path(_scratch().name, f"{model}.safetensors")
    if not path.is_file():
        torch.manual_seed(0)
        save_model(path, build_network(model).state_dict(), model, {}, {})
    return {"weights": str(path)}


def quantised(model: str, options: dict[str, Any]) -> Path:
    """An 8-bit file, calibrated on noise: its pictures are poor, its speed is that of any other."""
    path = Path(_scratch().name, f"{model}.int8.onnx")
    if not path.is_file():
        quantise_onnx(cached_export(model, **options), path, [faces(2)])
    return path


def build(name: str, threads: int, weights: str | None) -> Run:
    """A contender ready to run; raises ImportError or BlurfaceError where it cannot."""
    if name == YARDSTICK:
        convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(1, 64, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
        return lambda batch: convolution(x if len(batch) == 1 else x.expand(len(batch), -1, -1, -1))
    if name.startswith("peer/"):
        return peer(name.partition("/")[2])
    model, backend, precision = name.split("/")
    options = options_of(model, weights)
    if backend == "stage":
        stage = DeblurStage.from_pretrained(model, device="cpu", **options)
        pictures = photographs(LARGE, blurred=precision == "blurred")
        return lambda batch: stage(pictures[0] if len(batch) == 1 else pictures[: len(batch)])
    if backend == "torch":
        restorer = create_restorer(model, precision=precision, **options)
        return lambda batch: restorer.restore(torch.from_numpy(batch))
    ways = precision.split("+")
    path = quantised(model, options) if "int8" in ways else cached_export(model, **options)
    static = [(1, HEIGHT, WIDTH), (LARGE, HEIGHT, WIDTH)] if "static" in ways else []
    arithmetic = "bf16" if "bf16" in ways else "fp32"
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

    model = name.partition("/")[0]
    if model in NETWORKS:
        return create_restorer(model, precision="float32", **options_of(model, weights)).gflop()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        build(name, 1, weights)(faces(1))
    return counter.get_total_flops() / 1e9


def clock(run: Run, batch: NDArray[np.float32]) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    began, busy = time.perf_counter(), time.process_time()
    run(batch)
    return time.perf_counter() - began, time.process_time() - busy


def turn(run: Run, batch: NDArray[np.float32]) -> tuple[float, float]:
    """Mean seconds of a call, wall and CPU, after one that brings its weights back into the caches."""
    first = clock(run, batch)
    if first[0] > 1:
        return first
    calls = [clock(run, batch) for _ in range(max(1, min(10, round(0.1 / first[0]))))]
    wall, cpu = np.mean(calls, axis=0)
    return float(wall), float(cpu)


def race(
    runs: dict[str, Run], rounds: int, batch: NDArray[np.float32], patience: float = 20, least: int = 3
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each contender in each round; slow ones sit out once they have spent ``patience``."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}, batches of {len(batch)}", file=sys.stderr)
        for name, run in runs.items():
            if spent[name] < patience or number < least:
                began = time.perf_counter()
                seconds[name].append(turn(run, batch))
                spent[name] += time.perf_counter() - began
    return seconds


def median(seconds: list[tuple[float, float]]) -> float:
    return statistics.median(wall for wall, _ in seconds)


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
    processor = cpu()
    versions = {"torch": torch.__version__}
    for package in ("onnxruntime", "openvino"):
        with contextlib.suppress(ImportError):
            versions[package] = __import__(package).__version__
    return {
        "cpu": processor["name"],
        "features": processor["features"],
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
    parser.add_argument("--page", type=Path, help="Markdown page to write the tables into")
    parser.add_argument(
        "--from", dest="source", type=Path, help="take an earlier --out instead of measuring (with --page)"
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.source is not None:
        if given.page is None:
            parser.error("--from goes with --page")
        write_page(given.page, json.loads(given.source.read_text(encoding="utf-8")))
        return
    keep_freed_memory()  # as the commands do
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
        print(f"building {name}", file=sys.stderr)
        try:
            runs[name] = build(name, given.threads, given.weights)
            runs[name](faces(1))
        except (ImportError, BlurfaceError) as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    began = machine(given.threads)
    one = race(runs, given.rounds, faces(1))
    crowd = {name: run for name, run in runs.items() if not name.startswith("peer/")}
    many = race(crowd, max(3, given.rounds // 3), faces(LARGE), least=2)
    unit, unit_many = median(one[YARDSTICK]), median(many[YARDSTICK])
    rows = []
    for name in runs:
        single = median(one[name])
        row: dict[str, Any] = {
            "name": name,
            "gflop": gflop(name, given.weights),
            "ms_batch_1": 1e3 * single,
            "ms_batch_1_spread": [
                1e3 * float(q) for q in np.quantile([wall for wall, _ in one[name]], [0.25, 0.75])
            ],
            "ratio_batch_1": single / unit,
            "cpu_ms_batch_1": 1e3 * min(cpu for _, cpu in one[name]),
        }
        if name in many:
            batch = median(many[name])
            row |= {
                "faces_per_second_batch_64": LARGE / batch,
                "ratio_batch_64": batch / unit_many,
                "cpu_ms_batch_64": 1e3 * min(cpu for _, cpu in many[name]) / LARGE,
            }
        rows.append(row)
    result = {
        "machine": began,
        "rounds": [given.rounds, max(3, given.rounds // 3)],
        "start_up_seconds": start_up(),
        "contenders": rows,
    }
    write(result, given.out, given.page)  # what was timed is kept, whatever becomes of the rest
    del runs, crowd
    for row in rows:
        print(f"memory of {row['name']}", file=sys.stderr)
        row["peak_mb_batch_1"] = peak_megabytes(row["name"], given.threads, given.weights, 1)
        if row["name"] in many:
            row["peak_mb_batch_64"] = peak_megabytes(row["name"], given.threads, given.weights, LARGE)
    print(tables(result))
    write(result, given.out, given.page)


def write(result: dict[str, Any], out: Path | None, page: Path | None) -> None:
    """Write the JSON file and the page's tables."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        write_page(page, result)


def tables(result: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    about = result["machine"]
    versions = ", ".join(
        f"{key} {about[key]}" for key in ("torch", "onnxruntime", "openvino") if key in about
    )
    lines = [
        f"{about['cpu']} ({', '.join(about['features']) or 'no vector extensions'}), {about['threads']} of "
        f"{about['cores']} cores; load when it began {about['load']}; {versions}. Medians of "
        f"{result['rounds'][0]} rounds at batch 1 and {result['rounds'][1]} at batch {LARGE}; ratios are to "
        "the yardstick, CPU time that of the fastest round over all threads.",
        "",
        f"| | GFLOP | ms a face | ratio | CPU ms | MB | faces/s at {LARGE} | ratio | CPU ms a face | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["contenders"]:
        cells = [
            (row["gflop"], 2),
            (row["ms_batch_1"], 1),
            (row["ratio_batch_1"], 2),
            (row["cpu_ms_batch_1"], 1),
            (row.get("peak_mb_batch_1"), 0),
            (row.get("faces_per_second_batch_64"), 1),
            (row.get("ratio_batch_64"), 2),
            (row.get("cpu_ms_batch_64"), 1),
            (row.get("peak_mb_batch_64"), 0),
        ]
        shown = ("" if value is None else f"{value:.{digits}f}" for value, digits in cells)
        lines.append(f"| {row['name']} | {' | '.join(shown)} |")
    begun = "; ".join(f"`{name}` {value:.2f} s" for name, value in result["start_up_seconds"].items())
    return "\n".join([*lines, "", f"Start-up: {begun}."])


def write_page(page: Path, result: dict[str, Any]) -> None:
    """Put the tables between the page's marks."""
    before, first, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not (first and last):
        raise SystemExit(f"{page} lacks the marks {MARKS[0]} and {MARKS[1]}.")
    with replacing(page) as temporary:
        text = f"{before}{MARKS[0]}\n\n{tables(result)}\n\n{MARKS[1]}{after}"
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
