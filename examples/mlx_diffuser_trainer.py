"""mlx-diffuser with the hook around its step. Run: python examples/mlx_diffuser_trainer.py (pip install mlx-diffuser)"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx_diffuser

from autotuner.adapters.mlx_diffuser import tune

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
mx.random.seed(0)
stripes = mx.broadcast_to((mx.random.uniform(shape=(256, 1, 16, 1)) > 0.5) * 2.0 - 1.0, (256, 16, 16, 1))
network = mlx_diffuser.DiT(mlx_diffuser.DiTConfig(in_channels=1, patch_size=4, hidden_size=64, depth=2, num_heads=2))
trainer = mlx_diffuser.DiffusionTrainer(network, mlx_diffuser.FlowMatchEulerScheduler(), lr=1e-3)
checkpoints = Path(tempfile.gettempdir()) / "mlx-diffuser-stripes"
tuned = tune(trainer, "mlx-diffuser-stripes", steps=STEPS, checkpoints=checkpoints)
batches = [stripes[start : start + 16] for start in range(0, 256, 16)]
history = trainer.fit(batches, steps=STEPS, epochs=STEPS)
tuned.close()
print(f"loss {history[-1]:.3f}; {tuned.training.summary}")
