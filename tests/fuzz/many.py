"""Many cases of every input from outside, counted: ``python -m tests.fuzz.many --cases 100000 --seed 1``.

Runs in batches, each with a seed of its own, and appends a line a batch to ``--record``: started again with the same file it
goes on where it stopped. ``--input`` selects one. A case that takes longer than ``LONGEST_SECONDS`` is a hang; memory beyond
``MOST_BYTES`` is an error that counts as a crash.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.artefact_input import ArtefactInput
from tests.fuzz.configuration_input import ConfigurationInput
from tests.fuzz.declaration_input import DeclarationInput
from tests.fuzz.journal_input import JournalInput
from tests.fuzz.page_input import PageInput
from tests.fuzz.ring_input import RingInput
from tests.fuzz.socket_input import SocketInput

INPUTS: dict[str, Callable[[Path], Any]] = {
    "ring": RingInput,
    "page": PageInput,
    "socket": SocketInput,
    "journal": JournalInput,
    "artefact": ArtefactInput,
    "configuration": ConfigurationInput,
    "declaration": DeclarationInput,
}
LONGEST_SECONDS = 30.0
MOST_BYTES = 4 << 30
"""Address space, which the libraries that the tests import fill by half."""
BATCH = 1000


class HangError(BaseException):
    """A case took longer than LONGEST_SECONDS; no product code may swallow it."""


class Tally:
    """How many cases have been begun."""

    begun = 0


def run_cases(name: str, directory: Path, count: int, number: int | None, tally: Tally, shrink: bool = True) -> None:
    """Check ``count`` cases of one input, with seed ``number``, or the same ones at every run."""
    with closing(INPUTS[name](directory)) as checked:

        def once(case: Any) -> None:
            tally.begun += 1
            signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
            try:
                checked.check(case)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

        property_ = settings(
            max_examples=count, deadline=None, database=None, derandomize=number is None, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        )(given(checked.cases)(once))  # fmt: skip
        before = signal.signal(signal.SIGALRM, _hang)
        try:
            (property_ if number is None else seed(number)(property_))()
        finally:
            signal.signal(signal.SIGALRM, before)


def _hang(number: int, frame: Any) -> None:
    raise HangError(f"a case took longer than {LONGEST_SECONDS} s")


def main() -> int:
    """Run what is not recorded yet, and print one line an input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of all inputs together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", choices=list(INPUTS), help="one input alone")
    parser.add_argument("--record", type=Path, help="JSON lines, one a batch; what stands there is not run again")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, resource.RLIM_INFINITY))
    faulthandler.dump_traceback_later(3 * LONGEST_SECONDS * BATCH, exit=True)
    done = _done(arguments.record)
    batches = -(-arguments.cases // len(INPUTS) // BATCH)
    for name in [arguments.input] if arguments.input else INPUTS:
        for batch in range(batches):
            key = f"{name}-{arguments.seed}-{batch}"
            if key in done:
                continue
            done[key] = _batch(key, name, arguments.seed * 1_000_003 + batch)
            if arguments.record is not None:
                with arguments.record.open("a") as record:
                    record.write(json.dumps(done[key]) + "\n")
    rows = [_sum(name, list(done.values())) for name in INPUTS if not arguments.input or name == arguments.input]
    for row in rows:
        print(json.dumps(row))
    whole = {name: sum(row[name] for row in rows) for name in ("cases", "crashes", "hangs")}
    print(json.dumps({"input": "all", **whole}))
    return 1 if whole["crashes"] or whole["hangs"] else 0


def _done(record: Path | None) -> dict[str, dict[str, Any]]:
    if record is None or not record.exists():
        return {}
    return {row["batch"]: row for row in map(json.loads, record.read_text().splitlines())}


def _batch(key: str, name: str, number: int) -> dict[str, Any]:
    began, tally, crashes, hangs = time.perf_counter(), Tally(), 0, 0
    with tempfile.TemporaryDirectory() as directory:
        try:
            run_cases(name, Path(directory), BATCH, number, tally, shrink=False)
        except HangError:
            hangs = 1
            traceback.print_exc()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            crashes = 1
            traceback.print_exc()
    sys.stderr.flush()
    return {
        "batch": key, "input": name, "cases": tally.begun, "crashes": crashes, "hangs": hangs, "seed": number,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def _sum(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["input"] == name]
    return {"input": name, **{what: sum(row[what] for row in own) for what in ("cases", "crashes", "hangs")}}


if __name__ == "__main__":
    raise SystemExit(main())
