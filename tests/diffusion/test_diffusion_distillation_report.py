from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autotuner.diffusion import checkpoint
from autotuner.diffusion.checkpoint import CheckpointError
from autotuner.diffusion.distillation import chart, interval, students
from autotuner.diffusion.distillation.contenders import contenders
from autotuner.diffusion.distillation.ledger import Ledger
from autotuner.diffusion.distillation.measurements import Plan
from autotuner.diffusion.distillation.references import References
from autotuner.diffusion.distillation.report import measure
from autotuner.diffusion.distillation.students import StudentError
from autotuner.diffusion.distillation.table import lines, title
from autotuner.errors import AutotunerError, ConfigurationError

STEPS = (1, 2, 8)
PLAN = Plan(images=20, seeds=3, paired_images=0, timings=1)


@pytest.fixture
def make_run(make_trainer, take, tmp_path):
    """A run's directory: a teacher of a few steps, and the students of its ladder after two steps each."""

    def make(name="run", **changes):
        settings = {"student_ladder": (4, 2), "sigma_max": 10.0, "teacher_share": 0.5, **changes}
        trainer = make_trainer(out=tmp_path / name, **settings)
        (tmp_path / name).mkdir()
        take(trainer, 20)
        for stage in range(1, len(settings["student_ladder"]) + 1):
            trainer.set_knob("distill", stage)
            take(trainer, 2)
            trainer.keep_student()
        trainer.stages.enter(0)
        checkpoint.save(trainer, tmp_path / name / checkpoint.FILE_NAME)
        return tmp_path / name

    return make


@pytest.fixture
def found(make_run, stripes):
    return contenders([make_run()], stripes, STEPS)


def test_every_contender_has_a_row_and_its_ratio_to_the_teacher_in_most_steps(found, stripes):
    report = measure(found, stripes, replace(PLAN, paired_images=3))
    who = [(row.who, row.steps, row.evaluations) for row in report.rows]
    assert who == [("teacher", 1, 1), ("teacher", 2, 2), ("teacher", 8, 8), ("student", 4, 4), ("student", 2, 2)]
    assert (report.most_steps, report.images, report.disjoint) == (8, 20, True)
    most = report.rows[2]
    assert most.ratio == (1, 1, 1)
    for row in report.rows:
        pairs = zip(row.frechet_draws, most.frechet_draws, strict=True)
        assert row.ratio.value == pytest.approx(math.exp(np.mean([math.log(a / b) for a, b in pairs])))
        assert row.frechet.low < row.frechet.value < row.frechet.high
        assert row.paired_error.value > 0
    assert list(report.ratios("run")) == [4, 2]
    assert report.rows[0].paired_error.value > 3 * most.paired_error.value
    assert report.floor.value < min(row.frechet.value for row in report.rows)


def test_a_report_is_plain_json_and_a_table_of_every_row(found, stripes):
    report = measure(found, stripes, PLAN)
    ledger = Ledger()
    ledger.conclude(report.to_dict())
    assert json.loads(json.dumps(ledger.report, allow_nan=False))["rows"][0]["paired_error"] == [None, None, None]
    table = lines(report)
    assert len(table) == 1 + 2 + len(report.rows) + 2
    assert "held-out pictures" in table[2]
    assert not any("nan" in line for line in table)


def test_what_was_measured_is_not_measured_again(found, stripes, tmp_path, monkeypatch):
    first = measure(found, stripes, PLAN, Ledger(tmp_path / "ledger.json"))

    def refused(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr("autotuner.diffusion.distillation.contenders.solve", refused)
    again = measure(found, stripes, PLAN, Ledger(tmp_path / "ledger.json"))
    assert json.dumps(again.to_dict()) == json.dumps(first.to_dict())
    with pytest.raises(AssertionError, match="drawn again"):
        measure(found, stripes, replace(PLAN, images=24), Ledger(tmp_path / "ledger.json"))


def test_a_stopped_measurement_goes_on_where_it_was(found, stripes, tmp_path):
    def stop(share, what):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(found, stripes, PLAN, Ledger(tmp_path / "ledger.json"), stop)
    told = []
    measure(found, stripes, PLAN, Ledger(tmp_path / "ledger.json"), lambda share, what: told.append((share, what)))
    assert told[0][0] == 0
    assert 0 < len(told) < len(found) * PLAN.seeds
    assert all(0 <= share < 1 for share, _ in told)


def test_other_weights_are_measured_anew(make_run, stripes):
    ledger, before = Ledger(), contenders([make_run()], stripes, (2,))
    after = contenders([make_run("again", learning_rate=1e-3)], stripes, (2,))
    first = measure(before, stripes, PLAN, ledger)
    assert measure(after, stripes, PLAN, ledger).rows[0].frechet != first.rows[0].frechet


def test_the_clock_gives_seconds_an_image_and_the_curve_of_trade_offs_falls(found, stripes):
    times = iter(np.cumsum([0, 320, 0, 640, 0, 2560, 0, 1280, 0, 640]))
    report = measure(found, stripes, PLAN, clock=lambda: float(next(times)))
    assert [row.seconds_per_image for row in report.rows] == [10, 20, 80, 40, 20]
    best = sorted((row.seconds_per_image, row.frechet.value) for row in report.rows if row.best)
    assert best[0][0] == 10
    assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
    for row in report.rows:
        faster = [other for other in report.rows if other.seconds_per_image <= row.seconds_per_image]
        assert row.best == (row.frechet.value == min(other.frechet.value for other in faster))


def test_students_of_a_guided_teacher_are_held_against_it_as_it_is_guided(make_run, stripes):
    found = contenders([make_run(guidance=2.0)], stripes, (1, 2))
    assert {(each.network.who, each.network.evaluations(2)) for each in found} == {("teacher", 4), ("student", 2)}
    assert all(each.teacher.guidance == 2 for each in found)


def test_several_runs_of_one_teacher_show_it_once_and_smaller_students_by_their_size(make_run, stripes):
    first, other = make_run(), make_run("narrow", student_model={"width": 8})
    found = contenders([first, other], stripes, (2,))
    assert [(each.network.who, each.network.run, each.steps) for each in found] == [
        ("teacher", "run", 2), ("student", "run", 4), ("student", "run", 2), ("student", "narrow", 4), ("student", "narrow", 2),
    ]  # fmt: skip
    sizes = [each.network.parameters for each in found]
    assert sizes[0] == sizes[1] > 2 * sizes[3]
    assert all(each.teacher is found[0].network for each in found)


def test_a_student_that_is_still_learning_takes_part(make_trainer, take, stripes, tmp_path):
    trainer = make_trainer(student_ladder=(4, 2), teacher_share=0.5)
    take(trainer, 2)
    trainer.set_knob("distill", 1)
    take(trainer, 1)
    checkpoint.save(trainer, tmp_path / checkpoint.FILE_NAME)
    assert [(each.network.who, each.steps) for each in contenders([tmp_path], stripes, (2,))] == [
        ("teacher", 2),
        ("student", 4),
    ]


def test_draws_have_pictures_of_their_own_and_too_few_are_shared(stripes):
    references = References(stripes, 20, 3)
    assert references.disjoint
    assert len({references.identity(draw) for draw in range(3)}) == 3
    assert not References(stripes, 60, 5).disjoint
    assert references.floor(0)[0] < references.compare(np.zeros((20, 8, 8, 1), np.float32), 0)[0]


def test_without_a_checkpoint_or_students_the_error_names_what_is_missing(make_trainer, take, stripes, tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors is not there"):
        contenders([tmp_path], stripes, STEPS)
    trainer = make_trainer()
    take(trainer, 1)
    checkpoint.save(trainer, tmp_path / checkpoint.FILE_NAME)
    with pytest.raises(StudentError, match=r"students holds no student"):
        contenders([tmp_path], stripes, STEPS)


def test_a_student_of_another_teacher_is_refused(make_run, stripes):
    run, other = make_run(), make_run("other", model={"width": 32, "depth": 1, "mlp_ratio": 2})
    students.path_of(other, 2).replace(students.path_of(run, 2))
    with pytest.raises(StudentError, match=r"steps-002.safetensors: its teacher's model was {'width': 32"):
        contenders([run], stripes, STEPS)


def test_another_dataset_is_refused(make_run, stripes):
    with pytest.raises(CheckpointError, match="name of the images was 'stripes', here it is 'dots'"):
        contenders([make_run()], replace(stripes, name="dots"), STEPS)


def test_what_cannot_be_measured_is_refused(found, stripes):
    with pytest.raises(ConfigurationError, match="seeds 2; allowed is 3 or more"):
        Plan(seeds=2)
    with pytest.raises(ConfigurationError, match="10 pictures of each kind"):
        measure(found, stripes, replace(PLAN, images=10))
    with pytest.raises(ConfigurationError, match="no teacher among the contenders"):
        measure([each for each in found if each.network.who == "student"], stripes, PLAN)


@pytest.mark.parametrize("text", ["{", '{"version": 1}', '{"version": 9, "report": null, "measured": {}}'])
def test_a_damaged_ledger_is_named_and_left_alone(tmp_path, text):
    path = tmp_path / "distill-report.json"
    path.write_text(text)
    with pytest.raises(AutotunerError, match=r"distill-report.json.*move it away"):
        Ledger(path)
    assert path.read_text() == text


def test_a_ledger_gives_back_what_is_not_a_number(tmp_path):
    path = tmp_path / "ledger.json"
    assert math.isnan(Ledger(path).once("a", lambda: [math.nan, 2])[0])
    known = Ledger(path)
    assert known.knows("a")
    assert known.once("a", lambda: pytest.fail("measured twice"))[1] == 2
    assert math.isnan(known.once("a", list)[0])


@pytest.mark.parametrize(("freedom", "expected"), [(2, 4.303), (4, 2.776), (9, 2.262), (31, 2.040)])
def test_students_factor_is_the_table_s(freedom, expected):
    assert interval.student(freedom) == pytest.approx(expected, rel=0.01)


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    shared = generator.lognormal(3, 0.3, (400, 5))
    first, second = (shared * generator.lognormal(mean, 0.05, shared.shape) for mean in (0.1, 0.0))
    found = [interval.of_ratio(*pair) for pair in zip(first.tolist(), second.tolist(), strict=True)]
    assert 0.92 < np.mean([each.low < math.exp(0.1) < each.high for each in found]) < 0.98
    assert np.mean([each.high - each.low for each in found]) < 0.25, "the noise that both share takes no part"
    assert math.isnan(interval.of_ratio([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]).value)


def test_the_picture_holds_guided_teachers_and_several_runs_and_intervals_below_zero(found, stripes, tmp_path):
    pytest.importorskip("matplotlib")
    report = measure(found, stripes, PLAN)
    wide = interval.Interval(2.0, -1.0, 5.0)
    more = tuple(replace(row, run="narrow", guidance=2.0, parameters=900, frechet=wide) for row in report.rows)
    both = replace(report, rows=report.rows + more, floor=wide)
    assert "student of narrow, guidance 2" in {title(both, row) for row in both.rows}
    chart.save(both, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 20_000
