"""Configuration: defaults here, then one TOML file, then environment, then flags; checked at the door."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autotuner.errors import ConfigurationError
from autotuner.messages import MODES


def state_directory(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where runs, journal and studies live: AUTOTUNER_STATE_DIR, else the platform's own place.

    Raises ConfigurationError for a path that cannot be one.
    """
    if environment.get("AUTOTUNER_STATE_DIR"):
        return _expanded(environment["AUTOTUNER_STATE_DIR"], "AUTOTUNER_STATE_DIR")
    home = Path(environment.get("HOME") or Path.home())
    if platform == "darwin":
        return home / "Library" / "Application Support" / "autotuner"
    return Path(environment.get("XDG_STATE_HOME") or home / ".local" / "state") / "autotuner"


@dataclass(frozen=True)
class Config:
    """Everything that the daemon can be told."""

    state_directory: Path
    mode: str = "act"
    policy: str = "default"
    """``default`` (what won the evaluation), ``hold``, ``rules``, ``forecast``, ``learned`` or a path to an artefact."""
    port: int = 9871
    """Port of /metrics, /healthz and the status page on 127.0.0.1; 0 picks a free one."""
    http_token_file: str = ""
    """File of mode 0600 with the token that lets a client change things over HTTP; empty keeps HTTP read-only."""
    tick_seconds: float = 1.0
    decision_seconds: float = 0.0
    """Seconds between two decisions of a run; 0 derives it from the run's budget."""
    observe_first: int = 3
    """Decisions for which the first run of a machine is only observed, until its memory is known; 0 acts at once."""
    changes_per_hour: int = 240
    holdout: float = 0.1
    """Share of runs that is left at the script's own values, to measure what the daemon gains; 0 measures nothing."""
    retention_days: float = 30.0
    propose_seconds: float = 3600.0
    """How often the next architecture is proposed, besides after each finished run."""
    injected_readings: str = ""
    """File with scripted readings (heat and memory of an experiment); empty reads the machine alone."""
    checkpoint_seconds: float = 120.0
    """How long a run that was asked to save or to restore may take until it is reported as not answering."""
    log_level: str = "info"


LARGEST_FILE_BYTES = 100_000
LONGEST_TEXT = 4096
"""Characters of a value: as long as a path may be."""
ALLOWED = {
    "mode": MODES,
    "log_level": ("debug", "info", "warning", "error"),
}
AFTER_RESTART = ("state_directory", "port", "http_token_file", "policy", "injected_readings")
"""Settings that a running daemon does not take over from a changed file."""
RANGES = {
    "port": (0, 65535),
    "tick_seconds": (0.05, 60.0),
    "decision_seconds": (0.0, 3600.0),
    "observe_first": (0, 1000),
    "changes_per_hour": (0, 100000),
    "holdout": (0.0, 0.5),
    "retention_days": (0.0, 36500.0),
    "propose_seconds": (1.0, 1e7),
    "checkpoint_seconds": (1.0, 86400.0),
}


def load(
    path: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> Config:
    """Read the configuration; later sources win: file, ``AUTOTUNER_*`` variables, flags that are not None.

    Raises ConfigurationError, naming the value, what is allowed and where the value came from.
    """
    config = Config(state_directory=state_directory(environment))
    known = {field.name: field for field in fields(Config)}
    if path is not None:
        for name, value in _document(path).items():
            config = _set(config, known, name, value, str(path))
    for name in known:
        variable = variable_of(name)
        if environment.get(variable):
            config = _set(config, known, name, environment[variable], variable)
    for name, value in (flags or {}).items():
        if value is not None:
            config = _set(config, known, name, value, f"flag --{name.replace('_', '-')}")
    return config


def differences(before: Config, after: Config) -> dict[str, str]:
    """Setting to ``before to after``, for each that differs."""
    names = (field.name for field in fields(Config))
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in names}
    return {name: f"{name} {old} to {new}" for name, (old, new) in pairs.items() if old != new}


def variable_of(name: str) -> str:
    """The environment variable that sets ``name``."""
    return "AUTOTUNER_" + ("STATE_DIR" if name == "state_directory" else name.upper())


def origins(
    path: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Where ``load`` takes each setting from: ``default``, the file, a variable or a flag."""
    in_file = _document(path) if path is not None else {}
    found = {}
    for field in fields(Config):
        name = field.name
        came_from = str(path) if name in in_file else "default"
        came_from = variable_of(name) if environment.get(variable_of(name)) else came_from
        found[name] = f"flag --{name.replace('_', '-')}" if (flags or {}).get(name) is not None else came_from
    return found


def _document(path: Path) -> dict[str, Any]:
    """The file as it stands; raises ConfigurationError."""
    import tomllib  # a daemon without a file starts without it

    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigurationError(f"configuration file {path} cannot be read: {error.strerror}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise ConfigurationError(f"configuration file {path} has more than {LARGEST_FILE_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a number with thousands of digits is a plain ValueError
        raise ConfigurationError(f"configuration file {path} is not TOML: {error!s:.300}") from None


def _set(config: Config, known: Mapping[str, Any], name: str, value: Any, origin: str) -> Config:
    if name not in known:
        raise ConfigurationError(f"{origin}: unknown setting {name!r:.80}; known: {', '.join(known)}")
    current = getattr(config, name)
    try:
        converted = _converted(name, value, current, origin)
    except (TypeError, ValueError, OverflowError):
        expected = "a path" if name == "state_directory" else type(current).__name__
        raise ConfigurationError(f"{origin}: {name} = {_shown(value)}; expected {expected}") from None
    if name in ALLOWED and converted not in ALLOWED[name]:
        raise ConfigurationError(f"{origin}: {name} = {_shown(value)}; allowed: {', '.join(ALLOWED[name])}")
    if name in RANGES and not RANGES[name][0] <= converted <= RANGES[name][1]:
        low, high = RANGES[name]
        raise ConfigurationError(f"{origin}: {name} = {_shown(value)}; allowed: {low} to {high}")
    return replace(config, **{name: converted})


def _converted(name: str, value: Any, current: Any, origin: str) -> Any:
    """``value`` in the type of ``current``; raises TypeError, ValueError, OverflowError or ConfigurationError."""
    if isinstance(value, bool) or (isinstance(value, str) and ("\0" in value or len(value) > LONGEST_TEXT)):
        raise ValueError
    if isinstance(current, Path):
        return _expanded(value, f"{origin}: {name}")
    if isinstance(current, str) and not isinstance(value, (str, Path)):
        raise TypeError
    if isinstance(current, int) and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return type(current)(value)


def _expanded(path: Any, origin: str) -> Path:
    """``path`` with its ``~`` resolved; raises TypeError, or ConfigurationError for the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigurationError(f"{origin} = {_shown(path)}; there is no such home directory") from None


def _shown(value: Any) -> str:
    """``value`` for an error: of readable length, whatever it is."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes out no number with thousands of digits
        return "a number with thousands of digits"
