"""Multi-resolution training: what each optimizer step shows of its pictures, as a table of forms.

Every form is a pure function of the budget used, the seed and the step, so a resumed run continues exactly. Noise is scaled
with the resolution (``noise.resolution_scale``); the network is told where its tokens lie and how large they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotuner.diffusion import typed
from autotuner.errors import ConfigurationError

MAX_SHAPES = 8
REWARM_FLOOR = 0.05
"""Learning-rate factor right after a switch."""
FINE_EVERY = 8
"""While patches are coarse, one step of so many is fine: it keeps the fine embedding and head learning."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of the batch, and what the network is given of its pictures.

    A batch is ordered by noise level, least first, so a part of the batch is also a range of noise levels.
    """

    edge: int
    """Pixels of each side."""
    crop: bool = False
    """Cut from the picture at its own scale; otherwise the whole picture, area-averaged."""
    patch: int | None = None
    """Edge of a token in pixels; None: the network's own."""
    begin: float = 0.0
    end: float = 1.0
    located: bool = False
    """The network is given the centres of the tokens; views of one size that are located make one pass together."""

    def count(self, batch: int) -> int:
        """Pictures of this part."""
        return round(self.end * batch) - round(self.begin * batch)


@dataclass(frozen=True)
class Multires:
    """How a training uses several resolutions. Shares are of the budget, and the last step of every form is a full one."""

    form: str = "fixed"
    """A row of FORMS."""
    share: float = 0.5
    """Share of the budget after which every step is at full resolution."""
    rungs: tuple[int, ...] = ()
    """Edges below the full one, ascending; ``progressive`` spends equal parts of ``share`` on each, the others use the last."""
    probability: float = 1.0
    """Share of the steps before ``share`` that are cheap; the others are full."""
    split: float = 0.5
    """Share of the batch with the least noise that ``high_noise`` keeps at full resolution and ``levels`` crops."""
    tokens_constant: bool = False
    """Cheap steps take as many more pictures as their tokens allow."""
    rewarm: float = 0.0
    """Share of the budget in which the learning rate rises again after each switch."""

    def __post_init__(self) -> None:
        where = "multires"
        if self.form not in tuple(FORMS):
            raise ConfigurationError(f"{where}.form {self.form!r}; allowed: {', '.join(FORMS)}")
        typed.check(vars(self), Multires, f"{where}.")
        for name in ("share", "probability", "split", "rewarm"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigurationError(f"{where}.{name} {value!r}; allowed is 0 to 1")
        rungs = self.rungs
        if not all(edge > 0 for edge in rungs) or list(rungs) != sorted(set(rungs)):
            raise ConfigurationError(f"{where}.rungs {rungs!r}; allowed are ascending edges in pixels")
        if self.form != "fixed" and not rungs:
            raise ConfigurationError(f"{where}.rungs is empty; {self.form!r} needs at least one edge below the full one")

    def views(self, full: int, budget_used: float, seed: int, step: int) -> tuple[View, ...]:
        """What optimizer step ``step`` shows, in consecutive parts of the batch; one plain full view for ``fixed``."""
        if budget_used >= self.share:
            return (View(full),)
        if self.probability < 1 and np.random.default_rng([seed, step, 1]).random() >= self.probability:
            return (View(full),)
        return FORMS[self.form].views(self, full, step)

    def planned_edge(self, full: int, budget_used: float) -> int:
        """Where ``progressive`` wants the resolution knob now."""
        if self.form != "progressive" or budget_used >= self.share:
            return full
        return self.rungs[int(budget_used / self.share * len(self.rungs))]

    def rate(self, budget_used: float) -> float:
        """Factor on the learning rate: it rises again from REWARM_FLOOR after each switch."""
        if self.form == "fixed" or self.rewarm == 0:
            return 1.0
        count = len(self.rungs) if self.form == "progressive" else 1
        since = [budget_used - self.share * (i + 1) / count for i in range(count)]
        return min([max(REWARM_FLOOR, s / self.rewarm) for s in since if 0 <= s < self.rewarm], default=1.0)

    def factor(self, views: tuple[View, ...], full: int, patch: int) -> int:
        """How many times the pictures of a full step these views take; 1 unless tokens are kept constant."""
        if not self.tokens_constant:
            return 1
        tokens = sum((view.end - view.begin) * (view.edge / (view.patch or patch)) ** 2 for view in views)
        return max(1, int((full / patch) ** 2 / tokens))


@dataclass(frozen=True)
class Form:
    """One row of the table."""

    views: Callable[[Multires, int, int], tuple[View, ...]]
    """Of a cheap step, from the configuration, the full edge and the step's number."""
    needs_dit: bool
    """The network must take the tokens' centres."""
    sentence: str


def _patches(config: Multires, full: int, step: int) -> tuple[View, ...]:
    return (View(full),) if step % FINE_EVERY == FINE_EVERY - 1 else (View(full, patch=config.rungs[-1], located=True),)


def _high_noise(config: Multires, full: int, step: int) -> tuple[View, ...]:
    return _filled(View(full, end=config.split), View(config.rungs[-1], begin=config.split))


def _levels(config: Multires, full: int, step: int) -> tuple[View, ...]:
    edge = config.rungs[-1]
    return _filled(View(edge, True, end=config.split, located=True), View(edge, begin=config.split, located=True))


def _filled(*views: View) -> tuple[View, ...]:
    return tuple(view for view in views if view.end > view.begin)


FORMS: dict[str, Form] = {
    "fixed": Form(lambda c, full, step: (View(full),), False, "full resolution always: what the others are compared with"),
    "progressive": Form(
        lambda c, full, step: (View(full),), False, "the script's plan climbs the rungs by the resolution knob"
    ),
    "mixed": Form(
        lambda c, full, step: (View(c.rungs[-1]),), False, "steps draw their resolution, deterministic in seed and step"
    ),
    "crops": Form(
        lambda c, full, step: (View(c.rungs[-1], crop=True, located=True),),
        True,
        "aligned crops that know their coordinates (Wang et al. 2023, Patch Diffusion, without its extra channels)",
    ),
    "patches": Form(_patches, True, "larger tokens early (rungs are token edges), with an embedding and a head of their own"),
    "high_noise": Form(_high_noise, False, "small pictures for the noisier part of each batch only"),
    "levels": Form(_levels, True, "small whole pictures where noise is high, full-scale crops where it is low"),
}
"""``progressive`` has plain views because it moves the knob, which a controller may move instead."""


def merged(views: tuple[View, ...]) -> tuple[View, ...]:
    """What makes one forward and backward pass: consecutive located views of one size become one."""
    passes: list[View] = []
    for view in views:
        last = passes[-1] if passes else None
        if last is not None and last.located and view.located and (last.edge, last.patch) == (view.edge, view.patch):
            passes[-1] = replace(last, end=view.end)
        else:
            passes.append(view)
    return tuple(passes)


def configured(values: Mapping[str, Any]) -> Multires:
    """The checked configuration of plain values, as TOML or JSON give them. Raises ConfigurationError."""
    rungs = values.get("rungs", ())
    given = {**values, "rungs": tuple(rungs) if isinstance(rungs, list) else rungs}
    typed.check({name: value for name, value in given.items() if name != "form"}, Multires, "multires.")
    return Multires(**given)


def check(config: Multires, network: str, unit: int, coarse: int | None, batch: int, micro_batches: tuple[int, ...]) -> None:
    """Refuse what this training cannot do; raises ConfigurationError with what is allowed.

    ``unit`` is what the network divides edges by, ``coarse`` the edge of its larger tokens.
    """
    form = FORMS[config.form]
    if form.needs_dit and network != "dit":
        raise ConfigurationError(f"multires.form {config.form!r} needs the network 'dit', not {network!r}")
    if config.form == "patches" and config.rungs != (coarse,):
        raise ConfigurationError(
            f"multires.rungs {config.rungs!r}; allowed for 'patches' is the network's coarse_patch: {coarse!r}"
        )
    for edge in config.rungs:
        if edge % unit:
            raise ConfigurationError(f"multires.rungs {config.rungs!r}; allowed are multiples of {unit} for this network")
    for view in merged(form.views(config, max(config.rungs, default=unit), 0)):
        count = view.count(batch)
        if any(count % min(size, count) for size in micro_batches):
            raise ConfigurationError(
                f"multires.split {config.split!r}: {count} pictures are no multiple of every micro-batch {micro_batches}"
            )


def ladder(config: Multires, full: int, resolutions: tuple[int, ...], unit: int) -> tuple[int, ...]:
    """The resolution knob's ladder with the rungs that ``progressive`` climbs.

    Raises ConfigurationError for edges that are no multiples of ``unit``, for rungs that are not below ``full``, for coarse
    patches that do not divide it, and for more than MAX_SHAPES edges.
    """
    if any(edge < 1 or edge % unit for edge in resolutions):
        raise ConfigurationError(f"resolutions {resolutions!r}; allowed are multiples of {unit} for this network")
    if config.form == "patches" and any(full % edge for edge in config.rungs):
        raise ConfigurationError(f"multires.rungs {config.rungs!r}; allowed for 'patches' are divisors of {full} pixels")
    if any(edge >= full for edge in config.rungs):
        raise ConfigurationError(f"multires.rungs {config.rungs!r}; allowed are edges below the full resolution of {full}")
    if len(config.rungs) >= MAX_SHAPES:
        raise ConfigurationError(f"multires.rungs {config.rungs!r} and the full edge; allowed are {MAX_SHAPES} shapes in all")
    return tuple(sorted({*resolutions, *config.rungs})) if config.form == "progressive" else resolutions


@dataclass(frozen=True, slots=True)
class Shown:
    """The pixels of one view, uint8 or latents (count, edge, edge, channels), and where their tokens lie."""

    view: View
    images: np.ndarray
    centres: np.ndarray | None
    """Centres of the tokens along rows and columns in units of the picture, float32 (count, 2, tokens a side)."""


def show(view: View, images: np.ndarray, full: int, patch: int, generator: np.random.Generator) -> Shown:
    """Cut what ``view`` shows out of whole pictures of its scale; crops fall on the grid of patches, uniformly."""
    count = len(images)
    if view.crop:
        side, grid = view.edge // patch, full // patch
        corners = generator.integers(0, grid - side + 1, (count, 2))
        windows = np.lib.stride_tricks.sliding_window_view(images, (view.edge, view.edge), axis=(1, 2))
        pixels = windows[np.arange(count), corners[:, 0] * patch, corners[:, 1] * patch].transpose(0, 2, 3, 1)
        centres = (corners[:, :, None] + np.arange(side) + 0.5) / grid
        return Shown(view, np.ascontiguousarray(pixels), centres.astype(np.float32))
    if view.located:
        side = view.edge // (view.patch or patch)
        return Shown(view, images, np.broadcast_to(((np.arange(side) + 0.5) / side).astype(np.float32), (count, 2, side)))
    return Shown(view, images, None)
