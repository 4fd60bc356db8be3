"""A model's `config.json`: every key checked against what the model implements, and kept to be written back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotuner.errors import ConfigurationError

FILE_NAME = "config.json"


@dataclass(frozen=True)
class Option:
    """What one key may hold: its default, a test, and the sentence that an error shows."""

    default: Any
    accepts: Callable[[Any], bool]
    allowed: str


def one_of(default: Any, *others: Any) -> Option:
    """A value out of a few; with no others, the only one that is implemented."""
    values = (default, *others)
    # 1 == True and 1 == 1.0: only the first pair must not be confused.
    return Option(
        default, lambda v: any(v == w and isinstance(v, bool) == isinstance(w, bool) for w in values), _listed(values)
    )


def boolean(default: bool) -> Option:
    """True or false."""
    return Option(default, lambda v: isinstance(v, bool), "true or false")


def integer(default: int | None, least: int = 0, *, null: bool = False) -> Option:
    """A whole number; null where ``null`` says so, or where it is the default."""
    optional = null or default is None
    allowed = f"a whole number from {least} on" + (" or null" if optional else "")
    return Option(default, lambda v: (v is None and optional) or _whole(v, least), allowed)


def number(default: float, least: float = 0.0) -> Option:
    """A number."""
    return Option(
        default, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v >= least, f"a number from {least} on"
    )


def whole_or_each(default: int | tuple[int, ...] | None, least: int = 1) -> Option:
    """A whole number, or a list with one for each level."""

    def accepts(value: Any) -> bool:
        return (value is None and default is None) or _whole(value, least) or _all(value, lambda v: _whole(v, least))

    return Option(default, accepts, f"a whole number from {least} on or a list of them")


def true_or_each(default: bool) -> Option:
    """True or false, or a list with one for each level."""
    return Option(
        default, lambda v: isinstance(v, bool) or _all(v, lambda w: isinstance(w, bool)), "true, false or a list of them"
    )


def wholes(default: tuple[int, ...], least: int = 1) -> Option:
    """A list of whole numbers."""
    return Option(default, lambda v: _all(v, lambda w: _whole(w, least)), f"a list of whole numbers from {least} on")


def names(default: tuple[str, ...], *others: str) -> Option:
    """A list of names out of a few."""
    allowed = tuple(dict.fromkeys((*default, *others)))
    return Option(default, lambda v: _all(v, lambda w: w in allowed), "a list of " + _listed(allowed))


def anything(default: Any = None) -> Option:
    """A key that does not change the function: size of the training images, token ids of another program."""
    return Option(default, lambda value: True, "anything")


@dataclass(frozen=True)
class Schema:
    """What a model reads from its configuration."""

    class_names: tuple[str, ...]
    """Names under ``_class_name`` (diffusers) or ``architectures`` (transformers) that mean this model."""
    options: Mapping[str, Option]
    weights_file: str = "diffusion_pytorch_model.safetensors"

    def read(self, source: ModelConfig | Mapping[str, Any] | str | Path) -> ModelConfig:
        """Check a folder, a `config.json`, or a dict; ConfigurationError names file, key, value and what is allowed."""
        if isinstance(source, ModelConfig):
            return source
        raw, origin = (source, "the given dict") if isinstance(source, Mapping) else read_json(config_path(source))
        self._check_class(raw, origin)
        values = {key: option.default for key, option in self.options.items()}
        for key, value in raw.items():
            if key.startswith("_") or key == "architectures":
                continue
            option = self.options.get(key)
            if option is None:
                known = ", ".join(self.options)
                raise ConfigurationError(
                    f"{origin}: {key} = {value!r} is no key of {self.class_names[0]} here; allowed: {known}"
                )
            if not option.accepts(value):
                raise ConfigurationError(f"{origin}: {key} = {value!r} is not implemented; allowed is {option.allowed}")
            values[key] = tuple(value) if isinstance(value, list) else value
        return ModelConfig(self, values, dict(raw), origin)

    def _check_class(self, raw: Mapping[str, Any], origin: str) -> None:
        found = class_name(raw)
        if found is not None and found not in self.class_names:
            raise ConfigurationError(f"{origin}: the model's class is {found!r}; allowed: {', '.join(self.class_names)}")


@dataclass(frozen=True)
class ModelConfig:
    """A checked configuration: ``config["in_channels"]`` with defaults filled in, lists as tuples."""

    schema: Schema
    values: Mapping[str, Any]
    raw: Mapping[str, Any]
    """The file as it was found, written back unchanged."""
    origin: str
    """Where it came from, for errors."""

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def each(self, key: str, levels: int) -> tuple[Any, ...]:
        """The value for each level; ConfigurationError when a list has another length."""
        value = self.values[key]
        if not isinstance(value, tuple):
            return (value,) * levels
        self.require(len(value) == levels, key, f"a list of {levels}, one for each level")
        return value

    def require(self, met: bool, key: str, allowed: str) -> None:
        """Raise a ConfigurationError on a key unless ``met``: for what several keys must keep together."""
        if not met:
            raise ConfigurationError(f"{self.origin}: {key} = {self.values[key]!r}; allowed is {allowed}")


def class_name(raw: Mapping[str, Any]) -> str | None:
    """The class that a configuration names, in either library's way; None when it names none."""
    architectures = raw.get("architectures") or [None]
    return raw.get("_class_name") or architectures[0]


def config_path(source: str | Path) -> Path:
    """The configuration file of a model's folder; a path to a file is returned as it is."""
    path = Path(source)
    return path / FILE_NAME if path.is_dir() else path


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and the file's name for errors; ConfigurationError when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: holds {type(found).__name__}; allowed is an object")
    return found, str(path)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _all(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(accepts(item) for item in value)


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(json.dumps(value) for value in values)
