"""Options that commands share, and the configuration that they make."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from autotuner.config import Config, load, state_directory

FILE_NAME = "autotuner.toml"
"""Read from the state directory when no other file is named."""

RUN_HELP = "a run's id, the beginning of it, or its name (the newest run of that name)"

FLAGS: tuple[tuple[str, str, str], ...] = (
    ("mode", "MODE", "observe, advise or act"),
    ("policy", "NAME", "default, hold, rules, forecast, learned, or an artefact's directory"),
    ("port", "PORT", "port of /metrics and the status page on 127.0.0.1; 0 picks a free one"),
    ("http-token-file", "FILE", "file of mode 0600 with the token that lets a client change things over HTTP"),
    ("tick-seconds", "S", "seconds between two looks"),
    ("decision-seconds", "S", "seconds between two decisions of a run; 0 derives it from the run's budget"),
    ("observe-first", "N", "decisions for which the first run of a machine is only observed; 0 acts at once"),
    ("changes-per-hour", "N", "most changes of one run in an hour"),
    ("holdout", "SHARE", "share of runs left at the script's own values, to measure the gain; 0 measures nothing"),
    ("retention-days", "DAYS", "how long telemetry, decisions and run directories are kept, in days that had a run"),
    ("propose-seconds", "S", "seconds between two proposals of an architecture"),
    ("checkpoint-seconds", "S", "how long a run may take to save or to restore until it counts as not answering"),
    ("injected-readings", "FILE", "scripted heat and memory of an experiment"),
    ("log-level", "LEVEL", "debug, info, warning or error"),
)


def add_state_directory(parser: argparse.ArgumentParser) -> None:
    """Options that say where the journal is."""
    parser.add_argument("--state-dir", dest="state_directory", type=Path, metavar="DIR", help="where runs and journal live")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {FILE_NAME} in the state directory)")


def add_all(parser: argparse.ArgumentParser) -> None:
    """Every setting as an option."""
    add_state_directory(parser)
    for flag, metavar, sentence in FLAGS:
        parser.add_argument(f"--{flag}", metavar=metavar, help=sentence)


def configuration_file(arguments: argparse.Namespace) -> Path | None:
    """The file that was named, or the one in the state directory, or None."""
    if arguments.config is not None:
        return Path(arguments.config)
    directory = arguments.state_directory or state_directory(os.environ)
    path = Path(directory).expanduser() / FILE_NAME
    return path if path.exists() else None


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as options."""
    names = ["state_directory", *(flag.replace("-", "_") for flag, _, _ in FLAGS)]
    return {name: getattr(arguments, name, None) for name in names}


def configuration(arguments: argparse.Namespace) -> Config:
    """The checked configuration; raises ConfigurationError."""
    return load(configuration_file(arguments), flags(arguments))
