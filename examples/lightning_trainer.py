"""PyTorch Lightning with the callback. Run: python examples/lightning_trainer.py (pip install lightning)"""

import sys

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autotuner.adapters.lightning_callback import AutotunerCallback

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 400


class Denoiser(pl.LightningModule):
    """Predicts the noise that it has added to 16 x 16 stripes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1))

    def training_step(self, batch: list, _: int) -> torch.Tensor:
        """The loss of one batch."""
        (clean,) = batch
        level, noise = torch.rand(len(clean), 1, 1, 1, device=self.device), torch.randn_like(clean)
        noisy = torch.cat([(1 - level) * clean + level * noise, level.expand(-1, 1, 16, 16)], dim=1)
        return nn.functional.mse_loss(self.layers(noisy), noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


stripes = ((torch.rand(1024, 1, 1, 16) > 0.5).float() * 2 - 1).expand(-1, 1, 16, 16).contiguous()
tuned = AutotunerCallback("lightning-stripes", knobs=("pace", "lr_scale"))
trainer = pl.Trainer(
    max_steps=STEPS,
    accumulate_grad_batches=2,
    callbacks=[tuned],
    accelerator="auto",
    devices=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Denoiser(), DataLoader(TensorDataset(stripes), 16, shuffle=True))
print(tuned.training.summary)
