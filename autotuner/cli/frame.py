"""One view of ``autotuner top`` as lines of coloured words: pure, so that it looks the same in a test and on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from autotuner.cli.text import UNKNOWN, clock, duration, number, percent, size
from autotuner.knobs import find

Line = list[tuple[str, str]]
"""Words with the name of their style, side by side."""

STYLES = {"": "", "head": "1", "soft": "2", "good": "32", "warn": "33", "bad": "31", "bar": "7"}
PRESSURES = (("normal", "good"), ("warn", "warn"), ("critical", "bad"))
HEATS = (("nominal", "good"), ("moderate", "warn"), ("heavy", "bad"), ("trapping", "bad"), ("sleeping", "bad"))
STATES = {"live": "good", "stalled": "bad", "ended": "soft"}
EVENT_STATES = {"observed": "good", "acknowledged": "good", "refused": "bad", "lost": "bad"}
COLUMNS = (("STATE", 8), ("MODE", 8), ("STEP", 8), ("LOSS", 9), ("HELD-OUT", 9), ("IMG/S", 8), ("MEMORY", 9), ("BUDGET", 7))
LEAST_NAME = 13
FEWEST_EVENTS = 2
"""Lines that runs leave for decisions when there are more runs than fit."""
BAR = 10


def frame(view: dict[str, Any], columns: int, rows: int | None = None) -> list[Line]:
    """The lines; no more than ``rows`` when that is given."""
    document, labels = view["daemon"] or {}, view["labels"]
    top = [*_head(view, columns), *_notes(view)]
    runs = [_run(run, labels.get(run["run_id"], run["run_id"]), columns) for run in document.get("runs", ())]
    events = [_event(event, labels.get(event["run_id"], event["run_id"])) for event in view["events"]][::-1]
    if rows is None:
        body = [line for block in runs for line in block]
        return [*top, [], *_titled(_run_head(columns), body), [], *_titled([("LAST DECISIONS", "head")], events)]
    foot: Line = [(" q leaves   autotuner explain RUN tells why".ljust(columns), "bar")]
    room = rows - len(top) - 5  # two blank lines, two titles, the foot
    kept = _that_fit(runs, max(room - min(FEWEST_EVENTS, max(1, len(events))), 1), columns)
    lines = [*top, [], *_titled(_run_head(columns), kept), []]
    lines += _titled([("LAST DECISIONS", "head")], events[: max(0, rows - len(lines) - 2)])
    return [*lines[: rows - 1], *([[]] * (rows - 1 - len(lines))), foot][-rows:]


def _titled(title: Line, lines: Sequence[Line]) -> list[Line]:
    return [title, *(lines or [[("none", "soft")]])]


def _that_fit(runs: Sequence[list[Line]], room: int, columns: int) -> list[Line]:
    """Whole runs, then one line that counts the others."""
    lines: list[Line] = []
    for shown, block in enumerate(runs):
        last = shown == len(runs) - 1
        if len(lines) + len(block) > room - (0 if last else 1):
            return [*lines, [(f"and {len(runs) - shown} more: autotuner status", "soft")]]
        lines += block
    return lines


def _head(view: dict[str, Any], columns: int) -> Iterator[Line]:
    document, now = view["daemon"], clock(view["unix_time"])
    if not document:
        yield [("autotuner", "head"), (f"  {now}  {view['why']}", "bad")]
        return
    mode = {"act": "good", "off": "bad"}.get(document["mode"], "warn")
    up = duration(document["unix_time"] - document["started_unix"])
    words = f"  policy {document['policy']}  up {up}  version {document['version']}  {now}"
    injected = "  injected readings" if document["machine"]["injected"] else ""
    yield [("autotuner  ", "head"), (document["mode"], mode), (words, ""), (injected, "warn")]
    yield _machine(document["machine"], [sensor for sensor in document["sensors"] if not sensor["up"]])


def _machine(machine: dict[str, Any], silent: Sequence[dict[str, Any]]) -> Line:
    available, total = machine["memory_available_bytes"], machine["memory_total_bytes"]
    line: Line = [("memory ", "")]
    if available is None or not total:
        line.append(("unknown", "soft"))
    else:
        used = 1 - available / total
        filled = round(used * BAR)
        line.append(("#" * filled + "." * (BAR - filled), "bad" if used > 0.95 else "warn" if used > 0.85 else "good"))
        line.append((f" {size(available)} of {size(total)} free", ""))
    line += [("  pressure ", ""), _level(PRESSURES, machine["memory_pressure"]), ("  heat ", "")]
    line.append(_level(HEATS, machine["thermal_level"]))
    if machine["celsius"] is not None:
        line.append((f" {machine['celsius']:.0f} °C", ""))
    if silent:
        line.append((f"  {len(silent)} silent", "soft"))
    return line


def _level(names: Sequence[tuple[str, str]], level: int | None) -> tuple[str, str]:
    return names[level] if level is not None and 0 <= level < len(names) else ("unknown", "soft")


def _notes(view: dict[str, Any]) -> Iterator[Line]:
    document = view["daemon"]
    if not document:
        return
    for words in (document.get("notice"), view["why"], *document.get("problems", ())):
        if words:
            yield [(f"! {words}", "bad")]
    if advice := view["advice"]:
        newest = advice[-1]
        more = f" (and {len(advice) - 1} more)" if len(advice) > 1 else ""
        label = view["labels"].get(newest["run_id"], newest["run_id"])
        yield [(f"advice {newest['advice_id']} {label}: {newest['what']}{more}", "warn")]


def _run_head(columns: int) -> Line:
    return [("RUN".ljust(_name_width(columns)), "head"), *(_cell(name, name, width, "head") for name, width in _shown(columns))]


def _shown(columns: int) -> list[tuple[str, int]]:
    """As many columns as fit beside a name."""
    kept, room = [], columns - LEAST_NAME
    for name, width in COLUMNS:
        room -= width
        if room < 0:
            break
        kept.append((name, width))
    return kept


def _name_width(columns: int) -> int:
    return min(40, columns - sum(width for _, width in _shown(columns)))


def _cell(name: str, words: str, width: int, style: str = "") -> tuple[str, str]:
    if name in ("STATE", "MODE"):
        return f" {_clipped(words, width - 1).ljust(width - 1)}", style
    return words.rjust(width), style


def _run(run: dict[str, Any], label: str, columns: int) -> list[Line]:
    values = {
        "STATE": run["state"], "MODE": "held out" if run.get("held_out") else run.get("mode") or UNKNOWN,
        "STEP": str(run["step"]), "LOSS": number(run["loss"]), "HELD-OUT": number(run["held_out_loss"]),
        "IMG/S": number(run["images_per_second"]), "MEMORY": size(run["peak_bytes"] or None),
        "BUDGET": percent(run["budget_used"]),
    }  # fmt: skip
    styles = {"STATE": STATES.get(run["state"], "")}
    width = _name_width(columns)
    cells = [_cell(name, values[name], size_, styles.get(name, "")) for name, size_ in _shown(columns)]
    lines: list[Line] = [[(_clipped(label, width).ljust(width), ""), *cells]]
    if run["state"] == "ended":
        return lines
    lines += _wrapped([_knob(knob) for knob in run["knobs"]], columns)
    if run.get("mode_why"):
        lines.append([(f"  {run['mode']}: {run['mode_why']}", "warn")])
    return lines


def _knob(knob: dict[str, Any]) -> tuple[str, str]:
    """``micro_batch 8 [16] 32``; a pinned knob is marked, and one that is asked for has an arrow."""
    row = find(knob["name"])
    rungs = (f"[{row.shown(v)}]" if v == knob["acknowledged"] else row.shown(v) for v in knob["values"])
    asked = f" ->{row.shown(knob['asked'])}" if knob["asked"] != knob["acknowledged"] else ""
    words = f"{knob['name']} {' '.join(rungs)}{asked}{' pinned' if knob['pinned'] else ''}"
    return words, "warn" if asked or knob["pinned"] else "soft"


def _wrapped(parts: Sequence[tuple[str, str]], columns: int) -> list[Line]:
    lines: list[Line] = []
    used = columns
    for words, style in parts:
        if used + 3 + len(words) > columns:
            lines.append([("  ", "")])
            used = 2
        elif used > 2:
            lines[-1].append(("   ", ""))
            used += 3
        lines[-1].append((words, style))
        used += len(words)
    return lines


def _event(event: dict[str, Any], label: str) -> Line:
    state = f"[{event['state']}] "
    return [
        (f"{clock(event['time_unix'])} {_clipped(label, 16)} ", "soft"),
        (f"{event['what']} ", ""),
        (state, EVENT_STATES.get(event["state"], "warn")),
        (f"{event['by']}: {event['why']}", "soft"),
    ]


def _clipped(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 1] + "~" if width > 0 else ""


def painted(line: Line, columns: int, colour: bool) -> str:
    """The line as text of at most ``columns`` characters, with its colours if wanted; nothing in it can steer a terminal."""
    text, room = [], columns
    for words, style in line:
        plain = "".join(letter if letter.isprintable() else "?" for letter in words)
        shown = plain if len(plain) <= room else _clipped(plain, room)
        room -= len(shown)
        text.append(f"\x1b[{STYLES[style]}m{shown}\x1b[0m" if colour and STYLES[style] and shown else shown)
    return "".join(text) if colour else "".join(text).rstrip()
