"""One harness for every model: random weights in torch, loaded here, outputs and gradients compared, and back again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import torch
from mlx.utils import tree_flatten

from autotuner.diffusion.blas import mx
from autotuner.diffusion.models.weights import Model, load, save, to_torch

torch.set_num_threads(1)  # tiny models; more threads only wait for each other

BOUND = 1e-4
"""Largest difference, relative to the largest value of the same array."""
FLOOR = 1e-2
"""An array whose largest gradient is below this share of the largest of all is measured against that share: some
gradients are zero in exact arithmetic (a key's bias), and their rounding noise is all there is to compare."""


@dataclass(frozen=True)
class Run:
    """A model's output (channels first), and gradients of one scalar by torch's names and layout; the input's is `input`."""

    output: np.ndarray
    gradients: dict[str, np.ndarray]


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every weight off its special starting value (ones, zeros), keeping the signal's size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else torch.tensor(0.1)
            parameter += 0.5 * spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    """Standard normal float32 numbers that depend on the shape and the seed alone."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_run(
    model: torch.nn.Module, call: Callable[[Any, torch.Tensor | None], torch.Tensor], image: np.ndarray | None
) -> Run:
    """Run torch's model on float input ``image`` as it is, or on None when the call brings its own whole-number inputs."""
    x = None if image is None else torch.from_numpy(image).requires_grad_()
    output = call(model, x)
    direction = torch.from_numpy(noise(*output.shape, seed=2))
    (output * direction).mean().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    if x is not None:
        gradients["input"] = x.grad.numpy()
    return Run(output.detach().numpy(), gradients)


def mlx_run(model: nn.Module, call: Callable[[Any, mx.array | None], mx.array], image: np.ndarray | None) -> Run:
    """Run our model; 4-D input and output go between channels first (outside) and last (inside)."""
    names = dict(tree_flatten(model.parameters()))

    def loss(parameters: Any, x: mx.array | None) -> tuple[mx.array, mx.array]:
        model.update(parameters)
        output = call(model, x)
        return (output * mx.array(_last(noise(*_first(output).shape, seed=2)))).mean(), output

    parameters = model.parameters()
    x = None if image is None else mx.array(_last(image))
    (_, output), gradients = mx.value_and_grad(loss, argnums=(0,) if x is None else (0, 1))(parameters, x)
    model.update(parameters)
    of_weights = gradients if x is None else gradients[0]  # MLX unpacks a tuple of one
    by_name = {name: np.array(g) for name, g in to_torch(model, of_weights).items()}
    assert by_name.keys() == names.keys()
    if x is not None:
        by_name["input"] = _first(np.array(gradients[1]))
    return Run(_first(np.array(output)), by_name)


def error(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest value of ``theirs``, or over ``floor`` if that is larger."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), floor, 1e-30))


def errors(ours: Run, theirs: Run) -> dict[str, float]:
    """The error of the output (`output`) and of every gradient."""
    scale = max(float(np.abs(g).max()) for g in theirs.gradients.values())
    missing = theirs.gradients.keys() - ours.gradients.keys()
    assert not missing, f"no gradient here for {sorted(missing)}"
    table = {name: error(ours.gradients[name], g, FLOOR * scale) for name, g in theirs.gradients.items()}
    return {"output": error(ours.output, theirs.output), **table}


def assert_parity(
    theirs: torch.nn.Module,
    kind: type[Model],
    folder: Path,
    *,
    torch_call: Callable[[Any, Any], torch.Tensor],
    mlx_call: Callable[[Any, Any], mx.array],
    image: np.ndarray | None,
    bound: float = BOUND,
) -> tuple[Model, dict[str, float]]:
    """Save torch's model, load it here, compare output and all gradients; save ours and compare torch's weights bit by bit.

    Returns our model and the table of errors.
    """
    theirs.save_pretrained(folder / "theirs")
    ours = load(kind, folder / "theirs")
    table = errors(mlx_run(ours, mlx_call, image), torch_run(theirs, torch_call, image))
    worst = {name: value for name, value in table.items() if not value <= bound}
    assert not worst, f"above {bound}: {dict(sorted(worst.items(), key=lambda row: -row[1])[:8])}"
    assert_way_back(theirs, ours, folder / "ours")
    return ours, table


def assert_way_back(theirs: torch.nn.Module, ours: Model, folder: Path) -> None:
    """The library's own `from_pretrained` loads what we save, all of it, bit by bit."""
    save(ours, folder)
    again, told = type(theirs).from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not [*told["missing_keys"], *told["unexpected_keys"]], told
    expected = theirs.state_dict()
    for name, array in again.state_dict().items():
        assert torch.equal(array, expected[name]), name


def _last(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if image.ndim == 4 else image


def _first(image: Any) -> Any:
    return image.transpose(0, 3, 1, 2) if image.ndim == 4 else image
