"""The attack finds what is worse, and tells it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from autotuner_envs.scenarios import draw
from autotuner_policies import attack


def test_a_neighbour_differs_and_has_a_target_of_its_own():
    scenario = draw("memory_returned", 5)
    other = attack.mutated(scenario, np.random.default_rng(0))
    assert other.limits != scenario.limits
    assert other.target != scenario.target
    assert other.declaration.target == other.target
    assert [limit.start for limit in other.limits] == sorted(limit.start for limit in other.limits)


def test_the_search_keeps_the_worst_and_the_report_tells_them(monkeypatch):
    monkeypatch.setattr(attack, "KEPT", 2)
    monkeypatch.setattr(attack, "FAMILIES", [family for family in attack.FAMILIES if family.name in ("short", "tight_start")])
    with ThreadPoolExecutor(1) as pool:
        first, worst = attack.search(pool, "hold", 0, Path(), 2, 1, 7_000_000, 0)
    assert len(first) == 4
    assert len(worst) == 2
    assert worst[0].worst <= min(found.worst for found in first)
    text = attack.report(first, worst, "hold", Path(), "a fact")
    figures = json.loads(text.splitlines()[-1])
    assert figures["drawn"] == 4
    assert figures["worst"] == [pytest.approx(found.worst, abs=1e-3) for found in worst]
    assert worst[0].parent in text
