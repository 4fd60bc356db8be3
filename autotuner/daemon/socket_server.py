"""The Unix socket of the daemon: JSON lines from clients in any language (``docs/protocol.md``), in one thread of its own.

It shares nothing with the ticks but the files of the runs, so that no client can hold up a decision.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import threading
import time
from pathlib import Path

from autotuner.daemon.log import get_log
from autotuner.daemon.socket_peer import peer_of
from autotuner.daemon.socket_session import Session
from autotuner.errors import ConfigurationError

SOCKET_NAME = "autotuner.sock"
LONGEST_PATH_BYTES = 103
"""``sun_path`` of macOS has 104 bytes with the zero at its end; Linux has 108, and one limit for both is kinder."""
MOST_CLIENTS = 64
LOOK_SECONDS = 0.1
"""How long a change of knobs may wait before its client is told."""
_READ_BYTES = 1 << 12


def socket_path(state: Path) -> Path:
    """Where the socket of this state directory is; raises ConfigurationError when its path is too long for one."""
    path = state / SOCKET_NAME
    length = len(os.fsencode(path))
    if length > LONGEST_PATH_BYTES:
        raise ConfigurationError(
            f"the socket's path {path} has {length} bytes; at most {LONGEST_PATH_BYTES} fit: choose a shorter --state-dir"
        )
    return path


class SocketServer:
    """The open socket; ``close`` ends it and leaves every run as it is."""

    def __init__(self, state: Path) -> None:
        """Listen; the caller holds the state directory's lock. Raises ConfigurationError or OSError."""
        self._state = state
        self._path = socket_path(state)
        if self._path.is_symlink() or (self._path.exists() and not stat.S_ISSOCK(self._path.stat().st_mode)):
            raise ConfigurationError(f"{self._path} is there and is no socket; move it away")
        self._path.unlink(missing_ok=True)  # of a daemon that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(os.fspath(self._path))
            os.chmod(self._path, 0o600)  # nobody can connect before ``listen``
            self._listener.listen(MOST_CLIENTS)
        except BaseException:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._clients: dict[socket.socket, Session] = {}
        self._thread = threading.Thread(target=self._serve, name="socket", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Where clients connect."""
        return self._path

    def close(self) -> None:
        """Stop listening and let every client go."""
        self._wake.send(b"x")
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        stopped = False
        while not stopped:
            ready = self._selector.select(LOOK_SECONDS if self._clients else None)
            now = time.monotonic()
            for key, events in ready:
                if key.fileobj is self._woken:
                    stopped = True
                elif key.fileobj is self._listener:
                    self._accept(now)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._guarded(key.fileobj, events, now)
            for client in list(self._clients):
                self._guarded(client, 0, now)
        for client in list(self._clients):
            self._let_go(client, "")
        for thing in (self._listener, self._wake, self._woken, self._selector):
            thing.close()

    def _accept(self, now: float) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it left again, or there is no descriptor left
        why = ""
        try:
            peer = peer_of(client)
            if peer.uid != os.getuid():
                why = f"user {peer.uid} may not connect; allowed is {os.getuid()}"
        except OSError as error:
            why = f"nobody knows who connects: {error}"
        if len(self._clients) >= MOST_CLIENTS:
            why = why or f"{MOST_CLIENTS} clients are connected, which is the most that are allowed"
        if why:
            get_log().warning("socket_refused", why=why)
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = Session(self._state, peer, now)
        self._selector.register(client, selectors.EVENT_READ)

    def _guarded(self, client: socket.socket, events: int, now: float) -> None:
        """One broken client must not take the others with it."""
        try:
            self._attend(client, events, now)
        except (ConnectionError, TimeoutError):
            self._let_go(client, "")
        except Exception as error:
            get_log().error("socket_failed", exc_info=True)
            self._let_go(client, f"{type(error).__name__}: {error}")

    def _attend(self, client: socket.socket, events: int, now: float) -> None:
        session = self._clients.get(client)
        if session is None:
            return
        if events & selectors.EVENT_READ and session.may_read(now):
            data = client.recv(_READ_BYTES)
            if not data:
                self._let_go(client, "")
                return
            session.take(data, now, time.time())
        elif not events:
            session.look(now)
        if session.outgoing:
            with contextlib.suppress(BlockingIOError):
                del session.outgoing[: client.send(session.outgoing)]
        reads = selectors.EVENT_READ if session.may_read(now) else 0
        self._wait_for(client, reads | (selectors.EVENT_WRITE if session.outgoing else 0))

    def _wait_for(self, client: socket.socket, events: int) -> None:
        """Be woken for these; a selector knows no client that is waited for in vain."""
        known = client in self._selector.get_map()
        if events and known:
            self._selector.modify(client, events)
        elif events:
            self._selector.register(client, events)
        elif known:
            self._selector.unregister(client)

    def _let_go(self, client: socket.socket, why: str) -> None:
        if why:
            get_log().warning("socket_client_let_go", why=why)
        if self._clients.pop(client, None) is not None:
            self._wait_for(client, 0)
        client.close()
