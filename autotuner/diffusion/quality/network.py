"""The small convolutional network whose penultimate layer is a feature space for pictures of one kind."""

from __future__ import annotations

import mlx.nn as nn

from autotuner.diffusion.blas import mx

FEATURES = 64
WIDTHS = (32, 64, 64)


class FeatureNetwork(nn.Module):
    """Three convolutions and a linear layer: pictures (count, edge, edge, channels) in [-1, 1] to features (count, FEATURES).

    Pictures are folded 2 x 2 into channels first, so the widest convolution runs on a quarter of the positions.
    The features have no activation behind them: they stay near the Gaussians that the Frechet distance assumes.
    """

    def __init__(self, channels: int, edge: int) -> None:
        super().__init__()
        self.edge = edge
        self.conv_in = nn.Conv2d(4 * channels, WIDTHS[0], 3, padding=1)
        self.conv_mid = nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, padding=1)
        self.conv_out = nn.Conv2d(WIDTHS[1], WIDTHS[2], 3, padding=1)
        self.features = nn.Linear((edge // 8) ** 2 * WIDTHS[2], FEATURES)

    def __call__(self, x: mx.array) -> mx.array:
        """Features, float32."""
        h = _halve(nn.relu(self.conv_in(_fold(x))))
        h = _halve(nn.relu(self.conv_out(nn.relu(self.conv_mid(h)))))
        return self.features(h.reshape(len(h), -1))


def _fold(x: mx.array) -> mx.array:
    count, height, width, channels = x.shape
    folded = x.reshape(count, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return folded.reshape(count, height // 2, width // 2, 4 * channels)


def _halve(x: mx.array) -> mx.array:
    """Means of 2 x 2 positions; a last odd row or column is dropped."""
    count, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return mx.mean(even.reshape(count, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
