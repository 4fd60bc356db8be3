"""The checkpoint hand-shake: the daemon asks a run to save or to restore, and the run answers at its own safe point.

It lies in the knob page, behind the slots. 24: number of the newest request u64, read by every poll with the word before it.
192, written by the run: what it can, u32 of bits, crc32. 256, written by the daemon: number u64, when a person asked f64,
kind u8, a byte, length u16, path, crc32. 2048, written by the run: the first two of the request again, step u64, done u8, a
byte, length u16, text, crc32.
A page of before this existed has zeros there, whose checks fail: a run that can neither, and no request.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from autotuner.hook.held import HeldFile
from autotuner.hook.page import REQUEST_WORD_OFFSET, PageReader, PageWriter, checked, unchecked
from autotuner.hook.warning import warn
from autotuner.messages import LATEST_UNIX

SAVE, RESTORE = "save", "restore"
KINDS = (SAVE, RESTORE)
LONGEST_TEXT_BYTES = 1024
"""Of a path or of a reason, in UTF-8."""
LAST_STEP = 2**53

_ABILITY = struct.Struct("<I")
_ABILITY_OFFSET = 192
_REQUEST = struct.Struct(f"<QdBxH{LONGEST_TEXT_BYTES}s")
_REQUEST_OFFSET = 256
_ANSWER = struct.Struct(f"<QdQBxH{LONGEST_TEXT_BYTES}s")
_ANSWER_OFFSET = 2048
_WORD = struct.Struct("<Q")
_CODES = {"": 0, SAVE: 1, RESTORE: 2}
_KIND_OF = {code: kind for kind, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """What the daemon asks for on behalf of a person."""

    number: int
    asked_unix: float
    """With the number it says which request is meant, whatever becomes of the journal that numbers them."""
    kind: str
    """``save``, ``restore``; empty once it was withdrawn."""
    path: str = ""
    """The checkpoint to restore; empty means the run's last one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    number: int
    asked_unix: float
    """This and ``number`` are those of the request."""
    step: int
    done: bool
    text: str = ""
    """The checkpoint's path; why not, when it failed."""


class Asked:
    """A request in the hands of the script, which answers it once: in its callback, or at any later moment."""

    __slots__ = ("_answer", "kind", "path")

    def __init__(self, kind: str, path: str, answer: Callable[[bool, str, int | None], None]) -> None:
        self.kind = kind
        self.path = path
        """The checkpoint to restore; empty means the run's last one, and is always so for ``save``."""
        self._answer: Callable[[bool, str, int | None], None] | None = answer

    def done(self, path: object = "", step: int | None = None) -> None:
        """It is saved at, or restored from, ``path``; ``step`` is the checkpoint's, unknown it is the last reported one."""
        self._say(True, path, step)

    def failed(self, why: object, step: int | None = None) -> None:
        """It could not be done, and training goes on as before."""
        self._say(False, why, step)

    @property
    def answered(self) -> bool:
        """Whether the script has said what became of it."""
        return self._answer is None

    def _say(self, done: bool, text: object, step: int | None) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        try:
            answer(done, str(text), step)
        except Exception as error:  # whatever a page on a dead disk raises must not reach the script
            warn(f"the answer to a request to {self.kind} is not told: {type(error).__name__}: {error}")


class Desk:
    """The run's side: says what the run can, hands requests to the script, and writes its answers."""

    def __init__(self, path: str | os.PathLike[str], page: PageReader, step: Callable[[], int]) -> None:
        """``step`` is the last reported one. Raises OSError when the page cannot be written."""
        self._file = HeldFile(path, os.O_RDWR)
        self._page = page
        self._step = step
        self._last: Request | None = None
        self._callbacks: dict[str, Callable[[Asked], object]] = {}

    def offer(self, kind: str, callback: Callable[[Asked], object]) -> None:
        """From now on the run can be asked for this; raises OSError."""
        self._callbacks[kind] = callback
        declare_ability(self._file, self._callbacks)

    def look(self) -> None:
        """Hand over a request that was not handed over before; what the script raises is its answer."""
        request = request_on(self._page.read())
        if request is None or request == self._last:
            return
        self._last = request
        callback = self._callbacks.get(request.kind)
        if callback is None:
            return  # withdrawn
        asked = Asked(request.kind, request.path, lambda done, text, step: self._answer(request, done, text, step))
        try:
            callback(asked)
        except Exception as error:
            asked.failed(f"{type(error).__name__}: {error}")
            warn(f"a request to {request.kind} failed and training goes on: {type(error).__name__}: {error}")

    def _answer(self, request: Request, done: bool, text: str, step: int | None) -> None:
        at = self._step() if step is None else step
        write_answer(self._file, Answer(request.number, request.asked_unix, min(max(int(at), 0), LAST_STEP), done, text))


def declare_ability(file: HeldFile, kinds: Iterable[str]) -> None:
    """Write which of KINDS the run can be asked for; raises OSError."""
    bits = sum(_CODES[kind] for kind in kinds)
    file.write(checked(_ABILITY.pack(bits)), _ABILITY_OFFSET)


def write_answer(file: HeldFile, answer: Answer) -> None:
    """Write the answer to the newest request; raises OSError."""
    text = _encoded(answer.text)
    packed = _ANSWER.pack(answer.number, answer.asked_unix, answer.step, answer.done, len(text), text)
    file.write(checked(packed), _ANSWER_OFFSET)


def ask(writer: PageWriter, request: Request) -> None:
    """Put a request on the page, then announce it; raises OSError."""
    _write_request(writer, request)
    writer.put(_WORD.pack(request.number), REQUEST_WORD_OFFSET)


def withdraw(writer: PageWriter, request: Request) -> None:
    """Take a request back: a run that has not seen it yet never will. Raises OSError."""
    _write_request(writer, replace(request, kind="", path=""))


def _write_request(writer: PageWriter, request: Request) -> None:
    path = _encoded(request.path)
    packed = _REQUEST.pack(request.number, request.asked_unix, _CODES[request.kind], len(path), path)
    writer.put(checked(packed), _REQUEST_OFFSET)


def ability_on(page: bytes) -> tuple[str, ...]:
    """Which of KINDS the run can be asked for; none when the page does not say."""
    fields = unchecked(_ABILITY, page, _ABILITY_OFFSET)
    return () if fields is None else tuple(kind for kind in KINDS if int(fields[0]) & _CODES[kind])


def request_on(page: bytes) -> Request | None:
    """The newest request, or None when there is none or it is damaged or not announced yet."""
    fields = unchecked(_REQUEST, page, _REQUEST_OFFSET)
    if fields is None:
        return None
    number, asked_unix, code, length, path = fields
    announced = _WORD.unpack_from(page, REQUEST_WORD_OFFSET)[0]
    if number != announced or code not in _KIND_OF or length > LONGEST_TEXT_BYTES or not 0 <= asked_unix < LATEST_UNIX:
        return None
    return Request(number, asked_unix, _KIND_OF[code], path[:length].decode("utf-8", "replace"))


def answer_on(page: bytes) -> Answer | None:
    """The run's last answer, or None when there is none or it is damaged."""
    fields = unchecked(_ANSWER, page, _ANSWER_OFFSET)
    if fields is None:
        return None
    number, asked_unix, step, done, length, text = fields
    if length > LONGEST_TEXT_BYTES or done > 1 or step > LAST_STEP:
        return None
    return Answer(number, asked_unix, step, bool(done), _shown(text[:length].decode("utf-8", "replace")))


def _encoded(text: str) -> bytes:
    """As it is in a file's name, at most LONGEST_TEXT_BYTES, cut in the middle of no character."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= LONGEST_TEXT_BYTES else data[:LONGEST_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _shown(text: str) -> str:
    """In one line, and nothing that moves a terminal's cursor: it comes from another process."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
