"""Bytes of a telemetry ring, intact records with hostile fields among them: the reader, a daemon's ticks and its pages."""

from __future__ import annotations

import itertools
import shutil
import struct
from pathlib import Path
from zlib import crc32

import structlog
from hypothesis import strategies as st
from structlog.testing import capture_logs

from autotuner.config import Config
from autotuner.daemon.history import History
from autotuner.daemon.server import Daemon
from autotuner.daemon.web import Site
from autotuner.errors import ProtocolError
from autotuner.hook.ring import HEADER_BYTES, MAX_CAPACITY, RingReader
from autotuner.messages import PROTOCOL_VERSION, Acknowledgement, Evaluation, Goodbye, Sample
from tests.fuzz.damage import FLOATS, WHOLE, damaged, overwrite, readable
from tests.suites.fake_run import FakeMachine, FakeRun
from tests.suites.hand_driven_daemon import at

CAPACITY = 16
LAYOUTS = {1: Sample.LAYOUT, 2: Evaluation.LAYOUT, 3: Acknowledgement.LAYOUT, 4: Goodbye.LAYOUT}
CASES_A_DAEMON = 200
_HEADER = struct.Struct("<8sIIIQ")  # as docs/protocol.md says
_HEAD = struct.Struct("<QHH")
_SIZES = {"Q": 8, "I": 4, "H": 2, "B": 1, "b": 1}


def header(capacity: int, version: int = PROTOCOL_VERSION, record_bytes: int = 128) -> bytes:
    """A header whose CRC agrees."""
    head = _HEADER.pack(b"ATRING1\0", version, record_bytes, capacity, 7)
    return (head + struct.pack("<I", crc32(head))).ljust(HEADER_BYTES, b"\0")


def sealed(sequence: int, kind: int, payload: bytes) -> bytes:
    """A record that is intact, whatever it says."""
    used = _HEAD.pack(sequence, kind, PROTOCOL_VERSION) + payload
    return used.ljust(116, b"\0") + struct.pack("<IQ", crc32(used), sequence)


@st.composite
def payloads(draw: st.DrawFn, kind: int, number: int) -> bytes:
    """The fields of one record: ordinary ones, of which some are extreme."""
    fields: list[float] = []
    letters = "".join(letter * int(count or 1) for count, letter in _letters(LAYOUTS[kind].format))
    for i, letter in enumerate(letters):
        extreme = draw(st.integers(0, 5)) == 0
        if letter == "d":
            fields.append(draw(st.sampled_from(FLOATS)) if extreme else float(number) if i < 3 else 0.5)
        else:
            bits = 8 * _SIZES[letter]
            value = draw(st.sampled_from(WHOLE)) % 2**bits if extreme else (number if bits == 64 else 1)
            fields.append(value - 2**bits if letter == "b" and value >= 2 ** (bits - 1) else value)
    return LAYOUTS[kind].pack(*fields)


def _letters(layout: str) -> list[tuple[str, str]]:
    found, count = [], ""
    for letter in layout[1:]:
        if letter.isdigit():
            count += letter
        else:
            found.append((count, letter))
            count = ""
    return found


@st.composite
def rings(draw: st.DrawFn) -> bytes:
    """The bytes of a whole file."""
    slots = [bytes(128)] * CAPACITY
    sequence = draw(st.sampled_from((1, 1, 1, 15, 2**53, 2**64 - 8)))
    for _ in range(draw(st.integers(0, CAPACITY))):
        kind = draw(st.sampled_from((1, 1, 1, 2, 3, 3, 4)))
        slots[sequence % CAPACITY] = sealed(sequence, kind, draw(payloads(kind, sequence % 1000)))
        jump = draw(st.sampled_from((1, 1, 1, 1, 1, 2, CAPACITY, 2**32)))
        sequence = min(sequence + jump, 2**64 - 1)
    if draw(st.integers(0, 3)):
        head = header(CAPACITY)
    else:
        capacity = draw(st.sampled_from((0, 1, 3, 15, 17, 32, MAX_CAPACITY, MAX_CAPACITY + 1, 2**31, 2**32 - 1)))
        head = header(capacity, draw(st.sampled_from((PROTOCOL_VERSION, 0))), draw(st.sampled_from((128, 0, 2**32 - 1))))
    data = head + b"".join(slots)
    return draw(damaged(data)) if draw(st.booleans()) else data


def _intact(data: bytes, capacity: int) -> set[int]:
    """Numbers of the records that may be read, found slot by slot as docs/protocol.md says."""
    numbers = set()
    for slot in range(capacity):
        record = data[HEADER_BYTES + slot * 128 :][:128]
        sequence, kind, version = _HEAD.unpack_from(record)
        crc, last = struct.unpack_from("<IQ", record, 116)
        used = _HEAD.size + LAYOUTS[kind].size if kind in LAYOUTS else 0
        if (
            used
            and version == PROTOCOL_VERSION
            and sequence == last
            and crc32(record[:used]) == crc
            and sequence % capacity == slot
        ):
            numbers.add(sequence)
    return numbers


def _beginning(data: bytes, capacity: int, known: int) -> int:
    """How many records must be read: those that follow ``known`` without a gap, whatever comes after them."""
    numbers = _intact(data, capacity)
    return next(count for count in itertools.count() if known + 1 + count not in numbers)


class RingInput:
    """A reader never believes a damaged record, a tick follows whatever is intact, and every page can be served."""

    cases = st.tuples(rings(), st.sampled_from((0, 0, 1, 5, 2**64 - 1)))

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self.daemon: Daemon | None = None

    def check(self, case: tuple[bytes, int]) -> None:
        data, known = case
        self._read(data, known)
        self._follow(data)

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.stop(at(self.now))
            self.daemon = None

    def _read(self, data: bytes, known: int) -> None:
        path = self.directory / "ring"
        overwrite(path, data)
        try:
            reader = RingReader(path, known)
        except ProtocolError as error:
            readable(error)
            return
        try:
            records = reader.read()
            assert len(records) <= reader.capacity
            assert reader.lost >= 0
            assert _beginning(data, reader.capacity, known) <= len(records) <= len(_intact(data, reader.capacity))
            assert reader.read() == []
        except ProtocolError:
            pass
        finally:
            reader.close()

    def _follow(self, data: bytes) -> None:
        if self.count % CASES_A_DAEMON == 0:
            self._restart()
        self.count += 1
        assert self.daemon is not None
        run = FakeRun(self.state, f"cats-{self.count}")
        overwrite(run.directory / "telemetry.ring", data)
        with capture_logs(processors=[structlog.processors.format_exc_info]) as logs:
            self._tick()
            self._tick()
            site = Site(lambda: self.daemon.snapshot, History(self.daemon.journal.path), lambda: self.now)
            for page in ("/", "/metrics", "/healthz", "/api/status", f"/runs/{run.declaration.run_id}"):
                assert site.answer(page, "127.0.0.1").status == 200
            shutil.rmtree(run.directory)
            self._tick()
        assert not [entry for entry in logs if entry["event"] in ("run_given_up", "frozen", "page_failed")], logs
        assert run.declaration.run_id not in self.daemon.live

    def _tick(self) -> None:
        self.now += 3.0
        self.daemon.tick(at(self.now))

    def _restart(self) -> None:
        self.close()
        self.state = self.directory / f"state-{self.count}"
        self.now = 1000.0
        config = Config(self.state, policy="rules", decision_seconds=2.0, observe_first=0, holdout=0.0)
        self.daemon = Daemon(config, FakeMachine())
        self.daemon.start(at(self.now))
