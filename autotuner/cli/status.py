"""``autotuner status``: the daemon's own view, or the journal's record when none is running."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotuner.cli import NO_DAEMON, OK
from autotuner.cli.output import add_json
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.text import day, duration, number, percent, size, table
from autotuner.controller.slowdown import told
from autotuner.daemon.address import Address, read_address
from autotuner.errors import AutotunerError
from autotuner.journal import AdviceRecord, Reader, RunRecord, journal_path
from autotuner.knobs import find

ANSWER_SECONDS = 3.0
LARGEST_ANSWER_BYTES = 50_000_000
"""Who listens at the port of a daemon that was killed may be anybody."""
RUNS_SHOWN = 12
PRESSURES = ("normal", "warn", "critical")
HEATS = ("nominal", "moderate", "heavy", "trapping", "sleeping")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_state_directory(parser)
    add_json(parser, "print the document that the daemon serves at /api/status")


def run(arguments: argparse.Namespace) -> int:
    """Print the status; NO_DAEMON when it is only the journal's."""
    state = configuration(arguments).state_directory
    address = read_address(state)
    document = ask(address) if address else None
    if document is None:
        why = f"the daemon (pid {address.pid}) does not answer" if address else f"no daemon is running for {state}"
        return _from_journal(state, why, arguments.json)
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(lines(document, address, _advice(state))))
    return OK


def ask(address: Address, path: str = "/api/status") -> dict[str, Any] | None:
    """The daemon's answer, or None when it gives none."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            address.url + path, timeout=ANSWER_SECONDS
        ) as answer:
            document: dict[str, Any] = json.loads(answer.read(LARGEST_ANSWER_BYTES))
            return document
    except (OSError, ValueError, RecursionError):
        return None


def _advice(state: Path) -> list[AdviceRecord]:
    try:
        with Reader(journal_path(state)) as journal:
            return journal.advice()
    except AutotunerError:
        return []


def lines(document: dict[str, Any], address: Address | None, advice: list[AdviceRecord]) -> Iterator[str]:
    """What is printed of the daemon's status document."""
    up = duration(document["unix_time"] - document["started_unix"])
    where = f"{address.url}/" if address else ""
    yield f"autotuner {document['version']}  mode {document['mode']}, policy {document['policy']}, up {up}  {where}"
    yield f"machine  {_machine(document['machine'])}"
    silent = [sensor for sensor in document["sensors"] if not sensor["up"]]
    yield f"sensors  {len(document['sensors']) - len(silent)} of {len(document['sensors'])} answer"
    for sensor in silent:
        yield f"!        {sensor['name']}: {sensor['reason']}"
    if document.get("notice"):
        yield f"!        {document['notice']}"
    for problem in document.get("problems", ()):
        yield f"!        {problem}"
    if gain := document.get("gain"):
        yield (
            f"gain     {gain['ratio']:+.0%} of the time to the same held-out loss, 95 % interval {gain['low']:+.0%} to "
            f"{gain['high']:+.0%} ({gain['treated']} tuned runs, {gain['held_out']} held out)"
        )
    for line in advice:
        yield f"advice   {line.advice_id}  {line.run_id}: {line.what}: {line.why}"
    if advice:
        yield f"         make it with: autotuner accept {advice[-1].advice_id}"
    runs = document["runs"]
    yield ""
    yield _run_table(runs) if runs else "no training run is live; a script that calls autotuner.hook.attach() appears here"
    for run in runs:
        yield ""
        yield f"{run['run_id']}" + ("  held out: left at its script's own values" if run.get("held_out") else "")
        if run.get("mode_why"):
            yield f"  mode {run['mode']}: {run['mode_why']}"
        if slowdown := _slowdown(run, document["machine"]):
            yield f"  speed: {slowdown}"
        yield _knob_table(run["knobs"]) if run["knobs"] else "  offers no knobs"
        if run.get("checkpoint"):
            yield f"  checkpoint: {run['checkpoint']}"
        if run["last_what"]:
            yield f"  last: {run['last_what']}{_not_made(run)}: {run['last_why']}"


def _slowdown(run: dict[str, Any], machine: dict[str, Any]) -> str:
    """What run and system say of throttling; a daemon of an earlier version tells nothing."""
    return "" if run["state"] == "ended" else told(run.get("slowdown_ratio"), run.get("slow", False), machine["thermal_level"])


def _not_made(run: dict[str, Any]) -> str:
    """What the mode kept from being done must not read as if it had been."""
    kept = run.get("mode") in ("observe", "advise") and run["last_what"] != "hold" and run.get("policy") != "you"
    return f" (not made: mode {run['mode']})" if kept else ""


def _machine(machine: dict[str, Any]) -> str:
    available, total = machine["memory_available_bytes"], machine["memory_total_bytes"]
    parts = [f"memory {size(available)} of {size(total)} available" if available is not None else "memory unknown"]
    parts.append(f"pressure {word(PRESSURES, machine['memory_pressure'])}")
    parts.append(f"heat {word(HEATS, machine['thermal_level'])}")
    if machine["celsius"] is not None:
        parts.append(f"{machine['celsius']:.0f} °C")
    return ", ".join(parts) + ("  (injected by an experiment)" if machine["injected"] else "")


def word(words: tuple[str, ...], level: int | None) -> str:
    """The word for a level; ``unknown`` for none."""
    return "unknown" if level is None or not 0 <= level < len(words) else words[level]


def _run_table(runs: list[dict[str, Any]]) -> str:
    head = ("RUN", "STATE", "STEP", "LOSS", "HELD-OUT", "IMAGES/S", "MEMORY", "BUDGET")
    rows = [
        (
            run["run_id"], run["state"], str(run["step"]), number(run["loss"]), number(run["held_out_loss"]),
            number(run["images_per_second"]), size(run["peak_bytes"] or None), percent(run["budget_used"]),
        )
        for run in runs
    ]  # fmt: skip
    return table(head, rows, right=(2, 3, 4, 5, 6, 7))


def _knob_table(knobs: list[dict[str, Any]]) -> str:
    rows = [(knob["name"], _ladder(knob), knob["unit"], _knob_note(knob)) for knob in knobs]
    return table(("KNOB", "LADDER", "UNIT", ""), rows, indent="  ")


def _ladder(knob: dict[str, Any]) -> str:
    row = find(knob["name"])
    return " ".join(f"[{row.shown(v)}]" if v == knob["acknowledged"] else row.shown(v) for v in knob["values"])


def _knob_note(knob: dict[str, Any]) -> str:
    asked = f"asked for {find(knob['name']).shown(knob['asked'])}" if knob["asked"] != knob["acknowledged"] else ""
    return ", ".join(filter(None, (asked, "pinned" if knob["pinned"] else "")))


def _from_journal(state: Path, why: str, as_json: bool) -> int:
    with Reader(journal_path(state)) as journal:
        runs = journal.runs(last=RUNS_SHOWN)
    if as_json:
        print(json.dumps({"status": why, "runs": [_without_declaration(run) for run in runs]}, indent=1))
        return NO_DAEMON
    print(f"{why}; this is the journal's record", file=sys.stderr)
    head = ("RUN", "STATE", "STARTED", "STEP", "LOSS", "HELD-OUT", "MEMORY", "POLICY")
    rows = [
        (
            run.run_id, "unknown" if run.live else run.outcome, day(run.created_unix), str(run.step), number(run.loss),
            number(run.final_held_out_loss), size(run.peak_bytes or None), run.policy,
        )
        for run in runs
    ]  # fmt: skip
    print(table(head, rows, right=(3, 4, 5, 6)) if rows else "no run was ever recorded")
    return NO_DAEMON


def _without_declaration(run: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(run).items() if name != "declaration_json"}
