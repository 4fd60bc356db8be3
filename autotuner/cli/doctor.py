"""``autotuner doctor``: one line a check, OK, NONE, WARN or FAIL, with what to do about it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from autotuner.cli import EXTRA_OF, FOUND_WRONG, OK
from autotuner.cli.doctor_sensors import sensors
from autotuner.cli.finding import FAIL, GOOD, WARN, Finding
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.status import ask
from autotuner.cli.text import duration, size, table
from autotuner.config import Config
from autotuner.errors import AutotunerError, ConfigurationError
from autotuner.journal import Reader, journal_path
from autotuner.journal.schema import DamagedJournalError, OlderJournalError

LOW_DISK_BYTES = 2**30
CHILD_SECONDS = 60.0
_MLX_CHECK = (
    "from autotuner.diffusion import blas; s = blas.status(); import mlx.core as mx; "
    "print(s.healthy, f'MLX {mx.__version__} on {mx.default_device()}: {s.sentence}', sep='|')"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--record", type=Path, metavar="FILE", help="write down what every reader reads here, to send to us")
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 when any is FAIL."""
    if arguments.record is not None:
        return _record(arguments)
    config = configuration(arguments)
    findings = [finding for check in CHECKS for finding in check(config)]
    words = table(("", "CHECK", "FOUND"), [(f.level, f.subject, f.text) for f in findings])
    show(arguments, {"findings": [vars(finding) for finding in findings]}, words)
    return FOUND_WRONG if any(finding.level == FAIL for finding in findings) else OK


def _installation(config: Config) -> Iterator[Finding]:
    from autotuner.daemon.version import VERSION

    here = f"autotuner {VERSION}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding(GOOD, "installation", here)
    for module, lost in _LOST_WITHOUT.items():
        if importlib.util.find_spec(module) is None:
            remedy = f"pip install 'diffusion-autotuner[{EXTRA_OF[module]}]'"
            yield Finding(WARN, "installation", f"{module} is missing, so {lost}: {remedy}")


_LOST_WITHOUT = {
    "apscheduler": "the daemon does not start",
    "structlog": "the daemon does not start",
    "prometheus_client": "the daemon does not start",
    "psutil": "the memory of a run that tells none is unknown",
    "numpy": "learned policies do not run",
    "optuna": "no architecture is proposed",
    "matplotlib": "there are no reports",
}


def _state_directory(config: Config) -> Iterator[Finding]:
    state = config.state_directory
    existing = next(path for path in (state, *state.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(FAIL, "state directory", f"{state} cannot be written; choose another with AUTOTUNER_STATE_DIR")
        return
    if state.exists() and state.stat().st_mode & 0o077:
        yield Finding(WARN, "state directory", f"{state} is open to other users: chmod 700 '{state}'")
    else:
        yield Finding(GOOD, "state directory", str(state) if state.exists() else f"{state} (made when it is needed)")
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    yield Finding(WARN if low else GOOD, "disk", f"{size(free)} free" + ("; without room nothing is tuned" if low else ""))


def _daemon(config: Config) -> Iterator[Finding]:
    from autotuner.daemon.address import read_address
    from autotuner.daemon.modes import off_notice

    if off := off_notice(config.state_directory):
        yield Finding(WARN, "daemon", off)
    address = read_address(config.state_directory)
    if address is None:
        yield Finding(WARN, "daemon", "not running: autotuner daemon, or autotuner service install")
        return
    health = ask(address, "/healthz")
    if health is None:
        yield Finding(FAIL, "daemon", f"pid {address.pid} does not answer in time at {address.url}/healthz; see its log")
        return
    up = duration(health["uptime_seconds"])
    yield Finding(
        GOOD, "daemon", f"pid {address.pid}, up {up}, mode {health['mode']}, policy {health['policy']}, {address.url}/"
    )


def _journal(config: Config) -> Iterator[Finding]:
    path = journal_path(config.state_directory)
    if not path.exists():
        yield Finding(GOOD, "journal", "none yet: the first daemon makes it")
        return
    try:
        with Reader(path) as journal:
            runs = journal.runs()
        live = sum(run.live for run in runs)
        yield Finding(GOOD, "journal", f"{path} ({size(path.stat().st_size)}): {len(runs)} runs, {live} not ended")
    except OlderJournalError as error:
        yield Finding(WARN, "journal", str(error))
    except DamagedJournalError as error:
        yield Finding(FAIL, "journal", f"{error}; a daemon moves it aside and starts a new one")
    except AutotunerError as error:
        yield Finding(FAIL, "journal", str(error))
    for aside in sorted(path.parent.glob("journal.corrupt-*[0-9]")):
        yield Finding(WARN, "journal", f"{aside.name} was damaged and moved aside; delete it when you do not need it")


def _policy(config: Config) -> Iterator[Finding]:
    from autotuner.daemon.policies import resolve_policy, shipped_artefacts

    try:
        resolved = resolve_policy(config.policy, shipped_artefacts())
    except ConfigurationError as error:
        yield Finding(FAIL, "policy", str(error))
        return
    in_use = f"{config.policy}: {resolved.policy.name} decides"
    yield Finding(WARN, "policy", resolved.problem) if resolved.problem else Finding(GOOD, "policy", in_use)


def _engine(config: Config) -> Iterator[Finding]:
    if importlib.util.find_spec("mlx") is None:
        yield Finding(WARN, "MLX", "not installed; needed for the built-in trainer and the demo, not for tuning your own")
        return
    try:
        child = subprocess.run(  # a child: a broken BLAS may end the process that loads it
            [sys.executable, "-c", _MLX_CHECK], capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding(FAIL, "MLX", f"did not multiply two matrices within {CHILD_SECONDS:.0f} s")
        return
    if child.returncode != 0:
        last = child.stderr.strip().splitlines()[-1:] or [f"ended with code {child.returncode}"]
        yield Finding(FAIL, "MLX", last[0])
        return
    healthy, _, sentence = child.stdout.strip().splitlines()[-1].partition("|")
    yield Finding(GOOD if healthy == "True" else WARN, "MLX", sentence)


def _hazards(config: Config) -> Iterator[Finding]:
    from autotuner.telemetry.hazards import hazards
    from autotuner.telemetry.host import Host

    for hazard in hazards(Host()):
        yield Finding(WARN if hazard.grave else GOOD, hazard.subject, hazard.text)


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _installation, _state_directory, _daemon, _journal, sensors, _hazards, _policy, _engine,
)  # fmt: skip


def _record(arguments: argparse.Namespace) -> int:
    from autotuner.cli.doctor_record import write_record

    path: Path = arguments.record
    write_record(path)
    words = f"{path}: what the sensors of this machine read, without names and environment; look at it before you send it"
    show(arguments, {"file": path}, words)
    return OK
