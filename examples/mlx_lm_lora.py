"""mlx-lm's ``train`` with the callback, on a tiny random Llama. Run: python examples/mlx_lm_lora.py (pip install mlx-lm)"""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

from autotuner.adapters.mlx_lm_callback import AutotunerCallback

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
mx.random.seed(0)
optimizer = optim.Adam(learning_rate=1e-3)
model = Model(
    ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=2,
        rms_norm_eps=1e-5, vocab_size=256,
    )
)  # fmt: skip
text = list(Path(__file__).read_bytes())
data = [(text[start : start + 48], 0) for start in range(0, len(text) - 48, 16)]
tuned = AutotunerCallback(
    "mlx-lm-tiny", model, iterations=ITERATIONS, optimizer=optimizer, checkpoints=Path(tempfile.gettempdir()) / "mlx-lm-tiny"
)
with tempfile.TemporaryDirectory() as directory:
    train(
        model,
        optimizer,
        data,
        args=TrainingArgs(
            batch_size=8, iters=ITERATIONS, steps_per_report=10, steps_per_save=10**6, max_seq_length=64,
            adapter_file=str(Path(directory) / "adapters.safetensors"),
        ),
        training_callback=tuned,
        iterate_batches=tuned.batches(iterate_batches),
    )  # fmt: skip
tuned.close()
print(tuned.training.summary)
