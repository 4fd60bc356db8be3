"""A training step and a sampler, ours beside mlx-diffuser and diffusers on torch: a DiT and a U-Net of equal size, one run.

Run: ``python benchmarks/engine.py`` (``--quick`` for two rounds; ``--compiled`` adds rows with mx.compile, whose first step
calls g++ for minutes; ``--rows`` picks some). Every row lives in a process of its own with one thread for products, and only
one works at a time: the rounds go through all rows in turn, so that a busy machine slows them alike. Each ratio is the median
over rounds of our time over theirs in the same round.

Both MLX rows use the OpenBLAS of autotuner.diffusion.blas with mx.compile off; "as installed" is mlx-diffuser on the BLAS
that the MLX wheel brings, with its step compiled, as its users have it. Widths, depth, heads and patch are equal in all rows;
diffusers' DiT embeds time and class again in every block, which makes it a seventh larger than mlx-diffuser's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.engine_rows import BATCH, EDGE, ROWS, SAMPLING_STEPS, timed

FAIR = ("ours", "mlx-diffuser", "torch")
EXTRA = ("ours, own DiT",)
SLOW = ("mlx-diffuser as installed",)
COMPILED = ("ours, compiled", "mlx-diffuser, compiled")
MODELS = {"dit": FAIR + EXTRA + SLOW, "unet": FAIR + SLOW}
WARM_UPS = 2


def work(name: str, family: str) -> None:
    """A row's process: a line in, a line out, until there are no more."""
    row = ROWS[name](family)
    for line in sys.stdin:
        print(json.dumps(answer(row, line.strip())), flush=True)


def answer(row: Any, what: str) -> Any:
    if what == "facts":
        return {"parameters": row.parameters, **row.facts()}
    if what == "parts":
        return {name: timed(part, row.evaluate) for name, part in row.parts.items()}
    before = time.process_time()
    wall = timed(getattr(row, what), row.evaluate)
    return {"wall": wall, "cpu": time.process_time() - before}


class Worker:
    """A row in a process of its own."""

    def __init__(self, name: str, family: str) -> None:
        compiled = {"AUTOTUNER_MLX_COMPILE": "1"} if "compiled" in name else {}
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
        self.name = name
        self.rounds: dict[str, list[dict[str, float]]] = {"train": [], "sample": [], "parts": []}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", name, family],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, **compiled},
        )

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"row {self.name!r} ended with {self._process.wait()}; its error stands above")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(family: str, names: tuple[str, ...], rounds: int) -> list[Worker]:
    workers = [Worker(name, family) for name in names]
    for worker in workers:
        for _ in range(WARM_UPS):
            worker.ask("train")
        worker.ask("sample")
    for turn in range(rounds):
        for worker in workers:
            if worker.name in SLOW and turn >= 2:
                continue  # a row for information, ten times slower
            for what, found in worker.rounds.items():
                found.append(worker.ask(what))
    return workers


def middle(worker: Worker, what: str, clock: str) -> float:
    return median(found[clock] for found in worker.rounds[what])


def ratio(ours: Worker, theirs: Worker, what: str, clock: str) -> float:
    return median(a[clock] / b[clock] for a, b in zip(ours.rounds[what], theirs.rounds[what], strict=False))


def report(family: str, workers: list[Worker]) -> dict[str, float]:
    ours, facts = workers[0], {worker.name: worker.ask("facts") for worker in workers}
    print(f"\n{family}, {BATCH} images of {EDGE} px; seconds: median of {len(ours.rounds['train'])} rounds; ours / theirs")
    print(f"{'':27s}parameters   step s  (CPU)  ours/it (CPU)   {SAMPLING_STEPS} x DDIM s  (CPU)  ours/it (CPU)   peak MiB")
    for worker in workers:
        fact = facts[worker.name]
        cells = ""
        for what in ("train", "sample"):
            cells += f"{middle(worker, what, 'wall'):9.3f} {middle(worker, what, 'cpu'):7.3f}"
            cells += f"{ratio(ours, worker, what, 'wall'):9.2f} {ratio(ours, worker, what, 'cpu'):5.2f}    "
        print(f"{worker.name:27s}{fact['parameters']:10d}{cells}{fact.get('peak_mib', float('nan')):9.0f}")
    explain(ours, facts)
    found = {f"{family}_vs_{key}": worker for key, name in (("mlx_diffuser", "mlx-diffuser"), ("torch", "torch"))
             for worker in workers if worker.name == name}  # fmt: skip
    result = {key: round(ratio(ours, worker, "train", "wall"), 3) for key, worker in found.items()}
    result |= {f"{key}_sampling": round(ratio(ours, worker, "sample", "wall"), 3) for key, worker in found.items()}
    result["data_wait_percent"] = round(facts[ours.name]["data_wait_percent"], 2)
    return result


def explain(ours: Worker, facts: dict[str, dict[str, float]]) -> None:
    """Where our step's time and memory go."""
    part = {name: median(found[name] for found in ours.rounds["parts"]) for name in ours.rounds["parts"][0]}
    part["backward"] = part.pop("forward and backward") - part["forward"]
    whole = sum(part.values())
    print("  our step: " + ", ".join(f"{name} {100 * seconds / whole:.0f} %" for name, seconds in sorted(part.items())))
    mine = facts[ours.name]
    print(f"  waited for data {mine['data_wait_percent']:.2f} % of the step")
    if "torch" in facts:
        need = mine["state_mib"] + facts["torch"]["activations_mib"]
        print(
            f"  memory: weights, average, gradient and two moments {mine['state_mib']:.0f} MiB + what torch's autograd keeps"
            f" {facts['torch']['activations_mib']:.0f} MiB = {need:.0f} MiB; our peak {mine['peak_mib']:.0f} MiB"
            f" = {mine['peak_mib'] / need:.2f} x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="add rows with mx.compile on")
    parser.add_argument("--rows", nargs="*", help="only these beside ours")
    parser.add_argument("--families", nargs="*", default=list(MODELS), choices=list(MODELS))
    given = parser.parse_args()
    if given.work:
        return work(*given.work)
    print(f"command   python benchmarks/engine.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("versions  " + ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-diffuser", "torch", "diffusers")))
    result: dict[str, float] = {}
    for family in given.families:
        names = MODELS[family] + (COMPILED if given.compiled else ())
        names = tuple(name for name in names if given.rows is None or name == "ours" or name in given.rows)
        workers = measure(family, names, 2 if given.quick else given.rounds)
        found = report(family, workers)
        found["data_wait_percent"] = max(found["data_wait_percent"], result.get("data_wait_percent", 0.0))
        result |= found
        for worker in workers:
            worker.close()
    print(json.dumps(result))
    return None


if __name__ == "__main__":
    main()
