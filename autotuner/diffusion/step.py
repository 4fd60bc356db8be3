"""One optimizer step: accumulate gradients over micro-batches, then apply them unless they are not finite.

Everything that may change in a running training is an array argument or array state, so a change is never captured
by an old trace; only image shape and micro-batch size make new traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.nn as nn

from autotuner.diffusion import adam, ema, precision
from autotuner.diffusion.blas import COMPILED, mx
from autotuner.diffusion.flat import Layout
from autotuner.diffusion.precision import LossScale
from autotuner.errors import ConfigurationError

Errors = Callable[..., mx.array]
"""Loss of each image, shape (micro_batch,), from a denoiser and the arrays of one micro-batch."""


@dataclass(frozen=True)
class Rule:
    """What every update of one training has in common; frozen into its traces."""

    beta_1: float = adam.BETA_1
    beta_2: float = adam.BETA_2
    weight_decay: float = 0.01
    max_norm: float = 1.0
    """Gradients are scaled down to this Euclidean norm."""
    precision: str = "float32"
    """A key of ``precision.PRECISIONS``."""
    sigma_rels: tuple[float, ...] = ()
    """Widths of the power-function averages to keep beside the exponential one."""


class Pending(NamedTuple):
    """What waits to be applied: the gradients' sum as one vector, and the loss, both times the loss scale."""

    gradient: mx.array
    loss: mx.array


class State(NamedTuple):
    """Everything that one optimizer step changes."""

    weights: mx.array
    average: mx.array
    moments: adam.Moments
    profiles: tuple[mx.array, ...] = ()
    """Power-function averages, one for each of the rule's ``sigma_rels``."""
    scale: tuple[mx.array, ...] = ()
    """The LossScale of float16; empty in other formats."""


class Applied(NamedTuple):
    """What one optimizer step did, as arrays that are not yet evaluated."""

    loss: mx.array
    norm: mx.array
    finite: mx.array
    learning_rate: mx.array
    """As the update used it."""


class Learner:
    """A denoiser in training: its weights, optimizer and moving average, each one vector."""

    def __init__(self, denoiser: nn.Module, errors: Errors, frozen: nn.Module | None = None, rule: Rule | None = None) -> None:
        self.denoiser = denoiser
        self.rule = rule if rule is not None else Rule()
        self.layout = Layout(denoiser)
        self.state = self._begin()
        self.signatures: dict[tuple[Any, ...], int] = {}
        """How often the loss was traced for each tuple of shapes (every call counts where compilation is off)."""
        self.pending: Pending | None = None
        """What the micro-batches so far sum up to."""
        self._dtype = precision.PRECISIONS[self.rule.precision]
        self._cast(denoiser)
        self._programs: dict[Errors, Callable[..., Any]] = {}
        self.pursue(errors, frozen)
        self._judge = mx.compile(_judging(self.rule))
        self._updates = [mx.compile(update) for update in _updates(self.rule)]
        self.torn = False
        """Whether an interruption left some vectors updated and others not: such a state must not be saved."""
        mx.eval(self.state)

    def pursue(self, errors: Errors, frozen: nn.Module | None = None) -> None:
        """Minimise ``errors`` from the next micro-batch on, which may ask ``frozen``; weights, moments and averages go on.

        Each function is traced once and kept, so going back to an earlier one costs nothing.
        """
        if errors not in self._programs:
            if frozen is not None:
                self._cast(frozen)
            captured = [self.denoiser.state] if frozen is None else [self.denoiser.state, frozen.state]
            # The denoiser is an output too: value_and_grad leaves the trace's placeholders in it.
            self._programs[errors] = mx.compile(self._accumulating(errors), inputs=captured, outputs=[self.denoiser.state])
        self._pursued = errors, frozen
        self._accumulate = self._programs[errors]

    def accumulate(self, share: float, *arrays: mx.array) -> None:
        """Add one micro-batch: its share of the effective batch, importance weights, then what ``errors`` takes."""
        scaled = mx.array(share) * self.state.scale[0] if self.state.scale else mx.array(share)
        found = Pending(*self._accumulate(scaled, *arrays))
        if self.pending is not None:
            found = Pending(self.pending.gradient + found.gradient, self.pending.loss + found.loss)
        mx.eval(found)  # frees the graph of this micro-batch: the peak is that of one
        self.pending = found

    def apply(self, learning_rate: float, beta: float) -> Applied:
        """Clip, update weights and average, and forget the sum; a sum that is not finite changes nothing.

        One vector after the other, each replacing its old self: old and new states are never held together.
        """
        if self.pending is None:
            raise ValueError("nothing was accumulated")
        gradient, applied = self._judge(self.pending, self.state.scale, mx.array(learning_rate))
        _settle(gradient, applied)
        self.pending, self.torn = None, True
        for update in self._updates:
            self.state = update(self.state, gradient, applied, mx.array(beta))
            _settle(self.state)
        self._put(self.state.weights)
        self.torn = False
        return applied

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self.state = state
        self._put(state.weights)

    @property
    def averaged(self) -> mx.array:
        """The weights that are evaluated and distilled: the widest power-function average, or the exponential one."""
        return self.state.profiles[-1] if self.state.profiles else self.state.average

    def show_average(self, other: nn.Module) -> None:
        """Give ``other`` (of the same architecture) the averaged weights."""
        other.update(self.layout.unpack(self.averaged))

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass, or keep them; traces start anew. Raises ConfigurationError."""
        able = [module for module in self.denoiser.modules() if hasattr(module, "gradient_checkpointing")]
        if on and not able:
            raise ConfigurationError("gradient_checkpointing true; this network has no block that could be recomputed")
        for module in able:
            module.gradient_checkpointing = on
        self.signatures, self._programs = {}, {}
        self.pursue(*self._pursued)

    def _begin(self) -> State:
        weights = self.layout.pack(self.denoiser.trainable_parameters()).astype(mx.float32)
        scale = precision.begin() if self.rule.precision == "float16" else ()
        return State(weights, weights, adam.begin(self.layout.size), (weights,) * len(self.rule.sigma_rels), tuple(scale))

    def _cast(self, module: nn.Module) -> None:
        if self._dtype != mx.float32:
            module.set_dtype(self._dtype)
            module.dtype = self._dtype

    def _put(self, weights: mx.array) -> None:
        self.denoiser.update(self.layout.unpack(weights.astype(self._dtype)))

    def _accumulating(self, errors: Errors) -> Callable[..., Any]:
        def loss(share: mx.array, weights: mx.array, *arrays: mx.array) -> mx.array:
            return share * mx.mean(weights * errors(self.denoiser, *arrays))

        gradient = nn.value_and_grad(self.denoiser, loss)

        def accumulate(share: mx.array, *arrays: mx.array) -> Any:
            signature = tuple(tuple(array.shape) for array in arrays)
            self.signatures[signature] = self.signatures.get(signature, 0) + 1
            value, gradients = gradient(share, *arrays)
            return self.layout.pack(gradients).astype(mx.float32), value

        return accumulate


Update = Callable[[State, mx.array, Applied, mx.array], State]
"""One part of the optimizer step: state, clipped gradient, verdict and beta to the state with that part updated."""


def _settle(*arrays: Any) -> None:
    """Where nothing is fused, compute now: the temporaries of several updates would add up."""
    if not COMPILED:
        mx.eval(*arrays)


def _judging(rule: Rule) -> Callable[..., tuple[mx.array, Applied]]:
    def judge(pending: Pending, scale: tuple[mx.array, ...], learning_rate: mx.array) -> tuple[mx.array, Applied]:
        total, loss = (pending.gradient / scale[0], pending.loss / scale[0]) if scale else pending
        norm = mx.sqrt(mx.sum(mx.square(total)))
        finite = mx.isfinite(norm) & mx.isfinite(loss)
        return total * mx.minimum(1.0, rule.max_norm / (norm + 1e-6)), Applied(loss, norm, finite, learning_rate)

    return judge


def _updates(rule: Rule) -> list[Update]:
    """In order: moments, weights, averages, loss scale; each keeps what it had when the gradient is not finite."""
    exponents = [ema.exponent(sigma_rel) for sigma_rel in rule.sigma_rels]

    def first(state: State, gradient: mx.array, applied: Applied, beta: mx.array) -> State:
        old = state.moments
        new = mx.where(applied.finite, adam.average(old.first, gradient, rule.beta_1), old.first)
        return state._replace(moments=old._replace(first=new))

    def second(state: State, gradient: mx.array, applied: Applied, beta: mx.array) -> State:
        old = state.moments
        new = mx.where(applied.finite, adam.average(old.second, mx.square(gradient), rule.beta_2), old.second)
        return state._replace(moments=old._replace(second=new, updates=old.updates + applied.finite))

    def weights(state: State, gradient: mx.array, applied: Applied, beta: mx.array) -> State:
        decay = mx.array(rule.weight_decay)
        new = adam.step(state.weights, state.moments, applied.learning_rate, decay, rule.beta_1, rule.beta_2)
        return state._replace(weights=mx.where(applied.finite, new, state.weights))

    def average(state: State, gradient: mx.array, applied: Applied, beta: mx.array) -> State:
        new = ema.update(state.average, state.weights, beta)
        profiles = tuple(
            mx.where(applied.finite, ema.update(old, state.weights, ema.power_decay(state.moments.updates, gamma)), old)
            for old, gamma in zip(state.profiles, exponents, strict=True)
        )
        return state._replace(average=mx.where(applied.finite, new, state.average), profiles=profiles)

    def scale(state: State, gradient: mx.array, applied: Applied, beta: mx.array) -> State:
        return state._replace(scale=tuple(precision.after(LossScale(*state.scale), applied.finite)))

    return [first, second, weights, average, *([scale] if rule.precision == "float16" else [])]
