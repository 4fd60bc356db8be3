"""How valid input is damaged: bits, cuts, splices, repeats, huge numbers, deep nesting, long and broken text."""

from __future__ import annotations

import copy
import json
import math
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

WHOLE = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-300, 1e15, 1e300, -1e300, 1e308, -1e308, math.inf, -math.inf, math.nan)
MOST_EDITS = 6
LONGEST_MESSAGE = 2000
MOST_LEVELS = 6
"""Damage is done down to here in a document."""


def deep(depth: int, inner: Any = 0) -> Any:
    """``inner`` inside so many lists and objects, in turn."""
    for level in range(depth):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


TEXTS = (
    "",
    " ",
    "\x00",
    "a" * 300,
    "a" * 5000,
    "\ud800",
    "../../etc/passwd",
    "/",
    "<script>",
    "ä" * 70,
    "a\nb",
    "NaN",
    "~nobody-here/x",
)
HOSTILE: tuple[Any, ...] = (
    None, True, False, *WHOLE, -1, -(2**63), 10**30, 10**400, 8.5, *FLOATS, *TEXTS,
    [], {}, [[]], [None], [1, "1"], {"": 1}, {"a": math.nan}, {"a": [math.inf]}, [0] * 40, {str(i): i for i in range(40)},
    deep(12), deep(40), "@deep 200", "@deep 900", "@deep 90000",
)  # fmt: skip
LITERALS = (
    b"1e999",
    b"-1e999",
    b"NaN",
    b"Infinity",
    b"1" + b"0" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b'"\\ud800"',
    b"\xff",
    b"\x00",
)
hostile = st.sampled_from(HOSTILE)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int = MOST_EDITS) -> bytes:
    """``whole`` after up to ``most`` edits; none at all is allowed."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, most))):
        edit = draw(st.sampled_from(EDITS))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        edit(draw, data, at)
    return bytes(data)


def _flip(draw: st.DrawFn, data: bytearray, at: int) -> None:
    if data:
        data[at] ^= 1 << draw(st.integers(0, 7))


def _cut(draw: st.DrawFn, data: bytearray, at: int) -> None:
    del data[at:]


def _drop(draw: st.DrawFn, data: bytearray, at: int) -> None:
    del data[at : at + draw(st.integers(1, 200))]


def _repeat(draw: st.DrawFn, data: bytearray, at: int) -> None:
    data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 20))


def _splice(draw: st.DrawFn, data: bytearray, at: int) -> None:
    source = draw(st.integers(0, len(data)))
    piece = data[source : source + draw(st.integers(1, 200))]
    data[at : at + len(piece)] = piece


def _whole_number(draw: st.DrawFn, data: bytearray, at: int) -> None:
    width, order = draw(st.sampled_from(("<H", "<I", "<Q", ">H", ">I", ">Q"))), draw(st.sampled_from(WHOLE))
    size = struct.calcsize(width)
    data[at : at + size] = struct.pack(width, order % 256**size)


def _float(draw: st.DrawFn, data: bytearray, at: int) -> None:
    data[at : at + 8] = struct.pack("<d", draw(st.sampled_from(FLOATS)))


def _noise(draw: st.DrawFn, data: bytearray, at: int) -> None:
    noise = draw(st.binary(max_size=64))
    data[at : at + len(noise)] = noise


def _literal(draw: st.DrawFn, data: bytearray, at: int) -> None:
    data[at:at] = draw(st.sampled_from(LITERALS))


EDITS = (_flip, _cut, _drop, _repeat, _splice, _whole_number, _float, _noise, _literal)


@st.composite
def damaged_document(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """``document`` with up to ``most`` values replaced, removed or added somewhere inside."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(document, MOST_LEVELS))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.integers(0, 5))
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw(st.sampled_from((*TEXTS, "type", "knobs", "version")))] = copy.deepcopy(draw(hostile))
        elif how == 2:
            other_holder, other_key = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = copy.deepcopy(other_holder[other_key])
        else:
            holder[key] = copy.deepcopy(draw(hostile))
    return document


def as_text(document: Any, ascii_only: bool = True) -> bytes:
    """JSON, with the marks of HOSTILE replaced by what is too deep to be built."""
    text = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for depth in (200, 900, 90000):
        text = text.replace(b'"@deep %d"' % depth, b"[" * depth + b"]" * depth)
    return text


def _places(document: Any, levels: int) -> Any:
    if levels and isinstance(document, (dict, list)):
        for key, value in list(document.items() if isinstance(document, dict) else enumerate(document)):
            yield document, key
            yield from _places(value, levels - 1)


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> bytes:
    """``document`` damaged as a document, then sometimes as text: bytes, or a field that is there twice."""
    data = as_text(draw(damaged_document(document)), draw(st.booleans()))
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(damaged(data, 3))
    if how == 1 and data.startswith(b"{") and len(data) > 2:
        return b"{" + data[1:-1] + b"," + data[1:]
    return data


def readable(error: Exception) -> None:
    """A message that a person can read in a log."""
    assert 0 < len(str(error)) < LONGEST_MESSAGE, str(error)[:200]


def overwrite(path: Path, data: bytes) -> None:
    """Like ``write_bytes``; ext4 flushes a file that was emptied first, which costs 20 ms."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()
