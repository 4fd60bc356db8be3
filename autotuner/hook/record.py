"""One record of the telemetry ring: 128 bytes that say themselves whether they are whole.

Sequence u64, kind u16, version u16, payload (``messages``, up to 104 bytes), zeros up to byte 116, then crc32 u32 of sequence,
kind, version and payload, and the sequence u64 again. Python gives no fences and arm64 reorders stores, so a reader believes a
record only when both sequences and the CRC agree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

from autotuner.messages import (
    KIND_ACKNOWLEDGEMENT,
    KIND_EVALUATION,
    KIND_GOODBYE,
    KIND_SAMPLE,
    NAN,
    PROTOCOL_VERSION,
    Acknowledgement,
    Evaluation,
    Goodbye,
    Record,
    Sample,
)

RECORD_BYTES = 128

_HEAD = struct.Struct("<QHH")  # sequence, kind, version: the payload follows
_BODY_BYTES = RECORD_BYTES - 12
FRAME = struct.Struct(f"<{_BODY_BYTES}sIQ")
"""Body, crc32 of its used part, sequence."""

_RANGES = {"Q": (0, 2**64 - 1), "I": (0, 2**32 - 1), "H": (0, 2**16 - 1), "B": (0, 2**8 - 1), "b": (-(2**7), 2**7 - 1)}


def body_struct(layout: struct.Struct) -> struct.Struct:
    """Sequence, kind, version, and the payload as ``layout`` packs it."""
    return struct.Struct(_HEAD.format + layout.format[1:])


SAMPLE_BODY = body_struct(Sample.LAYOUT)


def fitted(layout: struct.Struct, values: Sequence[float | None]) -> Iterator[float]:
    """``values`` as the layout can hold them: whole where it wants whole numbers, clipped to its range; None is unknown."""
    for kind, value in zip(_field_kinds(layout), values, strict=True):
        if kind not in _RANGES:
            yield NAN if value is None else float(value)
        else:
            low, high = _RANGES[kind]
            yield min(max(int(value or 0), low), high)


def _field_kinds(layout: struct.Struct) -> str:
    """One letter for each field: ``<Q2d`` gives ``Qdd``."""
    kinds, count = "", ""
    for letter in layout.format[1:]:
        if letter.isdigit():
            count += letter
        else:
            kinds, count = kinds + letter * int(count or 1), ""
    return kinds


def decode(data: bytes, offset: int, expected: int) -> Record | None:
    """The record at ``offset``, or None unless it is intact and number ``expected``."""
    body, crc, last = FRAME.unpack_from(data, offset)
    first, kind, version = _HEAD.unpack_from(body)
    if first != expected or last != expected or version != PROTOCOL_VERSION or kind not in _KINDS:
        return None
    layout, build = _KINDS[kind]
    if crc32(body[: _HEAD.size + layout.size]) != crc:
        return None
    return build(*layout.unpack_from(body, _HEAD.size))


def _acknowledgement(
    revision: int, step: int, time: float, refused: int, detail: int, count: int, *positions: int
) -> Acknowledgement:
    return Acknowledgement(revision, step, time, bool(refused), detail, positions[:count])


_KINDS: dict[int, tuple[struct.Struct, Callable[..., Record]]] = {
    KIND_SAMPLE: (Sample.LAYOUT, Sample),
    KIND_EVALUATION: (Evaluation.LAYOUT, Evaluation),
    KIND_ACKNOWLEDGEMENT: (Acknowledgement.LAYOUT, _acknowledgement),
    KIND_GOODBYE: (Goodbye.LAYOUT, Goodbye),
}
