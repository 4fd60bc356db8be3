"""What every test may count on."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

with contextlib.suppress(ImportError):  # the hook's tests need no MLX
    # Before a test module brings MLX by itself: with the BLAS that it would find then, networks learn eight times as slowly.
    import autotuner.diffusion.blas  # noqa: F401

MOST_WORKERS = 4
"""Each worker imports MLX and torch, half a gigabyte; a machine with more cores gains little more."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For ``-n auto``: a worker a core that this process may use; none for a selection, which would wait longer for them."""
    if config.option.keyword or all(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if cores > 1 else 0


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_heard():
    """A suite started in the background inherits an ignored SIGINT, and so would every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
