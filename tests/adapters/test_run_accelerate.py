"""The example script, unmodified: out of memory in its largest forward pass, resumed from its checkpoint in smaller ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate_script.py"
SMALL_MACHINE = """
import runpy, sys
import torch
seen = 0
def forward(model, inputs):
    global seen
    seen += 1
    if seen > 90 and len(inputs[0]) > 8:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 17.2 GB, max allowed: 18.1 GB)")
torch.nn.modules.module.register_module_forward_pre_hook(lambda m, i: forward(m, i) if type(m).__name__ == "Denoiser" else None)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.slow
def test_a_script_that_ran_out_of_memory_goes_on_from_its_checkpoint_with_smaller_pieces(tmp_path):
    machine = tmp_path / "train.py"
    machine.write_text(SMALL_MACHINE)
    script = [str(machine), str(EXAMPLE), "--output_dir", str(tmp_path / "out"), "--max_train_steps", "80"]
    autotuner = [sys.executable, "-m", "autotuner", "run", "--restarts", "3", "--json"]
    autotuner += ["--resume=--resume_from_checkpoint latest", "--"]
    done = subprocess.run(
        [*autotuner, sys.executable, *script, "--checkpointing_steps", "20"],
        env={**os.environ, "AUTOTUNER_STATE_DIR": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    assert [attempt["cause"] for attempt in told] == ["memory", "memory", "finished"]
    assert [attempt["knobs"]["micro_batch"] for attempt in told] == [32, 16, 8]
    assert "resumed at step 40" in done.stdout
    assert "resumed at step 60" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("largest forward pass 8 images")
