"""Judges an artefact against every other arm on frozen scenarios, paired by scenario.

``python -m autotuner_policies.evaluate --artifact policies/autotuner_policies/artifacts/default --split test``

This is the simulator (stage S1): it says that a policy can learn, nothing about any real machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from autotuner_envs.scenarios import SEEDS, draw, families
from autotuner_envs.schedules import (
    HAND_TUNED,
    PLANS,
    PROGRESSIVE,
    Chooser,
    Outcome,
    Schedule,
    constant,
    of_policy,
    planned,
    play,
    random_legal,
)

from autotuner.controller.actions import ACTION_NAMES, HOLD
from autotuner.controller.hold import Hold
from autotuner.controller.learned import Learned
from autotuner.controller.rules import Rules
from autotuner_policies.export import read_card, write_card
from autotuner_policies.statistics import Estimate, estimate

BASELINE = "hold"
STATICS: tuple[Schedule, ...] = tuple(
    Schedule(distill_from=(), pace=pace, lr_scale=lr_scale, sampling_steps=4.0)
    for pace in (1.0, 0.8)
    for lr_scale in (0.71, 1.0, 1.41)
)
"""Fixed settings, moved to at once and left there."""

Key = tuple[str, int]
"""A scenario: family and seed."""
Results = dict[str, dict[Key, Outcome]]


def keys(split: str, count: int) -> list[Key]:
    """The first ``count`` scenarios of each family of a split."""
    return [(family, SEEDS[split] + i) for family in families(split) for i in range(count)]


def arms(artefact: Path | None, best_static: int, best_schedule: int) -> dict[str, Chooser]:
    """Every arm by name; the two best ones were chosen on validation."""
    table: dict[str, Chooser] = {
        "hold": of_policy(Hold()),
        "rules": of_policy(Rules()),
        "random": random_legal(0),
        "plain_schedule": Schedule(),
        "hand_tuned": HAND_TUNED,
        "progressive": PROGRESSIVE,
        "best_static": STATICS[best_static],
        "best_schedule": PLANS[best_schedule],
    }
    if artefact is not None:
        table["learned"] = of_policy(Learned.load(artefact))
    return table | {f"always {name}": constant(i) for i, name in enumerate(ACTION_NAMES) if i != HOLD}


def _play_named(task: tuple[str, Path | None, int, int, Key]) -> Outcome:
    name, artefact, best_static, best_schedule, key = task
    scenario = draw(*key)
    return planned(scenario) if name == "oracle" else play(scenario, arms(artefact, best_static, best_schedule)[name])


def _play_schedule(task: tuple[str, int, Key]) -> float:
    table, index, key = task
    return play(draw(*key), (STATICS if table == "static" else PLANS)[index]).reward


def choose_on_validation(pool: ProcessPoolExecutor, count: int) -> tuple[int, int]:
    """Indices of the best static setting and the best schedule by mean reward on validation."""
    where = keys("validation", count)
    best = []
    for table, size in (("static", len(STATICS)), ("plan", len(PLANS))):
        tasks = [(table, index, key) for index in range(size) for key in where]
        rewards = np.asarray(list(pool.map(_play_schedule, tasks, chunksize=32))).reshape(size, len(where))
        best.append(int(np.argmax(rewards.mean(axis=1))))
    return best[0], best[1]


def run(artefact: Path | None, split: str, count: int, oracle: bool, workers: int) -> tuple[Results, dict[str, str]]:
    """Play every arm on every scenario."""
    with ProcessPoolExecutor(workers) as pool:
        static, schedule = choose_on_validation(pool, max(1, count // 4))
        names = list(arms(artefact, static, schedule)) + (["oracle"] if oracle else [])
        where = keys(split, count)
        tasks = [(name, artefact, static, schedule, key) for name in names for key in where]
        outcomes = list(pool.map(_play_named, tasks, chunksize=16))
    results = {
        name: dict(zip(where, outcomes[i * len(where) : (i + 1) * len(where)], strict=True)) for i, name in enumerate(names)
    }
    return results, {"best_static": str(STATICS[static]), "best_schedule": str(PLANS[schedule])}


def advantage(outcome: Outcome, baseline: Outcome) -> float:
    """log(baseline's time to target / this one's): 0.1 is about 10 % less time; both are censored at the budget."""
    return float(np.log(baseline.seconds_to_target / outcome.seconds_to_target))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """One row an arm: paired time to target against hold, reward, and safety counts."""
    return {name: _row(outcomes, results[BASELINE]) for name, outcomes in results.items()}


def _row(outcomes: dict[Key, Outcome], baseline: dict[Key, Outcome]) -> dict[str, Any]:
    strata = [family for family, _ in outcomes]
    every = list(outcomes.values())
    time_gain = estimate([advantage(outcome, baseline[key]) for key, outcome in outcomes.items()], strata)
    reward = estimate([outcome.reward for outcome in every], strata)
    gain = estimate([outcome.reward - baseline[key].reward for key, outcome in outcomes.items()], strata)
    return {
        "episodes": len(every),
        "reward": _triple(reward),
        "mean_reward": round(float(np.mean([outcome.reward for outcome in every])), 4),
        "reward_over_hold": _triple(gain),
        "log_time_over_hold": _triple(time_gain),
        "reached": round(float(np.mean([outcome.reached for outcome in every])), 4),
        "killed": sum(outcome.killed for outcome in every),
        "out_of_memory_episodes": sum(outcome.out_of_memory > 0 for outcome in every),
        "pressure_share": round(float(np.mean([outcome.pressure_seconds_share for outcome in every])), 5),
        "heat_share": round(float(np.mean([outcome.heat_seconds_share for outcome in every])), 5),
        "changes": round(float(np.mean([outcome.changes for outcome in every])), 2),
    }


def _triple(value: Estimate) -> list[float | None]:
    return [None if x is None else round(x, 4) for x in (value.value, value.low, value.high)]


def paired(results: Results, first: str, second: str) -> dict[str, Any]:
    """How ``first`` compares with ``second`` on the same scenarios: over all, and by family."""
    a, b = results[first], results[second]
    strata = [family for family, _ in a]
    names = dict.fromkeys(strata)
    return {
        "reward": _triple(estimate([a[key].reward - b[key].reward for key in a], strata)),
        "mean_reward": round(float(np.mean([a[key].reward - b[key].reward for key in a])), 4),
        "log_time": _triple(estimate([advantage(a[key], b[key]) for key in a], strata)),
        "families": {n: round(float(np.mean([a[key].reward - b[key].reward for key in a if key[0] == n])), 3) for n in names},
    }


_HEADER = (
    f"{'arm':24s} {'mean':>7s}  {'reward over hold':26s} {'time over hold':26s} {'reached':>7s} {'killed':>6s} {'oom':>4s} "
    f"{'pressure':>8s} {'heat':>6s} {'changes':>7s}"
)


def report(results: Results, split: str, chosen: dict[str, str], command: str) -> str:
    """The table, every arm in it, sorted by mean reward; then what was compared in pairs; then one JSON line."""
    rows = sorted(summary(results).items(), key=lambda item: -item[1]["mean_reward"])
    lines = [
        f"# Stage S1 (simulator), split {split}: {len(families(split))} families, {rows[0][1]['episodes']} scenarios an arm.",
        f"# {command}",
        f"# {platform.system()} {platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}",
        "# IQM over paired scenarios [95 % bootstrap interval within families]; time: log(hold's time to target / the arm's).",
        *(f"# {name}: {what}" for name, what in chosen.items()),
        _HEADER,
    ]
    for name, row in rows:
        lines.append(
            f"{name:24s} {row['mean_reward']:7.3f}  {_told(row['reward_over_hold']):26s} "
            f"{_told(row['log_time_over_hold']):26s} {row['reached']:7.2f} {row['killed']:6d} "
            f"{row['out_of_memory_episodes']:4d} {row['pressure_share']:8.4f} {row['heat_share']:6.3f} {row['changes']:7.1f}"
        )
    pairs = (
        {other: paired(results, "learned", other) for other in results if other in _COMPARED} if "learned" in results else {}
    )
    for other, pair in pairs.items():
        lines.append(
            f"learned - {other:14s} {_told(pair['reward'])} mean {pair['mean_reward']:+.3f} time {_told(pair['log_time'])}"
        )
    for other in ("hold", "rules"):
        if other in pairs:
            lines.append(
                f"  by family against {other}: " + ", ".join(f"{k} {v:+.2f}" for k, v in pairs[other]["families"].items())
            )
    document = {"split": split, "arms": dict(rows), "learned_against": pairs, "chosen": chosen, "command": command}
    return "\n".join([*lines, json.dumps(document)]) + "\n"


_COMPARED = ("hold", "rules", "plain_schedule", "hand_tuned", "best_static", "best_schedule", "oracle")


def _told(triple: Sequence[float | None]) -> str:
    value, low, high = triple
    return f"{value:+.3f}" if low is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def document_of(text: str) -> dict[str, Any]:
    """The JSON line that ends a report."""
    return dict(json.loads(text.strip().splitlines()[-1]))


def stamp(artefact: Path, documents: dict[str, dict[str, Any]]) -> None:
    """Write the results into the artefact's card: against whom it wins on validation, and all rows of both splits."""
    card = read_card(artefact)
    validation = documents["validation"]
    rivals = ("hold", "rules", "hand_tuned", "plain_schedule", "best_static", "best_schedule")
    own = validation["arms"]["learned"]["mean_reward"]
    card["results"] = {
        split: {
            "arms": {name: document["arms"][name] for name in (*rivals, "random", "learned")},
            "learned_against": document["learned_against"],
        }
        for split, document in documents.items()
    }
    card["beats"] = [name for name in rivals if own > validation["arms"][name]["mean_reward"]]
    card["loses_to"] = [name for name in rivals if own <= validation["arms"][name]["mean_reward"]]
    card["default_wins"] = not {"hold", "rules"} & set(card["loses_to"])
    write_card(artefact, card)


def main() -> None:
    """Evaluate, write the table, and stamp the card if asked."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.evaluate", description=__doc__)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--count", type=int, default=10, help="scenarios of each family")
    parser.add_argument("--oracle", action="store_true", help="plan each scenario in hindsight too (slow)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument(
        "--stamp", type=Path, nargs="*", default=[], help="reports to write into the card instead of evaluating"
    )
    arguments = parser.parse_args()
    if arguments.stamp:
        documents = [document_of(path.read_text(encoding="utf-8")) for path in arguments.stamp]
        stamp(arguments.artifact, {document["split"]: document for document in documents})
        return
    command = (
        f"python -m autotuner_policies.evaluate --split {arguments.split} --count {arguments.count}"
        + " --oracle" * arguments.oracle
    )
    results, chosen = run(arguments.artifact, arguments.split, arguments.count, arguments.oracle, arguments.workers)
    text = report(results, arguments.split, chosen, command)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
