"""``autotuner service``: the daemon as a login service of launchd or systemd."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from autotuner.cli import OK
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.errors import AutotunerError

ACTIONS = ("install", "remove", "status", "print")
_MODULE = "autotuner.daemon.service"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("action", choices=ACTIONS, help="print shows the file that install would write")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what was done."""
    if importlib.util.find_spec(_MODULE) is None:
        raise AutotunerError("this build has no login service; start the daemon with: autotuner daemon")
    service = importlib.import_module(_MODULE).platform_service(configuration(arguments).state_directory)
    said = getattr(service, arguments.action)()
    print(str(said).rstrip("\n"))
    return OK
