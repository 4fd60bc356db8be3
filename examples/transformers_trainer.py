"""A Hugging Face Trainer with the callback. Run: python examples/transformers_trainer.py"""

import sys
import tempfile

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from autotuner.adapters.transformers_callback import AutotunerCallback

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200


class Denoiser(nn.Module):
    """Predicts the noise that it has added to 16 x 16 stripes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1))

    def forward(self, clean: torch.Tensor) -> dict:
        """The loss, as the trainer wants it."""
        level, noise = torch.rand(len(clean), 1, 1, 1), torch.randn_like(clean)
        noisy = torch.cat([(1 - level) * clean + level * noise, level.expand(-1, 1, 16, 16)], dim=1)
        return {"loss": nn.functional.mse_loss(self.layers(noisy), noise)}


stripes = ((torch.rand(1024, 1, 1, 16) > 0.5).float() * 2 - 1).expand(-1, 1, 16, 16).contiguous()
tuned = AutotunerCallback("transformers-stripes", knobs=("pace", "lr_scale"))
with tempfile.TemporaryDirectory() as directory:
    arguments = TrainingArguments(
        directory,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        learning_rate=2e-3,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.backends.mps.is_available(),
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    dataset = [{"clean": image} for image in stripes]
    Trainer(Denoiser(), arguments, train_dataset=dataset, callbacks=[tuned]).train()
print(tuned.training.summary)
