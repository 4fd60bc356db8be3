"""What /metrics says of a snapshot."""

import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from autotuner.daemon import exporter
from tests.daemon.sample_snapshot import EMPTY, MACHINE, NOW, RUN, SNAPSHOT, STALLED

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
REGENERATE = "when the change is meant: python -m tests.daemon.test_exporter"


def page(snapshot=SNAPSHOT):
    return exporter.render(lambda: snapshot, lambda: NOW).decode()


def series(text, name):
    return re.findall(rf"^{name}(?:{{.*}})? .+$", text, re.MULTILINE)


def test_the_page_is_the_golden_file():
    assert page() == GOLDEN.read_text(), REGENERATE


def test_every_row_of_the_tables_is_in_the_golden_file():
    rows = (*exporter.DAEMON, *exporter.SENSOR, *exporter.MACHINE, *exporter.RUN, *exporter.KNOB)
    assert [row.name for row in rows if f"# TYPE autotuner_{row.name} " not in GOLDEN.read_text()] == []


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt install prometheus (Debian), brew install prometheus (macOS)"
    said = subprocess.run([promtool, "check", "metrics"], input=page(), capture_output=True, text=True, check=False)
    # A level, a count of runs and the like have no unit.
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_unknown_values_are_not_emitted():
    text = page(replace(SNAPSHOT, runs=(STALLED,), sensors=()))
    for name in (
        "held_out_loss",
        "quality",
        "student_gap",
        "step_seconds",
        "active_bytes",
        "cache_bytes",
        "predicted_bytes",
        "budget_used_ratio",
    ):
        assert series(text, f"autotuner_run_{name}") == []
    assert len(series(text, "autotuner_run_loss")) == 1


def test_a_loss_that_is_not_finite_is_not_emitted():
    for loss in (math.nan, math.inf):
        assert series(page(replace(SNAPSHOT, runs=(replace(RUN, loss=loss),))), "autotuner_run_loss") == []


def test_a_missing_machine_value_is_not_a_zero():
    text = page(replace(SNAPSHOT, machine=replace(MACHINE, celsius=None, thermal_level=0)))
    assert series(text, "autotuner_machine_celsius") == []
    assert series(text, "autotuner_machine_thermal_level") == ["autotuner_machine_thermal_level 0.0"]


def test_a_cache_of_zero_is_a_value_when_the_framework_reports_memory():
    text = page(replace(SNAPSHOT, runs=(replace(RUN, cache_bytes=0),)))
    assert series(text, "autotuner_run_cache_bytes")[0].endswith(" 0.0")


def test_a_daemon_without_runs_has_a_page():
    text = page(EMPTY)
    assert "autotuner_runs_not_exported 0.0" in text
    assert "autotuner_run_" not in text


def test_a_run_that_the_daemon_dropped_disappears():
    assert RUN.run_id in page()
    assert RUN.run_id not in page(replace(SNAPSHOT, runs=(STALLED,)))


def test_an_ended_run_does_not_age():
    aged = "\n".join(series(page(), "autotuner_run_last_sample_age_seconds"))
    assert RUN.run_id in aged
    assert "digits-20261009-070000-4500-0" not in aged


def test_runs_beyond_the_limit_are_counted_and_live_ones_come_first():
    ended = tuple(replace(RUN, run_id=f"old-{n}", state="ended", started_unix=float(n)) for n in range(exporter.MAX_RUNS))
    text = page(replace(SNAPSHOT, runs=(*ended, replace(RUN, run_id="alive", started_unix=-1.0))))
    assert "autotuner_runs_not_exported 1.0" in text
    assert len(series(text, "autotuner_run_step")) == exporter.MAX_RUNS
    assert 'autotuner_run_step{run="alive"}' in text
    assert 'run="old-0"' not in text


def test_a_sensor_listed_twice_does_not_make_a_page_that_prometheus_refuses():
    text = page(replace(SNAPSHOT, sensors=SNAPSHOT.sensors[:1] * 2))
    assert len(series(text, "autotuner_sensor_up")) == 1


def test_names_from_outside_are_bounded_and_encodable():
    text = page(replace(SNAPSHOT, runs=(replace(RUN, name='a"b\n\\\ud800' + "x" * 500),)))
    (info,) = series(text, "autotuner_run_info")
    assert 'name="a\\"b\\n\\\\?xxx' in info
    assert len(info) < 300


def test_a_long_run_id_keeps_its_beginning_and_stays_unique():
    first, second = ("long-" + "x" * 60 + end for end in "ab")
    assert exporter.short_id("digits-1") == "digits-1"
    assert exporter.short_id(first) != exporter.short_id(second)
    assert len(exporter.short_id(first)) == 40


def test_the_age_of_a_tick_grows_with_the_clock():
    text = exporter.render(lambda: SNAPSHOT, lambda: NOW + 60).decode()
    assert "autotuner_tick_age_seconds 60.25" in text


def test_there_are_no_created_series_and_no_foreign_ones():
    names = {line.split(" ")[2] for line in page().splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("autotuner_") and not name.endswith("_created") for name in names)


if __name__ == "__main__":
    GOLDEN.write_text(page())
