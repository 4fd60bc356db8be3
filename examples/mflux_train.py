"""mflux's own training without its weights. Run: autotuner run -- python examples/mflux_train.py (pip install mflux)

Everything is mflux's (runner, data, LoRA layers, loop, checkpoints, the Z-Image transformer) but for what its weights are for:
the transformer is tiny and random, the pictures' averages stand for the latents, and noise for the encoded prompts.
It writes pictures and configuration to ``mflux-stripes``, with which those who have the weights train the real one:
autotuner run -- mflux-train --config mflux-stripes/train.json
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.common.training import runner
from mflux.models.z_image.model.z_image_transformer.transformer import ZImageTransformer
from mflux.models.z_image.training_adapter.z_image_training_adapter import ZImageTrainingAdapter
from mlx import nn
from PIL import Image

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
HERE = Path("mflux-stripes")
SIDE, BLOCKS, TEXT = 64, 2, 32
CONFIGURATION = {
    "model": "z-image",
    "data": "data/",
    "seed": 4,
    "steps": 8,
    "max_resolution": SIDE,
    "training_loop": {"num_epochs": EPOCHS, "batch_size": 2},
    "optimizer": {"name": "AdamW", "learning_rate": 1e-3},
    "checkpoint": {"save_frequency": 50, "output_path": str((HERE / "training").absolute())},
    "monitoring": {  # without it mflux tells nobody the loss
        "preview_width": SIDE, "preview_height": SIDE, "plot_frequency": 20, "generate_image_frequency": 10**6,
    },
    "lora_layers": {
        "targets": [
            {"module_path": f"layers.{{block}}.attention.{name}", "blocks": {"start": 0, "end": BLOCKS}, "rank": 4}
            for name in ("to_q", "to_k", "to_v")
        ]
    },
}  # fmt: skip


class WithoutWeights(nn.Module):
    """The parts of a Z-Image that training looks at."""

    def __init__(self):
        super().__init__()
        self.transformer = ZImageTransformer(
            dim=64, n_layers=BLOCKS, n_refiner_layers=1, n_heads=2, cap_feat_dim=TEXT, axes_dims=[8, 12, 12]
        )
        self.vae = self.text_encoder = nn.Identity()


class TinyAdapter(ZImageTrainingAdapter):
    """mflux's adapter to Z-Image, but for its weights."""

    def __init__(self, *, model_config, quantize=None, model_path=None):
        self._model_config = model_config
        self._z = WithoutWeights()
        mx.eval(self._z.parameters())

    def encode_data(self, *, data_id, image_path, prompt, width, height, input_image_path=None):
        """Averages of 8 x 8 pixels in each of 16 channels, and a text of eight random words."""
        with Image.open(image_path) as image:
            small = np.asarray(image.convert("L").resize((width // 8, height // 8)), dtype=np.float32) / 127.5 - 1
        latents = mx.broadcast_to(mx.array(small), (16, 1, *small.shape)).astype(ModelConfig.precision)
        return latents, mx.random.normal((8, TEXT), key=mx.random.key(data_id)).astype(ModelConfig.precision)

    def generate_preview_image(self, *, width, height, **_):
        """Grey: there is no decoder."""
        return Image.new("RGB", (width, height), "grey")


data = HERE / "data"
data.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)
for number in range(12):
    stripes = np.repeat(rng.random((1, 8)) > 0.5, 8, axis=1) * np.ones((SIDE, 1), dtype=np.uint8) * np.uint8(255)
    Image.fromarray(stripes).convert("RGB").save(data / f"stripes-{number}.png")
    (data / f"stripes-{number}.txt").write_text("vertical stripes")
(HERE / "train.json").write_text(json.dumps(CONFIGURATION, indent=2))

runner.ZImageTrainingAdapter = TinyAdapter
runner.TrainingRunner.train(config_path=str(HERE / "train.json"), resume_path=None)
print(f"{EPOCHS * 6} steps; the configuration for those who have the weights: {HERE / 'train.json'}")
