"""One connection over the socket: bytes in, bytes out, with the time passed in; knows nothing of sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotuner.daemon.socket_lines import LONGEST_LINE_BYTES, LineError, parse
from autotuner.daemon.socket_peer import Peer
from autotuner.daemon.socket_run import SocketRun
from autotuner.errors import AutotunerError
from autotuner.messages import PROTOCOL_VERSION

LINES_A_SECOND, BURST_LINES = 1000.0, 2000.0
"""More than this is not refused but read later: the client's writes block."""
MOST_UNREAD_BYTES = 65_536


class Session:
    """The lines of one client and the run that it declared."""

    def __init__(self, state: Path, peer: Peer, now: float) -> None:
        self.outgoing = bytearray()
        """What is to be sent."""
        self.run: SocketRun | None = None
        self._state = state
        self._peer = peer
        self._held = b""
        self._skipping = False
        self._number = 0
        self._credit, self._credited_at = BURST_LINES, now

    def may_read(self, now: float) -> bool:
        """Whether the client is within its rate, and has read what it was told; if not, its next writes wait."""
        self._credit = min(BURST_LINES, self._credit + (now - self._credited_at) * LINES_A_SECOND)
        self._credited_at = now
        return self._credit >= 1 and len(self.outgoing) < MOST_UNREAD_BYTES

    def take(self, data: bytes, now: float, unix: float) -> None:
        """Answer every line that ``data`` completes."""
        *lines, rest = (self._held + data).split(b"\n")
        for line in lines:
            skipped, self._skipping = self._skipping, False
            self._credit -= 1
            if skipped:
                continue  # the end of a line that was too long
            self._number += 1
            self._line(line, now, unix)
        if len(rest) > LONGEST_LINE_BYTES or self._skipping:
            if not self._skipping:
                self._number += 1
                self._refuse("", f"the line has more than {LONGEST_LINE_BYTES} bytes")
            self._skipping, rest = True, b""
        self._held = rest

    def look(self, now: float) -> None:
        """Tell the client what the daemon asks for."""
        if self.run is None or len(self.outgoing) >= MOST_UNREAD_BYTES:
            return  # who does not read is told the newest when it does
        try:
            told = self.run.news(now), self.run.request()
        except OSError as error:
            self._lose(error)
            return
        for message in filter(None, told):
            self._say(message)

    def _line(self, line: bytes, now: float, unix: float) -> None:
        if not line.strip():
            return
        try:
            if len(line) > LONGEST_LINE_BYTES:
                raise LineError("", f"the line has more than {LONGEST_LINE_BYTES} bytes")
            kind, fields = parse(line)
            self._take(kind, fields, now, unix)
        except LineError as error:
            self._refuse(error.field, str(error))
        except (AutotunerError, OSError) as error:
            self._lose(error)

    def _take(self, kind: str, fields: dict[str, Any], now: float, unix: float) -> None:
        if kind in ("declare", "resume"):
            if self.run is not None:
                raise LineError("type", f"this connection has a run already: {self.run.run_id}")
            if kind == "declare":
                self.run = SocketRun.declared(self._state, fields, self._peer, unix, now)
            else:
                self.run = SocketRun.resumed(self._state, fields["run"], self._peer)
            self._say({"type": kind + "d", "run": self.run.run_id, "protocol": PROTOCOL_VERSION, "values": self.run.values})
        elif self.run is None:
            raise LineError("type", f"{kind} comes before declare")
        else:
            getattr(self.run, kind)(fields, now)  # one of MESSAGES
            if kind == "end":
                self._say({"type": "ended", "run": self.run.run_id})
                self.run = None

    def _lose(self, error: Exception) -> None:
        """The files of the run cannot be used any more: the client may declare another."""
        run, self.run = self.run, None
        self._refuse("", f"run {run.run_id} is lost: {error}" if run else f"no run could be made: {error}")

    def _refuse(self, field: str, message: str) -> None:
        self._say({"type": "error", "line": self._number, "field": field, "message": message})

    def _say(self, message: dict[str, Any]) -> None:
        self.outgoing += json.dumps(message, allow_nan=False).encode() + b"\n"
