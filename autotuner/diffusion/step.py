"""One optimizer step: accumulate gradients over micro-batches, then apply them unless they are not finite.

Everything that may change in a running training is an array argument or array state, so a change is never captured
by an old trace; only image shape and micro-batch size make new traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.nn as nn

from autotuner.diffusion import adam, ema
from autotuner.diffusion.blas import mx
from autotuner.diffusion.flat import Layout

MAX_NORM = 1.0
WEIGHT_DECAY = 0.01

Errors = Callable[..., mx.array]
"""Loss of each image, shape (micro_batch,), from a denoiser and the arrays of one micro-batch."""


class Pending(NamedTuple):
    """What waits to be applied: the gradients' sum as one vector, and the loss."""

    gradient: mx.array
    loss: mx.array


class State(NamedTuple):
    """Everything that one optimizer step changes."""

    weights: mx.array
    average: mx.array
    moments: adam.Moments


class Applied(NamedTuple):
    """What one optimizer step did, as arrays that are not yet evaluated."""

    loss: mx.array
    norm: mx.array
    finite: mx.array
    learning_rate: mx.array
    """As the update used it."""


class Learner:
    """A denoiser in training: its weights, optimizer and moving average, each one vector."""

    def __init__(self, denoiser: nn.Module, errors: Errors, frozen: nn.Module | None = None) -> None:
        self.denoiser = denoiser
        self.layout = Layout(denoiser)
        weights = self.layout.pack(denoiser.trainable_parameters())
        self.state = State(weights, weights, adam.begin(self.layout.size))
        self.signatures: dict[tuple[Any, ...], int] = {}
        """How often the loss was traced for each tuple of shapes (every call counts where compilation is off)."""
        self._nothing = Pending(mx.zeros_like(weights), mx.array(0.0))
        self.pending = self._nothing
        captured = [denoiser.state] if frozen is None else [denoiser.state, frozen.state]
        # The denoiser is an output too: value_and_grad leaves the trace's placeholders in it.
        self._accumulate = mx.compile(self._accumulating(errors), inputs=captured, outputs=[denoiser.state])
        self._apply = mx.compile(_applied)
        mx.eval(self.state, self._nothing)

    def accumulate(self, share: float, *arrays: mx.array) -> None:
        """Add one micro-batch: its share of the effective batch, importance weights, then what ``errors`` takes."""
        mx.eval(self.pending)  # frees the graph of the previous micro-batch: the peak is that of one
        self.pending = Pending(*self._accumulate(self.pending, mx.array(share), *arrays))

    def apply(self, learning_rate: float, beta: float) -> Applied:
        """Clip, update weights and average, and forget the sum; a sum that is not finite changes nothing."""
        self.state, applied = self._apply(self.pending, self.state, mx.array(learning_rate), mx.array(beta))
        self.denoiser.update(self.layout.unpack(self.state.weights))
        self.pending = self._nothing
        return applied

    def restore(self, state: State) -> None:
        """Continue from ``state``."""
        self.state = state
        self.denoiser.update(self.layout.unpack(state.weights))

    def show_average(self, other: nn.Module) -> None:
        """Give ``other`` (of the same architecture) the averaged weights."""
        other.update(self.layout.unpack(self.state.average))

    def _accumulating(self, errors: Errors) -> Callable[..., Any]:
        def loss(share: mx.array, weights: mx.array, *arrays: mx.array) -> mx.array:
            return share * mx.mean(weights * errors(self.denoiser, *arrays))

        gradient = nn.value_and_grad(self.denoiser, loss)

        def accumulate(pending: Pending, share: mx.array, *arrays: mx.array) -> Any:
            signature = tuple(tuple(array.shape) for array in arrays)
            self.signatures[signature] = self.signatures.get(signature, 0) + 1
            value, gradients = gradient(share, *arrays)
            return pending.gradient + self.layout.pack(gradients), pending.loss + value

        return accumulate


def _applied(pending: Pending, state: State, learning_rate: mx.array, beta: mx.array) -> tuple[State, Applied]:
    norm = mx.sqrt(mx.sum(mx.square(pending.gradient)))
    finite = mx.isfinite(norm) & mx.isfinite(pending.loss)
    gradient = pending.gradient * mx.minimum(1.0, MAX_NORM / (norm + 1e-6))
    weights, moments = adam.update(state.weights, gradient, state.moments, learning_rate, mx.array(WEIGHT_DECAY))
    new = State(weights, ema.update(state.average, weights, beta), moments)
    return _keep(finite, new, state), Applied(pending.loss, norm, finite, learning_rate)


def _keep(condition: mx.array, new: State, old: State) -> State:
    def choose(a: mx.array, b: mx.array) -> mx.array:
        return mx.where(condition, a, b)

    moments = adam.Moments(*(choose(a, b) for a, b in zip(new.moments, old.moments, strict=True)))
    return State(choose(new.weights, old.weights), choose(new.average, old.average), moments)
