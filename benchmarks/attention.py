"""Peak memory and time of attention's forward and backward pass: all queries at once beside chunks of queries.

Run: ``python benchmarks/attention.py`` (about five minutes; ``--quick`` leaves out the largest). Every cell is a process of its
own. The peak is what one pass adds to q, k, v and the output's gradient, by MLX's own count of bytes; results are evaluated
before the clock stops, and the time is the smaller of two: processor seconds where MLX computes on one core (its CPU backend),
which other processes hardly change, wall seconds on a GPU. A cell that would need more than ``--limit-gib`` is not run: its
row says what the arithmetic asks for.
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
from typing import Any

HEAD_SIZE = 64
REPEATS = 2
CELLS = ((1024, 32), (4096, 8), (16384, 1))
"""Tokens, and heads of all images together: 4 images x 8 heads, 1 image x 8 heads, 1 head."""
HELD_WHEN_PLAIN = 3
"""Arrays as large as the scores that the plain pass holds at its peak (measured, beside q, k, v and their gradients)."""
LIMITS = tuple(2**power for power in range(19, 26))


def measure(tokens: int, heads: int, chunk: int | None) -> dict[str, float]:
    from autotuner.diffusion.attention import attention
    from autotuner.diffusion.blas import mx

    mx.random.seed(0)
    q, k, v, direction = (mx.random.normal((1, heads, tokens, HEAD_SIZE)) for _ in range(4))
    mx.eval(q, k, v, direction)

    def loss(q: Any, k: Any, v: Any) -> Any:
        return (attention(q, k, v, scale=HEAD_SIZE**-0.5, queries_per_chunk=chunk) * direction).sum()

    step = mx.value_and_grad(loss, argnums=(0, 1, 2))
    before = mx.get_active_memory()
    clock = time.process_time if mx.default_device() == mx.cpu else time.perf_counter
    took = []
    for _ in range(REPEATS):
        mx.reset_peak_memory()
        began = clock()
        result = step(q, k, v)
        mx.eval(result)
        took.append(clock() - began)
        peak = mx.get_peak_memory() - before
        del result
    return {"peak_mib": peak / 2**20, "seconds": min(took)}


def cell(tokens: int, heads: int, chunk: int | None, limit_gib: float) -> dict[str, float] | None:
    """Measured in a fresh process; None where the plain pass would need more than the limit."""
    if chunk == tokens and plain_need_gib(tokens, heads) > limit_gib:
        return None
    command = [sys.executable, __file__, "--cell", json.dumps([tokens, heads, chunk])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def plain_need_gib(tokens: int, heads: int) -> float:
    return HELD_WHEN_PLAIN * heads * tokens * tokens * 4 / 2**30


def table(limit_gib: float, cells: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    from autotuner.diffusion.attention import queries_at_a_time

    print("\ntokens  heads  scores MiB   plain MiB  chunked MiB  of plain  queries/chunk   plain s  chunked s  x plain")
    found: dict[str, Any] = {}
    for tokens, heads in cells:
        chunk = queries_at_a_time(1, heads, tokens, tokens)
        plain, ours = cell(tokens, heads, tokens, limit_gib), cell(tokens, heads, None, limit_gib)
        assert ours is not None
        start = f"{tokens:6d}  {heads:5d}  {heads * tokens**2 / 2**18:10.0f}  "
        if plain is None:
            asked = f"not run: {HELD_WHEN_PLAIN} x scores = {plain_need_gib(tokens, heads):.1f} GiB"
            print(f"{start}{asked}; chunked {ours['peak_mib']:.0f} MiB, {ours['seconds']:.2f} s, {chunk} queries/chunk")
            found[str(tokens)] = {"chunked_mib": round(ours["peak_mib"], 1), "chunked_seconds": round(ours["seconds"], 3)}
            continue
        share, slower = ours["peak_mib"] / plain["peak_mib"], ours["seconds"] / plain["seconds"]
        print(
            f"{start}{plain['peak_mib']:10.0f}  {ours['peak_mib']:11.0f}  {share:8.3f}  {chunk:13d}  "
            f"{plain['seconds']:8.2f}  {ours['seconds']:9.2f}  {slower:7.2f}",
            flush=True,
        )
        found[str(tokens)] = {
            "plain_mib": round(plain["peak_mib"], 1),
            "chunked_mib": round(ours["peak_mib"], 1),
            "memory_ratio": round(share, 4),
            "time_ratio": round(slower, 3),
        }
    return found


def limits(tokens: int, heads: int) -> None:
    print(f"\nWhat the limit costs at {tokens} tokens and {heads} heads (whence SCORES_PER_CHUNK):")
    print("scores/chunk   queries  peak MiB  seconds")
    for limit in LIMITS:
        chunk = limit // (heads * tokens)
        row = cell(tokens, heads, chunk, float("inf"))
        assert row is not None
        print(f"        2^{limit.bit_length() - 1}  {chunk:8d}  {row['peak_mib']:8.0f}  {row['seconds']:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 4,096 tokens, and without the table of limits")
    parser.add_argument("--limit-gib", type=float, default=6.0, help="do not run what needs more (default 6)")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(*json.loads(options.cell))))
        return
    from autotuner.diffusion.blas import mx, status

    print(f"command   python benchmarks/attention.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"machine   {machine()}, MLX on {mx.default_device()}; {status().sentence}")
    print(f"versions  Python {platform.python_version()}, mlx {version('mlx')}; float32, heads of {HEAD_SIZE}")
    found = table(options.limit_gib, CELLS[:2] if options.quick else CELLS)
    if not options.quick:
        limits(4096, 2)
    print(json.dumps({"attention": found, "mlx": version("mlx"), "device": str(mx.default_device())}))


def machine() -> str:
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
