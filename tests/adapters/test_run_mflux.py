"""The example of mflux, unmodified: its runner, data, LoRA layers, loop and checkpoints, with a tiny random Z-Image."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotuner.hook.ring import RingReader
from autotuner.messages import Declaration, Goodbye, Sample

pytest.importorskip("mflux.models.common.training.trainer")

EXAMPLE = Path(__file__).parents[2] / "examples" / "mflux_train.py"


def test_mflux_trains_under_the_command_without_an_edit_and_each_step_is_seen(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "autotuner", "run", "--json", "--", sys.executable, str(EXAMPLE), "2"],
        cwd=tmp_path,
        env={**os.environ, "AUTOTUNER_STATE_DIR": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("12 steps")
    (attempt,) = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert attempt["cause"] == "finished"
    (run,) = (tmp_path / "state" / "runs").iterdir()
    declared = Declaration.from_json((run / "run.json").read_text())
    assert (declared.framework, declared.budget_steps, declared.model["batch"]) == ("mflux-mlx", 12, 2)
    ring = RingReader(run / "telemetry.ring")
    *samples, goodbye = ring.read()
    ring.close()
    assert isinstance(goodbye, Goodbye)
    assert [sample.step for sample in samples if isinstance(sample, Sample)] == list(range(1, 13))
    assert samples[-1].images == 24
    assert all(math.isfinite(sample.loss) for sample in samples)
    assert list((tmp_path / "mflux-stripes" / "training" / "checkpoints").glob("0000012_*"))
