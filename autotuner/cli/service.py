"""``autotuner service``: the daemon as a login service of launchd or systemd."""

from __future__ import annotations

import argparse

from autotuner.cli import OK
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.daemon.service import platform_service

ACTIONS = ("install", "remove", "status", "print")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("action", choices=ACTIONS, help="print shows the file that install would write")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what was done."""
    service = platform_service(configuration(arguments).state_directory)
    said: str = getattr(service, arguments.action)()
    print(said.rstrip("\n"))
    return OK
