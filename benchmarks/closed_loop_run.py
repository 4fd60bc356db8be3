"""One run of stage S2: a daemon in its own process where the arm has one, a training in another, the pretended machine here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from autotuner.controller.memory import used_bytes
from autotuner.demo.live import Followed, find_run
from autotuner.demo.processes import Children, DemoError, daemon_port, wait_for
from autotuner.hook.ring import RingReader
from autotuner.journal import Reader, journal_path
from autotuner.messages import Acknowledgement, Declaration, Sample
from benchmarks.closed_loop_scenarios import KINDS, Arm, Machine, draw, start
from benchmarks.closed_loop_training import RESULT, Spec

POLL_SECONDS = 0.2
DECISIONS = 60
SHORTEST_DECISION_SECONDS = 1.0
"""A run has as many decisions as one in the simulator, unless they would come faster than the guard's own."""
STARVED = 0.05
ATTEMPTS = 3
"""A run is made again, so often at most, where others took the processor or made it slow."""
SLOW = 1.15
"""Times the calibration's processor seconds for the same measurement: above it others shared caches or pipelines."""
IDLE_SECONDS, IDLE_PERCENT = 2.0, 15.0
START_SECONDS = 60.0
FINAL_SECONDS = 120.0
"""Patience beyond the budget."""
MODULE = "benchmarks.closed_loop_training"


@dataclass(frozen=True)
class Job:
    """One run to make."""

    stage: str
    """``calibrate``, ``tune``, ``aa`` or ``pair``."""
    kind: str
    seed: int
    arm: str
    budget_seconds: float
    preset: str = "fashion-tiny"

    @property
    def key(self) -> tuple[Any, ...]:
        """What a line must say to be this run."""
        return tuple(asdict(self).values())


class Watched(Followed):
    """A run that is followed sample by sample: the poorest moment counts, not the last one."""

    def __init__(self, directory: Path, declaration: Declaration, ring: RingReader) -> None:
        super().__init__(directory, declaration, ring, positions=declaration.start)
        self.began_at: float | None = None
        self.peaks: list[int] = []
        """Bytes held at once by the steps that were read last."""

    def read(self) -> None:
        """Take the ring's new records."""
        self.peaks = []
        for record in self.ring.read():
            if isinstance(record, Sample):
                self.sample = record
                self.peaks.append(record.peak_bytes)
                if self.began_at is None:
                    self.began_at = record.time - record.step_seconds
            elif isinstance(record, Acknowledgement) and not record.refused:
                self.positions = record.positions


@dataclass(frozen=True)
class Quiet:
    """What of other processes a run may suffer."""

    patience_seconds: float = 0.0
    """For an idle core before it begins."""
    most_starved: float = 1.0
    """Share of its time."""

    def disturbed(self, line: dict[str, Any], probe_seconds: float) -> bool:
        """Whether others cost this run too much; ``probe_seconds`` is the calibration's (0: not known yet)."""
        if line["failure"]:
            return False
        slow = probe_seconds > 0 and line["probe_seconds"] > SLOW * probe_seconds
        return slow or line["starved_share"] > self.most_starved


def perform(job: Job, arm: Arm, known: dict[str, Any], decisions: Path, quiet: Quiet) -> dict[str, Any]:
    """Make one run, again where others cost it too much, and return its line.

    ``known`` has what the calibration measured, if it was made; ``decisions`` keeps what a daemon decided.
    Raises DemoError when the daemon, not the training, fails: that says nothing about the arm.
    """
    line: dict[str, Any] = {}
    for attempt in range(1, ATTEMPTS + 1):
        wait_until_idle(quiet.patience_seconds)
        line = attempted(job, arm, known, decisions)
        line |= {"attempts": attempt, "disturbed": quiet.disturbed(line, known.get("probe_seconds", 0.0))}
        if not line["disturbed"]:
            break
    return line


def wait_until_idle(patience_seconds: float) -> None:
    """Return when nobody else works on our cores, or when patience ends."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        busy = psutil.cpu_percent(interval=IDLE_SECONDS, percpu=True)
        if max(busy[core] for core in os.sched_getaffinity(0)) < IDLE_PERCENT:
            return


def attempted(job: Job, arm: Arm, known: dict[str, Any], decisions: Path) -> dict[str, Any]:
    """One attempt at ``perform``."""
    state = Path(tempfile.mkdtemp(prefix="closed-loop-"))
    began = time.monotonic()
    try:
        with Children(state) as children:
            told = _perform(job, arm, known, state, children)
        return {
            **asdict(job),
            "events": {
                name: value for name, value in asdict(draw(job.kind, job.seed)).items() if value not in ("", float("inf"))
            },
            "values": start(job.kind, arm),
            "unit_bytes": known.get("unit_bytes", 0),
            **told,
            **_decided(state, arm, decisions / ("-".join(map(str, job.key)).replace(" ", "_").replace(":", "_") + ".jsonl")),
            "wall_seconds": round(time.monotonic() - began, 2),
            **circumstances(),
        }
    finally:
        shutil.rmtree(state, ignore_errors=True)


def circumstances() -> dict[str, Any]:
    """Machine, versions and load; nothing that names this machine's owner."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "cores_used": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "mlx": version("mlx"), "numpy": version("numpy")},
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2),
    }


def _commit() -> str:
    """The commit of this tree; empty outside of one."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _perform(job: Job, arm: Arm, known: dict[str, Any], state: Path, children: Children) -> dict[str, Any]:
    out, injected, spec = state / "out", state / "injected.json", state / "spec.json"
    out.mkdir()
    machine = Machine(draw(job.kind, job.seed), job.budget_seconds, known.get("unit_bytes", 0))
    machine.step(time.monotonic(), 0.0, 0.0, 0, 0.0).write(injected)
    daemon = _start_daemon(job, arm.policy, state, injected, children) if arm.policy else None
    Spec(
        preset=job.preset,
        seconds=job.budget_seconds,
        seed=job.seed,
        start=start(job.kind, arm),
        coarse_until=arm.coarse_until,
        sampling_ladder=list(KINDS[job.kind].sampling_ladder),
        enough=known.get("target", 0.0),
        state=str(state),
        injected=str(injected),
        out=str(out),
    ).write(spec)
    process, before = children.start("training", MODULE, str(spec)), _processor_seconds(daemon)
    counts = _follow(job, machine, state, injected, lambda: process.poll() is None)
    code = process.poll()
    result: dict[str, Any] = json.loads((out / RESULT).read_text()) if code == 0 else {}
    failure = "" if code == 0 else f"exit code {code}: {children.tail('training')}".replace(str(state), "STATE")
    own = _processor_seconds(daemon) - before
    return {"failure": failure, **result, **counts, "daemon_seconds": round(own, 2), "starved_share": starved(result, own)}


def starved(result: dict[str, Any], daemon_seconds: float) -> float:
    """The share of a training's time in which neither it nor its daemon had the processor, and it did not sleep."""
    if not result:
        return 0.0
    own = result["slept_seconds"] + result["processor_seconds"] + daemon_seconds
    return round(max(0.0, 1.0 - own / result["seconds"]), 4)


def _processor_seconds(process: subprocess.Popen[bytes] | None) -> float:
    if process is None or process.poll() is not None:
        return 0.0
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def _start_daemon(job: Job, policy: str, state: Path, injected: Path, children: Children) -> subprocess.Popen[bytes]:
    decision = max(SHORTEST_DECISION_SECONDS, job.budget_seconds / DECISIONS)
    flags = {"state-dir": str(state), "mode": "act", "policy": policy, "port": "0", "holdout": "0", "observe-first": "0"}
    flags |= {"tick-seconds": f"{decision / 2:g}", "decision-seconds": f"{decision:g}", "injected-readings": str(injected)}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    process = children.start("daemon", "autotuner", "daemon", *words)
    ready = lambda: daemon_port(state) is not None  # noqa: E731
    wait_for(ready, START_SECONDS, f"the daemon: {children.tail('daemon')}", alive=lambda: process.poll() is None)
    return process


def _follow(job: Job, machine: Machine, state: Path, injected: Path, running: Any) -> dict[str, Any]:
    """Step the pretended machine until the training ends; what it went through, within the budget."""
    run: Watched | None = None
    before = time.monotonic()
    deadline = before + job.budget_seconds + START_SECONDS + FINAL_SECONDS
    out_of_memory, over, teacher_bytes = 0, False, 0
    while running() and time.monotonic() < deadline:
        if run is None and (found := find_run(state, set())) is not None:
            run = Watched(found.directory, found.declaration, found.ring)
        if run is not None:
            run.read()
        now = time.monotonic()
        elapsed = now - run.began_at if run is not None and run.began_at is not None else None
        pace, used = 0.0, 0
        if run is not None and run.sample is not None:
            pace, used = run.value("pace", 1.0), used_bytes(run.sample)
            teacher_bytes = max(teacher_bytes, used if run.sample.stage == 0 else 0)
        if elapsed is None or elapsed <= job.budget_seconds:  # the last evaluation is nobody's heat or pressure
            machine.step(now, elapsed or 0.0, now - before if elapsed is not None else 0.0, used, pace).write(injected)
            for peak in run.peaks if run is not None else ():
                out_of_memory, over = out_of_memory + (not over and machine.out_of_memory(peak)), machine.out_of_memory(peak)
        before = now
        time.sleep(POLL_SECONDS)
    return {
        "pressure_seconds": round(machine.pressure_seconds, 2),
        "heat_seconds": round(machine.heat_seconds, 2),
        "oom": out_of_memory,
        "teacher_bytes": teacher_bytes,
    }


def _decided(state: Path, arm: Arm, file: Path) -> dict[str, Any]:
    """What the daemon decided, kept in ``file``; raises DemoError where another policy than the arm's decided."""
    if not arm.policy:
        return {"served": "", "changes": 0, "vetoed": 0, "emergencies": 0, "decisions_sha256": ""}
    with Reader(journal_path(state)) as journal:
        [run] = journal.runs()
        decisions = journal.decisions(run.run_id)
        changes = journal.changes(run.run_id)
    if run.policy != arm.policy:
        raise DemoError(f"arm {arm.policy!r}: the daemon served {run.policy!r}, so this build has no such policy")
    first = decisions[0].time_unix if decisions else 0.0
    lines = [
        json.dumps(
            {"at": round(d.time_unix - first, 2), "what": d.what, "reason": d.reason, "policy": d.policy, "vetoed": d.vetoed}
        )
        for d in decisions
    ]
    text = "\n".join(lines) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return {
        "served": run.served_policy,
        "decisions": len(decisions),
        "changes": len(changes),
        "vetoed": sum(d.vetoed != "" for d in decisions),
        "emergencies": sum(d.policy == "guard" for d in decisions),
        "decisions_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
