"""The arithmetic of the evidence on rows made by hand; the runs themselves are played by ``make evidence``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from autotuner_envs.scenarios import BAD_STARTS, CALM
from autotuner_policies import evidence

WHERE = [(family, i) for family in ("stationary", "memory_taken", "small_micro_batch") for i in range(12)]


def rows(**seconds):
    """Rows of every arm that the report asks for; ``alone`` unless told."""
    names = ("alone", "best static", "hold", "rules", "forecast", "learned", "guarded plan", "oracle")
    table = {name: seconds.get(name.replace(" ", "_"), 100.0) for name in names}
    return {name: [_row(value[k[0]] if isinstance(value, dict) else value) for k in WHERE] for name, value in table.items()}


def _row(seconds):
    counted = dict.fromkeys(("killed", "out_of_memory", "pressure", "heat", "changes", "quality", "reward"), 0.0)
    return {"seconds": seconds, "budget": 200.0, "reached": 1.0, **counted}


def test_a_gain_is_the_share_of_time_saved_in_its_families_alone():
    made = rows(learned={"stationary": 110.0, "memory_taken": 60.0, "small_micro_batch": 50.0})
    found = evidence.figures(made, WHERE, "learned")
    assert found["vs_best_static_shifted"] == pytest.approx(0.4)
    assert found["vs_best_static_stationary"] == pytest.approx(-0.1)
    assert found["bad_start_speedup"] == pytest.approx(2.0)
    assert found["vs_best_static_shifted_interval"] == pytest.approx([0.4, 0.4])


def test_the_winner_is_the_simplest_of_those_that_tie():
    assert evidence.winner(rows(learned=50.0, forecast=50.2)) == "forecast"
    assert evidence.winner(rows(learned=50.0, forecast=60.0)) == "learned"
    assert evidence.winner(rows()) == "hold"


def test_regret_is_how_much_longer_than_the_oracle():
    assert evidence.regret(rows(rules=150.0, oracle=75.0), "rules") == pytest.approx(1.0)


def test_the_worst_tenth_is_a_mean_of_the_lowest_scores():
    made = rows()
    made["rules"][5]["seconds"] = 200.0
    assert evidence.worst_decile(made, "rules") == pytest.approx(np.log(0.5) / 3)


def test_the_report_lists_every_arm_losses_first_and_ends_with_json():
    made = rows(learned={"stationary": 130.0, "memory_taken": 60.0, "small_micro_batch": 50.0})
    text = evidence.report(made, WHERE, "learned", "test", ["a fact"])
    lines = text.splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in made)
    families = [line.split()[0] for line in lines[lines.index(next(x for x in lines if x.startswith("family"))) + 1 :][:3]]
    assert families == ["stationary", "memory_taken", "small_micro_batch"]
    assert json.loads(lines[-1])["winner"] == "learned"


def test_finished_parts_are_not_played_again(tmp_path):
    class Pool:
        played = 0

        def map(self, call, tasks, chunksize):
            Pool.played += len(tasks)
            return [call(task) for task in tasks]

    kept = evidence.Kept(tmp_path, Pool())
    assert kept.of("a part", lambda task: {"seconds": task}, [1, 2]) == [{"seconds": 1}, {"seconds": 2}]
    assert kept.of("a part", lambda task: {"seconds": task}, [1, 2]) == [{"seconds": 1}, {"seconds": 2}]
    assert Pool.played == 2


def test_the_groups_are_of_known_families():
    from autotuner_envs.scenarios import FAMILIES

    assert {*CALM, *BAD_STARTS} <= {family.name for family in FAMILIES}
    assert not set(CALM) & set(BAD_STARTS)


def test_the_picture_is_drawn(tmp_path):
    made = rows(learned={"stationary": 130.0, "memory_taken": 60.0, "small_micro_batch": 50.0})
    evidence.draw_picture(made, WHERE, "learned", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arm", "vs_rules", "default"),
    [
        ("forecast", 0.01, "forecast"),
        ("forecast", -0.03, "rules"),
        ("learned", -0.5, "forecast"),
        ("forecast", None, "forecast"),
    ],
)
def test_the_card_is_told_who_won_and_against_whom_the_policy_loses(tmp_path, arm, vs_rules, default):
    """Real runs have a veto on the arm that they were made with, and on no other."""
    (tmp_path / "card.json").write_text("{}")
    text = evidence.report(rows(learned=80.0, forecast=60.0), WHERE, "forecast", "validation", [])
    (tmp_path / "report.txt").write_text(text)
    real = {"arm": arm, "vs_rules": vs_rules, "vs_best_static_disturbed": 0.2, "pairs": 30}
    evidence.stamp(tmp_path, {"validation": evidence.document_of(tmp_path / "report.txt")}, real)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["default"] == default
    assert card["real"] == real
    evidence.stamp(tmp_path, {"validation": evidence.document_of(tmp_path / "report.txt")}, real, veto="it dithers")
    card = json.loads((tmp_path / "card.json").read_text())
    assert (card["default"], card["veto"]) == ("rules", "it dithers")
    assert "forecast" in card["loses_to"]
    assert {"alone", "rules"} <= set(card["beats"])
