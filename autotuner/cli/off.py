"""``autotuner off`` and ``autotuner on``: every run back to its script's own values and left alone; or guided again."""

from __future__ import annotations

import argparse

from autotuner.cli import OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.daemon.address import read_address
from autotuner.daemon.modes import switch_off, switch_on
from autotuner.errors import AutotunerError

WORDS = {
    ("off", True): "switched off: every run goes back to its script's own values and is left alone until: autotuner on",
    ("off", False): "it was switched off before; switch it on with: autotuner on",
    ("on", True): "switched on: runs are guided again",
    ("on", False): "it was not switched off",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both commands."""
    add_json(parser)
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Throw the switch; it needs no daemon, and outlives it."""
    state = configuration(arguments).state_directory
    try:
        news = (switch_off if arguments.command == "off" else switch_on)(state)
    except OSError as error:
        raise AutotunerError(f"{error.filename or state} cannot be written: {error.strerror}") from None
    daemon = read_address(state) is not None
    words = WORDS[arguments.command, news] + (
        "" if daemon else f"\nno daemon is running for {state}: no knob moves until one starts"
    )
    show(arguments, {"off": arguments.command == "off", "changed": news, "daemon_running": daemon}, words)
    return OK
