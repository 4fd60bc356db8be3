"""Checkpoints for loops on MLX that write none which they could go on from: weights, optimizer, and what else is learned."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from autotuner.hook.launch import launch

if TYPE_CHECKING:
    from autotuner.hook.checkpoint import Asked
    from autotuner.hook.run import Run

_PREFIX = "asked-"

Arrays = dict[str, mx.array]
"""By the names that ``tree_flatten`` gives them."""


@dataclass(frozen=True)
class Part:
    """What is read when saving and put back when restoring, in place: a compiled step holds on to these very trees."""

    read: Callable[[], Arrays]
    write: Callable[[Arrays], object]


def weights(model: Any) -> Part:
    """What is trained of a module of ``mlx.nn``."""
    return Part(
        lambda: dict(tree_flatten(model.trainable_parameters())),
        lambda arrays: model.load_weights(list(arrays.items()), strict=False),
    )


def state(tree: Callable[[], Any]) -> Part:
    """A tree of dictionaries, lists and arrays, such as an optimizer's ``state``."""

    def write(arrays: Arrays) -> None:
        for holder, key, name in _leaves(tree()):
            holder[key] = arrays[name]

    return Part(lambda: dict(tree_flatten(tree())), write)


class MLXCheckpoints:
    """Saves to ``directory/asked-<step>``, a file for each part, and restores from there; data go on in their order."""

    def __init__(self, directory: str | os.PathLike[str], parts: Mapping[str, Part], step: Callable[[], int]) -> None:
        self._directory = Path(directory).absolute()
        self._parts = parts
        self._step = step
        self._last: Path | None = None

    def offer(self, run: Run) -> None:
        """Let people ask for both. Of several ranks, which hold the same, rank 0 saves alone, and none restores."""
        run.on_save(self.save, alone=True)
        if launch().alone:
            run.on_restore(self.restore)

    def save(self, asked: Asked) -> None:
        """Write all parts or none; raises OSError."""
        path = self._directory / f"{_PREFIX}{self._step():07d}"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.mkdir(parents=True)
            for name, part in self._parts.items():
                mx.save_safetensors(str(draft / f"{name}.safetensors"), part.read())
            draft.rename(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._last = path
        asked.done(path)

    def restore(self, asked: Asked) -> None:
        """Put back what ``asked.path``, or else this run's last save, holds. Raises OSError or ValueError before any change."""
        path = Path(asked.path) if asked.path else self._last
        if path is None:
            raise ValueError("this run has not been asked to save before: name the checkpoint")
        files = {name: path / f"{name}.safetensors" for name in self._parts}
        saved = {name: _loaded(files[name], part.read()) for name, part in self._parts.items()}
        for name, part in self._parts.items():
            part.write(saved[name])
        step = path.name.removeprefix(_PREFIX)
        asked.done(path, int(step) if step.isdecimal() else None)


def _loaded(path: Path, ours: Arrays) -> Arrays:
    """The arrays of a file with the names, types and shapes of ours; raises OSError, or ValueError for others."""
    try:
        loaded = mx.load(str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from None
    assert isinstance(loaded, dict)
    for name in sorted({*ours, *loaded}):
        found, wanted = (f"{of[name].dtype} {of[name].shape}" if name in of else "absent" for of in (loaded, ours))
        if found != wanted:
            raise ValueError(f"{path}: {name} is {found}; this run trains with {wanted}")
    mx.eval(loaded)  # it is read lazily, and might not be there any more
    return loaded


def _leaves(tree: Any, above: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Each array of a tree: what holds it, under which key, and its name."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, mx.array):
            yield tree, key, name
        elif isinstance(value, (dict, list)):
            yield from _leaves(value, name)
