"""``autotuner config show``: every setting, its value, and where it came from; ``config reload``: a changed file in force."""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import fields
from typing import Any

from autotuner.cli import OK, NoDaemonError
from autotuner.cli.output import add_json, show
from autotuner.cli.request import running
from autotuner.cli.settings import add_all, configuration, configuration_file, flags
from autotuner.cli.status import ask
from autotuner.cli.text import table
from autotuner.config import Config, origins
from autotuner.errors import AutotunerError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = "show (the default), or reload: the running daemon reads its settings again"
    parser.add_argument("what", nargs="?", choices=("show", "reload"), default="show", help=what)
    add_json(parser)
    add_all(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings, or let the daemon read them again."""
    if arguments.what == "show":
        show(arguments, *described(arguments))
        return OK
    state = configuration(arguments).state_directory  # a wrong file is told here, before the daemon is troubled
    address = running(state)
    document = ask(address)
    # Its process may have died and left its number to another, whom a SIGHUP would end.
    if document is None or document["started_unix"] != address.started_unix:
        raise NoDaemonError(f"the daemon (pid {address.pid}) does not answer, so nobody was told")
    try:
        os.kill(address.pid, signal.SIGHUP)
    except OSError as error:
        raise AutotunerError(f"the daemon (pid {address.pid}) cannot be told: {error.strerror}") from None
    words = f"the daemon (pid {address.pid}) reads its settings again; autotuner status says what needs a restart"
    show(arguments, {"pid": address.pid}, words)
    return OK


def described(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The settings as a document and as a table."""
    config = configuration(arguments)
    came_from = origins(configuration_file(arguments), flags(arguments))
    values = {field.name: getattr(config, field.name) for field in fields(Config)}
    rows = [[name, _shown(value), came_from[name]] for name, value in values.items()]
    document = {name: {"value": value, "from": came_from[name]} for name, value in values.items()}
    return document, table(("SETTING", "VALUE", "FROM"), rows)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
