"""Recipe: trains one feature network and writes its weights. ``python -m autotuner.diffusion.quality.train_features fashion``

``fashion`` learns the ten classes. Emoji have no classes that mean much, so ``emoji`` tells every training picture from
all others under shifts, scales, flips and small changes of hue (exemplar networks, Dosovitskiy et al. 2014, section 3.1).
Held-out pictures are only looked at to print how good the features are. The output is standardised over the training
pictures: each feature has mean 0 and variance 1 there. Another machine rounds differently and so makes another hash;
the committed file is the one that counts.
"""

# ruff: noqa: T201  a recipe prints

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

from autotuner.diffusion import data
from autotuner.diffusion.blas import mx
from autotuner.diffusion.loss import to_model
from autotuner.diffusion.quality.network import FEATURES, FeatureNetwork
from autotuner.diffusion.quality.weights import FOLDER

BATCH = 128
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """What differs between the two."""

    dataset: str
    edge: int
    steps: int
    learning_rate: float
    weight_decay: float
    exemplars: bool
    """Whether every picture is a class of its own."""
    shift: float
    """Largest shift, as a share of the edge."""
    scale: float
    """Largest natural logarithm of the magnification."""
    hue: float
    """Largest turn about the grey axis, in radians."""


RECIPES = {
    "fashion": Recipe("fashion-mnist", 28, 3500, 3e-3, 0.05, exemplars=False, shift=0.04, scale=0.05, hue=0.0),
    "emoji": Recipe("emoji", 32, 1200, 3e-3, 0.05, exemplars=True, shift=0.12, scale=0.2, hue=0.35),
}


class Classifier(nn.Module):
    """The feature network and a linear layer over its features."""

    def __init__(self, channels: int, edge: int, classes: int) -> None:
        super().__init__()
        self.network = FeatureNetwork(channels, edge)
        self.head = nn.Linear(FEATURES, classes)

    def __call__(self, x: mx.array) -> mx.array:
        """Logits (count, classes)."""
        return self.head(self.network(x))


def read(recipe: Recipe) -> data.Dataset:
    """The pictures: all 10,000 test pictures of Fashion-MNIST, or the emoji that no training sees."""
    if recipe.exemplars:
        return data.read_emoji(recipe.edge)
    return data.read_idx_directory(data.FASHION_DIRECTORIES[0], recipe.dataset, "the test set", held_out=10_000)


def augment(images: np.ndarray, recipe: Recipe, generator: np.random.Generator) -> np.ndarray:
    """Pictures in [-1, 1], each mirrored, moved, magnified and turned in hue at random; beyond the border it repeats."""
    count, edge = images.shape[:2]
    zoom = np.exp(generator.uniform(-recipe.scale, recipe.scale, (count, 1)))
    mirror = generator.choice([-1.0, 1.0], (count, 1))
    shift = generator.uniform(-recipe.shift, recipe.shift, (2, count, 1)) * edge
    centred = np.arange(edge) - (edge - 1) / 2
    rows, columns = centred / zoom + shift[0], centred * mirror / zoom + shift[1]
    moved = np.einsum("nij,njkc->nikc", _interpolation(rows, edge), images.astype(np.float32) / 127.5 - 1)
    moved = np.einsum("nij,nkjc->nkic", _interpolation(columns, edge), moved)
    if recipe.hue:
        moved = moved @ _hue_turns(generator.uniform(-recipe.hue, recipe.hue, (count,)))[:, None]
    return np.clip(moved, -1, 1).astype(np.float32)


def _interpolation(centred: np.ndarray, edge: int) -> np.ndarray:
    """Matrices (count, edge, edge) that read a line of pixels at the given places, linearly."""
    places = np.clip(centred + (edge - 1) / 2, 0, edge - 1)
    return np.maximum(1 - np.abs(places[..., None] - np.arange(edge)), 0).astype(np.float32)


def _hue_turns(angles: np.ndarray) -> np.ndarray:
    """Rotations (count, 3, 3) of RGB about the grey axis (Rodrigues)."""
    axis = np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    return np.asarray(cosine * np.eye(3) + sine * cross + (1 - cosine) * np.outer(axis, axis), np.float32)


def features_of(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """What ``network`` says of uint8 pictures, in chunks."""
    return np.concatenate([np.array(network(to_model(mx.array(images[at : at + 256])))) for at in range(0, len(images), 256)])


def train(recipe: Recipe, dataset: data.Dataset) -> Classifier:
    """A trained classifier; the learning rate warms up and falls to 0 as a cosine."""
    mx.random.seed(SEED)
    generator = np.random.default_rng(SEED)
    images = dataset.images
    labels = np.arange(len(images)) if recipe.exemplars else dataset.labels
    model = Classifier(dataset.channels, recipe.edge, int(labels.max()) + 1)
    warm_up = optim.linear_schedule(0, recipe.learning_rate, recipe.steps // 20)
    fall = optim.cosine_decay(recipe.learning_rate, recipe.steps - recipe.steps // 20)
    optimizer = optim.AdamW(optim.join_schedules([warm_up, fall], [recipe.steps // 20]), weight_decay=recipe.weight_decay)
    step = nn.value_and_grad(model, lambda x, y: nn.losses.cross_entropy(model(x), y, label_smoothing=0.1, reduction="mean"))
    for number in range(recipe.steps):
        chosen = dataset.batch_indices(number * BATCH, BATCH, SEED)
        x = mx.array(augment(images[chosen], recipe, generator))
        loss, gradient = step(x, mx.array(labels[chosen].astype(np.int32)))
        optimizer.update(model, gradient)
        mx.eval(model.parameters(), optimizer.state, loss)
        if number % 100 == 0:
            print(f"step {number:5d}  loss {loss.item():.4f}", flush=True)
    return model


def standardise(model: Classifier, images: np.ndarray) -> None:
    """Scale the features to mean 0 and variance 1 over ``images`` and let the head undo it: its answers stay."""
    features = features_of(model.network, images)
    mean, deviation = mx.array(features.mean(axis=0)), mx.array(features.std(axis=0))
    last, head = model.network.features, model.head
    head.bias = head.bias + head.weight @ mean
    head.weight = head.weight * deviation
    last.weight, last.bias = last.weight / deviation[:, None], (last.bias - mean) / deviation


def accuracy(model: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures that are put in their class."""
    return float((features_of(model, images).argmax(axis=1) == labels).mean())


def recognised(network: nn.Module, images: np.ndarray, recipe: Recipe) -> float:
    """Share of pictures whose changed copy is nearer, by cosine, to them than to any other picture."""
    copies = np.rint((augment(images, recipe, np.random.default_rng(SEED)) + 1) * 127.5).astype(np.uint8)
    ours, theirs = (_unit(features_of(network, part)) for part in (images, copies))
    return float(((theirs @ ours.T).argmax(axis=1) == np.arange(len(images))).mean())


def _unit(features: np.ndarray) -> np.ndarray:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def as_saved(model: Classifier) -> None:
    """Round the weights to float16, so that what is printed is true of the file."""
    model.apply(lambda array: array.astype(mx.float16).astype(mx.float32))


def save(model: Classifier, recipe: Recipe, path: Path) -> None:
    """Write the weights as float16; the head goes along only where its classes mean something."""
    parts = tree_flatten(model.network.parameters())
    if not recipe.exemplars:
        parts += [(f"head.{name}", array) for name, array in tree_flatten(model.head.parameters())]
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), {name: array.astype(mx.float16) for name, array in parts})


def verdict(model: Classifier, recipe: Recipe, dataset: data.Dataset) -> str:
    """One sentence on the features, from held-out pictures."""
    images, labels = dataset.held_out_images, dataset.held_out_labels
    if recipe.exemplars:
        return f"{len(images):,} held-out pictures recognised when changed: {recognised(model.network, images, recipe):.3f}"
    return f"accuracy on {len(images):,} test pictures: {accuracy(model, images, labels):.4f}"


def main() -> None:
    """Train, save, and print how good the saved weights are."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("recipe", choices=RECIPES)
    options.add_argument("--out", type=Path, default=FOLDER, help="folder for the weights")
    chosen = options.parse_args()
    recipe = RECIPES[chosen.recipe]
    began, dataset = time.process_time(), read(recipe)
    model = train(recipe, dataset)
    standardise(model, dataset.images)
    as_saved(model)
    path = chosen.out / f"{recipe.dataset}.safetensors"
    save(model, recipe, path)
    print(f"{time.process_time() - began:.0f} s of CPU; {path}: {path.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    print(verdict(model, recipe, dataset))


if __name__ == "__main__":
    main()
