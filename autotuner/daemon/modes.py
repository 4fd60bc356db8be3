"""Which mode a run is in: switched off, a person's word for it, the first run of a machine, or the machine's own mode."""

from __future__ import annotations

import time
from pathlib import Path

from autotuner.daemon.runs import MonitoredRun

OFF = "off"
"""Everybody's mode after ``autotuner off``: not a setting, and not one of ``messages.MODES``."""
BY_YOU = "you chose it for this run"


def _switch(state_directory: Path) -> Path:
    return state_directory / "off"


def switch_off(state_directory: Path) -> bool:
    """Keep the daemon away from every run; whether that is news. A file, so that it needs neither daemon nor journal."""
    path = _switch(state_directory)
    if path.exists():
        return False
    state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("autotuner off; undo with: autotuner on\n")
    return True


def switch_on(state_directory: Path) -> bool:
    """Let the daemon guide runs again; whether that is news."""
    path = _switch(state_directory)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def off_notice(state_directory: Path) -> str:
    """The sentence that says since when everything is switched off; empty when it is not."""
    try:
        since = _switch(state_directory).stat().st_mtime
    except OSError:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(since))
    return f"switched off by you at {at}: every run has its script's own values, and nothing is changed until: autotuner on"


def mode_of(run: MonitoredRun, machine_mode: str, off: bool, observe_first: int) -> tuple[str, str]:
    """The mode of a run, and why it is not the machine's (empty when it is).

    ``observe_first`` is how many decision intervals the first run of a machine is only observed.
    """
    if off:
        return OFF, "you switched Autotuner off"
    if run.own_mode:
        return run.own_mode, BY_YOU
    if run.first_here and machine_mode != "observe" and (learning := still_learning(run, observe_first)):
        return "observe", learning
    return machine_mode, ""


def still_learning(run: MonitoredRun, observe_first: int) -> str:
    """What the run's memory model still needs before a change can be judged; empty when it has seen enough."""
    window = run.loop.window
    if window.interval_count >= observe_first:
        return ""
    shapes = len(window.memory.peaks)
    seen = f"the memory of {shapes} tensor shape{'' if shapes == 1 else 's'} so far" if shapes else "no memory told so far"
    return (
        f"the first run on this machine is only observed for {observe_first} decisions, until its memory is known: "
        f"{window.interval_count} taken, {seen}"
    )
