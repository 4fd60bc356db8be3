"""Bytes of a knob page: what the hook makes of them in the middle of a training, and the daemon that goes on with them."""

from __future__ import annotations

import shutil
import struct
import warnings
from pathlib import Path
from zlib import crc32

from hypothesis import strategies as st

from autotuner.errors import ProtocolError
from autotuner.hook import attach, knob
from autotuner.hook.checkpoint import KINDS, LONGEST_TEXT_BYTES, ability_on, answer_on, request_on
from autotuner.hook.page import PAGE_BYTES, PageReader, PageWriter, create_page
from autotuner.messages import MODES
from tests.fuzz.damage import FLOATS, WHOLE, damaged, overwrite, readable

LADDERS = {"micro_batch": [8, 16, 32, 64], "resolution": [16, 32], "pace": [0.5, 1.0]}
SLOT = struct.Struct("<QdH16b2x")  # as docs/protocol.md says
HEARTBEAT = struct.Struct("<dB3x")
REQUEST = struct.Struct("<QdBxH1024s")
ANSWER = struct.Struct("<QdQBxH1024s")
LENGTHS = (0, 1, 3, 1024, 1025, 2**16 - 1)
PATHS = (b"", b"a/b", b"\xff" * 1024, b"\x1b[2J", b"\x00" * 9, "ä".encode() * 512)
position = st.sampled_from((0, 1, 2, 3, 4, -1, 127, -128))


def _sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", crc32(data))


@st.composite
def pages(draw: st.DrawFn, whole: bytes) -> bytes:
    """A page that a daemon has written, with slots, heartbeat and word replaced by intact hostile ones, and damage over all."""
    data = bytearray(whole)
    for offset in (64, 128):
        if draw(st.booleans()):
            number = draw(st.one_of(st.integers(0, 9), st.sampled_from(WHOLE)))
            count = draw(st.sampled_from((3, 3, 3, 0, 2, 16, 17, 2**16 - 1)))
            positions = [draw(position) for _ in range(4)] + [0] * 12
            slot = _sealed(SLOT.pack(number, draw(st.sampled_from(FLOATS)), count, *positions))
            data[offset : offset + len(slot)] = slot
    if draw(st.booleans()):
        data[16:24] = struct.pack("<Q", draw(st.one_of(st.integers(0, 9), st.sampled_from(WHOLE))))
    if draw(st.booleans()):
        beat = _sealed(HEARTBEAT.pack(draw(st.sampled_from(FLOATS)), draw(st.sampled_from((0, 1, 2, 3, 255)))))
        data[32 : 32 + len(beat)] = beat
    if draw(st.booleans()):
        number, time, length = draw(st.sampled_from(WHOLE)), draw(st.sampled_from(FLOATS)), draw(st.sampled_from(LENGTHS))
        path, kind = draw(st.sampled_from(PATHS)), draw(st.sampled_from((0, 1, 2, 3, 255)))
        _put(data, 192, _sealed(struct.pack("<I", draw(st.sampled_from((0, 1, 2, 3, 2**32 - 1))))))
        _put(data, 24, struct.pack("<Q", draw(st.sampled_from((number, number, 0, 2**64 - 1)))))
        _put(data, 256, _sealed(REQUEST.pack(number, time, kind, length, path)))
        _put(data, 2048, _sealed(ANSWER.pack(number, time, draw(st.sampled_from(WHOLE)), kind, length, path)))
    return draw(damaged(bytes(data), 3)) if draw(st.booleans()) else bytes(data)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    data[offset : offset + len(piece)] = piece


def _whole_page(directory: Path) -> bytes:
    path = directory / "whole"
    create_page(path, (3, 1, 1), 0.0)
    writer = PageWriter(path)
    for revision in range(5):
        writer.write((revision % 4, 0, 1), 1.0)
    writer.heartbeat(2.0, "act")
    writer.close()
    return path.read_bytes()


class PageInput:
    """Nothing raises into the training, every value is on its ladder, and what a daemon writes afterwards is read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cases = pages(_whole_page(directory))

    def check(self, data: bytes) -> None:
        self._train(data)
        self._guide(data)

    def close(self) -> None:
        pass

    def _train(self, data: bytes) -> None:
        knobs = {name: knob(ladder[-1], ladder) for name, ladder in LADDERS.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = attach("cats", knobs=knobs, state_dir=self.directory, max_pixels=64 * 32 * 32, max_shapes=2)
            try:
                directory = run.directory
                run.on_save(lambda asked: asked.done("here"))
                run.on_restore(lambda asked: asked.failed(asked.path))
                run.report(1, 0.5)
                overwrite(run.directory / "knobs.page", data)
                for step in (2, 3, 40):
                    run.report(step, 0.5)
                    run.poll()
                    assert run.mode in (None, *MODES)
                    assert run.guided in (True, False)
                    assert all(getattr(run.knobs, name) in ladder for name, ladder in LADDERS.items())
            finally:
                run.close()
                shutil.rmtree(directory)

    def _guide(self, data: bytes) -> None:
        path = self.directory / "page"
        overwrite(path, data)
        assert set(ability_on(data)) <= set(KINDS)
        asked, answer = request_on(data), answer_on(data)
        assert asked is None or (asked.kind in ("", *KINDS) and len(asked.path) <= LONGEST_TEXT_BYTES)
        assert answer is None or (answer.text.isprintable() and len(answer.text) <= LONGEST_TEXT_BYTES)
        try:
            writer = PageWriter(path)
        except ProtocolError as error:
            readable(error)
            return
        try:
            writer.asked()
            number = writer.write((1, 1, 1), 9.0)
            writer.heartbeat(9.0, "act")
        finally:
            writer.close()
        assert path.stat().st_size >= PAGE_BYTES
        reader = PageReader(path)
        revision = reader.revision()
        assert revision is not None
        assert (revision.number, revision.positions) == (number, (1, 1, 1))
        assert reader.heartbeat().mode == "act"
