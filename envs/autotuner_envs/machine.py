"""What one optimizer step costs on a simulated machine: seconds and bytes as functions of the shape."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
MOST_EVALUATIONS = 50
"""Evaluations over the longest-watched budget."""
QUALITY_EVERY = 3
"""Every how many of them the few-step quality is measured too."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of one optimizer step of ``batch`` images, split into micro-batches, on the cool machine.

    Every forward and backward pass costs ``pass_seconds`` whatever its size, and every image
    ``image_seconds * (resolution / full)**exponent``.
    """

    pass_seconds: float = 0.004
    image_seconds: float = 0.001
    exponent: float = 2.2
    student_factor: float = 1.35
    """A distillation step against a teacher's: one more forward pass, by the frozen teacher."""
    compile_seconds: float = 0.5
    """Once for each new shape."""

    def seconds(self, batch: int, micro_batch: float, ratio: float, stage: int) -> float:
        """One optimizer step of ``batch`` images at this ratio of full resolution."""
        step = self.pass_seconds * batch / micro_batch + self.image_seconds * batch * ratio**self.exponent
        return step * self.student_factor if stage else step


@dataclass(frozen=True, slots=True)
class MemoryCost:
    """Framework bytes: weights and optimizer state stay, activations grow with the pixels of a micro-batch."""

    weight_bytes: float = 30.0 * MIB
    image_bytes: float = 2.0 * MIB
    """Activations of one image at full resolution."""
    exponent: float = 2.0
    student_factor: float = 1.4
    cached_share: float = 0.85
    """Of a shape's activations, what the framework's cache keeps for it. The caches of different shapes add up: recorded."""
    shape_bytes: float = 0.2 * MIB
    """Kept by every shape ever compiled, whatever the cache limit (assumed)."""

    def activations(self, micro_batch: float, ratio: float, stage: int) -> float:
        """Transient bytes of one pass."""
        transient = self.image_bytes * micro_batch * ratio**self.exponent
        return transient * self.student_factor if stage else transient

    def resident(self, stage: int, shapes: int) -> float:
        """Bytes that stay between two passes; the student adds a copy of the weights to what the optimizer holds."""
        return self.weight_bytes * (1.25 if stage else 1.0) + shapes * self.shape_bytes


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """Seconds of a held-out evaluation and of the samples drawn with it, on the cool machine."""

    held_out_seconds: float = 0.3
    quality_seconds: float = 0.6
    """Samples at the target steps, drawn at every second evaluation."""
    preview_step_seconds: float = 0.01
    """One solver step of the preview grid."""
