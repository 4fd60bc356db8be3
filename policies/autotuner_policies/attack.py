"""Looks for the scenarios in which the default does worst against ``rules`` and against the best static setting.

``python -m autotuner_policies.attack --best-static 12 --output policies/results/attack.txt``

First every family is drawn from seeds that nobody used; then the worst are changed a little, again and again, and a change
that makes the default lose more is kept. The ten worst are told with what was decided in them. ``--first-seed`` draws fresh
ones, for a second look after something was mended. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from autotuner_envs.alone import play_alone
from autotuner_envs.scenario import Scenario
from autotuner_envs.scenarios import FAMILIES, draw, targeted
from autotuner_envs.schedules import decisions, of_policy, play

from autotuner.controller.forecast import Forecast
from autotuner.controller.hold import Hold
from autotuner.controller.learned import Learned
from autotuner.controller.policy import Policy
from autotuner.controller.rules import Rules
from autotuner_policies.catalog import ARTEFACTS
from autotuner_policies.evidence import STATICS

FIRST_SEED = 4_000_000
KEPT = 10
CHANGES_SHOWN = 12


@dataclass(frozen=True)
class Found:
    """A scenario and the default's scores in it: log(seconds of the other / own), negative where it loses."""

    scenario: Scenario
    parent: str
    """Family and seed that it comes from."""
    rounds: int
    vs_rules: float
    vs_static: float

    @property
    def worst(self) -> float:
        """What the search lowers."""
        return min(self.vs_rules, self.vs_static)


def policy(name: str, artefact: Path) -> Policy:
    """A candidate for the default by name."""
    made: dict[str, Policy] = {"hold": Hold(), "rules": Rules(), "forecast": Forecast()}
    return made[name] if name in made else Learned.load(artefact)


def judged(task: tuple[Scenario, str, int, str, int, Path]) -> Found:
    """Play the default, the rules and the static setting."""
    scenario, parent, rounds, name, best_static, artefact = task
    own = play(scenario, of_policy(policy(name, artefact))).seconds_to_target
    rules = play(scenario, of_policy(Rules())).seconds_to_target
    static = play_alone(scenario, STATICS[best_static]).seconds_to_target
    return Found(scenario, parent, rounds, math.log(rules / own), math.log(static / own))


def mutated(scenario: Scenario, random: np.random.Generator) -> Scenario:
    """A neighbour: memory, heat, noise and difficulty moved by some tenths, the target drawn anew."""

    def around(value: float, deviation: float) -> float:
        return value * float(np.exp(random.normal(0.0, deviation)))

    start = scenario.limits[0]
    limits = tuple(
        replace(
            limit,
            limit_bytes=around(limit.limit_bytes, 0.1),
            start=limit.start if limit is start else around(limit.start, 0.15),
        )
        for limit in scenario.limits
    )
    heat = scenario.heat and replace(
        scenario.heat,
        ambient_celsius=min(40.0, scenario.heat.ambient_celsius + float(random.normal(0.0, 2.0))),
        time_scale=around(scenario.heat.time_scale, 0.2),
    )
    curve = replace(
        scenario.curve, gap=around(scenario.curve.gap, 0.1), fine_images=around(scenario.curve.fine_images, 0.1),
        coarse_images=around(scenario.curve.coarse_images, 0.1), return_images=around(scenario.curve.return_images, 0.1),
    )  # fmt: skip
    return targeted(
        replace(
            scenario,
            limits=tuple(sorted(limits, key=lambda limit: limit.start)),
            heat=heat,
            curve=curve,
            step_noise=min(0.4, around(scenario.step_noise, 0.2)),
            image_scale=around(scenario.image_scale, 0.15),
            leak_bytes_per_second=around(scenario.leak_bytes_per_second, 0.1),
        )
    )


def search(
    pool: ProcessPoolExecutor, name: str, best_static: int, artefact: Path, count: int, rounds: int, first_seed: int, seed: int
) -> tuple[list[Found], list[Found]]:
    """All that were drawn, and the worst after ``rounds`` of changes, one of each parent."""
    drawn = [
        (draw(family.name, first_seed + i), f"{family.name} {first_seed + i}") for family in FAMILIES for i in range(count)
    ]
    tasks = [(scenario, parent, 0, name, best_static, artefact) for scenario, parent in drawn]
    first = list(pool.map(judged, tasks, chunksize=4))
    worst = sorted(first, key=lambda found: found.worst)[: 2 * KEPT]
    random = np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        tasks = [(mutated(found.scenario, random), found.parent, number, name, best_static, artefact) for found in worst]
        changed = pool.map(judged, tasks, chunksize=2)
        worst = [min(pair, key=lambda found: found.worst) for pair in zip(worst, changed, strict=True)]
    return first, sorted(worst, key=lambda found: found.worst)[:KEPT]


def report(first: list[Found], worst: list[Found], name: str, artefact: Path, facts: str) -> str:
    """The text: how often the default loses among all that were drawn, then the worst ones with what was decided."""
    lines = [
        f"# Attack on {name} (simulator): {facts}",
        f"# Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}",
        "",
    ]
    figures: dict[str, object] = {"benchmark": "attack", "default": name, "drawn": len(first)}
    for label, scores in (("rules", [f.vs_rules for f in first]), ("best static", [f.vs_static for f in first])):
        values = np.array(scores)
        shares = {bound: float(np.mean(values < -bound)) for bound in (0.02, 0.1, 0.3)}
        told = ", ".join(f"by more than {bound:.0%} in {share:.1%}" for bound, share in shares.items())
        lines.append(
            f"of {len(first)} as drawn it loses to {label} {told}; worst score {values.min():+.3f}, mean {values.mean():+.3f}"
        )
        figures[f"loses_10_to_{label.replace(' ', '_')}"] = round(shares[0.1], 4)
    lines += ["", f"the {len(worst)} worst after the search"]
    for place, found in enumerate(worst, 1):
        seconds = found.scenario.budget_seconds
        lines.append(
            f"{place:2d}. from {found.parent}, {found.rounds} changes: against rules {found.vs_rules:+.3f}, "
            f"against best static {found.vs_static:+.3f}; budget {seconds:.0f} s"
        )
        shown = list(decisions(found.scenario, of_policy(policy(name, artefact))))
        lines += [f"      {line}" for line in (*shown[:CHANGES_SHOWN], *shown[CHANGES_SHOWN:][-1:])]
    figures["worst"] = [round(found.worst, 3) for found in worst]
    return "\n".join([*lines, "", json.dumps(figures)]) + "\n"


def main() -> None:
    """Search, print, write."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.attack", description=__doc__)
    parser.add_argument("--default", choices=("hold", "rules", "forecast", "learned"), default="learned")
    parser.add_argument("--artifact", type=Path, default=ARTEFACTS / "default")
    parser.add_argument("--best-static", type=int, required=True, help="its number, as evidence tells it")
    parser.add_argument("--count", type=int, default=12, help="scenarios of each family (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="changes tried on each of the worst (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    name, static = options.default, options.best_static
    with ProcessPoolExecutor(options.workers) as pool:
        first, worst = search(
            pool, name, static, options.artifact, options.count, options.rounds, options.first_seed, options.seed
        )
    facts = f"{options.count} scenarios of each family from seed {options.first_seed}, {options.rounds} rounds of changes"
    text = report(first, worst, name, options.artifact, facts)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
