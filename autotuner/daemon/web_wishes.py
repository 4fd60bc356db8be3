"""What may be changed over HTTP, by whoever knows the token: the wishes of the command line, as POST with a small JSON body."""

from __future__ import annotations

import hmac
import os
import stat
import time
from collections.abc import Callable
from contextlib import closing
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any

from autotuner.daemon.log import get_log
from autotuner.daemon.modes import switch_off, switch_on
from autotuner.daemon.socket_lines import LARGEST_NUMBER, Field, LineError, checked, read_object
from autotuner.daemon.wishes import advice_of, ask, pin, release, take_mode
from autotuner.errors import AutotunerError, ConfigurationError
from autotuner.hook.checkpoint import KINDS, SAVE
from autotuner.journal import Journal, RequestRecord, RunRecord, journal_path

LONGEST_BODY_BYTES = 4096
SHORTEST_TOKEN, LONGEST_TOKEN = 16, 1024
WAIT_SECONDS = 10.0
"""How long ``accept`` and ``undo`` wait for the next tick."""
PREFIX = "/api/"

_TEXT = Field(lambda value: isinstance(value, str) and 0 < len(value) <= 200, "a string of 1 to 200 characters", None, True)
_NUMBER = Field(
    lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER, "a number"
)
_KIND = Field(lambda value: value in KINDS, f"one of {', '.join(KINDS)}", SAVE)
WISHES: dict[str, dict[str, Field]] = {
    "pin": {"run": _TEXT, "knob": _TEXT, "value": _NUMBER},
    "release": {"run": _TEXT, "knob": _TEXT},
    "mode": {"run": _TEXT, "mode": _TEXT},
    "accept": {"id": _TEXT},
    "undo": {"run": _TEXT},
    "checkpoint": {"run": _TEXT, "kind": _KIND},
    "off": {},
    "on": {},
}
"""The last part of the path to the fields of the body; docs/security.md is tested to name them all."""


def read_token(path: Path) -> str:
    """The token in a file that is its owner's alone; raises ConfigurationError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            text = file.read(LONGEST_TOKEN + 2) if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        raise ConfigurationError(f"http_token_file {path} cannot be read: {error.strerror}") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(
            f"http_token_file {path} has mode {mode:04o} of user {found.st_uid}; allowed is 0600 of yourself"
        )
    token = text.decode("ascii", "replace").strip()
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        allowed = f"{SHORTEST_TOKEN} to {LONGEST_TOKEN} letters, digits and signs, for example of: openssl rand -hex 32"
        raise ConfigurationError(f"http_token_file {path} holds no token; allowed are {allowed}")
    return token


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """Why nothing was done, and the status that says so."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class WebWishes:
    """Takes wishes for one state directory; every thread may ask."""

    def __init__(self, state: Path, token: str, wait_seconds: float = WAIT_SECONDS, checkpoint_seconds: float = 0.0) -> None:
        """``checkpoint_seconds`` is how long a script may take to its own safe point."""
        self._state = state
        self._token = token.encode()
        self._wait_seconds = wait_seconds
        self._checkpoint_seconds = checkpoint_seconds

    def body_bytes(self, path: str, headers: Message) -> int:
        """How long the body is that may be read now; raises Refused before any of it is."""
        if path.removeprefix(PREFIX) not in WISHES or not path.startswith(PREFIX):
            raise Refused(HTTPStatus.NOT_FOUND, f"no such wish; there are {', '.join(PREFIX + name for name in WISHES)}")
        # A page of another site cannot send the header below without asking first, which is refused; this is the second lock.
        if headers.get("Origin") is not None:
            raise Refused(HTTPStatus.FORBIDDEN, "a wish does not come from a web page: the Origin header must be absent")
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(errors="replace"), self._token):
            raise Refused(HTTPStatus.UNAUTHORIZED, "the header Authorization must be: Bearer, and the token of http_token_file")
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json")
        length = headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the Content-Length must be a number of bytes")
        if len(length) > 9 or int(length) > LONGEST_BODY_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {LONGEST_BODY_BYTES} bytes")
        return int(length)

    def take(self, path: str, body: bytes) -> str:
        """Do what the body asks for, as the command of the same name does, and say what was done; raises Refused."""
        name = path.removeprefix(PREFIX)
        try:
            fields = checked(WISHES[name], read_object(body or b"{}"), name)
            said = _ACTS[name](self, fields)
        except LineError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        except AutotunerError as error:
            raise Refused(HTTPStatus.CONFLICT, str(error)) from None
        get_log().info("wish", kind=name, said=said)
        return said

    def _with_run(self, fields: dict[str, Any], act: Callable[[Journal, RunRecord], str]) -> str:
        with closing(Journal(journal_path(self._state))) as journal:
            return act(journal, journal.find_run(fields["run"]))

    def _pin(self, fields: dict[str, Any]) -> str:
        return self._with_run(fields, lambda journal, run: pin(journal, run, fields["knob"], fields["value"], time.time()))

    def _release(self, fields: dict[str, Any]) -> str:
        return self._with_run(fields, lambda journal, run: release(journal, run, fields["knob"]))

    def _mode(self, fields: dict[str, Any]) -> str:
        return self._with_run(fields, lambda journal, run: take_mode(journal, run, fields["mode"]))

    def _undo(self, fields: dict[str, Any]) -> str:
        return self._with_run(fields, lambda journal, run: self._ask(journal, "undo", run.run_id, ""))

    def _checkpoint(self, fields: dict[str, Any]) -> str:
        """Save, or go back to the run's own last checkpoint: over HTTP nobody names a path."""
        wait = self._wait_seconds + self._checkpoint_seconds
        return self._with_run(fields, lambda journal, run: self._ask(journal, fields["kind"], run.run_id, "", wait))

    def _accept(self, fields: dict[str, Any]) -> str:
        with closing(Journal(journal_path(self._state))) as journal:
            advice = advice_of(journal, fields["id"])
            return self._ask(journal, "accept", advice.run_id, advice.advice_id)

    def _ask(self, journal: Journal, kind: str, run_id: str, subject: str, wait_seconds: float | None = None) -> str:
        wait = self._wait_seconds if wait_seconds is None else wait_seconds
        answered = ask(journal, RequestRecord(kind, run_id, subject, time.time()), wait)
        if not answered.done:
            raise Refused(HTTPStatus.CONFLICT, answered.answer)
        return answered.answer

    def _off(self, fields: dict[str, Any]) -> str:
        return "switched off" if switch_off(self._state) else "it was switched off before"

    def _on(self, fields: dict[str, Any]) -> str:
        return "switched on" if switch_on(self._state) else "it was not switched off"


_ACTS: dict[str, Callable[[WebWishes, dict[str, Any]], str]] = {name: getattr(WebWishes, f"_{name}") for name in WISHES}
