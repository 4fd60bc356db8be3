"""The draw: from the space, never a refused one, better than random."""

from __future__ import annotations

import math
import random
import statistics

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autotuner.search.draw import STARTUP_TRIALS, draw
from autotuner.search.space import check

SPACE = check({"width": [32, 48, 64, 96, 128], "depth": [2, 3, 4, 6, 8], "mlp_ratio": [2, 3, 4]})


def bowl(parameters):
    """A held-out loss with its minimum inside the space."""
    width, depth = math.log(parameters["width"] / 80), math.log(parameters["depth"] / 4)
    return 0.1 + width**2 + 0.5 * depth**2 * (1 + 0.5 * (width > 0)) + 0.02 * abs(parameters["mlp_ratio"] - 3)


def told(parameters, value):
    return create_trial(params=parameters, distributions=SPACE.distributions, value=value)


def search(steps, seed):
    trials = []
    for number in range(steps):
        tried = [trial.params for trial in trials]
        parameters, _ = draw(SPACE, trials, lambda drawn, tried=tried: drawn not in tried, seed=1000 * seed + number)
        trials.append(told(parameters, bowl(parameters)))
    return trials


def test_twenty_proposals_beat_the_median_of_random_search():
    random_bests = [min(map(bowl, random.Random(seed).sample(list(SPACE.combinations()), 20))) for seed in range(200)]
    found = [min(trial.value for trial in search(20, seed)) for seed in range(3)]
    assert statistics.mean(found) <= statistics.median(random_bests)


def test_every_draw_is_a_new_combination_of_the_space():
    drawn = [tuple(trial.params.items()) for trial in search(12, seed=7)]
    assert len(set(drawn)) == 12
    assert all(dict(parameters) in list(SPACE.combinations()) for parameters in drawn)


def test_a_draw_depends_on_its_seed_alone():
    trials = search(6, seed=1)
    assert draw(SPACE, trials, lambda _: True, 5) == draw(SPACE, trials, lambda _: True, 5)
    assert len({str(draw(SPACE, [], lambda _: True, seed)) for seed in range(10)}) > 3


def test_the_last_acceptable_combination_is_found():
    last = {"width": 128, "depth": 8, "mlp_ratio": 4}
    assert draw(SPACE, search(STARTUP_TRIALS, 1), lambda drawn: drawn == last, 1)[0] == last


def test_nothing_is_drawn_when_nothing_is_accepted():
    assert draw(SPACE, [], lambda _: False, 1) is None


@pytest.mark.parametrize("results", [0, STARTUP_TRIALS])
def test_the_reason_says_how_many_results_there_were(results):
    trials = search(results, 3)
    trials.append(
        create_trial(
            state=TrialState.FAIL,
            params=trials[0].params if trials else {"width": 32},
            distributions=SPACE.distributions if trials else {"width": SPACE.distributions["width"]},
        )
    )
    _, why = draw(SPACE, trials, lambda _: True, 1)
    assert str(results) in why


def test_drawing_leaves_optuna_quiet(capfd):
    draw(SPACE, [], lambda _: True, 1)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
