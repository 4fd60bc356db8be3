"""Prometheus beside a real daemon and a real training script that is being tuned."""

import time
from contextlib import closing
from dataclasses import replace

import pytest

from autotuner.telemetry.scripted import InjectedState
from tests.deploy.prometheus_process import Prometheus, dashboard_queries

pytestmark = pytest.mark.needs_prometheus

GAIN = "Gain, by the daemon's own measurement"
NOT_IN_THIS_RUN = (
    *("Held-out loss A", "Loss and held-out loss B", "Memory D", "Vetoes by reason A", "Knob changes"),
    *(f"{GAIN} {letter}" for letter in "ABC"),
)
"""The fake training evaluates nothing, and one run is no gain (tests/deploy asks those queries of a daemon that has one); a
prediction, a veto or a change at the moment of the query may or may not be there."""


def test_a_run_that_is_tuned_is_seen_by_every_panel(stage, tmp_path):
    injected = tmp_path / "injected.json"
    calm = InjectedState(0.0, thermal_level=0, celsius=50.0, memory_pressure=0)
    stage.daemon("--injected-readings", str(injected))
    training = stage.train("cats")
    with closing(Prometheus(tmp_path, stage.address()["port"])) as prometheus:
        queries = {name: query for name, query in dashboard_queries().items() if name not in NOT_IN_THIS_RUN}
        assert prometheus.unanswered(queries, lambda: replace(calm, time=time.monotonic()).write(injected)) == []
        (info,) = prometheus.query("autotuner_run_info")
        assert info["metric"]["run"] == training.run_id
        (asked,) = prometheus.query('sum(autotuner_run_changes_total{knob="micro_batch"}) > 0')
        assert float(asked["value"][1]) == len([c for c in stage.changes(training.run_id) if c.knob == "micro_batch"])
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
