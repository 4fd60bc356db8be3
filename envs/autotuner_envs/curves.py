"""How a simulated training learns: held-out loss and few-step quality as functions of what the model has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP = 0.08
"""Share of the budget in which the learning rate rises in what was recorded, and so in every simulated script."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Parameters of one learning curve; image counts are in images at full resolution.

    The held-out loss at full resolution is ``floor + coarse part + fine part + transient + noise part``. Images of any
    resolution teach the coarse part; the fine part needs full resolution. Training at low resolution moves the model away
    from full resolution (the transient grows towards ``gap``), and full steps bring it back within ``return_images``.
    """

    floor: float = 0.14
    coarse: float = 0.75
    coarse_images: float = 1500.0
    coarse_exponent: float = 1.2
    fine: float = 0.25
    fine_images: float = 12000.0
    fine_exponent: float = 0.9
    efficiency_exponent: float = 0.5
    """An image at ratio r of full resolution counts as r**efficiency_exponent for the coarse part."""
    fine_exponent_of_ratio: float = 8.0
    """...and as r**fine_exponent_of_ratio for the fine part: near nothing at half resolution."""
    gap: float = 0.6
    """Size of the transient per unit of 1 - ratio."""
    leave_images: float = 6000.0
    return_images: float = 1500.0
    rate_exponent: float = 0.5
    """An image counts as (learning rate / peak)**rate_exponent: late images at a small rate teach little."""
    rate_curvature: float = 0.05
    """How fast an image loses worth, in squared octaves, as the learning rate leaves the best one."""
    best_octaves: float = 0.5
    """How far the best learning rate lies above the script's own."""
    annealing: float = 0.02
    """Loss that goes as the schedule decays. Recorded runs show no such gain at once where lr_scale is turned instead: the
    weights that are evaluated are an average."""

    def held_out_loss(self, coarse_seen: float, fine_seen: float, transient: float, learning_rate: float) -> float:
        """The loss that an evaluation at full resolution shows."""
        coarse = self.coarse * (1.0 + coarse_seen / self.coarse_images) ** -self.coarse_exponent
        fine = self.fine * (1.0 + fine_seen / self.fine_images) ** -self.fine_exponent
        return self.floor + coarse + fine + transient + self.annealing * learning_rate

    def weights(self, ratio: float) -> tuple[float, float]:
        """What one image at this ratio of full resolution teaches (coarse, fine)."""
        return ratio**self.efficiency_exponent, ratio**self.fine_exponent_of_ratio

    def efficiency(self, octaves: float) -> float:
        """What an image is worth at ``octaves`` above the script's own learning rate, where it is worth 1."""
        return math.exp(self.rate_curvature * (self.best_octaves**2 - (octaves - self.best_octaves) ** 2))

    def moved(self, transient: float, ratio: float, images: float) -> float:
        """The transient after training ``images`` more at this ratio."""
        goal = self.gap * (1.0 - ratio)
        constant = self.leave_images if goal > transient else self.return_images
        return goal + (transient - goal) * math.exp(-images / constant)


@dataclass(frozen=True, slots=True)
class Distillation:
    """Few-step quality (a distance: lower is better) of teacher and student, relative to the teacher's held-out loss."""

    scale: float = 100.0
    exponent: float = 2.0
    """The undistilled teacher at the target steps has quality scale * (loss / reference)**exponent."""
    reference: float = 0.25
    start_ratio: float = 1.3
    """A fresh student against the undistilled teacher: worse, before it has learned anything."""
    floors: tuple[float, ...] = (0.62, 0.5)
    """What a long stage 1, 2, ... reaches, relative to the undistilled teacher."""
    images: float = 12000.0
    """Images in which the student covers 63 % of the way."""
    many_steps: float = 0.45
    """Quality of the teacher in many steps, relative to the undistilled teacher at the target steps."""

    def undistilled(self, loss: float) -> float:
        """Quality of the teacher itself at the target steps."""
        return self.scale * (loss / self.reference) ** self.exponent

    def floor(self, stage: int) -> float:
        """Relative quality that ``stage`` tends to; stages beyond the table stay at the last."""
        return self.floors[min(stage, len(self.floors)) - 1]

    def gap(self, ratio: float) -> float:
        """What a gate reads of a student with this relative quality: its distance over its teacher's in many steps."""
        return ratio / self.many_steps

    def moved(self, ratio: float, stage: int, images: float) -> float:
        """The student's relative quality after ``images`` more in ``stage``."""
        floor = self.floor(stage)
        return floor + (ratio - floor) * math.exp(-images / self.images)
