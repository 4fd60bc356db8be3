"""Samplers that look at each sample: rows, levels and the number of evaluations by cheap traits of its trajectory."""

from __future__ import annotations

from autotuner.diffusion.adaptive.head import Head, plain
from autotuner.diffusion.adaptive.learn import Effort, Learned, learn
from autotuner.diffusion.adaptive.sampling import Adaptive, Sampled, sample

__all__ = ["Adaptive", "Effort", "Head", "Learned", "Sampled", "learn", "plain", "sample"]
