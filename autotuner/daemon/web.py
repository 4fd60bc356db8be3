"""The loopback web server: /metrics, /healthz, the status pages and /api/status. Without a token it only reads."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from autotuner.daemon import exporter
from autotuner.daemon.exporter import Clock, Tick
from autotuner.daemon.history import History
from autotuner.daemon.log import get_log
from autotuner.daemon.page import CONTENT_SECURITY_POLICY
from autotuner.daemon.run_page import run_page
from autotuner.daemon.snapshot import Snapshot
from autotuner.daemon.status_page import status_page
from autotuner.daemon.web_listener import Listener, ShortHeaders
from autotuner.errors import JournalError
from autotuner.journal import RunRecord

if TYPE_CHECKING:
    from autotuner.daemon.web_wishes import WebWishes

ADDRESS = "127.0.0.1"
LATE_SECONDS, LATE_TICKS = 10.0, 5
"""A tick older than the larger of these makes the daemon unhealthy."""

_OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: HTTPStatus
    content_type: str
    body: bytes


def _html(status: HTTPStatus, page: str) -> Answer:
    return Answer(status, "text/html; charset=utf-8", page.encode(errors="replace"))


def _json(status: HTTPStatus, document: Any) -> Answer:
    return Answer(status, "application/json", json.dumps(_finite(document), indent=1, allow_nan=False).encode())


def _text(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", (words + "\n").encode(errors="replace"))


def _finite(value: Any) -> Any:
    """JSON has no NaN: unknown is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def status_document(tick: Tick, late: bool) -> dict[str, Any]:
    """The snapshot as JSON; counts of changes are rows, since JSON keys cannot be tuples."""
    document = asdict(tick.snapshot)
    for run in document["runs"]:
        run["changes"] = [
            {"knob": knob, "direction": direction, "reason": reason, "count": count}
            for (knob, direction, reason), count in run["changes"].items()
        ]
    return {"status": "late" if late else "ok", "tick_age_seconds": tick.age_seconds, **document}


def _is_own(host: str | None) -> bool:
    """Whether we are called by our own name: a page of another site may point its name at 127.0.0.1 (DNS rebinding)."""
    return host is not None and _OWN_HOST.fullmatch(host.strip()) is not None


def _page_of(target: str) -> str:
    """The path that a request names; empty when it names none."""
    try:
        return urlsplit(target).path
    except ValueError:  # http://[
        return ""


_NOT_OURS = _text(HTTPStatus.MISDIRECTED_REQUEST, "this server answers only to 127.0.0.1, localhost and [::1]")


class Site:
    """The pages by path, as functions of the snapshot and the journal; knows nothing of sockets."""

    def __init__(self, get_snapshot: Callable[[], Snapshot], history: History, monotonic: Clock = time.monotonic) -> None:
        self._get_snapshot = get_snapshot
        self._history = history
        self._monotonic = monotonic
        self._pages: dict[str, Callable[[Tick, bool], Answer]] = {
            "/": lambda tick, late: _html(HTTPStatus.OK, status_page(tick, late, self._earlier())),
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/api/status": lambda tick, late: _json(HTTPStatus.OK, status_document(tick, late)),
        }

    def answer(self, path: str, host: str | None) -> Answer:
        """The answer to a GET; ``host`` is the Host header."""
        if not _is_own(host):
            return _NOT_OURS
        snapshot = self._get_snapshot()
        tick = Tick(snapshot, self._monotonic())
        late = tick.age_seconds > max(LATE_SECONDS, LATE_TICKS * snapshot.tick_interval_seconds)
        page = _page_of(path)
        if page in self._pages:
            return self._pages[page](tick, late)
        if page.startswith("/runs/"):
            return self._run(tick, late, unquote(page.removeprefix("/runs/")))
        return _text(HTTPStatus.NOT_FOUND, "no such page; there are " + ", ".join([*self._pages, "/runs/<id>"]))

    def _metrics(self, tick: Tick, late: bool) -> Answer:
        page = exporter.render(lambda: tick.snapshot, lambda: tick.now)
        return Answer(HTTPStatus.OK, exporter.CONTENT_TYPE, page)

    def _health(self, tick: Tick, late: bool) -> Answer:
        snapshot = tick.snapshot
        document = {
            "status": "late" if late else "ok",
            "tick_age_seconds": tick.age_seconds,
            "tick_seconds": snapshot.tick_seconds,
            "uptime_seconds": snapshot.unix_time - snapshot.started_unix,
            "version": snapshot.version,
            "mode": snapshot.mode,
            "policy": snapshot.policy,
            "problems": snapshot.problems,
            "runs": sum(run.state != "ended" for run in snapshot.runs),
            "sensors_up": sum(sensor.up for sensor in snapshot.sensors),
        }
        return _json(HTTPStatus.SERVICE_UNAVAILABLE if late else HTTPStatus.OK, document)

    def _earlier(self) -> Sequence[RunRecord]:
        try:
            return self._history.earlier()
        except JournalError:
            return ()  # the runs of now are worth a page without it

    def _run(self, tick: Tick, late: bool, run_id: str) -> Answer:
        run = next((run for run in tick.snapshot.runs if run.run_id == run_id), None)
        history, problem = None, ""
        try:
            history = self._history.run(run_id)
        except JournalError as error:
            problem = str(error)
        if run is None and history is None:
            return _text(HTTPStatus.NOT_FOUND, f"no run {run_id!r} in the daemon or its journal; {problem}".removesuffix("; "))
        return _html(HTTPStatus.OK, run_page(tick, late, run, history, problem))


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    site: Site
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "autotuner", ""
    timeout = 10.0  # a client that says nothing may not keep a thread

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def handle_one_request(self) -> None:
        """A connection that says nothing for ``timeout``, or takes longer than REQUEST_SECONDS for one request, is closed."""
        self.server.begin(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the headers, which may be long only in all."""
        whole, self.rfile = self.rfile, ShortHeaders(self.rfile)  # type: ignore[assignment]
        try:
            return super().parse_request()
        finally:
            self.rfile = whole

    def _send(self, body: bool) -> None:
        self._reply(lambda: self.site.answer(self.path, self.headers.get("Host")), body)

    def _reply(self, answered: Callable[[], Answer], body: bool = True) -> None:
        try:
            answer = answered()
        except Exception as error:  # one broken page must not take the others with it
            get_log().error("page_failed", page=_page_of(self.path), exc_info=True)
            answer = _text(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        try:
            self.send_response(answer.status)
            for name, value in {**_HEADERS, "Content-Type": answer.content_type}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", "Bearer")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if body:
                self.wfile.write(answer.body)
        except OSError:
            self.close_connection = True  # the client left

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not events."""


class _WritingHandler(_Handler):
    """Takes wishes too."""

    wishes: WebWishes

    def do_POST(self) -> None:
        self._reply(self._take)

    def _take(self) -> Answer:
        from autotuner.daemon.web_wishes import Refused

        self.close_connection = True  # of what was not read nothing may be taken for another request
        if not _is_own(self.headers.get("Host")):
            return _NOT_OURS
        path = _page_of(self.path)
        try:
            length = self.wishes.body_bytes(path, self.headers)
            body = self._body(length)
            if len(body) < length:
                return _json(HTTPStatus.BAD_REQUEST, {"done": False, "answer": "the body is cut short"})
            return _json(HTTPStatus.OK, {"done": True, "answer": self.wishes.take(path, body)})
        except Refused as refused:
            return _json(refused.status, {"done": False, "answer": str(refused)})

    def _body(self, length: int) -> bytes:
        try:
            return self.rfile.read(length)
        except OSError:  # it took longer than ``timeout``, or the client left
            return b""


class Server:
    """The running web server."""

    def __init__(self, site: Site, port: int, wishes: WebWishes | None = None) -> None:
        kind = _WritingHandler if wishes is not None else _Handler
        handler = type("Handler", (kind,), {"site": site, "wishes": wishes})
        self._server = Listener((ADDRESS, port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="web", kwargs={"poll_interval": 0.5}, daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening; answers under way may finish."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve(get_snapshot: Callable[[], Snapshot], port: int, journal_path: Path, wishes: WebWishes | None = None) -> Server:
    """Serve the snapshot of the moment and the journal on 127.0.0.1; port 0 picks a free one.

    Nothing can be changed without ``wishes``. Raises OSError when the port is taken.
    """
    return Server(Site(get_snapshot, History(journal_path)), port, wishes)
