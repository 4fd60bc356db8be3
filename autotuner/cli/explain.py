"""``autotuner explain RUN``: each decision of a run: what was seen, what others would have done, and what came of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from autotuner.cli import OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import RUN_HELP, add_state_directory, configuration
from autotuner.cli.status import HEATS, PRESSURES, word
from autotuner.cli.text import clock, day, duration, number, percent, size
from autotuner.controller.actions import ACTIONS
from autotuner.errors import AutotunerError
from autotuner.hook.checkpoint import KINDS
from autotuner.journal import ChangeRecord, DecisionRecord, PinRecord, Reader, RequestRecord, RunRecord, journal_path
from autotuner.knobs import find

DEFAULT_LAST = 20
ASKED = ("hold", "rules", "forecast", "learned")
"""Policies whose wishes stand beside what was decided."""
_INDENT = " " * 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", help=RUN_HELP)
    parser.add_argument(
        "--last", type=int, default=DEFAULT_LAST, metavar="N", help="how many changes and refusals (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="decisions that held everything, too")
    parser.add_argument("--short", action="store_true", help="without what was seen and what other policies would have done")
    add_json(parser, "rows of the journal as JSON")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    state = configuration(arguments).state_directory
    with Reader(journal_path(state)) as journal:
        found = journal.find_run(arguments.RUN)
        changes = journal.changes(found.run_id, arguments.last)
        decisions = journal.decisions(found.run_id, arguments.last, changed_only=not arguments.all)
        pins, requests = journal.pins(found.run_id), journal.requests(found.run_id)
        context = {} if arguments.short else _context(journal, found, decisions, state / "runs" / found.run_id)
    rows = [vars(d) | context.get(d.time_unix, {}) for d in decisions]
    document = {
        "run_id": found.run_id, "mode": found.mode, "mode_why": found.mode_why, "pins": [vars(pin) for pin in pins],
        "changes": [vars(change) for change in changes], "decisions": rows, "requests": [vars(r) for r in requests],
    }  # fmt: skip
    words = "" if arguments.json else "\n".join(_lines(found, changes, decisions, pins, requests, context, arguments.last))
    show(arguments, document, words)
    return OK


def _context(journal: Reader, found: RunRecord, decisions: list[DecisionRecord], directory: Any) -> dict[float, dict[str, Any]]:
    """What was seen, and what each policy would have wished, by the decision's time."""
    from autotuner.daemon.policies import resolve_policy, shipped_artefacts
    from autotuner.replay.hindsight import seen, wishes
    from autotuner.replay.past import read_past

    context: dict[float, dict[str, Any]] = {}
    for time, facts in seen(journal, found.run_id, decisions).items():
        context[time] = {"seen": vars(facts)}
    try:
        resolved = [resolve_policy(name, shipped_artefacts()) for name in ASKED]
        policies = {one.policy.name: one.policy for one in resolved if not one.problem}
        past = read_past(journal, found, directory)
        for time, wished in wishes(past, journal.decisions(found.run_id), context.keys(), list(policies.values())):
            context[time]["wishes"] = wished
    except AutotunerError:
        pass  # a declaration or an artefact of another version: what was decided is told all the same
    return context


def _lines(
    found: RunRecord, changes: list[ChangeRecord], decisions: list[DecisionRecord], pins: list[PinRecord],
    requests: list[RequestRecord], context: dict[float, dict[str, Any]], last: int,
) -> Iterator[str]:  # fmt: skip
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
        yield f"pinned by {pin.origin}: {pin.knob}" + (
            f" at {find(pin.knob).shown(pin.value)}" if pin.value is not None else ""
        )
    # A decision that became a change of the same moment is told by the change.
    made = {decision.time_unix: decision for decision in decisions}
    told = {change.intended_unix for change in changes}
    events = [
        (
            change.intended_unix,
            [*_change(change), *_around(made.get(change.intended_unix), context), *_fate(change), *_effect(change)],
        )
        for change in changes
    ]
    events += [(d.time_unix, [*_decision(d), *_around(d, context)]) for d in decisions if d.time_unix not in told]
    # A change that was made is told by itself.
    events += [(r.asked_unix, _request(r)) for r in requests if r.answered_unix and (r.kind in KINDS or not r.done)]
    if not events:
        yield "nothing was changed or refused so far"
    for time, block in sorted(events, key=lambda event: event[0])[-last:]:
        yield f"\n{clock(time)}  " + f"\n{_INDENT}".join(block)


def _change(change: ChangeRecord) -> Iterator[str]:
    yield f"{change.what}  [{change.state}]"
    yield f"why: {change.why} ({change.policy}: {change.reason})"
    if change.predicted_bytes is not None:
        yield f"predicted memory: {size(change.predicted_bytes)}"


def _around(decision: DecisionRecord | None, context: dict[float, dict[str, Any]]) -> Iterator[str]:
    """What was seen, what the guard made of the wish, and what each policy would have wished."""
    if decision is None:
        return
    around = context.get(decision.time_unix, {})
    if facts := around.get("seen"):
        yield f"seen: {_facts(facts)}"
    if decision.policy == "guard":
        yield "guard: acted by itself, no policy was asked"
    elif decision.changed and decision.policy != "you":
        yield "guard: let it pass"
    if wished := around.get("wishes"):
        yield "policies would wish: " + ", ".join(f"{name}: {wish}" for name, wish in wished.items())


def _facts(seen: dict[str, Any]) -> str:
    told = {
        "step": None if seen["step"] is None else str(seen["step"]),
        "loss": None if seen["loss"] is None else number(seen["loss"]),
        "images/s": None if seen["images_per_second"] is None else number(seen["images_per_second"]),
        "memory": None if seen["peak_bytes"] is None else size(seen["peak_bytes"]),
        "available": None if seen["available_bytes"] is None else size(seen["available_bytes"]),
        "pressure": None if seen["memory_pressure"] is None else word(PRESSURES, seen["memory_pressure"]),
        "heat": None if seen["thermal_level"] is None else word(HEATS, seen["thermal_level"]),
        "speed of its best": None if seen["rate_against_shape"] is None else percent(seen["rate_against_shape"]),
        "budget used": None if seen["budget_used"] is None else percent(seen["budget_used"]),
    }
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None) or "nothing is recorded"


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


def _request(request: RequestRecord) -> list[str]:
    asked = f"you asked to {request.kind} {request.subject}".rstrip()
    return [f"{asked}  [done]", request.answer] if request.done else [f"{asked}  [refused]", f"why: {request.answer}"]


def _decision(decision: DecisionRecord) -> list[str]:
    if decision.vetoed:
        wish = ACTIONS[decision.action].name if 0 <= decision.action < len(ACTIONS) else f"action {decision.action}"
        wished = f"{decision.policy} wished {wish}" if decision.policy != "you" else "you asked for a change"
        return [f"hold; {wished}", f"why: {decision.why}"]
    if decision.changed:
        return [
            f"{decision.what}  [not made: mode {decision.mode}]",
            f"why: {decision.why} ({decision.policy}: {decision.reason})",
        ]
    return [decision.what, f"why: {decision.why} ({decision.policy})"]
