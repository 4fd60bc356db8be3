"""What one training step pays for the hook, beside a bare memory write and the loggers that people already use.

Run: ``python benchmarks/hook_overhead.py`` (needs ``pip install -e '.[bench]'``). Every sink logs the same eight fields, in
interleaved rounds of one process, so that a busy machine, and the threads of the loggers themselves, slow all of them alike:
in a tight loop, where the hook writes its file once a millisecond, and with pauses as between the steps of a training, where
every report writes its record and looks at the knobs before it returns, with cold caches. The timer's own cost is a row of the
table and is not subtracted. Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import mmap
import os
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

INSTALL = "python -m pip install -e '.[bench]'"
PAUSE_SECONDS = 0.002
Sink = Callable[[int], None]


def hook_sink(directory: Path) -> Sink:
    from autotuner.hook import attach, knob

    knobs = {"micro_batch": knob(64, [8, 16, 32, 64]), "pace": knob(1.0, [0.5, 0.7, 0.85, 1.0])}
    run = attach("overhead", knobs=knobs, state_dir=directory)
    if run.directory is None:
        sys.exit("the hook is off; see the warning above")

    def step(number: int) -> None:
        run.report(
            number,
            0.5,
            images=64 * number,
            step_seconds=0.25,
            active_bytes=1 << 33,
            cache_bytes=1 << 30,
            peak_bytes=1 << 34,
            stage=1,
        )  # and it polls the knobs by itself

    return step


def floor_sink() -> Sink:
    """The same bytes with nothing around them: pack into mapped memory and sum."""
    record = struct.Struct("<QHHQddQdQQQIHH")
    view = memoryview(mmap.mmap(-1, 128 * 4096))

    def step(number: int) -> None:
        offset = (number & 4095) * 128
        record.pack_into(view, offset, number, 1, 1, number, 0.0, 0.5, 64 * number, 0.25, 1 << 33, 1 << 30, 1 << 34, 0, 1, 0)
        crc32(view[offset : offset + record.size])

    return step


def nothing_sink() -> Sink:
    return lambda number: None


def _metrics(number: int) -> dict[str, float]:
    return {
        "loss": 0.5,
        "images": 64 * number,
        "step_seconds": 0.25,
        "active_bytes": 1 << 33,
        "cache_bytes": 1 << 30,
        "peak_bytes": 1 << 34,
        "stage": 1,
    }


def trackio_sink(directory: Path) -> tuple[Sink, Callable[[], None]]:
    os.environ["TRACKIO_DIR"] = str(directory)
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):
        trackio.init(project="overhead", embed=False)
    return (lambda number: trackio.log(_metrics(number), step=number)), trackio.finish


def wandb_sink(directory: Path) -> tuple[Sink, Callable[[], None]]:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(directory), WANDB_CONSOLE="off")
    import wandb

    run = wandb.init(project="overhead", dir=str(directory), settings=wandb.Settings(silent=True, console="off"))
    return (lambda number: run.log(_metrics(number), step=number)), run.finish


def timed(sink: Sink, first: int, count: int, pause_seconds: float) -> list[int]:
    """Nanoseconds of each call."""
    clock, taken = time.perf_counter_ns, []
    for number in range(first, first + count):
        if pause_seconds:
            time.sleep(pause_seconds)
        start = clock()
        sink(number)
        taken.append(clock() - start)
    return taken


def import_milliseconds(code: str, repeats: int = 21) -> float:
    """CPU time that ``code`` adds to a bare Python without site-packages: the smallest of alternating starts."""
    root = str(Path(__file__).parents[1])
    taken: dict[str, list[float]] = {code: [], "pass": []}
    for _ in range(repeats):
        for program, times in taken.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-S", "-c", program], env={**os.environ, "PYTHONPATH": root}, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return 1e3 * (min(taken[code]) - min(taken["pass"]))


def percentile(values: list[int], share: float) -> float:
    """In microseconds."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] / 1e3


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {platform.system()} {platform.machine()}"
    return f"{platform.processor() or 'unknown'}, {platform.system()} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000, help="calls of the hook in a round (default %(default)s)")
    options = parser.parse_args()
    try:
        versions = {name: version(name) for name in ("trackio", "wandb")}
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; this comparison needs it: {INSTALL}")
    warnings.simplefilter("ignore")  # the loggers' own
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), options.rounds, options.steps, versions)


def measure(place: Path, rounds: int, steps: int, versions: dict[str, str]) -> None:
    trackio, end_trackio = trackio_sink(place / "trackio")
    wandb, end_wandb = wandb_sink(place)
    floor, hook = floor_sink(), hook_sink(place / "state")
    paused: dict[str, tuple[Sink, int]] = {
        "floor, with pauses": (floor, steps // 50),
        "hook, with pauses": (hook, steps // 50),
        "trackio.log, with pauses": (trackio, steps // 50),
        "wandb.log, with pauses": (wandb, steps // 50),
    }
    tight: dict[str, tuple[Sink, int]] = {
        "timer alone": (nothing_sink(), steps),
        "floor: pack_into + crc32": (floor, steps),
        "hook: report and poll": (hook, steps),
        "trackio.log, local": (trackio, steps // 10),
        "wandb.log, offline": (wandb, steps // 40),
    }
    made = dict.fromkeys((floor, hook, trackio, wandb, tight["timer alone"][0]), 0)  # the loggers want steps that grow
    taken: dict[str, list[int]] = {name: [] for name in (*tight, *paused)}
    for rows, pause_seconds in ((paused, PAUSE_SECONDS), (tight, 0.0)):  # in this order: tight loops leave the loggers work
        for turn in range(rounds + 1):
            for name, (sink, count) in rows.items():
                times = timed(sink, made[sink], count, pause_seconds)
                made[sink] += count
                if turn:  # the first round warms up
                    taken[name] += times
    with contextlib.redirect_stdout(io.StringIO()):
        end_trackio()
        end_wandb()
    report(taken, versions)


def report(taken: dict[str, list[int]], versions: dict[str, str]) -> None:
    p50 = {name: percentile(times, 0.50) for name, times in taken.items()}
    p99 = {name: percentile(times, 0.99) for name, times in taken.items()}
    hook, floor = p50["hook: report and poll"], p50["floor: pack_into + crc32"]
    print(f"command   python {' '.join(['benchmarks/hook_overhead.py', *sys.argv[1:]])}")
    print(f"machine   {machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"versions  Python {platform.python_version()}, {', '.join(f'{name} {number}' for name, number in versions.items())}")
    print(f"\n{'':<26}{'calls':>8}{'p50 us':>10}{'p99 us':>10}{'x hook':>10}")
    for name, times in taken.items():
        print(f"{name:<26}{len(times):>8}{p50[name]:>10.2f}{p99[name]:>10.2f}{p50[name] / hook:>10.2f}")
    result = {
        "report_poll_p50_us": round(hook, 3),
        "report_poll_p99_us": round(p99["hook: report and poll"], 3),
        "floor_p50_us": round(floor, 3),
        "trackio_p50_us": round(p50["trackio.log, local"], 3),
        "wandb_p50_us": round(p50["wandb.log, offline"], 3),
        "ratio_floor": round(hook / floor, 2),
        "ratio_trackio": round(p50["trackio.log, local"] / hook, 1),
        "ratio_wandb": round(p50["wandb.log, offline"] / hook, 1),
        "paused_floor_p50_us": round(p50["floor, with pauses"], 3),
        "paused_p50_us": round(p50["hook, with pauses"], 3),
        "paused_p99_us": round(p99["hook, with pauses"], 3),
        "paused_ratio_trackio": round(p50["trackio.log, with pauses"] / p50["hook, with pauses"], 1),
        "paused_ratio_wandb": round(p50["wandb.log, with pauses"] / p50["hook, with pauses"], 1),
        "import_ms": round(import_milliseconds("import autotuner.hook"), 2),
        "python": platform.python_version(),
        "machine": machine(),
        "cores": os.cpu_count(),
        **versions,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
