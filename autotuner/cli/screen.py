"""A terminal taken for a while: its alternate screen, keys without Enter, and everything as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from autotuner.cli.frame import Line, painted

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """Use as a context; however it ends but for SIGKILL, the terminal is given back."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self._keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1
        self._before: list[object] | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in ENDING:
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        self._take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        with contextlib.suppress(OSError, termios.error):  # a terminal that was closed needs nothing back
            self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        return kind is KeyboardInterrupt  # Ctrl-C is a way to leave like q

    def shown(self, lines: Callable[[int, int], list[Line]], seconds: float) -> bool:
        """Draw ``lines(columns, rows)`` and wait; False when the person wants to leave."""
        columns, rows = shutil.get_terminal_size()
        text = "".join(f"{painted(line, columns, self._colour)}{TO_LINE_END}\r\n" for line in lines(columns, rows))
        self._write(HOME + text.removesuffix("\r\n") + TO_SCREEN_END)
        if self._keys < 0:
            select.select([], [], [], seconds)
            return True
        if not select.select([self._keys], [], [], seconds)[0]:
            return True
        return os.read(self._keys, 64)[:1] not in (b"q", b"Q", b"")  # nothing is the end of the terminal

    def _take(self) -> None:
        if self._keys >= 0:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._write(ENTER)

    def _give_back(self) -> None:
        self._write(LEAVE)
        if self._before is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
            self._before = None

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _pause(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its screen, and ``fg`` brings ours back."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
