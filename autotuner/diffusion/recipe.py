"""One TOML file that says everything about a training: read, checked at the door, fitted to the images."""

from __future__ import annotations

import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autotuner.diffusion import data, presets
from autotuner.diffusion.config import NETWORKS, RANGES, TrainerConfig
from autotuner.diffusion.data import Dataset
from autotuner.diffusion.data.find import CACHE, HUB, NAMED
from autotuner.diffusion.data.folder import FOLDER_EDGE
from autotuner.diffusion.multires import MAX_SHAPES
from autotuner.errors import ConfigurationError, DeclarationError

TOP = ("name", "preset", "out")
DATA_KEYS = ("source", "resolution", "buckets")
BUCKETED = ("unet", "unet2d")
"""Networks that take pictures of any shape."""
HOOK_KEYS = ("enabled", "keep_architecture", "state_dir")
SECTIONS: dict[str, tuple[str, ...]] = {
    "budget": ("seconds", "steps"),
    "data": ("resolution",),
    "noise": ("process", "beta_schedule", "weighting", "sigma_min", "sigma_max"),
    "knobs": (
        "resolutions", "micro_batch", "micro_batches", "sampling_steps", "sampling_ladder", "cache_limit", "cache_limits",
        "pace", "max_shapes",
    ),
    "distillation": (
        "student_ladder", "student_learning_rate", "teacher_share", "objective", "student_clock", "teacher_gap",
        "student_weighting", "student_distance", "addim_eta", "guidance", "stage_rule", "gate", "student_model",
    ),
    "evaluation": (
        "solver", "quality_steps", "quality_images", "quality_every", "quality_features", "paired_images", "held_out_images",
        "evaluate_every_seconds", "evaluate_every_steps",
    ),
}  # fmt: skip
SECTION_OF = {key: section for section, keys in SECTIONS.items() for key in keys}
"""Where a field of TrainerConfig stands in the file; every other one stands in [training]."""
NOT_IN_A_SECTION = ("name", "network", "model", "fixed", "multires")


@dataclass(frozen=True)
class Recipe:
    """What one file asks for."""

    path: Path
    out: Path
    """Directory of checkpoint, previews, grids and result.json; like every path of the file, relative ones count from it."""
    source: str | None
    """What ``data.find`` is asked for; None: the best images of this machine."""
    resolution: int | None
    """Edge length to train at; None: the images' own."""
    buckets: int
    """Most shapes that a folder's pictures are cut to, by their aspect ratio; 0: squares."""
    config: TrainerConfig
    given: frozenset[str]
    """Fields of the configuration that the file sets: fitting to the images leaves them alone."""
    hook: bool
    keep_architecture: bool
    state_directory: Path | None

    def dataset(self) -> Dataset:
        """The images that the file asks for. Raises DatasetError, ConfigurationError."""
        if self.buckets:
            return self._bucketed()
        return data.find(self.source, resolution=self.resolution)

    def _bucketed(self) -> data.BucketedDataset:
        where, config = f"{self.path}: data.buckets {self.buckets}", self.config
        if not 1 <= self.buckets <= MAX_SHAPES:
            raise ConfigurationError(f"{where}; allowed is 0 to {MAX_SHAPES}")
        if config.network not in BUCKETED:
            raise ConfigurationError(f"{where} with the network {config.network!r}; allowed: {', '.join(BUCKETED)}")
        if config.planned_views.form != "fixed":
            raise ConfigurationError(f"{where} with multires.form {config.planned_views.form!r}; allowed is 'fixed'")
        if self.source is None or not Path(self.source).is_dir():
            raise ConfigurationError(f"{where} with data.source {self.source!r}; allowed is a folder of pictures")
        return data.read_buckets(Path(self.source), self.resolution or FOLDER_EDGE, config.unit, at_most=self.buckets)

    def prepared(self) -> tuple[Dataset, TrainerConfig]:
        """Images, or their latents, and the configuration for them. Raises DatasetError, ConfigurationError."""
        from autotuner.diffusion import finetune

        images = self.dataset()
        if self.config.network == "stable_diffusion":
            return finetune.prepared(self.config, self.given, images, CACHE.expanduser())
        return images, self.fitted(images)

    def fitted(self, dataset: Dataset) -> TrainerConfig:
        """The configuration for these images. Raises ConfigurationError where the file contradicts them."""
        try:
            own = self.config.resolutions if "resolutions" in self.given else None
            fitted = presets.fitted(self.config, dataset, own)
            if isinstance(dataset, data.BucketedDataset):
                fitted = self._in_shapes(fitted, dataset)
            fitted.declarations()
        except (ConfigurationError, DeclarationError) as error:
            raise ConfigurationError(f"{self.path}: {error}") from None
        return fitted

    def _in_shapes(self, config: TrainerConfig, dataset: data.BucketedDataset) -> TrainerConfig:
        """Ladders on which all buckets stay within the budget of shapes; what the file says of them is kept, or refused."""
        if "resolutions" not in self.given:
            config = replace(config, resolutions=(config.resolution,))
        shapes = len({shape for resolution in config.resolutions for shape in dataset.shapes_at(resolution)})
        if "micro_batches" not in self.given:
            room = max(1, config.max_shapes // shapes)
            near = sorted(config.micro_batches, key=lambda size: (abs(math.log(size / config.micro_batch)), size))[:room]
            config = replace(config, micro_batches=tuple(sorted(near)))
        if shapes * len(config.micro_batches) > config.max_shapes:
            raise ConfigurationError(
                f"{len(dataset.buckets)} buckets at resolutions {config.resolutions} with micro-batches {config.micro_batches} "
                f"make {shapes * len(config.micro_batches)} shapes; allowed are {config.max_shapes} (knobs.max_shapes)"
            )
        return config


def read(path: Path, changes: Mapping[str, str] | None = None) -> Recipe:
    """Read a file; ``changes`` maps ``section.key`` to a TOML value that replaces the file's.

    Raises ConfigurationError that names the file, the key, what was found and what is allowed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a TOML file ({error})") from None
    for name, text in (changes or {}).items():
        _put(document, name, text)
    return _Reader(path, document).recipe()


def sections() -> dict[str, tuple[str, ...]]:
    """Every section with the keys that it may have; [model] takes what the network's constructor takes."""
    known: dict[str, list[str]] = {"data": list(DATA_KEYS), "hook": list(HOOK_KEYS)}
    for field in fields(TrainerConfig):
        section = SECTION_OF.get(field.name, "training")
        if field.name not in NOT_IN_A_SECTION and field.name not in known.setdefault(section, []):
            known[section].append(field.name)
    return {name: tuple(keys) for name, keys in known.items()}


def _put(document: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.rpartition(".")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    table = document.setdefault(section, {}) if section else document
    if not isinstance(table, dict):
        raise ConfigurationError(f"--set {name}: {section!r} is not a section")
    table[key] = value


class _Reader:
    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path = path
        self._document = document

    def recipe(self) -> Recipe:
        known = sections()
        self._refuse_unknown("", self._document, (*TOP, *known, "model", "multires"))
        name = self._name()
        settings = self._settings(known)
        try:
            base = presets.find(self._text("preset", "fashion-tiny"))
            config = replace(base, name=name, **{**_implied(base, settings), **settings})
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error}") from None
        data, hook = self._section("data"), self._section("hook")
        state, out = hook.get("state_dir"), self._beside(self._text("out", f"runs/{name}"))
        return Recipe(
            path=self._path,
            out=out,
            source=self._source(data.get("source"), out),
            resolution=self._resolution(data.get("resolution")),
            buckets=self._typed("data.buckets", data.get("buckets", 0), int),
            config=config,
            given=frozenset(settings),
            hook=self._typed("hook.enabled", hook.get("enabled", True), bool),
            keep_architecture=self._typed("hook.keep_architecture", hook.get("keep_architecture", False), bool),
            state_directory=Path(self._typed("hook.state_dir", state, str)).expanduser() if state is not None else None,
        )

    def _name(self) -> str:
        """The name that the run, and unless ``out`` is said its folder, has."""
        name = self._text("name", self._path.stem)
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise ConfigurationError(f"{self._path}: name {name!r}; allowed is the name of one folder: runs/<name>")
        return name

    def _source(self, given: Any, out: Path) -> str | None:
        source = self._typed("data.source", given, str | None)
        if source is None or source in NAMED or source.startswith(HUB):
            return source
        folder = self._beside(source)
        if out.is_relative_to(folder):
            raise ConfigurationError(f"{self._path}: out {out} lies in data.source {folder}, whose pictures are trained on")
        return str(folder)

    def _resolution(self, given: Any) -> int | None:
        resolution = self._typed("data.resolution", given, int | None)
        if resolution is not None and resolution < 1:
            raise ConfigurationError(f"{self._path}: data.resolution {resolution}; allowed is a positive number of pixels")
        return resolution

    def _beside(self, path: str) -> Path:
        """A path of the file, absolute: another working directory must not make it another one."""
        return Path(os.path.abspath(self._path.parent / Path(path).expanduser()))

    def _settings(self, known: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        hints = typing.get_type_hints(TrainerConfig)
        settings: dict[str, Any] = {}
        for section, keys in known.items():
            table = self._section(section)
            self._refuse_unknown(section, table, keys)
            if section in ("data", "hook"):
                continue
            for key, value in table.items():
                settings[key] = self._typed(f"{section}.{key}", value, hints[key])
        if "multires" in self._document:
            settings["multires"] = self._section("multires")
        return settings | self._model()

    def _model(self) -> dict[str, Any]:
        table = dict(self._section("model"))
        if not table:
            return {}
        base = presets.find(self._text("preset", "fashion-tiny"))
        network = self._typed("model.network", table.pop("network", base.network), str)
        if network not in NETWORKS:
            raise ConfigurationError(f"{self._path}: model.network {network!r}; allowed: {', '.join(NETWORKS)}")
        if "folder" in table:
            table["folder"] = str(self._beside(self._typed("model.folder", table["folder"], str)))
        same = network == base.network
        searched = presets.SEARCH_SPACE.get(network, {})
        model = {**(base.model if same else {}), **{key: value for key, value in table.items() if key in searched}}
        fixed = {**(base.fixed if same else {}), **{key: value for key, value in table.items() if key not in searched}}
        return {"network": network, "model": model, "fixed": fixed}

    def _section(self, name: str) -> dict[str, Any]:
        table = self._document.get(name, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"{self._path}: {name} is {table!r}; allowed is a section [{name}]")
        return table

    def _text(self, key: str, default: str) -> str:
        return str(self._typed(key, self._document.get(key, default), str))

    def _refuse_unknown(self, section: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                where = f"[{section}] has" if section else "the file has"
                raise ConfigurationError(f"{self._path}: {where} an unknown key {key!r}; allowed: {', '.join(allowed)}")

    def _typed(self, name: str, value: Any, expected: Any) -> Any:
        """``value`` as the annotation wants it; whole numbers pass for floats, arrays become tuples."""
        for kind in typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,):
            accepted, converted = _convert(value, kind)
            if accepted:
                return converted
        allowed = str(getattr(expected, "__name__", expected)) if not isinstance(expected, types.UnionType) else str(expected)
        raise ConfigurationError(f"{self._path}: {name} is {value!r}; allowed is {allowed.replace(' | None', '')}")


def _implied(base: TrainerConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from a file's values where the preset's own would contradict them; what the file says comes before it."""
    implied: dict[str, Any] = {}
    if "steps" in settings:
        implied["seconds"] = None
    if "batch" in settings:
        implied["micro_batches"] = _divisors_near(base.micro_batches, settings["batch"])
    sizes = settings.get("micro_batches", implied.get("micro_batches", base.micro_batches))
    if base.micro_batch not in sizes:
        implied["micro_batch"] = max(sizes, default=base.micro_batch)
    if settings.get("resolutions"):
        implied["resolution"] = max(settings["resolutions"])
    return implied


def _divisors_near(ladder: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """For each rung the divisor of ``batch`` by the nearest factor; the ladder as it is for a batch that is refused anyway."""
    least, most = RANGES["batch"]
    if not least <= batch <= most:
        return ladder
    divisors = [size for size in range(1, batch + 1) if batch % size == 0]
    return tuple(sorted({min(divisors, key=lambda size: (abs(math.log(size / rung)), size)) for rung in ladder}))


def _convert(value: Any, kind: Any) -> tuple[bool, Any]:
    if kind is types.NoneType:
        return value is None, None
    if kind is float:
        accepted = isinstance(value, (int, float)) and not isinstance(value, bool)
        return accepted, float(value) if accepted else None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    origin = typing.get_origin(kind)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        parts = [_convert(part, item) for part in value] if isinstance(value, list) else [(False, None)]
        return all(accepted for accepted, _ in parts), tuple(converted for _, converted in parts)
    if origin is dict:
        return isinstance(value, dict), value
    return isinstance(value, kind), value
