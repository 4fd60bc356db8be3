"""``autotuner explain RUN``: each change of a run in one block: what, why, by whom, and what it did."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from autotuner.cli import OK
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.text import clock, day, duration, number, size
from autotuner.controller.actions import ACTIONS
from autotuner.journal import ChangeRecord, DecisionRecord, PinRecord, Reader, RunRecord, journal_path
from autotuner.knobs import find

DEFAULT_LAST = 20
_INDENT = " " * 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", help="a run's id, the beginning of it, or its name (the newest run of that name)")
    parser.add_argument(
        "--last", type=int, default=DEFAULT_LAST, metavar="N", help="how many changes and refusals (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="decisions that held everything, too")
    parser.add_argument("--json", action="store_true", help="rows of the journal as JSON")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    with Reader(journal_path(configuration(arguments).state_directory)) as journal:
        found = journal.find_run(arguments.RUN)
        changes = journal.changes(found.run_id, arguments.last)
        decisions = journal.decisions(found.run_id, arguments.last, changed_only=not arguments.all)
        pins = journal.pins(found.run_id)
    if arguments.json:
        rows = {"run_id": found.run_id, "changes": [vars(c) for c in changes], "decisions": [vars(d) for d in decisions]}
        print(json.dumps(rows, indent=1))
        return OK
    print("\n".join(_lines(found, changes, decisions, pins, arguments.last)))
    return OK


def _lines(
    found: RunRecord, changes: list[ChangeRecord], decisions: list[DecisionRecord], pins: list[PinRecord], last: int
) -> Iterator[str]:
    state = found.outcome or "live"
    yield f"{found.run_id}: {state}, started {day(found.created_unix)}, mode {found.mode}, policy {found.policy}"
    if found.mode_why:
        yield f"mode {found.mode}: {found.mode_why}"
    if found.arm == "held_out":
        yield "held out: left at its script's own values but for emergencies, to measure the gain (setting holdout)"
    knobs = ", ".join(f"{name} {find(name).shown(value)}" for name, value in found.last_values.items())
    if knobs:
        yield f"in force at step {found.step}: {knobs}"
    for pin in pins:
        yield f"pinned by {pin.origin}: {pin.knob}" + (f" at {pin.value:g}" if pin.value is not None else "")
    # A decision that became a change of the same moment is told by the change.
    told = {change.intended_unix for change in changes}
    events = [(change.intended_unix, _change(change)) for change in changes]
    events += [(d.time_unix, _decision(d)) for d in decisions if d.time_unix not in told]
    if not events:
        yield "nothing was changed or refused so far"
    for time, block in sorted(events, key=lambda event: event[0])[-last:]:
        yield f"\n{clock(time)}  " + f"\n{_INDENT}".join(block)


def _change(change: ChangeRecord) -> list[str]:
    block = [f"{change.what}  [{change.state}]", f"why: {change.why} ({change.policy}: {change.reason})"]
    if change.predicted_bytes is not None:
        block.append(f"predicted memory: {size(change.predicted_bytes)}")
    return [*block, *_fate(change), *_effect(change)]


def _fate(change: ChangeRecord) -> Iterator[str]:
    if change.state == "refused":
        yield f"refused by the script's own bounds before step {change.step}: {change.refusal}"
    elif change.state == "lost":
        yield "never reached the script"
    elif change.acknowledged_unix is not None:
        after = duration(change.acknowledged_unix - change.intended_unix)
        yield f"applied before step {change.step}, {after} after it was asked for" if change.step else f"applied {after} later"
    else:
        yield "asked for; the script has not answered yet"


def _effect(change: ChangeRecord) -> Iterator[str]:
    if change.observed_unix is None:
        return
    speed = f"{number(change.images_per_second_before)} to {number(change.images_per_second_after)} images/s"
    told = change.peak_bytes_before and change.peak_bytes_after  # 0 is a script that tells no memory
    memory = f", memory {size(change.peak_bytes_before)} to {size(change.peak_bytes_after)}" if told else ""
    yield f"observed: {speed}{memory}"


def _decision(decision: DecisionRecord) -> list[str]:
    if decision.vetoed:
        wish = ACTIONS[decision.action].name if 0 <= decision.action < len(ACTIONS) else f"action {decision.action}"
        return [f"hold; {decision.policy} wished {wish}", f"why: {decision.why}"]
    if decision.changed:
        return [
            f"{decision.what}  [not made: mode {decision.mode}]",
            f"why: {decision.why} ({decision.policy}: {decision.reason})",
        ]
    return [decision.what, f"why: {decision.why} ({decision.policy})"]
