"""A run that is told over the socket: its files are written here, on the client's behalf, as the hook would write them."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

from autotuner.daemon.run_files import DECLARATION, PAGE, RING, SOCKET_MARK, read_declaration
from autotuner.daemon.socket_lines import KNOB, LineError, checked
from autotuner.daemon.socket_peer import Peer
from autotuner.errors import DeclarationError, ProtocolError
from autotuner.hook.bounds import NOT_TUNABLE, Bounds
from autotuner.hook.checkpoint import KINDS, Answer, declare_ability, request_on, write_answer
from autotuner.hook.files import make_run_directory, read_bytes, replace_text
from autotuner.hook.held import HeldFile
from autotuner.hook.page import PageReader, Revision, create_page
from autotuner.hook.process import process_start
from autotuner.hook.ring import RingWriter
from autotuner.hook.shapes import ShapeLadder
from autotuner.knobs import declare
from autotuner.messages import (
    FLAG_CHECKPOINT,
    FLAG_FIRST_OF_SHAPE,
    FLAG_NOT_FINITE,
    FLAG_OUT_OF_MEMORY,
    NAN,
    OUTCOMES,
    REFUSALS,
    Acknowledgement,
    Declaration,
    Evaluation,
    Goodbye,
)

_FLAGS = {
    "not_finite": FLAG_NOT_FINITE,
    "out_of_memory": FLAG_OUT_OF_MEMORY,
    "first_of_shape": FLAG_FIRST_OF_SHAPE,
    "checkpoint": FLAG_CHECKPOINT,
}


_NOT_DECLARED = ("name", "knobs", "shape_dwell_steps", *(f"can_{kind}" for kind in KINDS))


class SocketRun:
    """One declared run: what the client says goes into the ring, what the page asks for goes to the client."""

    def __init__(
        self, declaration: Declaration, directory: Path, ring: RingWriter, dwell: int, positions: tuple[int, ...]
    ) -> None:
        self.run_id = declaration.run_id
        self._knobs = declaration.knobs
        self._ring = ring
        self._page = PageReader(directory / PAGE)
        self._answers = HeldFile(directory / PAGE, os.O_RDWR)
        self._words = self._page.words()
        """As at the last look: a request of before this connection may have been told, and is not told twice."""
        # Held as long as the connection: the kernel lets it go whatever becomes of client or daemon (see ``run_files``).
        self._mark = HeldFile(directory / SOCKET_MARK, os.O_RDONLY)
        fcntl.flock(self._mark.number, fcntl.LOCK_SH)
        if not os.fstat(self._mark.number).st_nlink:
            raise LineError("run", f"run {self.run_id} is lost")
        self._bounds = Bounds(declaration.knobs, {}, ShapeLadder(declaration.max_shapes, dwell, None), declaration.max_pixels)
        self._positions = positions
        self._revision = self._answered = 0
        self._sent: Revision | None = None
        self._step = 0
        self._bounds.use(self._positions, 0)

    @classmethod
    def declared(cls, state: Path, fields: dict[str, Any], peer: Peer, unix: float, now: float) -> SocketRun:
        """A new run with its files; raises LineError for what is not allowed, OSError when they cannot be made."""
        knobs = []
        for name, given in fields["knobs"].items():
            knob = checked(KNOB, given, f"knob {name!r:.80}")
            try:
                knobs.append(declare(name, knob["start"], knob["values"], knob["effect"]))
            except (DeclarationError, TypeError) as error:
                raise LineError(f"knobs.{name}"[:80], str(error)[:500]) from None
        rest = {name: value for name, value in fields.items() if name not in _NOT_DECLARED}
        directory = make_run_directory(state, fields["name"], unix)
        try:
            start = process_start(peer.pid) or 0.0
            declaration = Declaration(directory.name, fields["name"], peer.pid, start, unix, tuple(knobs), **rest)
            try:
                declaration.check()
            except DeclarationError as error:
                raise LineError("", str(error)) from None
            ring = RingWriter(directory / RING)
            create_page(directory / PAGE, declaration.start, now)
            declare_ability(HeldFile(directory / PAGE, os.O_RDWR), [kind for kind in KINDS if fields[f"can_{kind}"]])
            replace_text(directory / SOCKET_MARK, f"{fields['shape_dwell_steps']}\n")
            run = cls(declaration, directory, ring, fields["shape_dwell_steps"], declaration.start)
            replace_text(directory / DECLARATION, declaration.to_json())
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return run

    @classmethod
    def resumed(cls, state: Path, run_id: str, peer: Peer) -> SocketRun:
        """The run that this process declared before its connection was lost; raises LineError, OSError, AutotunerError."""
        runs = state / "runs"
        # The name is looked for among those that are there: no path is ever made from a message.
        directory = next((runs / name for name in os.listdir(runs) if name == run_id), None)
        if directory is None or not (directory / SOCKET_MARK).is_file():
            raise LineError("run", f"run {run_id!r:.80} was not declared over this socket, or is lost")
        declaration = read_declaration(directory)
        if (declaration.pid, declaration.pid_start) != (peer.pid, process_start(peer.pid)):
            raise LineError("run", f"run {run_id!r} was declared by process {declaration.pid}, this is {peer.pid}")
        ring, records = RingWriter.continued(directory / RING)
        if any(isinstance(record, Goodbye) for record in records):
            raise LineError("run", f"run {run_id!r} has ended")
        answers = [record for record in records if isinstance(record, Acknowledgement)]
        positions = answers[-1].positions if answers else declaration.start
        run = cls(declaration, directory, ring, _dwell(directory), declaration.start)
        for answer in answers:  # the shapes that it has used stay used
            run._bounds.use(answer.positions, answer.step)
        run._positions = positions
        run._answered = max((answer.revision for answer in answers), default=0)
        run._revision = max((answer.revision for answer in answers if not answer.refused), default=0)
        return run

    @property
    def values(self) -> dict[str, float]:
        """The values in force."""
        return self._bounds.values(self._positions)

    def report(self, fields: dict[str, Any], now: float) -> None:
        """One optimizer step."""
        self._step = fields["step"]
        flags = sum(flag for name, flag in _FLAGS.items() if fields[name])
        self._ring.sample(
            self._step, now, fields["loss"], fields["images"], fields["step_seconds"],
            fields["active_bytes"], fields["cache_bytes"], fields["peak_bytes"], self._revision, fields["stage"], flags,
        )  # fmt: skip

    def evaluation(self, fields: dict[str, Any], now: float) -> None:
        """One measurement on fixed data."""
        known: dict[str, Any] = {name: NAN if value is None else value for name, value in fields.items()}
        self._ring.evaluation(Evaluation(time=now, **known))

    def acknowledge(self, fields: dict[str, Any], now: float) -> None:
        """The client follows, or refuses, the revision that was last sent; raises LineError for any other."""
        sent = self._sent
        if sent is None or fields["revision"] != sent.number:
            waited = f"revision {sent.number} waits for an answer" if sent else "no change waits for an answer"
            raise LineError("revision", f"revision is {fields['revision']}; {waited}")
        self._sent = None
        if fields["refused"]:
            self._answer(sent.number, fields["step"], now, NOT_TUNABLE)
            return
        self._positions, self._revision = sent.positions, sent.number
        self._bounds.use(self._positions, fields["step"])
        self._answer(sent.number, fields["step"], now)

    def set(self, fields: dict[str, Any], now: float) -> None:
        """The client moved knobs itself: they are pinned for the rest of the run. Raises LineError."""
        positions = list(self._positions)
        names = [knob.name for knob in self._knobs]
        for name, value in fields["values"].items():
            if name not in names:
                raise LineError("values", f"values has {name!r:.80}; this run offers {', '.join(names) or 'no knob'}")
            ladder = self._knobs[names.index(name)].values
            if isinstance(value, bool) or value not in ladder:
                raise LineError("values", f"{name} is {value!r:.80}; its ladder is {list(ladder)}")
            positions[names.index(name)] = ladder.index(value)
        if not self._bounds.has_shape(positions):
            raise LineError("values", "the run has used its max_shapes shapes, and this would be one more")
        if self._sent is not None:  # it does not know of this change
            self._answer(self._sent.number, fields["step"], now, NOT_TUNABLE)
            self._sent = None
        self._positions = tuple(positions)
        self._bounds.use(self._positions, fields["step"])
        self._answer(self._revision, fields["step"], now)

    def checkpoint(self, fields: dict[str, Any], now: float) -> None:
        """The client has saved or restored, or could not; raises LineError for any request but the last one."""
        request = request_on(self._page.read())
        if request is None or fields["request"] != request.number:
            waited = f"the last request was {request.number}" if request else "nothing was asked"
            raise LineError("request", f"request is {fields['request']}; {waited}")
        text = fields["failed"] or fields["path"]
        write_answer(self._answers, Answer(request.number, request.asked_unix, fields["step"], not fields["failed"], text))

    def end(self, fields: dict[str, Any], now: float) -> None:
        """The run is over."""
        self._ring.goodbye(Goodbye(now, OUTCOMES.index(fields["outcome"])))

    def news(self, now: float) -> dict[str, Any] | None:
        """The change that the client is to be told of now, if any; what the run's own bounds forbid is refused here."""
        if self._page.announced() <= max(self._answered, self._sent.number if self._sent else 0):
            return None
        asked = self._page.revision()
        if asked is None or asked.number <= self._answered:
            return None
        code = self._bounds.refusal(asked.positions, self._positions)
        if code:
            self._sent = None
            self._answer(asked.number, self._step, now, code)
            return None
        if self._bounds.must_wait(asked.positions, self._step):
            return None
        self._sent = asked
        return {"type": "knobs", "revision": asked.number, "values": self._bounds.values(asked.positions)}

    def request(self) -> dict[str, Any] | None:
        """What the client is to be asked for now, if anything: once, at its own safe point."""
        words, before = self._page.words(), self._words
        if words[8:] == before[8:]:
            return None
        self._words = words
        request = request_on(self._page.read())
        if request is None or not request.kind:
            return None
        return {"type": "checkpoint", "request": request.number, "kind": request.kind, "path": request.path}

    def _answer(self, revision: int, step: int, now: float, code: int = 0) -> None:
        assert code in REFUSALS
        self._answered = max(self._answered, revision)
        self._ring.acknowledgement(Acknowledgement(revision, step, now, code != 0, code, self._positions))


def _dwell(directory: Path) -> int:
    """What the run declared as ``shape_dwell_steps``."""
    text = read_bytes(directory / SOCKET_MARK, 20).decode("utf-8", errors="replace").strip()
    if not text.isascii() or not text.isdigit():
        raise ProtocolError(f"{directory / SOCKET_MARK} holds {text!r}, expected a number of steps")
    return int(text)
