"""The levels of a U-Net: residual blocks, each with or without attention, then a change of resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.nn as nn

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.layers import Downsample2D, ResnetBlock2D, ResnetOptions, Upsample2D

Runner = Callable[..., mx.array]
"""How a layer is called: ``run(layer, *arrays)``."""


def run_plainly(layer: nn.Module, *arrays: mx.array) -> mx.array:
    """Call a layer and keep what its gradient needs."""
    return layer(*arrays)


def run_again(layer: nn.Module, *arrays: mx.array) -> mx.array:
    """Call a layer, keep its inputs only, and call it a second time for its gradient.

    Weights are passed as arguments, because mx.checkpoint gives no gradient to what a function captures; the layer holds its
    own again afterwards, so that no array of the second call stays behind.
    """
    own = layer.parameters()

    def call(weights: Any, *inputs: mx.array) -> mx.array:
        layer.update(weights)
        result = layer(*inputs)
        layer.update(own)
        return result

    return mx.checkpoint(call)(own, *arrays)


class DownBlock2D(nn.Module):
    """A level on the way down; ``attentions`` is empty or as long as ``layers``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        options: ResnetOptions,
        attentions: Sequence[nn.Module] = (),
        downsample_padding: int | None = None,
    ) -> None:
        super().__init__()
        self.resnets = [ResnetBlock2D(outputs if layer else inputs, outputs, options) for layer in range(layers)]
        self.attentions = list(attentions)
        self.downsamplers = [] if downsample_padding is None else [Downsample2D(outputs, downsample_padding)]

    def __call__(
        self, x: mx.array, embedding: mx.array | None, *context: mx.array, run: Runner = run_plainly
    ) -> tuple[mx.array, list[mx.array]]:
        """Feature maps in; feature maps out, and what the way up will see."""
        skips = []
        for index, resnet in enumerate(self.resnets):
            x = run(resnet, x, *_given(embedding))
            if self.attentions:
                x = run(self.attentions[index], x, *context)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock2D(nn.Module):
    """The lowest level: a residual block, then pairs of attention and residual block."""

    def __init__(self, channels: int, options: ResnetOptions, layers: int, attentions: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.resnets = [ResnetBlock2D(channels, channels, options) for _ in range(layers + 1)]
        self.attentions = list(attentions)

    def __call__(
        self, x: mx.array, embedding: mx.array | None = None, *context: mx.array, run: Runner = run_plainly
    ) -> mx.array:
        """Feature maps in and out."""
        x = run(self.resnets[0], x, *_given(embedding))
        for index, resnet in enumerate(self.resnets[1:]):
            if self.attentions:
                x = run(self.attentions[index], x, *context)
            x = run(resnet, x, *_given(embedding))
        return x


class UpBlock2D(nn.Module):
    """A level on the way up; every residual block also sees a feature map from the way down.

    ``skips`` are the channels of those maps in the order in which they are used.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        skips: Sequence[int],
        options: ResnetOptions,
        attentions: Sequence[nn.Module] = (),
        *,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.resnets = [
            ResnetBlock2D((outputs if layer else inputs) + skip, outputs, options) for layer, skip in enumerate(skips)
        ]
        self.attentions = list(attentions)
        self.upsamplers = [Upsample2D(outputs)] if upsample else []

    def __call__(
        self, x: mx.array, embedding: mx.array | None, skips: list[mx.array], *context: mx.array, run: Runner = run_plainly
    ) -> mx.array:
        """Feature maps in and out; takes what it uses off the end of ``skips``, and is enlarged to the size of the next."""
        for index, resnet in enumerate(self.resnets):
            x = run(resnet, mx.concatenate([x, skips.pop()], axis=-1), *_given(embedding))
            if self.attentions:
                x = run(self.attentions[index], x, *context)
        for upsampler in self.upsamplers:
            x = upsampler(x, (skips[-1].shape[1], skips[-1].shape[2]))
        return x


def _given(embedding: mx.array | None) -> tuple[mx.array, ...]:
    return () if embedding is None else (embedding,)
