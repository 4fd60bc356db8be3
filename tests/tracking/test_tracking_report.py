"""The report: read from journal and result file, compared by pure functions, laid out on one page that needs nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from autotuner.errors import ConfigurationError, JournalError
from autotuner.tracking import figures
from autotuner.tracking.comparison import best_loss, final_loss, seconds_to, table, targets, text_lines
from autotuner.tracking.report import ReportRun, write_report
from autotuner.tracking.report_run import MAX_POINTS, HeatPoint
from autotuner.tracking.result_file import LossPoint, read_result

VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def text(pair, tmp_path_factory):
    """The page of both."""
    return write_report(pair, tmp_path_factory.mktemp("out") / "new", "A <title>", ["First & last."]).path.read_text()


class Outline(HTMLParser):
    """Checks that tags nest, and collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_run_is_read_from_the_journal_and_the_result_file(pair):
    run = pair[1]
    assert (run.label, run.policy, run.mode, run.outcome) == ("autotuned", "learned", "act", "finished")
    assert (run.steps, run.images) == (2050, 131_200)
    assert len(run.held_out) == 26
    assert len(run.quality) == 10
    assert run.decisions == 32
    assert run.vetoes == 2
    assert [grid.steps for grid in run.grids if grid.who == "student"] == [2, 4, 8, 16]


def test_times_count_from_the_trainers_own_start(pair):
    """The generator's trainer starts 3 s after the run was declared; changes are journaled from the declaration."""
    run = pair[1]
    assert [round(line.seconds, 6) for line in run.changes] == [2, 47, 67, 68]
    resolution = next(knob for knob in run.knobs if knob.name == "resolution")
    assert [(round(seconds, 6), value) for seconds, value in resolution.points] == [(0, 28), (0, 16), (47, 28), (151, 28)]


def test_injected_stretches_are_found(pair):
    assert [(round(first), round(last)) for first, last in pair[0].injected] == [(57, 106)]


def test_room_is_what_the_run_held_and_what_was_left(pair):
    calm, hot = pair[0].memory[10], pair[0].memory[80]
    assert calm.room_bytes > calm.peak_bytes
    assert hot.room_bytes < hot.peak_bytes


def test_without_a_result_file_the_journal_is_enough(experiment):
    run_id, _ = experiment.add("alone")
    with experiment.reader() as reader:
        run = ReportRun.load(reader, run_id, label="renamed")
    assert run.label == "renamed"
    assert len(run.held_out) == 25
    assert run.steps == 2000
    assert run.grids == ()
    assert seconds_to(run.held_out, 0.3) == 54.0


def test_a_long_run_is_thinned_to_what_can_be_drawn(experiment, monkeypatch):
    monkeypatch.setattr("autotuner.tracking.report_run.MAX_POINTS", 20)
    run_id, _ = experiment.add("long")
    with experiment.reader() as reader:
        run = ReportRun.load(reader, run_id)
    assert MAX_POINTS > 20
    assert 20 <= len(run.memory) <= 40
    assert max(point.level for point in run.heat) == 2


def test_unknown_runs_and_damaged_results_are_named(experiment, tmp_path):
    _, directory = experiment.add("known")
    with experiment.reader() as reader, pytest.raises(JournalError, match="no run is called 'other'"):
        ReportRun.load(reader, "other")
    with pytest.raises(ConfigurationError, match="no result of a training"):
        read_result(tmp_path / "nowhere")
    for text in ("{", "[]", '{"evaluations": [{"seconds": 1}]}'):
        (directory / "result.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"result\.json"):
            read_result(directory)


def test_every_run_reached_every_common_target(pair):
    levels = targets(pair)
    assert list(levels) == sorted(levels, reverse=True)
    assert all(seconds_to(run.held_out, level) is not None for run in pair for level in levels)
    assert levels[-1] == pair[0].held_out[-1].loss
    assert targets([]) == ()


def test_the_time_to_a_target_is_that_of_the_first_evaluation_below_it():
    curve = [LossPoint(seconds, 0, 0, loss, 0) for seconds, loss in ((0, 1.0), (10, 0.5), (20, 0.6), (30, 0.4))]
    assert seconds_to(curve, 0.5) == 10
    assert seconds_to(curve, 0.45) == 30
    assert seconds_to(curve, 0.3) is None


def test_the_comparison_gives_ratios_to_the_first_run_and_marks_the_best(pair):
    rows = {row.name: row for row in table(pair)}
    final = rows["final held-out loss"]
    assert final.cells[0] == f"{final_loss(pair[0]):.4f}"
    assert final.cells[1].endswith("(0.97x)")
    assert final.best == 1
    assert rows["policy"].cells == ("-", "learned (act)")
    assert rows["changes made"].cells == ("0", "4")
    assert rows["changes made"].best is None
    assert rows["frechet_pca64, student at 4 steps"].best is None
    assert rows["seconds lost to injected slowdown"].cells == ("21.5", "21.5")
    assert best_loss(pair[0]) == final_loss(pair[0])


def test_the_table_as_text_is_aligned_and_stars_the_best(pair):
    header, *lines = text_lines(pair)
    assert header.split() == ["as", "written", "autotuned"]
    final = next(line for line in lines if line.startswith("final held-out loss"))
    assert final.endswith("(0.97x) *")
    assert len({len(line.rstrip(" *")) for line in lines}) == 1


def test_a_single_run_is_compared_with_nothing(pair):
    assert all(row.best is None and "x)" not in row.cells[0] for row in table(pair[:1]))


def test_the_page_is_well_formed_and_loads_nothing(text):
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.loads
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in outline.loads)
    assert "A &lt;title&gt;" in text
    assert "First &amp; last." in text
    assert "peak 812 MiB &amp; rising, &lt;450 MiB left" in text
    assert "@import" not in text
    assert "url(http" not in text


def test_the_page_has_every_part(text):
    for heading in ("Held-out loss", "Few-step quality", "Knobs", "Memory and heat", "Changes, and why", "How to read this"):
        assert f"<h2>{heading}</h2>" in text, heading
    assert text.count("data:image/png;base64,") == 16
    assert text.count('class="badge">injected') == 2
    assert "the slowdown was imposed by sleeping" in text
    assert "Measured on Linux x86_64." in text
    assert "Offered and never moved: cache_limit" in text


def test_nothing_is_called_injected_when_nothing_was(experiment, tmp_path):
    run_id, directory = experiment.add("calm", injected=False)
    with experiment.reader() as reader:
        text = write_report([ReportRun.load(reader, run_id, directory)], tmp_path).path.read_text()
    assert 'class="badge"' not in text
    assert "imposed by sleeping" not in text


def test_a_machine_without_a_heat_sensor_gets_no_empty_heat_plot(pair):
    cold = replace(pair[1], heat=tuple(HeatPoint(point.seconds, None, None) for point in pair[1].heat))
    svg = figures.machine(cold, 1, 150.0)
    assert "framework memory" in svg
    assert "heat" not in svg


def test_a_run_that_recorded_nothing_still_gets_a_page(experiment, tmp_path):
    from autotuner.journal import Journal

    run_id, _ = experiment.add("empty")
    journal = Journal(experiment.journal)
    for name in ("telemetry", "evaluations", "machine", "changes", "decisions"):
        journal._queue(f"DELETE FROM {name}", ())
    journal.commit()
    run = ReportRun.load(journal, run_id)
    journal.close()
    text = write_report([run], tmp_path).path.read_text()
    assert "<svg" not in text
    assert "No controller decided anything here." in text


def test_a_script_that_never_told_its_memory_gets_no_memory_curve(experiment, tmp_path):
    from autotuner.journal import Journal

    run_id, _ = experiment.add("silent")
    journal = Journal(experiment.journal)
    journal._queue("UPDATE telemetry SET active_bytes = 0, cache_bytes = 0, peak_bytes = 0 WHERE run_id = ?", (run_id,))
    journal.commit()
    run = ReportRun.load(journal, run_id)
    journal.close()
    assert run.memory == ()
    assert "framework memory" not in write_report([run], tmp_path).path.read_text()


def test_a_report_on_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="at least one run"):
        write_report([], tmp_path)


def test_a_missing_picture_is_said_in_its_place(experiment, tmp_path):
    run_id, directory = experiment.add("gap")
    (directory / "grid-teacher-04.png").unlink()
    with experiment.reader() as reader:
        text = write_report([ReportRun.load(reader, run_id, directory)], tmp_path).path.read_text()
    assert "grid-teacher-04.png cannot be read" in text


@pytest.mark.parametrize(
    "draw", [figures.held_out, figures.quality, figures.knobs, lambda runs: figures.machine(runs[1], 1, 150.0)]
)
def test_a_plot_is_valid_svg_whose_colours_come_from_the_page(pair, draw):
    svg = draw(pair)
    ElementTree.fromstring(svg)
    assert "var(--run-1)" in svg
    assert not re.search("#0[12030f]0[0-9a-f]{3}", svg.replace("clip-path", ""))
    assert "<path" in svg
    assert "<text" in svg


def test_the_same_runs_give_the_same_page(pair, text, tmp_path):
    again = write_report(pair, tmp_path / "again.html", "A <title>", ["First & last."])
    assert again.path == tmp_path / "again.html"
    assert str(again) == str(again.path)
    assert again.path.read_text() == text


def test_knob_values_are_written_as_people_do():
    assert [figures.value_text(value, "bytes") for value in (2**26, 2**30, 3 * 2**29)] == ["64 MiB", "1 GiB", "1.5 GiB"]
    assert figures.value_text(0.85, "ratio") == "0.85"


def test_reading_a_result_does_not_import_matplotlib(experiment):
    _, directory = experiment.add("lazy")
    code = (
        "import sys; from pathlib import Path; from autotuner.tracking.result_file import read_result; "
        f"read_result(Path({str(directory)!r})); import json; print(json.dumps('matplotlib' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
