"""The three lines of a training script begin here: ``attach`` and ``knob``. Kept free of costly imports."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from autotuner.hook.run import Run


SHAPE_DWELL_STEPS = 10


class Offer:
    """What a script says of one knob, unchecked."""

    __slots__ = ("effect", "start", "values")

    def __init__(self, start: float, values: Sequence[float], effect: str) -> None:
        self.start = start
        self.values = values
        self.effect = effect

    def __repr__(self) -> str:
        return f"knob({self.start!r}, {self.values!r}, effect={self.effect!r})"


def knob(start: float, values: Sequence[float], effect: str = "live") -> Offer:
    """A knob that starts at ``start`` and may take each of ``values``; ``effect`` says when a change is felt."""
    return Offer(start, values, effect)


def attach(
    name: str,
    *,
    knobs: Mapping[str, Offer] | None = None,
    model: Mapping[str, Any] | None = None,
    framework: str = "",
    budget_seconds: float | None = None,
    budget_steps: int | None = None,
    target: float | None = None,
    quality_metric: str = "",
    search_space: Mapping[str, Sequence[Any]] | None = None,
    max_shapes: int = 8,
    shape_dwell_steps: int = SHAPE_DWELL_STEPS,
    clear_cache: Callable[[], object] | None = None,
    max_pixels: int | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    auto: bool = True,
) -> Run:
    """Declare this training run to the daemon and return its handle. Never raises and never waits.

    What cannot be used is told by one ``AutotunerWarning`` and left out; without a usable state directory the run does
    nothing and training goes on. With ``auto`` (the default) ``report`` polls and acknowledges by itself; without it
    the script calls ``poll`` and ``acknowledge``.

    Resolution and micro-batch make the shapes of a run's tensors. It uses at most ``max_shapes`` pairs of them, and keeps one
    for at least ``shape_dwell_steps`` steps unless the next one needs less memory; ``clear_cache``, for example
    ``mlx.core.clear_cache`` or ``torch.mps.empty_cache``, is called after each switch.
    """
    from autotuner.hook.start import start

    settings = {
        "model": model,
        "framework": framework,
        "budget_seconds": budget_seconds,
        "budget_steps": budget_steps,
        "target": target,
        "quality_metric": quality_metric,
        "search_space": search_space,
        "max_shapes": max_shapes,
        "shape_dwell_steps": shape_dwell_steps,
        "clear_cache": clear_cache,
        "max_pixels": max_pixels,
    }
    return start(name, knobs, settings, state_dir, auto)
