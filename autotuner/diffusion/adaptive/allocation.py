"""Who gets how many evaluations: errors predicted for each sample, and one price at which an evaluation is worth it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotuner.errors import ConfigurationError

LEAST = 1e-8
"""Squared error below which samples are not told apart."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Log squared error that each number of evaluations would leave, linear in the traits and their squares."""

    coefficients: np.ndarray
    """Shape (numbers of evaluations, 1 + 2 traits)."""

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """Squared errors (count, numbers of evaluations) for traits (count, traits) in standard deviations."""
        return np.asarray(np.exp(_terms(seen) @ self.coefficients.T))


def learn_forecast(seen: np.ndarray, squares: np.ndarray, ridge: float) -> Forecast:
    """Ridge regression (Hoerl and Kennard 1970) of the log of ``squares`` (count, numbers of evaluations).

    ``ridge`` is relative to the number of samples. The constant is not held.
    """
    terms = _terms(seen)
    held = np.eye(terms.shape[1]) * ridge * len(terms)
    held[0, 0] = 0
    target = np.log(np.maximum(squares, LEAST))
    return Forecast(np.linalg.solve(terms.T @ terms + held + 1e-9 * np.eye(len(held)), terms.T @ target).T)


def choose(squares: np.ndarray, evaluations: np.ndarray, price: float) -> np.ndarray:
    """For each sample the index of the number of evaluations with the least error plus ``price`` for each evaluation."""
    return np.asarray(np.argmin(squares + price * evaluations, axis=1))


def price_for(squares: np.ndarray, evaluations: np.ndarray, mean: float) -> float:
    """The least price at which the mean number of evaluations is at most ``mean`` (a Lagrange multiplier, by bisection).

    ConfigurationError for a mean that no choice can keep to.
    """
    if mean < evaluations.min():
        raise ConfigurationError(f"mean of {mean:g} evaluations; allowed is {evaluations.min()} or more")
    low, high = 0.0, float(squares.max()) + 1.0  # at the upper end nobody gets more than the least
    for _ in range(80):
        middle = (low + high) / 2
        enough = evaluations[choose(squares, evaluations, middle)].mean() <= mean
        low, high = (low, middle) if enough else (middle, high)
    return high


def _terms(seen: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(seen), 1)), seen, np.square(seen) - 1], axis=1)
