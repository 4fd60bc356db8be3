"""The web server: what it serves, to whom, and that nothing from outside becomes markup."""

import http.client
import json
import math
import socket
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import fields, replace
from html.parser import HTMLParser
from http import HTTPStatus

import pytest

from autotuner.daemon import quantity, web
from autotuner.daemon.history import History
from autotuner.daemon.web import Site
from autotuner.journal import ChangeRecord, EvaluationRecord, Journal, RunRecord, TelemetryRecord
from tests.daemon.sample_snapshot import EMPTY, MACHINE, NOW, RUN, SNAPSHOT, STALLED, UNIX

EVIL = """<script>alert("1")</script>'&"""
PATHS = ("/", "/metrics", "/healthz", "/api/status", f"/runs/{RUN.run_id}")


@pytest.fixture
def journal(tmp_path):
    with closing(Journal(tmp_path / "journal.sqlite3")) as opened:
        yield opened


def site(tmp_path, snapshot=SNAPSHOT, now=NOW):
    return Site(lambda: snapshot, History(tmp_path / "journal.sqlite3"), lambda: now)


def get(tmp_path, path, snapshot=SNAPSHOT, host="127.0.0.1:9871", now=NOW):
    return site(tmp_path, snapshot, now).answer(path, host)


def body(answer):
    return answer.body.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9871", "localhost:1", "LOCALHOST", "[::1]:9871", "[::1]"])
@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_served_to_our_own_names(tmp_path, path, host):
    assert get(tmp_path, path, host=host).status == HTTPStatus.OK


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9871", "localhost:80@evil", "10.0.0.1", "::1"],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_rebound_name_gets_nothing(tmp_path, path, host):
    answer = get(tmp_path, path, host=host)
    assert answer.status == HTTPStatus.MISDIRECTED_REQUEST
    assert b"digits" not in answer.body


def test_health_is_good_while_ticks_come(tmp_path):
    answer = get(tmp_path, "/healthz")
    assert answer.status == HTTPStatus.OK
    assert json.loads(body(answer)) == {
        "status": "ok",
        "tick_age_seconds": 0.25,
        "tick_seconds": 0.0021,
        "uptime_seconds": 7260.0,
        "version": "0.1.0",
        "mode": "act",
        "policy": "rules",
        "problems": [],
        "runs": 2,
        "sensors_up": 3,
    }


@pytest.mark.parametrize(
    ("interval", "age", "status"), [(1.0, 9.9, 200), (1.0, 10.1, 503), (0.05, 9.9, 200), (10.0, 49.0, 200), (10.0, 51.0, 503)]
)
def test_health_fails_when_the_last_tick_is_older_than_ten_seconds_and_five_ticks(tmp_path, interval, age, status):
    snapshot = replace(SNAPSHOT, tick_interval_seconds=interval, machine=replace(MACHINE, time=NOW - age))
    assert get(tmp_path, "/healthz", snapshot).status == status
    assert ("The last tick was" in body(get(tmp_path, "/", snapshot))) is (status == 503)


def test_the_status_page_shows_the_run_its_ladders_and_the_reason(tmp_path):
    page = body(get(tmp_path, "/"))
    for words in (
        "digits",
        "injected readings",
        "micro_batch 32 to 64",
        "64 asked",
        "pinned",
        "6 GiB",
        "predicted 2.6 GiB",
        "moderate",
    ):
        assert words in page
    assert '<span class="rung on">32</span><span class="rung asked">64</span>' in page
    assert "injected readings" not in body(get(tmp_path, "/", replace(SNAPSHOT, machine=replace(MACHINE, injected=False))))


def test_a_daemon_without_runs_says_how_to_get_one(tmp_path):
    assert "from autotuner.hook import attach" in body(get(tmp_path, "/", EMPTY))


def test_what_keeps_the_daemon_from_working_is_on_the_page(tmp_path):
    assert "nothing is changed: disk full" in body(
        get(tmp_path, "/", replace(SNAPSHOT, problems=("nothing is changed: disk full",)))
    )


def test_api_status_is_json_without_nan(tmp_path):
    snapshot = replace(SNAPSHOT, runs=(replace(RUN, loss=math.nan), STALLED))
    document = json.loads(body(get(tmp_path, "/api/status", snapshot)))
    assert document["runs"][0]["loss"] is None
    assert document["runs"][0]["changes"][0] == {"knob": "micro_batch", "direction": "up", "reason": "headroom", "count": 2}
    assert document["sensors"][3]["age_seconds"] is None


def test_the_page_of_a_run_shows_changes_with_why_and_effect(tmp_path, journal):
    journal.write(RunRecord(RUN.run_id, "digits", "mlx", "key", "{}", UNIX, UNIX))
    for step in range(10):
        journal.write(TelemetryRecord(RUN.run_id, UNIX + step, step, step, 1 / (1 + step), 0.4, 150.0, 1, 1, 1, None, 0, 0))
    journal.write(EvaluationRecord(RUN.run_id, UNIX, 2, 0.5, None, 0, None, 0, None))
    journal.write(
        ChangeRecord(
            RUN.run_id,
            1,
            "cache_limit",
            0,
            1,
            2**29,
            2**30,
            "headroom",
            "w",
            "there is room",
            "rules",
            UNIX,
            state="observed",
            step=5,
            images_per_second_before=100.0,
            images_per_second_after=125.0,
            peak_bytes_before=2**30,
            peak_bytes_after=2**31,
        )
    )
    journal.commit()
    page = body(get(tmp_path, f"/runs/{RUN.run_id}"))
    for words in (
        "cache_limit 512 MiB to 1 GiB",
        "there is room",
        "100 to 125 images/s (+25%), peak 1 GiB to 2 GiB",
        "<polyline",
    ):
        assert words in page
    assert page.count('class="change"') == 1


def test_an_ended_run_is_listed_and_served_from_the_journal(tmp_path, journal):
    journal.write(
        RunRecord(
            "old/1", "old", "mlx", "key", "{}", UNIX, UNIX, ended_unix=UNIX + 3600, outcome="killed", final_held_out_loss=0.25
        )
    )
    journal.commit()
    assert '<a href="/runs/old%2F1">old</a>' in body(get(tmp_path, "/"))
    page = body(get(tmp_path, "/runs/old%2F1"))
    for words in ("killed", "0.25", "1 h"):
        assert words in page


def test_a_journal_that_cannot_be_read_costs_the_past_only(tmp_path):
    (tmp_path / "journal.sqlite3").write_text("no journal")
    assert get(tmp_path, "/").status == HTTPStatus.OK
    assert "The journal cannot be read" in body(get(tmp_path, f"/runs/{RUN.run_id}"))


def test_an_unknown_run_or_page_is_not_found_and_says_what_there_is(tmp_path, journal):
    assert get(tmp_path, "/runs/none").status == HTTPStatus.NOT_FOUND
    answer = get(tmp_path, "/etc/passwd")
    assert answer.status == HTTPStatus.NOT_FOUND
    assert b"/healthz" in answer.body


class Tags(HTMLParser):
    """Every start tag, and whether the ones that need it are closed."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def poisoned(record, **keep):
    """A copy in which every text is hostile."""
    texts = {f.name: EVIL for f in fields(record) if isinstance(getattr(record, f.name), str)}
    return replace(record, **{**texts, **keep})


def test_no_text_from_outside_becomes_markup(tmp_path, journal):
    run = poisoned(
        RUN, knobs=tuple(poisoned(k) for k in RUN.knobs), changes={(EVIL,) * 3: 1}, vetoes={EVIL: 1}, run_id=RUN.run_id
    )
    snapshot = poisoned(SNAPSHOT, runs=(run,), sensors=tuple(poisoned(s) for s in SNAPSHOT.sensors), problems=(EVIL,))
    change = ChangeRecord(RUN.run_id, 1, EVIL, 0, 1, 1, 2, EVIL, EVIL, EVIL, EVIL, UNIX, state=EVIL, refusal=EVIL)
    journal.write(RunRecord(RUN.run_id, EVIL, EVIL, EVIL, "{}", UNIX, UNIX, policy=EVIL))
    journal.write(RunRecord(EVIL, EVIL, EVIL, EVIL, "{}", UNIX, UNIX, policy=EVIL, outcome=EVIL, ended_unix=UNIX))
    journal.write(change)
    journal.commit()
    for path in ("/", f"/runs/{RUN.run_id}", "/runs/" + urllib.request.quote(EVIL, safe="")):
        tags = Tags()
        page = body(get(tmp_path, path, snapshot))
        tags.feed(page)
        assert tags.open == []
        assert [tag for tag, _ in tags.seen].count("script") == 1  # our own
        assert not any(name.startswith("on") for _, attributes in tags.seen for name in attributes)
        assert "&lt;script&gt;" in page


@pytest.fixture
def server(tmp_path):
    with closing(
        web.serve(lambda: replace(SNAPSHOT, machine=replace(MACHINE, time=math.inf)), 0, tmp_path / "none")
    ) as running:
        yield running


def ask(server, method, path="/", host=None):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def test_the_server_listens_on_the_loopback_only(server):
    assert server._server.server_address[0] == "127.0.0.1"


def test_answers_carry_the_security_headers(server):
    status, headers, page = ask(server, "GET")
    assert status == 200
    assert b"digits" in page
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


def test_head_has_the_headers_and_no_body(server):
    status, headers, page = ask(server, "HEAD", "/metrics")
    assert (status, page) == (200, b"")
    assert int(headers["Content-Length"]) > 1000
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_understood(server, method):
    assert ask(server, method)[0] == HTTPStatus.NOT_IMPLEMENTED


def test_a_foreign_host_header_is_refused_over_the_wire(server):
    assert ask(server, "GET", host="evil.example")[0] == HTTPStatus.MISDIRECTED_REQUEST


def test_a_page_that_breaks_is_a_500_and_the_server_lives(tmp_path):
    states = iter([RuntimeError("boom")])

    def snapshot():
        for error in states:
            raise error
        return SNAPSHOT

    with closing(web.serve(snapshot, 0, tmp_path / "none")) as running:
        status, _, page = ask(running, "GET")
        assert (status, page) == (500, b"RuntimeError: boom\n")
        assert ask(running, "GET")[0] == 200


def test_a_client_that_leaves_in_the_middle_costs_nothing(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert ask(server, "GET")[0] == 200


def test_a_taken_port_is_an_error_and_a_closed_server_is_gone(tmp_path):
    running = web.serve(lambda: SNAPSHOT, 0, tmp_path / "none")
    with pytest.raises(OSError, match="in use"):
        web.serve(lambda: SNAPSHOT, running.port, tmp_path / "none")
    running.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=5)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (quantity.number(0.123456), "0.1235"),
        (quantity.number(12345.0), "12,345"),
        (quantity.number(math.nan), quantity.UNKNOWN),
        (quantity.byte_count(1.5 * 2**30), "1.5 GiB"),
        (quantity.byte_count(0), "0 B"),
        (quantity.byte_count(1010 * 2**20), "1,010 MiB"),
        (quantity.duration(0.0123), "12.3 ms"),
        (quantity.duration(4800), "1 h 20 min"),
        (quantity.duration(90000), "1 d 1 h"),
        (quantity.duration(60), "1 min"),
        (quantity.percent(0.42), "42 %"),
        (quantity.with_unit(0.85, "ratio"), "0.85"),
    ],
)
def test_numbers_are_readable(said, expected):
    assert said == expected
