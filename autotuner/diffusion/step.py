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
from autotuner.diffusion.blas import mx
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
        self._nothing = Pending(mx.zeros_like(self.state.weights), mx.array(0.0))
        self.pending = self._nothing
        self._dtype = precision.PRECISIONS[self.rule.precision]
        for module in (denoiser,) if frozen is None else (denoiser, frozen):
            self._cast(module)
        self._errors = errors
        self._captured = [denoiser.state] if frozen is None else [denoiser.state, frozen.state]
        self._trace()
        self._apply = mx.compile(_applying(self.rule))
        mx.eval(self.state, self._nothing)

    def accumulate(self, share: float, *arrays: mx.array) -> None:
        """Add one micro-batch: its share of the effective batch, importance weights, then what ``errors`` takes."""
        mx.eval(self.pending)  # frees the graph of the previous micro-batch: the peak is that of one
        scaled = mx.array(share) * self.state.scale[0] if self.state.scale else mx.array(share)
        self.pending = Pending(*self._accumulate(self.pending, scaled, *arrays))

    def apply(self, learning_rate: float, beta: float) -> Applied:
        """Clip, update weights and average, and forget the sum; a sum that is not finite changes nothing."""
        self.state, applied = self._apply(self.pending, self.state, mx.array(learning_rate), mx.array(beta))
        self._put(self.state.weights)
        self.pending = self._nothing
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
        self.signatures = {}
        self._trace()

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

    def _trace(self) -> None:
        # The denoiser is an output too: value_and_grad leaves the trace's placeholders in it.
        self._accumulate = mx.compile(self._accumulating(self._errors), inputs=self._captured, outputs=[self.denoiser.state])

    def _accumulating(self, errors: Errors) -> Callable[..., Any]:
        def loss(share: mx.array, weights: mx.array, *arrays: mx.array) -> mx.array:
            return share * mx.mean(weights * errors(self.denoiser, *arrays))

        gradient = nn.value_and_grad(self.denoiser, loss)

        def accumulate(pending: Pending, share: mx.array, *arrays: mx.array) -> Any:
            signature = tuple(tuple(array.shape) for array in arrays)
            self.signatures[signature] = self.signatures.get(signature, 0) + 1
            value, gradients = gradient(share, *arrays)
            return pending.gradient + self.layout.pack(gradients).astype(mx.float32), pending.loss + value

        return accumulate


def _applying(rule: Rule) -> Callable[..., tuple[State, Applied]]:
    exponents = [ema.exponent(sigma_rel) for sigma_rel in rule.sigma_rels]

    def apply(pending: Pending, state: State, learning_rate: mx.array, beta: mx.array) -> tuple[State, Applied]:
        total, loss = _unscaled(pending, state)
        norm = mx.sqrt(mx.sum(mx.square(total)))
        finite = mx.isfinite(norm) & mx.isfinite(loss)
        gradient = total * mx.minimum(1.0, rule.max_norm / (norm + 1e-6))
        decay = mx.array(rule.weight_decay)
        weights, moments = adam.update(state.weights, gradient, state.moments, learning_rate, decay, rule.beta_1, rule.beta_2)
        profiles = tuple(
            ema.update(profile, weights, ema.power_decay(moments.updates, gamma))
            for profile, gamma in zip(state.profiles, exponents, strict=True)
        )
        new = State(weights, ema.update(state.average, weights, beta), moments, profiles)
        scale = tuple(precision.after(LossScale(*state.scale), finite)) if state.scale else ()
        return _keep(finite, new, state)._replace(scale=scale), Applied(loss, norm, finite, learning_rate)

    return apply


def _unscaled(pending: Pending, state: State) -> tuple[mx.array, mx.array]:
    if not state.scale:
        return pending.gradient, pending.loss
    return pending.gradient / state.scale[0], pending.loss / state.scale[0]


def _keep(condition: mx.array, new: State, old: State) -> State:
    def choose(a: mx.array, b: mx.array) -> mx.array:
        return mx.where(condition, a, b)

    moments = adam.Moments(*(choose(a, b) for a, b in zip(new.moments, old.moments, strict=True)))
    profiles = tuple(choose(a, b) for a, b in zip(new.profiles, old.profiles, strict=True))
    return State(choose(new.weights, old.weights), choose(new.average, old.average), moments, profiles)
