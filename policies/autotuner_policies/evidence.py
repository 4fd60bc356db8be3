"""Stage S1 of the evidence: every arm of docs/evidence-protocol.md on frozen scenarios of the simulator, paired.

``python -m autotuner_policies.evidence --split test --count 6 --output policies/results/evidence_test.txt``

Arms are played once for each scenario and kept in ``--keep``, in a folder named by simulator, controller and artefact, so a
long run may be cut in pieces and nothing stale is told. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from autotuner_envs.alone import Halving, Planned, Static, play_alone
from autotuner_envs.batch.compiled import sources
from autotuner_envs.scenario import Scenario
from autotuner_envs.scenarios import BAD_STARTS, CALM, SEEDS, draw, families
from autotuner_envs.schedules import HAND_TUNED, PLANS, constant, of_policy, play, random_legal

from autotuner.controller.actions import ACTION_NAMES, HOLD
from autotuner.controller.forecast import Forecast
from autotuner.controller.hold import Hold
from autotuner.controller.learned import Learned
from autotuner.controller.rules import Rules
from autotuner_policies.catalog import ARTEFACTS
from autotuner_policies.export import read_card, write_card
from autotuner_policies.oracle import best_seconds
from autotuner_policies.statistics import Estimate, estimate

STATICS: tuple[Static, ...] = tuple(
    Static((("micro_batch", m), ("sampling_steps", 4.0), ("pace", pace), ("lr_scale", lr), ("timestep_density", density)))
    for m, pace, lr, density in itertools.product((64.0, 32.0, 16.0, 8.0), (1.0, 0.8), (0.71, 1.0, 1.41), (0.0, 1.0, 2.0))
)
CANDIDATES = ("hold", "rules", "forecast", "learned")
"""Arms that the daemon may have as its default, the simplest first."""
TIE = 0.01
VETO = 0.02
GOALS = {
    "vs_best_static_shifted": 0.25, "vs_best_static_stationary": -0.02, "vs_rules": 0.05,
    "regret": 0.10, "bad_start_speedup": 1.5,
}  # fmt: skip
Key = tuple[str, int]
"""A scenario: family and seed."""
Row = dict[str, float]
"""What is kept of one run: seconds to the target, and what is counted."""
Arm = Callable[[Scenario], Row]
COUNTED = ("reached", "reward", "quality", "killed", "out_of_memory", "pressure", "heat", "changes")


def keys(split: str, count: int) -> list[Key]:
    """The first ``count`` scenarios of each family of a split."""
    return [(family, SEEDS[split] + i) for family in families(split) for i in range(count)]


def row(outcome: Any) -> Row:
    """The part of an outcome that the tables need."""
    return {
        "seconds": outcome.seconds_to_target, "budget": outcome.budget_seconds, "reached": float(outcome.reached),
        "reward": outcome.reward, "quality": outcome.quality, "killed": float(outcome.killed),
        "out_of_memory": float(outcome.out_of_memory > 0), "pressure": outcome.pressure_seconds_share,
        "heat": outcome.heat_seconds_share, "changes": float(outcome.changes),
    }  # fmt: skip


def arms(best_static: int | None, artefact: Path) -> dict[str, Arm]:
    """Every arm by name that one run each can tell; ``hindsight static`` and ``oracle`` are taken from several."""
    table: dict[str, Arm] = {
        "alone": lambda s: row(play_alone(s, Static())),
        "planned": lambda s: row(play_alone(s, Planned())),
        "progressive": lambda s: row(play_alone(s, Planned(coarse_until=0.1))),
        "halving": lambda s: row(play_alone(s, Halving())),
        "hold": lambda s: row(play(s, of_policy(Hold()))),
        "random": lambda s: row(play(s, random_legal(0))),
        "rules": lambda s: row(play(s, of_policy(Rules()))),
        "forecast": lambda s: row(play(s, of_policy(Forecast()))),
        "learned": lambda s: row(play(s, of_policy(Learned.load(artefact)))),
        "guarded plan": lambda s: row(play(s, HAND_TUNED)),
    }
    if best_static is not None:
        table["best static"] = lambda s: row(play_alone(s, STATICS[best_static]))
    return table | {f"always {name}": _constant(i) for i, name in enumerate(ACTION_NAMES) if i != HOLD}


def _constant(action: int) -> Arm:
    return lambda s: row(play(s, constant(action)))


def _play(task: tuple[str, int | None, Path, Key]) -> Row:
    name, best_static, artefact, key = task
    return arms(best_static, artefact)[name](draw(*key))


def _statics(key: Key) -> list[Row]:
    scenario = draw(*key)
    return [row(play_alone(scenario, static)) for static in STATICS]


def _plans(key: Key) -> list[Row]:
    scenario = draw(*key)
    return [row(play(scenario, plan)) for plan in PLANS]


def _oracle(key: Key) -> Row:
    """The searched plan; only its seconds are known."""
    scenario = draw(*key)
    seconds = best_seconds(scenario)
    return dict.fromkeys(COUNTED, float("nan")) | {"seconds": seconds, "budget": scenario.budget_seconds}


class Kept:
    """Finished parts, one JSON file each."""

    def __init__(self, folder: Path, pool: ProcessPoolExecutor) -> None:
        self._folder, self._pool = folder, pool
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str, call: Callable[..., Any], tasks: Sequence[Any]) -> list[Any]:
        """What ``call`` gives for each task, played if it is not there."""
        path = self._folder / f"{name.replace(' ', '-')}.json"
        if path.exists():
            return list(json.loads(path.read_text(encoding="utf-8")))
        found = list(self._pool.map(call, tasks, chunksize=8))
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(found), encoding="utf-8")
        os.replace(draft, path)
        return found


def score(own: Row, other: Row) -> float:
    """log(seconds of the other / own): positive is sooner."""
    return float(np.log(other["seconds"] / own["seconds"]))


def choose_static(kept: Kept, count: int) -> int:
    """Index of the static setting that is best on validation, by mean score; the first of equals."""
    rows = kept.of(f"validation-{count}-statics", _statics, keys("validation", count))
    seconds = np.log([[each["seconds"] / each["budget"] for each in scenario] for scenario in rows])
    return int(np.argmin(seconds.mean(axis=0)))


def play_all(kept: Kept, split: str, count: int, best_static: int, artefact: Path) -> dict[str, list[Row]]:
    """Rows of every arm, in the order of ``keys``."""
    where = keys(split, count)
    label = f"{split}-{count}"
    found = {
        name: kept.of(f"{label}-{name}", _play, [(name, best_static, artefact, key) for key in where])
        for name in arms(best_static, artefact)
    }
    statics, plans = (kept.of(f"{label}-{n}", c, where) for n, c in (("statics", _statics), ("plans", _plans)))
    found["hindsight static"] = [min(each, key=_seconds) for each in statics]
    searched = kept.of(f"{label}-oracle", _oracle, where)
    ways = [found[name] for name in ("hindsight static", "alone", *CANDIDATES, "guarded plan")]
    found["oracle"] = [min([*each, *plan, own], key=_seconds) for *each, plan, own in zip(*ways, plans, searched, strict=True)]
    return found


def _seconds(each: Row) -> float:
    return each["seconds"]


def winner(rows: dict[str, list[Row]]) -> str:
    """The candidate with the highest mean score against the script alone; within TIE the simpler one."""
    means = {
        name: float(np.mean([score(*pair) for pair in zip(rows[name], rows["alone"], strict=True)])) for name in CANDIDATES
    }
    best = max(means.values())
    return next(name for name in CANDIDATES if means[name] >= best - TIE)


def saved(rows: dict[str, list[Row]], where: Sequence[Key], first: str, second: str, among: Iterable[str]) -> Estimate:
    """Share of time that ``first`` saves against ``second`` in some families: 1 - exp(-IQM of scores)."""
    chosen = set(among)
    pairs = [(k[0], score(a, b)) for k, a, b in zip(where, rows[first], rows[second], strict=True) if k[0] in chosen]
    found = estimate([value for _, value in pairs], [family for family, _ in pairs])
    low, high = (None if bound is None else float(-np.expm1(-bound)) for bound in (found.low, found.high))
    return Estimate(float(-np.expm1(-found.value)), low, high, found.count)


def regret(rows: dict[str, list[Row]], name: str) -> float:
    """How much longer an arm takes than the oracle, geometric mean."""
    return float(np.expm1(np.mean([-score(own, best) for own, best in zip(rows[name], rows["oracle"], strict=True)])))


def worst_decile(rows: dict[str, list[Row]], name: str) -> float:
    """Mean of the worst tenth of scores against the script alone."""
    scores = np.sort([score(*pair) for pair in zip(rows[name], rows["alone"], strict=True)])
    return float(scores[: max(1, len(scores) // 10)].mean())


def figures(rows: dict[str, list[Row]], where: Sequence[Key], default: str) -> dict[str, Any]:
    """The claims of the protocol, and what the oracle itself saves: ``ceiling_shifted``, ``ceiling_rules``."""
    every = dict.fromkeys(family for family, _ in where)
    shifted = [family for family in every if family not in (*CALM, *BAD_STARTS)]
    found: dict[str, Any] = {"winner": default}
    claims = (
        ("vs_best_static_shifted", "best static", shifted), ("vs_best_static_stationary", "best static", CALM),
        ("vs_rules", "rules", every), ("vs_forecast", "forecast", every), ("vs_alone_shifted", "alone", shifted),
        ("vs_hold_shifted", "hold", shifted),
    )  # fmt: skip
    for claim, other, among in claims:
        gain = saved(rows, where, default, other, among)
        found[claim] = round(gain.value, 4)
        if gain.low is not None and gain.high is not None:
            found[f"{claim}_interval"] = [round(gain.low, 4), round(gain.high, 4)]
    found["ceiling_shifted"] = round(saved(rows, where, "oracle", "best static", shifted).value, 4)
    found["ceiling_rules"] = round(saved(rows, where, "oracle", "rules", every).value, 4)
    bad = saved(rows, where, default, "alone", BAD_STARTS)
    found["bad_start_speedup"] = round(1 / (1 - bad.value), 3)
    found["regret"] = round(regret(rows, default), 4)
    found["worst_decile"] = {name: round(worst_decile(rows, name), 3) for name in (default, "best static")}
    return found


def table(rows: dict[str, list[Row]], where: Sequence[Key]) -> list[str]:
    """Every arm, those with the highest mean score first."""
    lines = [
        f"{'arm':24s} {'score over alone':>23s} {'mean':>7s} {'regret':>7s} {'worst tenth':>11s} {'reached':>7s} "
        f"{'reward':>7s} {'killed':>6s} {'oom':>4s} {'pressure':>8s} {'heat':>6s} {'changes':>7s}"
    ]
    strata = [family for family, _ in where]
    scores = {name: [score(*pair) for pair in zip(own, rows["alone"], strict=True)] for name, own in rows.items()}
    for name in sorted(rows, key=lambda name: -float(np.mean(scores[name]))):
        own, value = rows[name], estimate(scores[name], strata)
        told = f"{value.value:+.3f}" if value.low is None else f"{value.value:+.3f} [{value.low:+.3f},{value.high:+.3f}]"
        lines.append(
            f"{name:24s} {told:>23s} {np.mean(scores[name]):+7.3f} {regret(rows, name):7.3f} {worst_decile(rows, name):+11.3f} "
        )
        if name == "oracle":  # searched for its seconds alone
            continue
        mean = {key: float(np.mean([each[key] for each in own])) for key in COUNTED}
        killed, ran_out = (int(sum(each[key] for each in own)) for key in ("killed", "out_of_memory"))
        lines[-1] += (
            f"{mean['reached']:7.2f} {mean['reward']:7.3f} {killed:6d} {ran_out:4d} {mean['pressure']:8.4f} "
            f"{mean['heat']:6.3f} {mean['changes']:7.1f}"
        )
    return lines


def means_by_family(rows: dict[str, list[Row]], where: Sequence[Key], default: str, other: str) -> dict[str, float]:
    """Mean score of the default against one other arm, family by family."""
    scores: dict[str, list[float]] = {}
    for (family, _), own, theirs in zip(where, rows[default], rows[other], strict=True):
        scores.setdefault(family, []).append(score(own, theirs))
    return {family: float(np.mean(values)) for family, values in scores.items()}


def by_family(rows: dict[str, list[Row]], where: Sequence[Key], default: str) -> list[str]:
    """Mean score of the default against four others, family by family; its losses against the best static setting first."""
    others = ("alone", "best static", "rules", "oracle")
    means = {other: means_by_family(rows, where, default, other) for other in others}
    lines = [f"{'family':20s} " + " ".join(f"{other:>12s}" for other in others)]
    for family in sorted(means["alone"], key=lambda family: means["best static"][family]):
        lines.append(f"{family:20s} " + " ".join(f"{means[other][family]:+12.3f}" for other in others))
    return lines


def report(rows: dict[str, list[Row]], where: Sequence[Key], default: str, split: str, facts: Sequence[str]) -> str:
    """The whole text, its last line JSON."""
    found = figures(rows, where, default)
    lines = [
        f"# Stage S1 (simulator), split {split}: {len(where)} scenarios an arm. docs/evidence-protocol.md says what is what.",
        f"# {platform.system()} {platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}",
        *(f"# {fact}" for fact in facts),
        *table(rows, where),
        f"\nlog(seconds of the other / seconds of {default}), mean by family, its losses against the best static setting first",
        *by_family(rows, where, default),
        "",
    ]
    lines += [f"{name}: {found[name]} (goal {goal})" for name, goal in GOALS.items()]
    arms = {name: _told(rows, name) for name in rows}
    document = {"benchmark": "evidence", "split": split, "goals": GOALS, **found, "arms": arms}
    return "\n".join([*lines, json.dumps(document)]) + "\n"


def _told(rows: dict[str, list[Row]], name: str) -> dict[str, float]:
    """What the card repeats of one arm."""
    scores = [score(*pair) for pair in zip(rows[name], rows["alone"], strict=True)]
    return {"mean_score": round(float(np.mean(scores)), 4), "regret": round(regret(rows, name), 4)}


def default_of(validation: dict[str, Any], real: dict[str, Any], veto: str = "") -> str:
    """Who decides: the winner on validation, unless S2's document says that it takes more than VETO longer than ``rules``.

    ``veto`` is why a person says that ``rules`` decide all the same.
    """
    winner = str(validation["winner"])
    lost = real["arm"] == winner and real["vs_rules"] is not None and real["vs_rules"] < -VETO
    return "rules" if lost or veto else winner


def stamp(artefact: Path, documents: dict[str, dict[str, Any]], real: dict[str, Any], veto: str = "") -> None:
    """Write reports (by split; ``real`` is S2's) into the artefact's card: every arm's score and regret, and who decides."""
    card = read_card(artefact)
    arms = documents["validation"]["arms"]
    card["results"] = {split: {key: document[key] for key in (*GOALS, "arms")} for split, document in documents.items()}
    rivals = [name for name in arms if name not in ("learned", "oracle", "hindsight static")]
    card["beats"] = [name for name in rivals if arms["learned"]["mean_score"] > arms[name]["mean_score"]]
    card["loses_to"] = [name for name in rivals if name not in card["beats"]]
    card["real"] = {key: real[key] for key in ("arm", "vs_rules", "vs_best_static_disturbed", "pairs")}
    card["veto"] = veto
    card["default"] = default_of(documents["validation"], real, veto)
    write_card(artefact, card)


def draw_picture(rows: dict[str, list[Row]], where: Sequence[Key], default: str, path: Path) -> None:
    """Scores over the script alone with their intervals, by arm; and the default against three others, by family."""
    from matplotlib.figure import Figure

    strata = [family for family, _ in where]
    shown = [name for name in rows if not name.startswith("always")]
    values = {name: estimate([score(*pair) for pair in zip(rows[name], rows["alone"], strict=True)], strata) for name in shown}
    shown.sort(key=lambda name: values[name].value)
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(shown):
        value = values[name]
        color = "tab:blue" if name == default else "0.35"
        left.plot(value.value, place, "o", color=color)
        if value.low is not None and value.high is not None:
            left.plot([value.low, value.high], [place, place], color=color)
    left.set_yticks(range(len(shown)), shown)
    left.axvline(0.0, color="0.8", zorder=0)
    left.set_xlabel("log(seconds to the target of the script alone / of the arm), IQM and 95 %")
    for other, marker in (("best static", "o"), ("rules", "s"), ("oracle", "|")):
        means = means_by_family(rows, where, default, other)
        right.plot(list(means.values()), range(len(means)), marker, label=f"against {other}")
        right.set_yticks(range(len(means)), list(means))
    right.axvline(0.0, color="0.8", zorder=0)
    right.set_xlabel(f"mean score of {default}: right of zero it is sooner")
    right.legend()
    figure.savefig(path, dpi=110)


def document_of(path: Path) -> dict[str, Any]:
    """The JSON line that ends a report."""
    return dict(json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1]))


def main() -> None:
    """Play what is missing, print the report."""
    parser = argparse.ArgumentParser(prog="autotuner_policies.evidence", description=__doc__)
    parser.add_argument("--artifact", type=Path, default=ARTEFACTS / "default")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--count", type=int, default=6, help="scenarios of each family (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("evidence-parts"), help="finished parts (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="also write the report here")
    parser.add_argument("--picture", type=Path, help="draw scores by arm and by family here (PNG)")
    parser.add_argument("--stamp", type=Path, nargs="+", help="reports to write into the artefact's card; nothing is played")
    parser.add_argument("--real", type=Path, help="with --stamp: the report of S2, which has a veto")
    parser.add_argument("--veto", default="", help="with --stamp: why the rules decide all the same")
    options = parser.parse_args()
    if options.stamp:
        documents = [document_of(path) for path in options.stamp]
        if options.real is None:
            parser.error("--stamp needs --real, the report of S2")
        reports = {document["split"]: document for document in documents}
        stamp(options.artifact, reports, document_of(options.real), options.veto)
        return
    with ProcessPoolExecutor(options.workers) as pool:
        kept = Kept(options.keep / f"{sources()}-{read_card(options.artifact)['sha256'][:8]}", pool)
        best = choose_static(kept, options.count)
        chosen = winner(play_all(kept, "validation", options.count, best, options.artifact))
        rows = play_all(kept, options.split, options.count, best, options.artifact)
    facts = [f"best static, number {best}: {dict(STATICS[best].values)}", f"default, chosen on validation: {chosen}"]
    text = report(rows, keys(options.split, options.count), chosen, options.split, facts)
    print(text)
    if options.picture:
        draw_picture(rows, keys(options.split, options.count), chosen, options.picture)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
