"""The command line: parse, one call, and the only place of the product that prints."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from autotuner.errors import AutotunerError, ConfigurationError

OK, FOUND_WRONG, USAGE, ALREADY_RUNNING, NO_DAEMON = 0, 1, 2, 3, 4

EPILOG = """exit codes:
  0  done
  1  something is wrong: a check failed, a request was refused, a run is not known, a journal cannot be read
  2  wrong usage or configuration
  3  another daemon already serves the state directory
  4  no daemon answers: what is shown is the journal's record, and nothing was changed"""


class NoDaemonError(AutotunerError):
    """The command needs a running daemon, and none answers."""


@dataclass(frozen=True)
class Command:
    """One row of the table of commands; the module has ``add_arguments(parser)`` and ``run(arguments) -> int``."""

    name: str
    module: str
    sentence: str
    parses_itself: bool = False
    """Its module has ``main(words) -> int`` in place of ``run``."""


COMMANDS: tuple[Command, ...] = (
    Command("demo", "autotuner.demo.main", "watch a small training being tuned, with a report at the end", parses_itself=True),
    Command("train", "autotuner.cli.train", "train, or continue, what a TOML file describes"),
    Command("run", "autotuner.cli.run", "tune a training command that was not written for it"),
    Command("fit", "autotuner.cli.fit", "before training: does it fit this machine, and how fast is it"),
    Command("sample", "autotuner.cli.sample", "draw images from what a training has reached"),
    Command("schedule", "autotuner.cli.schedule", "learn to sample in few network evaluations"),
    Command("distill", "autotuner.cli.distill", "take a trained model to few steps, and show the cost"),
    Command("evaluate", "autotuner.cli.evaluate", "measure what a training has reached, with noise floors"),
    Command("daemon", "autotuner.cli.daemon", "run the background service in the foreground"),
    Command("status", "autotuner.cli.status", "the machine, its runs and their knobs at this moment"),
    Command("top", "autotuner.cli.top", "machine, runs, knobs and last decisions, live on a terminal"),
    Command("explain", "autotuner.cli.explain", "each change of a run: what, why, by whom, and what it did"),
    Command("replay", "autotuner.cli.replay", "finished runs as episodes, or as another policy sees them"),
    Command("mode", "autotuner.cli.mode", "observe, advise or act: what is done in one run"),
    Command("accept", "autotuner.cli.accept", "make the change that a piece of advice recommends"),
    Command("undo", "autotuner.cli.undo", "take back the last change of a run"),
    Command("checkpoint", "autotuner.cli.checkpoint", "ask a run to save a checkpoint, or to go back to one"),
    Command("pin", "autotuner.cli.pin", "keep the daemon's hands off one knob of a run"),
    Command("release", "autotuner.cli.pin", "let the daemon move a pinned knob again"),
    Command("off", "autotuner.cli.off", "everything back to the scripts' own values, and hands off"),
    Command("on", "autotuner.cli.off", "guide runs again after off"),
    Command("report", "autotuner.cli.report", "one page with the course of one or more runs"),
    Command("doctor", "autotuner.cli.doctor", "check sensors, journal, policy and installation"),
    Command("config", "autotuner.cli.config", "every setting with its value and origin"),
    Command("completion", "autotuner.cli.completion", "what bash, zsh or fish needs to complete this command line"),
    Command("service", "autotuner.cli.service", "install, remove or show the login service"),
)


EXTRA_OF = {
    "apscheduler": "daemon", "numpy": "daemon", "prometheus_client": "daemon", "psutil": "daemon", "safetensors": "daemon",
    "structlog": "daemon", "optuna": "search", "matplotlib": "tracking", "mlx": "diffusion", "PIL": "diffusion",
    "tqdm": "diffusion", "tokenizers": "stable-diffusion", "datasets": "hub",
}  # fmt: skip
"""Which extra brings a module that a bare install lacks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except ConfigurationError as error:
        return _complain(error, USAGE)
    except NoDaemonError as error:
        return _complain(error, NO_DAEMON)
    except AutotunerError as error:
        return _complain(error, FOUND_WRONG)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _complain(f"this needs {error.name}: pip install 'diffusion-autotuner[{extra}]'", USAGE)
    except BrokenPipeError:  # the reader of our output has left, as with `| head`
        sys.stderr.close()
        return OK
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    itself = next((command for command in COMMANDS if command.parses_itself and words[:1] == [command.name]), None)
    if itself is not None:
        return int(importlib.import_module(itself.module).main(words[1:]))
    parsed = _parser(words).parse_args(words)
    return int(importlib.import_module(_command(parsed.command).module).run(parsed))


def _complain(error: object, code: int) -> int:
    print(f"autotuner: {error}", file=sys.stderr)
    return code


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the options of every command, which imports the modules of all of them."""
    return _parser([command.name for command in COMMANDS], also_their_own=True)


def _parser(words: Sequence[str], also_their_own: bool = False) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autotuner",
        description="Watches diffusion-model training on this machine and tunes it while it runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.sentence, description=f"{command.name}: {command.sentence}.")
        if command.name in words and (
            also_their_own or not command.parses_itself
        ):  # only the one that may be meant is imported
            importlib.import_module(command.module).add_arguments(subparser)
    return parser


def _command(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from autotuner.daemon.version import VERSION

        print(f"autotuner {VERSION}")
        parser.exit()
