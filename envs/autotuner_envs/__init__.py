"""Environments in which Autotuner's policies are trained and judged; importing registers them with Gymnasium."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):  # simulator and scenarios need NumPy alone
    from gymnasium.envs.registration import register

    register(id="autotuner/TrainingRun-v0", entry_point="autotuner_envs.training_run:TrainingRun")
