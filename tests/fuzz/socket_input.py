"""Bytes over the socket, in any pieces: a conversation whose lines are damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from autotuner.daemon.run_files import RunFiles, read_declaration
from autotuner.daemon.socket_lines import LONGEST_LINE_BYTES
from autotuner.daemon.socket_peer import Peer
from autotuner.daemon.socket_session import Session
from tests.fuzz.damage import damaged, damaged_json

ME = Peer(os.getpid(), os.getuid())
ANSWERS = {"declared", "resumed", "knobs", "ended", "error"}
CONVERSATION: tuple[dict[str, Any], ...] = (
    {"type": "report", "step": 3, "loss": 0.5, "images": 24, "step_seconds": 0.1, "active_bytes": 9, "stage": 1},
    {"type": "evaluation", "step": 4, "held_out_loss": 0.25, "quality": 3.0, "quality_steps": 4, "seconds": 1.5},
    {"type": "acknowledge", "revision": 1, "step": 6},
    {"type": "acknowledge", "revision": 1, "step": 6, "refused": True},
    {"type": "set", "step": 9, "values": {"micro_batch": 2}},
    {"type": "resume", "run": "cats"},
    {"type": "end", "outcome": "failed"},
)
DECLARE = {
    "type": "declare", "name": "cats", "framework": "x", "budget_seconds": 600, "model": {"width": 64, "layers": [1, 2]},
    "search_space": {"width": [32, 64]}, "max_shapes": 3, "max_pixels": 100000, "target": 0.1,
    "knobs": {
        "micro_batch": {"start": 8, "values": [2, 4, 8], "effect": "boundary"},
        "resolution": {"start": 32, "values": [16, 32]}, "pace": {"start": 1, "values": [0.5, 1]},
    },
}  # fmt: skip
ASK = b"?"
"""Between two pieces: the daemon asks for a change."""


@st.composite
def talks(draw: st.DrawFn) -> list[bytes]:
    """What arrives, piece by piece."""
    lines = [draw(damaged_json(DECLARE)) if draw(st.integers(0, 3)) == 0 else json.dumps(DECLARE).encode()]
    for message in draw(st.lists(st.sampled_from(CONVERSATION), max_size=6)):
        lines.append(draw(damaged_json(message)))
    if draw(st.integers(0, 9)) == 0:
        lines.insert(
            draw(st.integers(0, len(lines))),
            b"x" * draw(st.sampled_from((LONGEST_LINE_BYTES, LONGEST_LINE_BYTES + 1, 200_000))),
        )
    data = b"\n".join(lines) + b"\n"
    if draw(st.integers(0, 4)) == 0:
        data = draw(damaged(data, 3))
    pieces: list[bytes] = []
    for place in sorted(draw(st.lists(st.integers(0, len(data)), max_size=4))):
        done = sum(map(len, pieces))
        pieces.append(data[done:place])
    pieces.append(data[sum(map(len, pieces)) :])
    asks = draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    return [part for piece, asked in zip(pieces, asks, strict=True) for part in ((piece, ASK) if asked else (piece,))]


class SocketInput:
    """Each line is answered or taken, nothing is held beyond one line, and a run that was made is one that the daemon takes."""

    cases = talks()

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"

    def check(self, pieces: list[bytes]) -> None:
        session = Session(self.state, ME, now=0.0)
        try:
            for turn, piece in enumerate(pieces):
                if piece is ASK:
                    self._ask(session)
                else:
                    for start in range(0, len(piece), 4096):
                        session.take(piece[start : start + 4096], float(turn), 1000.0 + turn)
                session.look(float(turn))
                assert len(session._held) <= LONGEST_LINE_BYTES
            for line in bytes(session.outgoing).splitlines():
                answer = json.loads(line)
                assert answer["type"] in ANSWERS
                assert len(line) < 4000
            self._left_behind()
        finally:
            shutil.rmtree(self.state, ignore_errors=True)

    def close(self) -> None:
        pass

    def _ask(self, session: Session) -> None:
        if session.run is None:
            return
        files = RunFiles(self.state / "runs" / session.run.run_id)
        knobs = read_declaration(files.directory).knobs
        files.write((0,) * len(knobs), 1.0)
        files.close()

    def _left_behind(self) -> None:
        if not self.state.exists():
            return
        assert [entry.name for entry in self.state.iterdir()] == ["runs"]
        for directory in (self.state / "runs").iterdir():
            assert read_declaration(directory).run_id == directory.name
            files = RunFiles(directory)
            files.read()
            assert files.problem == ""
            files.close()
