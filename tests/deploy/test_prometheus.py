"""A real Prometheus scrapes a changing snapshot: every query of the dashboard and every rule is run."""

import time
from contextlib import closing
from dataclasses import replace

import pytest

from autotuner.daemon import web
from tests.daemon.sample_snapshot import MACHINE, RUN, SNAPSHOT, KnobSnapshot
from tests.deploy.prometheus_process import Prometheus, dashboard_queries

pytestmark = pytest.mark.needs_prometheus

DEMOTION = {"demoted": False, "demoted_why": "", "evidence": 1.0}
"""What the scraped daemon says of itself; a test may change it."""


def changing_snapshot():
    """The sample as it would go on: counters grow and a knob moves every second."""
    now = time.monotonic()
    seconds = int(now)
    batch = (16.0, 32.0)[seconds % 2]
    knob = KnobSnapshot("micro_batch", "images", (16, 32), batch, batch)
    changes = {("micro_batch", "up", "headroom"): seconds}
    loss = 1 / (1 + seconds % 60)
    run = replace(RUN, step=seconds, images=64 * seconds, decisions=seconds, loss=loss, changes=changes, knobs=(knob,))
    return replace(SNAPSHOT, unix_time=time.time(), machine=replace(MACHINE, time=now), runs=(run,), **DEMOTION)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prometheus")
    with (
        closing(web.serve(changing_snapshot, 0, directory / "none")) as server,
        closing(Prometheus(directory, server.port)) as running,
    ):
        yield running


def test_the_daemon_is_scraped_without_an_error(prometheus):
    assert prometheus.unanswered({"up": 'up{job="autotuner"} == 1'}) == [], prometheus.target().get("lastError")
    assert prometheus.target()["lastError"] == ""


def test_every_query_of_the_dashboard_finds_something(prometheus):
    queries = dashboard_queries()
    assert len(queries) > 25
    assert prometheus.unanswered(queries) == []


def test_every_rule_is_healthy_and_every_recording_rule_has_data(prometheus):
    recorded = {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    assert len(recorded) == 4
    assert prometheus.unanswered({name: name for name in recorded}) == []
    # Health is "unknown" until the first evaluation.
    healthy = {rule["name"] for rule in prometheus.rules() if rule["health"] == "ok"}
    assert healthy == {rule["name"] for rule in prometheus.rules()}


def test_no_alert_is_raised_by_a_machine_that_is_well(prometheus):
    assert [rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"] == []


def test_a_daemon_that_demotes_itself_raises_the_alert_with_its_reason(prometheus, monkeypatch):
    firing = (
        'ALERTS{alertname="AutotunerDemoted", alertstate="firing", policy="rules", why="held-out runs are the sooner ones"}'
    )
    why = "held-out runs are the sooner ones (evidence 22 to 1)"
    with monkeypatch.context() as scraped:
        for name, value in {"demoted": True, "demoted_why": why, "evidence": 22.0}.items():
            scraped.setitem(DEMOTION, name, value)
        assert prometheus.unanswered({"firing": firing, "evidence": "autotuner_demotion_evidence == 22"}) == []
    assert prometheus.unanswered({"over": f"absent({firing})"}) == []
