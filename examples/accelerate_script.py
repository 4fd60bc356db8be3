"""A script as the diffusers examples are, and without one line for Autotuner. Tuned by: autotuner run -- python THIS

It trains a small denoiser of 16 x 16 stripes with accelerate, keeps checkpoints, and goes on from the last one.
"""

import argparse
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def parse_args() -> argparse.Namespace:
    """The flags, named as in the diffusers examples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=Path, default=Path("accelerate-run"))
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--train_batch_size", type=int, default=32)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=2)
    parser.add_argument("--max_train_steps", type=int, default=400)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--checkpointing_steps", type=int, default=50)
    parser.add_argument("--resume_from_checkpoint", choices=["latest"])
    return parser.parse_args()


def stripes(count: int, resolution: int) -> torch.Tensor:
    """Images of random vertical stripes, -1 and 1."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.rand(count, 1, 1, resolution, generator=generator) > 0.5).float() * 2 - 1
    return rows.expand(count, 1, resolution, resolution).contiguous()


class Denoiser(nn.Module):
    """Predicts the noise from a noisy image and its noise level."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The noise in each pixel."""
        return self.layers(torch.cat([noisy, level.expand(-1, 1, *noisy.shape[2:])], dim=1))


def main() -> None:
    """Train, with accumulation and checkpoints."""
    args = parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps)
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.max_train_steps)
    dataset = TensorDataset(stripes(1000, args.resolution))
    train_dataloader = DataLoader(dataset, batch_size=args.train_batch_size, shuffle=True)
    model, optimizer, train_dataloader, scheduler = accelerator.prepare(model, optimizer, train_dataloader, scheduler)
    accelerator.init_trackers(
        "stripes", config={name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    )

    global_step = 0
    checkpoints = sorted(args.output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if args.resume_from_checkpoint and checkpoints:
        accelerator.load_state(str(checkpoints[-1]))
        global_step = int(checkpoints[-1].name.split("-")[1])
        print(f"resumed at step {global_step}", flush=True)

    updates_an_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
    largest = 0
    for _ in range(math.ceil(args.max_train_steps / updates_an_epoch)):
        for (clean,) in train_dataloader:
            with accelerator.accumulate(model):
                largest = max(largest, len(clean))
                level = torch.rand(len(clean), 1, 1, 1)
                noise = torch.randn_like(clean)
                predicted = model((1 - level) * clean + level * noise, level)
                loss = nn.functional.mse_loss(predicted, noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                global_step += 1
                accelerator.log({"loss": loss.detach().item()}, step=global_step)
                if global_step % args.checkpointing_steps == 0:
                    accelerator.save_state(str(args.output_dir / f"checkpoint-{global_step}"))
                    print(f"step {global_step}, loss {loss.item():.3f}, largest forward pass {largest} images", flush=True)
                    largest = 0
            if global_step >= args.max_train_steps:
                break
    accelerator.end_training()


if __name__ == "__main__":
    main()
