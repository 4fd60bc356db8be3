"""Writes the tables of the documents from the code: ``python docs/generate.py``; a test finds drift."""

from __future__ import annotations

import ast
import inspect
import struct
from dataclasses import fields
from pathlib import Path

from autotuner import config as daemon_config
from autotuner.adapters.table import EFFECTS
from autotuner.cli import settings as daemon_settings
from autotuner.diffusion import config, multires, recipe
from autotuner.hook.record import RECORD_BYTES
from autotuner.knobs import KNOBS
from autotuner.messages import (
    KIND_ACKNOWLEDGEMENT,
    KIND_EVALUATION,
    KIND_GOODBYE,
    KIND_SAMPLE,
    OUTCOMES,
    REFUSALS,
    Acknowledgement,
    Evaluation,
    Goodbye,
    Sample,
)

HERE = Path(__file__).parent
PAYLOAD_OFFSET = 12
TYPES = {"Q": "u64", "I": "u32", "H": "u16", "B": "u8", "b": "i8", "d": "f64"}
ACKNOWLEDGEMENT_FIELDS = ("revision", "step", "time", "refused", "detail", "count", "positions")
RECORDS = (
    ("Sample", KIND_SAMPLE, Sample.LAYOUT, tuple(field.name for field in fields(Sample))),
    ("Evaluation", KIND_EVALUATION, Evaluation.LAYOUT, tuple(field.name for field in fields(Evaluation))),
    ("Acknowledgement", KIND_ACKNOWLEDGEMENT, Acknowledgement.LAYOUT, ACKNOWLEDGEMENT_FIELDS),
    ("Goodbye", KIND_GOODBYE, Goodbye.LAYOUT, tuple(field.name for field in fields(Goodbye))),
)


def knobs() -> str:
    """The table of knobs."""
    rows = [
        f"| `{knob.name}` | {knob.unit} | {knob.lower:g} to {_bound(knob.upper)} | {'whole' if knob.integer else 'any'} "
        f"| {'yes' if knob.shape else 'no'} | {knob.dwell_intervals} | {knob.sentence} |"
        for knob in KNOBS
    ]
    head = ["| knob | unit | allowed | numbers | new tensor shapes | fewest intervals between changes | what it is |"]
    return "\n".join([*head, "| --- | --- | --- | --- | --- | --- | --- |", *rows])


def _bound(value: float) -> str:
    return f"2^{value.bit_length() - 1}" if isinstance(value, int) and value > 2**30 else f"{value:g}"


def records() -> str:
    """One table for each kind of ring record."""
    return "\n\n".join(_record(*record) for record in RECORDS)


def codes() -> str:
    """The codes that records carry."""
    refusals = "; ".join(f"{code} {sentence}" for code, sentence in REFUSALS.items() if code)
    outcomes = "; ".join(f"{code} {outcome}" for code, outcome in enumerate(OUTCOMES))
    return f"`detail` of a refused acknowledgement: {refusals}.\n`outcome` of a goodbye: {outcomes}."


def _record(name: str, kind: int, layout: struct.Struct, names: tuple[str, ...]) -> str:
    rows, offset = [], PAYLOAD_OFFSET
    for field, (letter, count) in zip(names, _parts(layout.format), strict=True):
        rows.append(f"| {offset} | {TYPES[letter]}{f' x {count}' if count > 1 else ''} | `{field}` |")
        offset += struct.calcsize(f"<{count}{letter}")
    if offset > RECORD_BYTES - 12:
        raise ValueError(f"{name} ends at byte {offset}; the payload ends at {RECORD_BYTES - 12}")
    return "\n".join([f"**{name}** (kind {kind})", "", "| offset | type | field |", "| --- | --- | --- |", *rows])


def _parts(form: str) -> list[tuple[str, int]]:
    """``<Q16b`` gives ``[("Q", 1), ("b", 16)]``."""
    parts, digits = [], ""
    for letter in form.lstrip("<"):
        if letter.isdigit():
            digits += letter
        else:
            parts.append((letter, int(digits or 1)))
            digits = ""
    return parts


def daemon() -> str:
    """Every setting of the daemon."""
    rows = []
    for field in fields(daemon_config.Config):
        name = field.name
        if name == "state_directory":
            continue
        sentence = next(said for flag, _, said in daemon_settings.FLAGS if flag.replace("-", "_") == name)
        default = getattr(daemon_config.Config(Path()), name)
        allowed = ", ".join(f"`{value}`" for value in daemon_config.ALLOWED.get(name, ()))
        if name in daemon_config.RANGES:
            allowed = "{:g} to {:g}".format(*daemon_config.RANGES[name])
        rows.append(f"| `{name}` | `{default!r}` | {allowed} | {sentence} |")
    return "\n".join(["| setting | default | allowed | what it is |", "| --- | --- | --- | --- |", *rows])


def settings() -> str:
    """Every key of a training's TOML file, by section."""
    sections = {**recipe.sections(), "multires": tuple(field.name for field in fields(multires.Multires))}
    known = _documented(config.TrainerConfig) | _documented(multires.Multires)
    rows = []
    for section in sorted(sections):
        for key in sections[section]:
            if key in known and section not in ("data", "hook"):
                kind, default, sentence = known[key]
                rows.append(f"| `{section}.{key}` | {kind} | `{default}` | {_allowed(key)} | {sentence} |")
    return "\n".join(["| key | type | default | allowed | what it is |", "| --- | --- | --- | --- | --- |", *rows])


def _documented(record: type) -> dict[str, tuple[str, str, str]]:
    """Type, default and first sentence of each field, from the source: attribute docstrings are not kept at run time."""
    (body,) = ast.parse(inspect.getsource(record)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for line, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            said = following.value if isinstance(following, ast.Expr) else None
            sentence = str(said.value) if isinstance(said, ast.Constant) else ""
            kind = ast.unparse(line.annotation).replace(" | ", " or ")
            found[line.target.id] = (kind, ast.unparse(line.value), " ".join(sentence.split()).replace("``", "`"))
    return found


def _allowed(key: str) -> str:
    choices = config.choices()
    if key in choices:
        return ", ".join(f"`{name}`" for name in choices[key])
    if key == "form":
        return ", ".join(f"`{name}`" for name in multires.FORMS)
    if key in config.RANGES:
        low, high = config.RANGES[key]
        return f"{low:g} to {high:g}"
    return ""


def adapters() -> str:
    """Which knob takes effect when, adapter by adapter."""
    rows = [f"| {row.adapter} | `{row.knob}` | `{row.effect}` | {row.why} |" for row in EFFECTS]
    return "\n".join(["| adapter | knob | effect | why |", "| --- | --- | --- | --- |", *rows])


PAGES = {
    "knobs.md": {"knobs": knobs},
    "protocol.md": {"records": records, "codes": codes},
    "engine.md": {"settings": settings},
    "daemon.md": {"daemon": daemon},
    "adapters.md": {"adapters": adapters},
}
"""Which page has which generated block, between ``<!-- name -->`` and ``<!-- end -->``."""


def generated(page: str) -> str:
    """The page with its blocks as they should be."""
    text = (HERE / page).read_text()
    for name, block in PAGES[page].items():
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        text = f"{before}<!-- {name} -->\n{block()}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        (HERE / page).write_text(generated(page))
