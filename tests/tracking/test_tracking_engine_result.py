"""What the engine writes is what a report reads."""

from __future__ import annotations

import numpy as np

from autotuner.diffusion import result
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.trainer import Trainer
from autotuner.tracking.result_file import read_result

CONFIG = TrainerConfig(
    name="tiny",
    model={"width": 16, "depth": 1, "mlp_ratio": 2},
    fixed={"heads": 2, "patch": 2, "attention": "relu"},
    batch=16,
    resolution=8,
    resolutions=(4, 8),
    micro_batch=16,
    micro_batches=(8, 16),
    student_ladder=(4,),
    seconds=None,
    steps=4,
    evaluate_every_steps=2,
    quality_images=16,
    held_out_images=16,
)


def test_the_result_of_the_engine_is_read_whole(tmp_path):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (120, 8, 8, 1), np.uint8), (np.arange(120) % 2).astype(np.int32)
    trainer = Trainer(CONFIG, Dataset("noise", "made for tests", images[16:], labels[16:], images[:16], labels[:16]))
    for _ in trainer.steps():
        pass
    document = result.conclude(trainer, tmp_path)
    read = read_result(tmp_path)
    assert (read.steps, read.images, read.seed, read.dataset) == (4, 64, 0, "noise")
    assert read.final_held_out_loss == document["held_out_loss"]
    assert [point.step for point in read.held_out] == [2, 4, 4]
    assert read.quality
    assert {final.who for final in read.final_quality} == {"teacher", "student"}
    assert {grid.who for grid in read.grids} == {"teacher", "student"}
    assert all(grid.path.read_bytes().startswith(b"\x89PNG") for grid in read.grids)
    assert read.peak_bytes > 0
    assert read.parameters
    assert read.injected_seconds == 0.0
    assert read.quality_floor is not None
    assert read.platform
    assert dict(read.versions)["mlx"]
