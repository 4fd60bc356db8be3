"""Whatever bytes arrive from outside: a documented error or a sound value, never a crash, never a hang.

The default run checks the same few hundred cases of each input every time; ``make test-slow`` checks AUTOTUNER_FUZZ_CASES of
them (100,000 in all), and ``python -m tests.fuzz.many`` does so in pieces.
"""

import os

import pytest

from tests.fuzz.many import INPUTS, Tally, run_cases

FEW = {"ring": 40, "journal": 60}
CASES = int(os.environ.get("AUTOTUNER_FUZZ_CASES", "100000"))


@pytest.mark.parametrize("name", INPUTS)
def test_no_input_crashes_or_hangs(name, tmp_path):
    tally = Tally()
    run_cases(name, tmp_path, FEW.get(name, 200), None, tally)
    assert tally.begun >= FEW.get(name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_no_input_crashes_or_hangs_in_many_cases(name, tmp_path):
    tally = Tally()
    run_cases(name, tmp_path, CASES // len(INPUTS), 1, tally)
    assert tally.begun >= CASES // len(INPUTS)
