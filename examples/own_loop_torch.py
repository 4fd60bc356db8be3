"""A PyTorch loop of one's own, with micro-batch, pace and its memory. Run: python examples/own_loop_torch.py 20"""

import sys
import time

import torch
from torch import nn

from autotuner.adapters.device_memory import of_torch, torch_cache_clearing
from autotuner.adapters.training import Training
from autotuner.hook import attach, knob

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
BATCH = 64
device = "mps" if torch.backends.mps.is_available() else "cpu"
torch.manual_seed(0)
stripes = ((torch.rand(2048, 1, 1, 16) > 0.5).float() * 2 - 1).expand(-1, 1, 16, 16).contiguous().to(device)
model = nn.Sequential(nn.Conv2d(2, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

run = attach(
    "own-loop-torch",
    knobs={"micro_batch": knob(64, [8, 16, 32, 64], "boundary"), "pace": knob(1.0, [0.5, 0.75, 1.0], "boundary")},
    budget_seconds=SECONDS,
    clear_cache=torch_cache_clearing(torch, device),
)
training = Training(run, memory=of_torch(torch, device))
began = time.monotonic()
while time.monotonic() - began < SECONDS:
    batch = stripes[torch.randint(len(stripes), (BATCH,))]
    total = 0.0
    for clean in batch.split(run.knobs.micro_batch):  # accumulation keeps the effective batch
        level, noise = torch.rand(len(clean), 1, 1, 1, device=device), torch.randn_like(clean)
        noisy = torch.cat([(1 - level) * clean + level * noise, level.expand(-1, 1, 16, 16)], dim=1)
        loss = nn.functional.mse_loss(model(noisy), noise) * len(clean) / BATCH
        loss.backward()
        total += loss.item()
        training.rest()
    optimizer.step()
    optimizer.zero_grad()
    training.stepped(total, BATCH)
run.close()
print(f"loss {total:.3f}; {training.summary}")
