"""What the daemon costs: memory, processor and start, idle and with runs, beside services that people already leave running.

Run: ``python benchmarks/daemon_footprint.py``. The daemon is the real one, as its own process with its default settings; the
runs are real hook files that this process fills, ten records a second each. Processor time is the kernel's account of the
process (utime + stime), so a busy machine lengthens it little; the start is wall time and the best of several, since everything
else that runs can only add to it, and with the bytecode on the disk, as an installation has it: PYTHONDONTWRITEBYTECODE, under
which every start of a checkout compiles everything anew, is taken out of the environment. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autotuner.controller.loop import ControlLoop
from autotuner.daemon.policies import resolve_policy, shipped_artefacts
from autotuner.hook.page import create_page
from autotuner.hook.process import process_start
from autotuner.hook.ring import RingWriter
from autotuner.knobs import declare
from autotuner.messages import Declaration, MachineState, Sample

RECORDS_PER_SECOND = 10
GOALS = {
    "rss_mb_idle": 50.0,
    "rss_mb_20_runs": 50.0,
    "idle_cpu_percent": 0.2,
    "cold_start_s": 0.4,
    "decision_p99_ms": 0.5,
    "cpu_percent_200_runs": 20.0,
}
KNOBS = (
    declare("micro_batch", 32, [4, 8, 16, 32, 64]),
    declare("resolution", 32, [16, 32]),
    declare("pace", 1.0, [0.5, 0.75, 1.0]),
)
PATIENCE_SECONDS = 30.0
GIB = 2**30


def ticks(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def rss_mb(pid: int) -> float:
    """Resident memory in units of 10^6 bytes, shared libraries included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * float(os.sysconf("SC_PAGE_SIZE")) / 1e6


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(found for child in children for found in tree(child))]


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def daemon(state: Path) -> Iterator[tuple[int, float]]:
    """A daemon on its own state directory: its pid, and the seconds from exec until it has answered a scrape."""
    environment = {**os.environ, "AUTOTUNER_STATE_DIR": str(state), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    address = state / "daemon.json"
    began = time.monotonic()
    command = [sys.executable, "-m", "autotuner", "daemon", "--port", "0", "--observe-first", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (address.exists() and answers(json.loads(address.read_text())["port"])):
            if process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
                sys.exit(f"the daemon did not answer; it ended with {process.poll()}; try: {' '.join(command)}")
            time.sleep(0.002)
        yield process.pid, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def measured(pid: int, seconds: float, work: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Percent of a core and resident memory of a process over ``seconds``; ``work`` is done ten times a second meanwhile."""
    began, used, due = time.monotonic(), ticks(pid), time.monotonic()
    while time.monotonic() - began < seconds:
        work()
        due += 1.0 / RECORDS_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
    return 100.0 * (ticks(pid) - used) / (time.monotonic() - began), rss_mb(pid)


class Runs:
    """Trainings that this process plays: real directories, a record each at every call."""

    def __init__(self, state: Path, count: int) -> None:
        self.step = 0
        self.rings = [self._attach(state / "runs" / f"run-{number}") for number in range(count)]

    def _attach(self, directory: Path) -> RingWriter:
        directory.mkdir(parents=True)
        pid = os.getpid()
        declaration = Declaration(
            directory.name, "run", pid, process_start(pid) or 0.0, time.time(), KNOBS, budget_seconds=36000.0
        )
        ring = RingWriter(directory / "telemetry.ring")
        create_page(directory / "knobs.page", declaration.start, 0.0)
        (directory / "run.json").write_text(declaration.to_json())
        return ring

    def __call__(self) -> None:
        self.step += 1
        now = time.monotonic()
        for ring in self.rings:
            ring.sample(self.step, now, 1.0 / self.step, 32 * self.step, 0.1, GIB, 0, GIB, 0, 0, 0)


def with_runs(count: int, settle: float, seconds: float) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        runs = Runs(Path(folder), count)
        with daemon(Path(folder)) as (pid, _):
            measured(pid, settle, runs)
            return measured(pid, seconds, runs)


def decision_p99_ms(policy: str = "default", count: int = 5000) -> float:
    """The 99th percentile of observe, ``policy`` and guard of one run whose history is full, in processor time."""
    declaration = Declaration("run", "run", os.getpid(), 0.0, 0.0, KNOBS, budget_seconds=1e6)
    loop = ControlLoop(declaration, resolve_policy(policy, shipped_artefacts()).policy, None, 2.0)
    loop.machine(MachineState(0.0, 32 * GIB, 16 * GIB, 0, 0, 0))
    seconds, now = [], 0.0
    for step in range(1, 20 * count):
        now += 0.1
        loop.feed(Sample(step, now, 1.0 / step, 32 * step, 0.1, GIB, 0, GIB, 0, 0, 0))
        if loop.due(now):
            began = time.thread_time()
            loop.decide(now)
            seconds.append(time.thread_time() - began)
            loop.abandon()
    return 1000.0 * statistics.quantiles(seconds[len(seconds) // 2 :], n=100)[98]


def others(seconds: float) -> Iterator[str]:
    """What users know, measured in the same way; each may be missing."""
    services = {
        "prometheus-node-exporter": (["prometheus-node-exporter", "--web.listen-address=127.0.0.1:0"], None),
        "mlflow server": (["mlflow", "server", "--host", "127.0.0.1", "--port", "0"], "mlflow"),
    }
    for name, (command, package) in services.items():
        program = shutil.which(command[0]) or shutil.which(command[0], path=str(Path(sys.executable).parent))
        if program is None:
            yield f"{name:28}not installed"
            continue
        with tempfile.TemporaryDirectory() as folder:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen([program, *command[1:]], cwd=folder, stdout=quiet, stderr=quiet, start_new_session=True)
            yield row(name, package, process, seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if _version("wandb"):
        script = (
            "import sys, tempfile, wandb\nrun = wandb.init(mode='offline', dir=tempfile.mkdtemp())\nprint(1, flush=True)\n"
            "sys.stdin.read()"
        )
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=quiet, start_new_session=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        yield row("wandb service, offline", "wandb", process, seconds, own=False)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    else:
        yield f"{'wandb service':28}not installed"


def row(name: str, package: str | None, process: subprocess.Popen[bytes], seconds: float, own: bool = True) -> str:
    """Memory and idle processor of a process with its children; without ``own`` of the children alone."""
    time.sleep(5.0)  # until it has started
    pids = tree(process.pid)[0 if own else 1 :]
    began, used = time.monotonic(), sum(map(ticks, pids))
    time.sleep(seconds)
    percent = 100.0 * (sum(map(ticks, pids)) - used) / (time.monotonic() - began)
    return f"{name:28}{sum(map(rss_mb, pids)):8.1f} MB{percent:8.2f} % idle  {_version(package) if package else ''}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    print(f"command   python benchmarks/daemon_footprint.py --seconds {options.seconds:g} --starts {options.starts}")
    print(f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"versions  Python {platform.python_version()}, prometheus_client {_version('prometheus_client')}\n")
    starts = []
    for _ in range(options.starts):
        with tempfile.TemporaryDirectory(prefix="footprint-") as folder, daemon(Path(folder)) as (pid, seconds):
            starts.append((seconds, ticks(pid)))
    found = {"cold_start_s": min(starts)[0]}
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder, daemon(Path(folder)) as (pid, _):
        measured(pid, 5.0)
        found["idle_cpu_percent"], found["rss_mb_idle"] = measured(pid, options.seconds)
    twenty, found["rss_mb_20_runs"] = with_runs(20, 5.0, options.seconds)
    found["cpu_percent_200_runs"], rss_200 = with_runs(200, 10.0, options.seconds)
    found["decision_p99_ms"] = decision_p99_ms()
    for name, goal in GOALS.items():
        print(f"{name:28}{found[name]:8.3f}   goal {goal:g}{'' if found[name] <= goal else '   missed'}")
    print(f"{'decision p99, learned':28}{decision_p99_ms('learned'):8.3f}")
    median = statistics.median(seconds for seconds, _ in starts)
    print(f"{'cold start, median':28}{median:8.3f}")
    print(f"{'cold start, processor':28}{min(used for _, used in starts):8.3f}")
    print(f"{'20 runs, % of a core':28}{twenty:8.3f}\n{'200 runs, MB':28}{rss_200:8.3f}\n", flush=True)
    for line in others(options.seconds):
        print(line, flush=True)
    print(json.dumps({name: round(found[name], 3) for name in GOALS}))


if __name__ == "__main__":
    main()
