"""Slow, greedy and broken clients of the web server: threads, time and bytes are bounded."""

import http.client
import socket
import threading
from contextlib import ExitStack, closing, suppress
from http import HTTPStatus
from types import SimpleNamespace

import pytest

from autotuner.daemon import web, web_listener
from autotuner.daemon.web import Answer, Server
from autotuner.daemon.web_listener import MOST_CLIENTS, MOST_HEADER_BYTES, REQUEST_SECONDS, Listener
from tests.daemon.sample_snapshot import SNAPSHOT

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def server(tmp_path):
    with closing(web.serve(lambda: SNAPSHOT, 0, tmp_path / "none")) as running:
        yield running


def connected(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def status(data):
    return int(data.split(b" ", 2)[1])


def test_one_client_too_many_is_closed_and_a_free_place_is_given_again(server, monkeypatch):
    monkeypatch.setattr(web_listener, "MOST_CLIENTS", 3)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(3)]
        for client in clients:  # answered, so that all are counted; and kept open
            client.sendall(GET + b"\r\n")
            assert status(client.recv(65536)) in (200, 503)  # the snapshot is an old one
        with connected(server) as refused:
            assert ended(refused)
        clients[0].shutdown(socket.SHUT_RDWR)
        while True:
            with connected(server) as late:
                late.sendall(GET + b"\r\n")
                if not ended(late):
                    return


def ended(client):
    """Whether the server closes the connection instead of answering."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_a_request_that_takes_too_long_is_ended_though_it_never_pauses(server):
    moment = [0.0]
    server._server.monotonic = lambda: moment[0]
    with connected(server) as slow, connected(server) as keeping:
        keeping.sendall(GET + b"\r\n")
        assert status(keeping.recv(65536)) in (200, 503)
        slow.sendall(GET)
        moment[0] = REQUEST_SECONDS - 1.0
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as other:
            other.request("GET", "/healthz")
            assert other.getresponse().read()
        slow.sendall(b"X-More: 1\r\n")
        moment[0] = REQUEST_SECONDS + 1.0
        assert ended(slow)


def test_a_client_that_does_not_take_its_answer_is_ended(monkeypatch):
    whole = bytes(100_000_000)
    over = threading.Event()
    shut_down = Listener.shutdown_request

    def shutdown_request(listener, request):
        shut_down(listener, request)
        over.set()

    monkeypatch.setattr(Listener, "shutdown_request", shutdown_request)
    site = SimpleNamespace(answer=lambda path, host: Answer(HTTPStatus.OK, "text/plain", whole))
    with closing(Server(site, 0)) as server, connected(server) as deaf:
        moment = [0.0]
        server._server.monotonic = lambda: moment[0]
        deaf.sendall(GET + b"\r\n")
        assert deaf.recv(1) == b"H"
        moment[0] = REQUEST_SECONDS + 1.0
        assert over.wait(20.0)
        taken = 0
        with suppress(ConnectionError):
            while data := deaf.recv(1 << 20):
                taken += len(data)
        assert taken < len(whole)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (GET + b"X-Long: " + b"x" * MOST_HEADER_BYTES + b"\r\n\r\n", 431),
        (GET + b"X-Many: 1\r\n" * 90 + b"\r\n", 200),
        (GET + b"X-Many: 1\r\n" * 101 + b"\r\n", 431),
        (GET + (b"X-Many: " + b"x" * 300 + b"\r\n") * 60 + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / extra words HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 421),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 50 + b"\r\n\r\n", 400),
    ],
)
def test_headers_have_an_end(server, sent, answer):
    with connected(server) as client:
        client.sendall(sent)
        data = client.recv(65536)
        found = status(data) if data.startswith(b"HTTP/1.") else 400  # to HTTP/0.9 only the body is sent
        assert found == answer or (found, answer) == (503, 200)  # the snapshot is an old one
    assert alive(server)


def alive(server):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().status == 200


def test_a_client_that_leaves_costs_nothing_and_is_forgotten(server):
    for _ in range(2 * MOST_CLIENTS):
        with connected(server) as client:
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
            client.recv(65536)
    assert alive(server)
