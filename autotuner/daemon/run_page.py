"""The page of one run: its state, its course with the changes marked, and why each change was made."""

from __future__ import annotations

import time
from collections.abc import Sequence

from autotuner.daemon.chart import course
from autotuner.daemon.exporter import Tick
from autotuner.daemon.history import RunHistory
from autotuner.daemon.markup import Markup, tag
from autotuner.daemon.page import document
from autotuner.daemon.quantity import UNKNOWN, byte_count, duration, number, with_unit
from autotuner.daemon.snapshot import RunSnapshot
from autotuner.daemon.status_page import OUTCOMES, badge, heading, numbers, run_card
from autotuner.journal import ChangeRecord, RunRecord
from autotuner.knobs import KNOBS

CHANGE_STATES = {"observed": "good", "acknowledged": "good", "refused": "bad", "lost": "bad"}
COLUMNS = ("Time", "Step", "What", "Why", "State", "Effect")
_UNITS = {knob.name: knob.unit for knob in KNOBS}


def run_page(tick: Tick, late: bool, run: RunSnapshot | None, history: RunHistory | None, problem: str = "") -> str:
    """The page; at least one of ``run`` (the daemon still knows it) and ``history`` (in the journal) is given."""
    name = run.name if run else history.run.name if history else ""
    parts: list[Markup | None] = [heading(tick, late), tag("h2", "Run")]
    parts.append(run_card(run, tick.snapshot) if run else _ended(history.run) if history else None)
    if problem:
        parts.append(tag("p", f"The journal cannot be read: {problem}", class_="banner"))
    if history and (chart := course(history)):
        parts += [tag("h2", "Course"), chart]
    parts += [tag("h2", "Changes"), _changes(history.changes if history else ())]
    return document(f"{name or 'run'}: Autotuner", *parts)


def _ended(run: RunRecord) -> Markup:
    """A run that only the journal remembers."""
    title = tag(
        "div",
        tag("h3", run.name or run.run_id),
        badge(run.outcome or "ended", OUTCOMES.get(run.outcome, "")),
        badge(run.framework) if run.framework else None,
        tag("span", f"policy {run.policy}", class_="soft small"),
        tag("span", run.run_id, class_="soft small push"),
        class_="title",
    )
    shown = (
        ("Steps", number(run.step)),
        ("Loss", number(run.loss)),
        ("Held-out loss", number(run.final_held_out_loss)),
        ("Best held-out", number(run.best_held_out_loss)),
        ("Sample distance", number(run.final_quality)),
        ("Peak memory", byte_count(run.peak_bytes or None)),
        ("Took", duration(None if run.ended_unix is None else run.ended_unix - run.created_unix)),
    )
    return tag("section", title, numbers(shown), class_="card")


def _changes(changes: Sequence[ChangeRecord]) -> Markup:
    if not changes:
        return tag("section", tag("span", "No knob of this run has been changed.", class_="soft"), class_="card")
    head = tag("tr", *(tag("th", name) for name in COLUMNS))
    rows = (_change(change) for change in reversed(changes))
    return tag("section", tag("div", tag("table", head, *rows), class_="scroll"), class_="card")


def _change(change: ChangeRecord) -> Markup:
    unit = _UNITS.get(change.knob, "")
    what = f"{change.knob} {with_unit(change.from_value, unit)} to {with_unit(change.to_value, unit)}"
    return tag(
        "tr",
        tag("td", time.strftime("%H:%M:%S", time.localtime(change.intended_unix)), class_="nowrap soft"),
        tag("td", number(change.step), class_="nowrap"),
        tag("td", what, class_="nowrap"),
        tag("td", change.why, tag("div", f"{change.policy}: {change.reason}", class_="soft small")),
        tag("td", badge(change.state, CHANGE_STATES.get(change.state, ""))),
        tag("td", effect(change) or change.refusal or UNKNOWN, class_="soft"),
    )


def effect(change: ChangeRecord) -> str:
    """What an observed change did: throughput and peak memory, before and after."""
    words = []
    before, after = change.images_per_second_before, change.images_per_second_after
    if before and after is not None:
        words.append(f"{number(before, 3)} to {number(after, 3)} images/s ({after / before - 1:+.0%})")
    if change.peak_bytes_before and change.peak_bytes_after:
        words.append(f"peak {byte_count(change.peak_bytes_before)} to {byte_count(change.peak_bytes_after)}")
    return ", ".join(words)
