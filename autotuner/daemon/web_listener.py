"""Who may connect to the web server, how many at once, and how long one request may take."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from http.client import LineTooLong
from io import BufferedIOBase
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

from autotuner.daemon.log import get_log

MOST_CLIENTS = 32
MOST_HEADER_BYTES = 16_384
REQUEST_SECONDS = 30.0
"""From the end of one answer to the end of the next."""


class ShortHeaders:
    """A stream that has no more than MOST_HEADER_BYTES."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._left = MOST_HEADER_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """The next line; raises LineTooLong, which is answered with 431."""
        line = self._stream.readline(self._left + 1 if limit < 0 else min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("header")
        return line


class Listener(ThreadingTCPServer):
    """Not ``http.server``'s, which asks the resolver for a name that nobody reads: on some networks that takes seconds.

    It has at most MOST_CLIENTS connections, and thus threads: one more is closed at once.
    """

    allow_reuse_address = True
    daemon_threads = True
    monotonic: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, address: tuple[str, int], handler: type[BaseRequestHandler]) -> None:
        self._began: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def begin(self, connection: socket.socket) -> None:
        """A connection waits for its next request, or has begun one, since now."""
        self._began[connection] = self.monotonic()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        if len(self._began) >= MOST_CLIENTS:
            self.shutdown_request(request)
            return
        self.begin(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: end what is too slow, in sending or in taking what it asked for."""
        now = self.monotonic()
        for connection, began in list(self._began.items()):
            if now - began > REQUEST_SECONDS:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no event; anything else is one."""
        if not isinstance(sys.exception(), OSError):
            get_log().error("web_failed", exc_info=True)
