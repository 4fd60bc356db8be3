"""What ``report`` and poll cost the training thread while the daemon is absent, alive, stopped (SIGSTOP) and killed.

Run: ``taskset -c 1 python benchmarks/hook_daemon_states.py``. All four states follow each other, several times over, in one
training process; the daemon is kept on core 0 where there are two. Times in microseconds; the last line is JSON.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotuner.daemon.address import read_address
from autotuner.hook import attach, knob

CALLS, ROUNDS = 60_000, 5
STATES = ("absent", "alive", "stopped", "killed")


def timed(run: object, calls: int = CALLS) -> tuple[float, float]:
    """Median and 99th percentile of so many calls, in microseconds."""
    taken = []
    for step in range(1, calls + 1):
        began = time.perf_counter_ns()
        run.report(step, 0.5, images=step)  # type: ignore[attr-defined]
        taken.append(time.perf_counter_ns() - began)
    taken.sort()
    return taken[calls // 2] / 1e3, taken[int(calls * 0.99)] / 1e3


def daemon(state: Path) -> subprocess.Popen[bytes]:
    """A daemon that answers, on core 0 if that is not the only one."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-m", "autotuner", "daemon", "--port", "0", "--state-dir", str(state)],
        **quiet,  # type: ignore[call-overload]
    )
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(process.pid, {0})
    while read_address(state) is None and process.poll() is None:
        time.sleep(0.05)
    return process  # type: ignore[no-any-return]


def main() -> None:
    """Print the table."""
    state = Path(tempfile.mkdtemp(prefix="states-"))
    run = attach("states", knobs={"micro_batch": knob(32, [8, 16, 32])}, budget_seconds=3600, state_dir=state)
    timed(run)  # warm
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STATES}
    for _ in range(ROUNDS):
        found["absent"].append(timed(run))
        process = daemon(state)
        found["alive"].append(timed(run))
        process.send_signal(signal.SIGSTOP)
        found["stopped"].append(timed(run))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found["killed"].append(timed(run))
    run.close()
    print(f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, (p50, p99) in medians.items():
        print(f"{name:<10}p50 {p50:.3f}   p99 {p99:.3f}   medians of {ROUNDS} rounds of {CALLS} calls")
    print(json.dumps({f"{name}_p50_us": round(p50, 3) for name, (p50, _) in medians.items()}))


if __name__ == "__main__":
    main()
