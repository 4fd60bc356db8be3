"""Names and paths to datasets: what a configuration may say, and what is tried where it says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from autotuner.diffusion.data import fashion
from autotuner.diffusion.data.dataset import Dataset
from autotuner.diffusion.data.digits import digits
from autotuner.diffusion.data.emoji import EDGE, read_emoji
from autotuner.diffusion.data.folder import FOLDER_EDGE, read_folder
from autotuner.diffusion.data.hub import read_hub
from autotuner.diffusion.data.idx import IDX_NAMES, read_idx_directory
from autotuner.errors import DatasetError

CACHE = Path("~/.cache/autotuner")
LAST_RESORT = "scikit-learn"
HUB = "hf:"
"""What a name or folder for the library ``datasets`` begins with."""


def find(source: Path | str | None = None, cache: Path | None = None, *, resolution: int | None = None) -> Dataset:
    """The images that ``source`` names; None: the best that this machine offers.

    A source is ``fashion-mnist``, ``emoji``, ``digits``, ``hf:`` and a name or folder for the library ``datasets``, or a path
    (idx files, or a folder of pictures). ``resolution`` is the edge length; None: the source's own. Raises DatasetError: with
    the allowed values, or with every attempt that was made.
    """
    cache = cache or CACHE.expanduser()
    dataset = _best(cache) if source is None else _named(str(source), cache, resolution)
    return dataset if resolution is None else dataset.scaled(resolution)


def _named(source: str, cache: Path, resolution: int | None) -> Dataset:
    if source in NAMED:
        return NAMED[source](cache, resolution)
    if source.startswith(HUB):
        return read_hub(source.removeprefix(HUB), resolution or FOLDER_EDGE)
    return _given(Path(source).expanduser(), resolution)


def _emoji(cache: Path, resolution: int | None) -> Dataset:
    return read_emoji(resolution or EDGE, cache=cache)


def _fashion(cache: Path, resolution: int | None) -> Dataset:
    return _first(_fashion_candidates(cache))


def _digits(cache: Path, resolution: int | None) -> Dataset:
    return digits()


NAMED: dict[str, Callable[[Path, int | None], Dataset]] = {"fashion-mnist": _fashion, "emoji": _emoji, "digits": _digits}


def _given(path: Path, resolution: int | None) -> Dataset:
    if not path.exists():
        allowed = f"{', '.join(NAMED)}, {HUB}NAME_OR_PATH or the path of a folder of pictures or of idx files"
        raise DatasetError(f"{path} does not exist; allowed: {allowed}; for images, {fashion.FASHION_ADVICE}")
    if any((path / (stem + suffix)).is_file() for stem in IDX_NAMES for suffix in (".gz", "")):
        return read_idx_directory(path, path.name, f"idx files of {path}")
    return read_folder(path, resolution or FOLDER_EDGE)


def candidates(cache: Path) -> Iterator[tuple[str, Callable[[], Dataset]]]:
    """Where ``find`` looks when it is told nothing, best first."""
    yield from _fashion_candidates(cache)
    yield LAST_RESORT, digits


def _fashion_candidates(cache: Path) -> Iterator[tuple[str, Callable[[], Dataset]]]:
    for directory in fashion.FASHION_DIRECTORIES:
        yield str(directory), partial(fashion.installed, directory)
    yield "download", partial(fashion.downloaded, cache)


def _best(cache: Path) -> Dataset:
    return _first(candidates(cache))


def _first(attempts: Iterator[tuple[str, Callable[[], Dataset]]]) -> Dataset:
    failures = []
    for where, read in attempts:
        try:
            dataset = read()
        except DatasetError as error:
            failures.append(f"{where}: {error}")
            continue
        if where != LAST_RESORT:
            return dataset
        return replace(dataset, origin=f"{dataset.origin}, because there is nothing better here ({'; '.join(failures)})")
    raise DatasetError("no images found. " + "; ".join(failures))
