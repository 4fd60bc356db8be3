"""How many environment steps a second one core makes, scalar and compiled, and which part of a scalar step takes the time.

Run: ``python benchmarks/simulator_speed.py``. One episode of every training family is begun and played with random legal
actions; the compiled environments play 512 at once, with the choice of the actions in the measured time but not the
compilation. The speed is measured without a profiler; the shares come from a second, profiled pass over the same episodes, and
profiling weighs on small functions more than on large ones.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import statistics
import time

import numpy as np
from autotuner_envs.batch.runs import BatchedRuns
from autotuner_envs.scenario import Scenario
from autotuner_envs.scenarios import SEEDS, draw, families
from autotuner_envs.training_run import TrainingRun

PARTS = {
    "simulator": ("simulator.py", "advance"),
    "observe": ("observation.py", "observe"),
    "masks": ("guard.py", "mask"),
    "emergency": ("loop.py", "_emergency"),
    "obligation": ("guard.py", "obligation"),
    "feed": ("loop.py", "feed"),
}
"""Part to the file and function whose cumulative time it is; ``masks`` runs for the agent and again in each decision."""


def play(scenarios: list[Scenario], seed: int, most: int) -> tuple[int, float]:
    """Environment steps of all episodes, at most ``most`` of each, and their seconds without drawing the scenarios."""
    random, env, steps = np.random.default_rng(seed), TrainingRun(), 0
    began = time.perf_counter()
    for scenario in scenarios:
        env.reset(options={"scenario": scenario})
        ended = False
        for _ in range(most):  # a night's run would outweigh all others
            if ended:
                break
            _, _, ended, _, _ = env.step(random.choice(np.flatnonzero(env.action_masks())))
            steps += 1
    return steps, time.perf_counter() - began


def play_batch(count: int, seed: int, repeats: int) -> list[float]:
    """Environment steps a second of the compiled form, played ``repeats`` times to every run's end."""
    random, names = np.random.default_rng(seed), families("train")
    batch = BatchedRuns([draw(names[i % len(names)], SEEDS["train"] + i) for i in range(count)])
    batch.step(np.zeros(count, np.int64))  # compiles
    speeds = []
    for _ in range(repeats):
        batch.restart()
        steps, began = 0, time.perf_counter()
        while not batch.ended.all():
            steps += int(np.count_nonzero(~batch.ended))
            batch.step((batch.masks * random.random(batch.masks.shape)).argmax(axis=1))
        speeds.append(steps / (time.perf_counter() - began))
    return speeds


def shares(scenarios: list[Scenario], seed: int, most: int) -> dict[str, float]:
    """Share of the profiled time that each part takes; parts do not overlap but for what they call in common."""
    profile = cProfile.Profile()
    profile.runcall(play, scenarios, seed, most)
    stats = pstats.Stats(profile)
    total = stats.total_tt  # type: ignore[attr-defined]
    rows = stats.stats.items()  # type: ignore[attr-defined]
    return {
        part: sum(row[3] for (path, _, name), row in rows if path.endswith("/" + file) and name == function) / total
        for part, (file, function) in PARTS.items()
    }


def main() -> None:
    """Print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1, help="episodes of each training family")
    parser.add_argument("--seed", type=int, default=0, help="of the actions")
    parser.add_argument("--batch", type=int, default=512, help="compiled runs side by side")
    parser.add_argument("--most", type=int, default=60, help="steps of one episode")
    args = parser.parse_args()
    names = families("train")
    scenarios = [draw(name, SEEDS["train"] + i) for name in names for i in range(args.episodes)]
    steps, seconds = play(scenarios, args.seed, args.most)
    parts = shares(scenarios, args.seed, args.most)
    print(f"scalar environment, one process: {steps} steps in {seconds:.2f} s = {steps / seconds:.0f} steps/s")
    for part, share in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:<12}{share:6.1%} of the profiled time")
    speeds = play_batch(args.batch, args.seed, 5)
    compiled = statistics.median(speeds)
    print(f"compiled, {args.batch} runs, one thread: median {compiled:.0f} steps/s of {[round(speed) for speed in speeds]}")
    facts = {"steps": steps, "seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 1)}
    place = {"python": platform.python_version(), "numpy": np.__version__, "load": round(os.getloadavg()[0], 2)}
    print(
        json.dumps(
            {
                "scalar": facts,
                "compiled_steps_per_second": round(compiled),
                "profile": {k: round(v, 3) for k, v in parts.items()},
                **place,
            }
        )
    )


if __name__ == "__main__":
    main()
