"""``autotuner config show``: every setting, its value, and where the value came from."""

from __future__ import annotations

import argparse
from dataclasses import fields

from autotuner.cli import OK
from autotuner.cli.settings import add_all, configuration, configuration_file, flags
from autotuner.cli.text import table
from autotuner.config import Config, origins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("what", nargs="?", choices=("show",), default="show", help="show (the default)")
    add_all(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings."""
    print(show(arguments))
    return OK


def show(arguments: argparse.Namespace) -> str:
    """The settings as a table."""
    config = configuration(arguments)
    came_from = origins(configuration_file(arguments), flags(arguments))
    rows = [[field.name, _shown(getattr(config, field.name)), came_from[field.name]] for field in fields(Config)]
    return table(("SETTING", "VALUE", "FROM"), rows)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
