"""``autotuner daemon``: the background service in the foreground."""

from __future__ import annotations

import argparse
import sys

from autotuner.cli import ALREADY_RUNNING, OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_all, configuration
from autotuner.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_all(parser)
    parser.add_argument(
        "--service", action="store_true", help="started by launchd or systemd: a wrong setting is no reason to restart"
    )
    add_json(parser, "with --dry-run: the configuration as JSON; the log is never JSON")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reads the settings again."""
    try:
        return _run(arguments)
    except ConfigurationError as error:
        if not arguments.service:
            raise
        # launchd restarts whatever ends with another code than 0: the same mistake again, every ten seconds.
        print(f"autotuner: {error}; the service stays down until it is started again", file=sys.stderr)
        return OK


def _run(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    if arguments.dry_run:
        from autotuner.cli.config import described  # with the commands that ask a daemon: it need not load them

        show(arguments, *described(arguments))
        return OK
    from autotuner.daemon import process
    from autotuner.daemon.lock import DaemonRunningError

    try:
        # launchd keeps stderr in a file that nobody rotates; systemd has a journal for it.
        process.run(config, lambda: configuration(arguments), not (arguments.service and sys.platform == "darwin"))
    except DaemonRunningError as error:
        print(f"autotuner: {error}", file=sys.stderr)
        return ALREADY_RUNNING
    except OSError as error:
        raise ConfigurationError(_what_cannot_be_used(error, config.port)) from None
    return OK


def _what_cannot_be_used(error: OSError, port: int) -> str:
    if error.filename:
        return f"{error.filename} cannot be used: {error.strerror}"
    return f"port {port} cannot be used: {error.strerror}; choose another with --port, or 0 for a free one"
