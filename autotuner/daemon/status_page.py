"""The status page: machine, runs with their knobs as ladders, the last decisions, sensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from autotuner.controller.slowdown import told
from autotuner.daemon.exporter import Tick
from autotuner.daemon.markup import Content, Markup, tag
from autotuner.daemon.page import document
from autotuner.daemon.quantity import UNKNOWN, byte_count, duration, number, percent, with_unit
from autotuner.daemon.snapshot import AdviceSnapshot, GainSnapshot, KnobSnapshot, RunSnapshot, SensorSnapshot, Snapshot
from autotuner.journal import RunRecord
from autotuner.messages import MachineState

HEAT = (("nominal", ""), ("moderate", "warn"), ("heavy", "bad"), ("trapping", "bad"), ("sleeping", "bad"))
PRESSURE = (("normal", ""), ("warn", "warn"), ("critical", "bad"))
STATES = {"live": "good", "stalled": "bad"}
OUTCOMES = {"finished": "good", "failed": "bad", "killed": "bad"}
MODES = {"act": "good", "advise": "accent"}
SCALE = 1000
"""Width of a bar in its own units."""

SNIPPET = """from autotuner.hook import attach, knob

run = attach("my-run", knobs={"micro_batch": knob(64, [8, 16, 32, 64])})
run.report(step, loss)          # once a step"""


def status_page(tick: Tick, late: bool, earlier: Sequence[RunRecord] = ()) -> str:
    """The whole page; ``late`` says that the last tick is too old, ``earlier`` are ended runs from the journal."""
    snapshot = tick.snapshot
    shown = {run.run_id for run in snapshot.runs}
    earlier = [run for run in earlier if run.run_id not in shown]
    runs = sorted(snapshot.runs, key=lambda run: (run.state == "ended", -run.started_unix))
    cards: list[Markup] = [run_card(run, snapshot) for run in runs] or [_no_runs()]
    live = sum(run.state != "ended" for run in runs)
    return document(
        f"Autotuner: {live} live",
        heading(tick, late),
        tag("h2", "Machine"),
        _machine(snapshot.machine),
        tag("h2", "Runs"),
        *cards,
        *([tag("h2", "Gain"), gain_card(snapshot.gain)] if snapshot.gain else []),
        *([tag("h2", "Earlier runs"), _earlier(earlier)] if earlier else []),
        tag("h2", "Sensors"),
        _sensors(snapshot.sensors),
    )


def heading(tick: Tick, late: bool) -> Markup:
    """Name, mode, policy and age; a banner when the last tick is too old."""
    snapshot = tick.snapshot
    head = tag(
        "header",
        tag("h1", tag("a", "Autotuner", href="/")),
        badge(snapshot.mode, MODES.get(snapshot.mode, "")),
        tag("span", f"policy {snapshot.policy}", class_="soft"),
        _injected(snapshot.machine),
        tag(
            "span",
            f"version {snapshot.version}, up {duration(snapshot.unix_time - snapshot.started_unix)}",
            class_="soft small push",
        ),
    )
    warnings = [*filter(None, [snapshot.notice]), *snapshot.problems]
    if late:
        warnings.append(f"The last tick was {duration(tick.age_seconds)} ago. Training goes on with the knobs in force.")
    return tag("div", head, *(tag("p", warning, class_="banner") for warning in warnings))


def badge(words: str, colour: str = "") -> Markup:
    """A small coloured word."""
    return tag("span", words, class_=f"badge {colour}".strip())


def _injected(machine: MachineState) -> Markup | None:
    return badge("injected readings", "warn") if machine.injected else None


def _machine(machine: MachineState) -> Markup:
    heat, heat_colour = _level(HEAT, machine.thermal_level)
    pressure, pressure_colour = _level(PRESSURE, machine.memory_pressure)
    available, total = machine.memory_available_bytes, machine.memory_total_bytes
    used = 1 - available / total if available is not None and total else None
    return tag(
        "div",
        _tile("Heat", heat, heat_colour, f"{machine.celsius:.0f} °C" if machine.celsius is not None else "no temperature"),
        _tile("Memory available", byte_count(available), "", f"of {byte_count(total)}", bar(used)),
        _tile("Memory pressure", pressure, pressure_colour, "as the system sees it"),
        _tile("Swap in use", byte_count(machine.swap_used_bytes), "", "growth means thrashing"),
        class_="tiles",
    )


def _level(names: tuple[tuple[str, str], ...], level: int | None) -> tuple[str, str]:
    if level is None:
        return UNKNOWN, ""
    return names[level] if 0 <= level < len(names) else (str(level), "warn")


def _tile(label: str, value: str, colour: str, note: str, *more: Content) -> Markup:
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", value, class_=f"value {colour}".strip()),
        tag("div", note, class_="soft small"),
        *more,
        class_="tile",
    )


def bar(share: float | None) -> Markup | None:
    """How much of a whole is used; nothing when unknown."""
    if share is None:
        return None
    colour = "bad" if share > 0.95 else "warn" if share > 0.85 else ""
    return _svg(tag("rect", class_=f"fill {colour}".strip(), width=_width(share, 1), height=10), label=percent(share))


def _svg(*shapes: Markup, label: str) -> Markup:
    return tag(
        "svg", *shapes, class_="bar", viewBox=f"0 0 {SCALE} 10", preserveAspectRatio="none", role="img", aria_label=label
    )


def _width(value: float, whole: float) -> int:
    return round(SCALE * min(max(value / whole, 0.0), 1.0)) if whole else 0


def run_card(run: RunSnapshot, snapshot: Snapshot) -> Markup:
    """Everything about one run."""
    title = tag(
        "div",
        tag("h3", tag("a", run.name or run.run_id, href=run_path(run.run_id))),
        badge(run.state, STATES.get(run.state, "")),
        badge(run.framework) if run.framework else None,
        badge("held out", "accent") if run.held_out else None,
        tag("span", badge(run.mode, MODES.get(run.mode, "")), title=run.mode_why) if run.mode_why else None,
        tag("span", f"policy {run.policy}", class_="soft small"),
        tag("span", run.run_id, class_="soft small push"),
        class_="title",
    )
    parts = tag("div", _knobs(run), _memory(run, snapshot.machine), class_="split")
    why = tag("div", f"Mode {run.mode}: {run.mode_why}", class_="soft small") if run.mode_why else None
    return tag(
        "section",
        title,
        why,
        _state(run),
        _slowdown(run, snapshot.machine),
        parts,
        _decision(run),
        *map(_advice, run.advice),
        tag("div", f"Checkpoint: {run.checkpoint}", class_="soft small") if run.checkpoint else None,
        class_="card ended" if run.state == "ended" else "card",
    )


def gain_card(gain: GainSnapshot) -> Markup:
    """What the daemon gains by its own measurement, with its interval."""
    words = f"{gain.ratio:+.0%} of the time to the same held-out loss saved, 95 % interval {gain.low:+.0%} to {gain.high:+.0%}"
    note = f"{gain.treated} tuned runs against {gain.held_out} that were left at their script's own values"
    return tag("section", tag("div", words, class_="what"), tag("div", note, class_="soft small"), class_="card")


def run_path(run_id: str) -> str:
    """Where the page of a run is."""
    return "/runs/" + quote(run_id, safe="", errors="replace")


def _state(run: RunSnapshot) -> Markup:
    shown = (
        ("Step", number(run.step)),
        ("Loss", number(run.loss)),
        ("Held-out loss", number(run.held_out_loss)),
        ("Sample distance", number(run.quality)),
        ("Student over teacher", number(run.gap)),
        ("Images a second", number(run.images_per_second)),
        ("Step time", duration(run.step_seconds)),
        ("Budget used", percent(run.budget_used)),
        ("Sample age", duration(run.last_sample_age_seconds)),
    )
    return numbers(shown)


def _slowdown(run: RunSnapshot, machine: MachineState) -> Markup | None:
    """What run and system say of throttling; nothing of a run that has ended, whose steps are no news."""
    words = "" if run.state == "ended" else told(run.slowdown_ratio, run.slow, machine.thermal_level)
    return tag("div", f"Speed: {words}", class_="small") if words else None


def numbers(shown: Iterable[tuple[str, str]]) -> Markup:
    """Names with their values, side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in shown), class_="numbers")


def _knobs(run: RunSnapshot) -> Markup:
    if not run.knobs:
        return tag("div", tag("div", "Knobs", class_="part"), tag("span", "none declared", class_="soft"))
    return tag("div", tag("div", "Knobs", class_="part"), *(_ladder(knob) for knob in run.knobs))


def _ladder(knob: KnobSnapshot) -> Markup:
    waiting = knob.asked != knob.acknowledged
    rungs = [tag("span", with_unit(value, knob.unit), class_=_rung(knob, value)) for value in knob.values]
    state = f"{with_unit(knob.acknowledged, knob.unit)} in force"
    state += f", {with_unit(knob.asked, knob.unit)} asked" if waiting else ""
    return tag(
        "div",
        tag("span", knob.name, class_="name"),
        tag(
            "span",
            *rungs,
            badge("pinned", "warn") if knob.pinned else None,
            tag("span", f"{with_unit(knob.asked, knob.unit)} asked", class_="soft small") if waiting else None,
            class_="ladder",
        ),
        class_="knob pinned" if knob.pinned else "knob",
        title=f"{knob.name} in {knob.unit}: {state}",
    )


def _rung(knob: KnobSnapshot, value: float) -> str:
    if value == knob.acknowledged:
        return "rung on"
    return "rung asked" if value == knob.asked else "rung"


def _memory(run: RunSnapshot, machine: MachineState) -> Markup:
    used = run.active_bytes + run.cache_bytes
    if not used and not run.peak_bytes:
        return tag("div", tag("div", "Framework memory", class_="part"), tag("span", "not reported", class_="soft"))
    whole = max(machine.memory_total_bytes or 0, used, run.peak_bytes, run.predicted_bytes or 0)
    active = _width(run.active_bytes, whole)
    shapes = [
        tag("rect", class_="active", width=active, height=10),
        tag("rect", class_="cache", x=active, width=_width(run.cache_bytes, whole), height=10),
    ]
    if run.predicted_bytes is not None:
        shapes.append(tag("rect", class_="predicted", x=min(_width(run.predicted_bytes, whole), SCALE - 5), width=5, height=10))
    keys = (
        ("active", f"active {byte_count(run.active_bytes)}"),
        ("cache", f"cache {byte_count(run.cache_bytes)}"),
        ("predicted", f"predicted {byte_count(run.predicted_bytes)}"),
    )
    return tag(
        "div",
        tag("div", f"Framework memory, peak {byte_count(run.peak_bytes)} of {byte_count(whole)}", class_="part"),
        _svg(*shapes, label=", ".join(words for _, words in keys)),
        tag("div", *(tag("span", tag("span", class_=f"key {key}"), words) for key, words in keys), class_="keys soft"),
        tag("div", _counts(run), class_="soft small"),
    )


def _counts(run: RunSnapshot) -> str:
    changes, vetoes = sum(run.changes.values()), sum(run.vetoes.values())
    words = [f"{number(run.decisions)} decisions, {number(changes)} changes, {number(vetoes)} refused by the guard"]
    if run.not_finite_steps:
        words.append(f"not finite steps: {number(run.not_finite_steps)}")
    if run.lost_records:
        words.append(f"lost records: {number(run.lost_records)}")
    return "; ".join(words)


def _decision(run: RunSnapshot) -> Markup | None:
    if not run.last_what and not run.last_why:
        return None
    return tag(
        "div",
        tag("span", "Last decision: ", class_="soft"),
        tag("span", run.last_what, class_="what"),
        badge(f"not made: mode {run.mode}") if _kept(run) else None,
        tag("div", run.last_why, class_="soft"),
        class_="decision",
    )


def _advice(advice: AdviceSnapshot) -> Markup:
    return tag(
        "div",
        tag("span", "Advice: ", class_="soft"),
        tag("span", advice.what, class_="what"),
        tag("div", f"{advice.why}; make it with: autotuner accept {advice.advice_id}", class_="soft"),
        class_="decision",
    )


def _kept(run: RunSnapshot) -> bool:
    """Whether the mode kept the last decision from being made."""
    return run.mode in ("observe", "advise") and run.last_what != "hold" and run.policy != "you"


def _no_runs() -> Markup:
    return tag(
        "section",
        tag("div", "No run yet. A training script shows up here with these lines:"),
        tag("pre", SNIPPET),
        class_="card",
    )


def _earlier(runs: Sequence[RunRecord]) -> Markup:
    names = (("Run", ""), ("Ended as", ""), ("Steps", "right"), ("Held-out loss", "right"), ("Took", "right"), ("Policy", ""))
    return _table(names, [_earlier_row(run) for run in runs])


def _earlier_row(run: RunRecord) -> Markup:
    took = None if run.ended_unix is None else run.ended_unix - run.created_unix
    return tag(
        "tr",
        tag("td", tag("a", run.name or run.run_id, href=run_path(run.run_id))),
        tag("td", badge(run.outcome or "ended", OUTCOMES.get(run.outcome, ""))),
        tag("td", number(run.step), class_="right"),
        tag("td", number(run.final_held_out_loss), class_="right"),
        tag("td", duration(took), class_="right nowrap"),
        tag("td", run.policy, class_="soft"),
    )


def _table(names: Sequence[tuple[str, str]], rows: Sequence[Markup]) -> Markup:
    head = tag("tr", *(tag("th", name, class_=side or None) for name, side in names))
    return tag("section", tag("div", tag("table", head, *rows), class_="scroll"), class_="card")


def _sensors(sensors: Sequence[SensorSnapshot]) -> Markup:
    if not sensors:
        return tag("section", tag("span", "No sensor has been read yet.", class_="soft"), class_="card")
    names = (("Sensor", ""), ("Source", ""), ("State", ""), ("Age", "right"), ("Read in", "right"), ("Reason", ""))
    return _table(names, [_sensor(sensor) for sensor in sensors])


def _sensor(sensor: SensorSnapshot) -> Markup:
    return tag(
        "tr",
        tag("td", sensor.name),
        tag("td", sensor.source, class_="soft"),
        tag("td", badge("up", "good") if sensor.up else badge("no value")),
        tag("td", duration(sensor.age_seconds), class_="right nowrap"),
        tag("td", duration(sensor.seconds), class_="right nowrap"),
        tag("td", sensor.reason, class_="soft"),
    )
