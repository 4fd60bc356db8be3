"""The Unix socket itself: who may connect, how many, how fast, and who is at the other end."""

import contextlib
import json
import os
import socket
import stat
import struct
import threading
from types import SimpleNamespace

import pytest

from autotuner.daemon import socket_server
from autotuner.daemon.run_files import RunFiles, read_declaration
from autotuner.daemon.socket_peer import Peer, parse_darwin, parse_linux, peer_of
from autotuner.daemon.socket_server import MOST_CLIENTS, SocketServer, socket_path
from autotuner.daemon.socket_session import BURST_LINES
from autotuner.errors import ConfigurationError
from autotuner.messages import Acknowledgement, Goodbye
from tests.suites.socket_messages import DECLARE, ME


@pytest.fixture
def server(tmp_path):
    server = SocketServer(tmp_path)
    yield server
    server.close()
    assert not server.path.exists()


def connected(server):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20.0)  # a test that fails should end
    connection.connect(os.fspath(server.path))
    return connection, connection.makefile("rw", buffering=1)


def test_a_run_over_the_real_socket(server, tmp_path):
    connection, stream = connected(server)
    with connection, stream:
        stream.write(json.dumps(DECLARE) + "\n")
        run = json.loads(stream.readline())["run"]
        assert read_declaration(tmp_path / "runs" / run).pid == os.getpid()
        files = RunFiles(tmp_path / "runs" / run)
        files.write((0, 1), 1.0)
        assert json.loads(stream.readline())["values"]["micro_batch"] == 2
        stream.write('{"type": "acknowledge", "revision": 1, "step": 2}\n{"type": "end"}\n')
        assert json.loads(stream.readline())["type"] == "ended"
        assert [type(record) for record in files.read()] == [Acknowledgement, Goodbye]


def test_the_socket_is_its_owners_alone(server):
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


def test_another_user_is_let_go_without_an_answer(server, monkeypatch):
    monkeypatch.setattr(socket_server, "peer_of", lambda connection: Peer(1, os.getuid() + 1))
    connection, stream = connected(server)
    with connection, stream:
        assert stream.read() == ""


def test_one_client_too_many_is_let_go(server, monkeypatch):
    monkeypatch.setattr(socket_server, "MOST_CLIENTS", 1)
    first, stream = connected(server)
    with first, stream:
        stream.write("{}\n")
        assert "type" in stream.readline()
        second, other = connected(server)
        with second, other:
            assert other.read() == ""


def test_sixty_four_clients_are_served_and_one_more_when_one_has_left(server):
    """Over the real socket: each of the 64 is answered, the next is let go, and a place that becomes free is given again."""
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CLIENTS):
            connection, stream = connected(server)
            stack.enter_context(connection)
            stack.enter_context(stream)
            stream.write("{}\n")
            assert "type" in stream.readline()
        refused, other = connected(server)
        with refused, other:
            assert other.read() == ""
        connection.shutdown(socket.SHUT_WR)
        assert stream.read() == ""  # the server has let it go
        late, stream = connected(server)
        with late, stream:
            stream.write("{}\n")
            assert "type" in stream.readline()


def test_a_flood_is_read_at_its_rate_and_nobody_else_waits(tmp_path, monkeypatch):
    """With a clock that stands, no more lines are answered than the burst has, and a quiet client is served beside it."""
    monkeypatch.setattr(socket_server, "time", SimpleNamespace(monotonic=lambda: 1000.0, time=lambda: 1000.0))
    with contextlib.closing(SocketServer(tmp_path)) as server:
        flooder, answers = connected(server)
        with flooder, answers:
            lines = int(BURST_LINES) + 10_000
            sender = threading.Thread(target=lambda: flooder.sendall(b"{}\n" * lines), daemon=True)
            sender.start()
            for _ in range(int(BURST_LINES)):
                assert "type" in answers.readline()
            quiet, stream = connected(server)
            with quiet, stream:
                stream.write("{}\n")
                assert "type" in stream.readline()
            flooder.settimeout(0.3)
            extra = 0
            with contextlib.suppress(TimeoutError):
                while answers.readline():
                    extra += 1
            assert extra <= 4096 // 3  # what the last read brought with it
            flooder.shutdown(socket.SHUT_RDWR)
        sender.join(10.0)


def test_a_flood_of_bad_lines_by_a_client_that_does_not_read_is_bounded(server):
    """Its writes come to wait; another client is served meanwhile."""
    flooder, unread = connected(server)
    with flooder, unread:
        flooder.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while flooder.send(b"x\n" * 4096):
                pass
        connection, stream = connected(server)
        with connection, stream:
            stream.write(json.dumps(DECLARE) + "\n")
            assert json.loads(stream.readline())["type"] == "declared"


def test_the_socket_of_a_killed_daemon_is_replaced_and_a_file_is_not(tmp_path):
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(os.fspath(socket_path(tmp_path)))
    left.close()
    SocketServer(tmp_path).close()
    socket_path(tmp_path).write_text("precious")
    with pytest.raises(ConfigurationError, match="no socket"):
        SocketServer(tmp_path)
    assert socket_path(tmp_path).read_text() == "precious"


def test_a_path_that_is_too_long_is_told_with_its_length(tmp_path):
    with pytest.raises(ConfigurationError, match="at most 103 fit: choose a shorter --state-dir"):
        socket_path(tmp_path / ("x" * 104))


# Who is at the other end.


def test_the_peer_on_this_machine_is_this_process():
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == ME


def test_the_peer_on_macos_is_read_from_two_options():
    class Fake:
        """What sys/ucred.h and sys/un.h of macOS describe; not captured on one."""

        def getsockopt(self, level, option, size):
            assert level == 0
            return {1: struct.pack("<IIh2x16I", 0, 501, 1, *[20] * 16), 2: struct.pack("<i", 4711)}[option][:size]

    assert peer_of(Fake(), platform="darwin") == Peer(4711, 501)


def test_credentials_that_are_cut_short_are_nobody():
    with pytest.raises(OSError, match="4 bytes"):
        parse_linux(b"1234")
    with pytest.raises(OSError, match="0 bytes"):
        parse_darwin(b"", b"")
    with pytest.raises(OSError, match="version 1"):
        parse_darwin(struct.pack("<I72x", 1), b"1234")
