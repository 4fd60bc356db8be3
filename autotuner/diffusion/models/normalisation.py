"""Group normalisation with torch's grouping, in the order of operations that suits the device."""

from __future__ import annotations

import mlx.nn as nn

from autotuner.diffusion.blas import mx


class GroupNorm(nn.GroupNorm):
    """Normalise groups of neighbouring channels (Wu and He 2018, Eq. 1), then scale and shift each channel.

    MLX's own brings each group's values together by two transposes, which a GPU hides and a CPU does not: there, sums over
    positions come first and groups are formed of the few numbers that are left. Statistics are of float32 in both.
    """

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__(groups, channels, eps=eps, pytorch_compatible=True)

    def __call__(self, x: mx.array) -> mx.array:
        """Features (batch, ..., channels) in and out."""
        if mx.default_device() != mx.cpu:
            return super().__call__(x)
        batch, channels = x.shape[0], x.shape[-1]
        values = x.reshape(batch, -1, channels).astype(mx.float32)
        centred = values - self._mean(values)
        scale = mx.rsqrt(self._mean(mx.square(centred)) + self.eps)
        return (centred * (scale * self.weight) + self.bias).astype(x.dtype).reshape(x.shape)

    def _mean(self, values: mx.array) -> mx.array:
        """Of each group, at each of its channels: (batch, 1, channels) of (batch, positions, channels)."""
        batch, positions, channels = values.shape
        size = channels // self.num_groups
        sums = mx.sum(values, axis=1).reshape(batch, self.num_groups, size)
        means = mx.sum(sums, axis=2, keepdims=True) / (positions * size)
        return mx.broadcast_to(means, sums.shape).reshape(batch, 1, channels)
