"""What people see of throttling that the run itself shows."""

from __future__ import annotations

from dataclasses import replace

from autotuner.cli.status import lines
from autotuner.daemon.exporter import Tick
from autotuner.daemon.snapshot import Snapshot
from autotuner.daemon.status_page import run_card
from autotuner.daemon.web import status_document
from tests.daemon.sample_snapshot import ENDED, MACHINE, RUN, SNAPSHOT, STALLED

NOMINAL = replace(SNAPSHOT, machine=replace(MACHINE, thermal_level=0), runs=(RUN,))
SENTENCE = "steps take 1.31 times as long as at their best with these knobs, while the system reports no heavy heat"


def shown(snapshot: Snapshot) -> str:
    """What ``autotuner status`` prints."""
    return "\n".join(lines(status_document(Tick(snapshot, 0.0), late=False), None, []))


def test_the_status_page_says_it_of_a_live_run_only() -> None:
    assert SENTENCE in str(run_card(RUN, NOMINAL))
    for run in (replace(RUN, slow=False), STALLED, replace(ENDED, slow=True)):
        assert "Speed:" not in str(run_card(run, NOMINAL))


def test_status_says_it_below_the_run() -> None:
    assert f"  speed: {SENTENCE}" in shown(NOMINAL)
    assert "speed:" not in shown(replace(NOMINAL, runs=(replace(RUN, slow=False),)))
