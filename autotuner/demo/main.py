"""Train twice on real images, untouched and tuned, then once as the search proposes; write a report."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from autotuner.demo.injection import SENTENCE, Injection
from autotuner.demo.live import Followed, Screen, find_run, follow
from autotuner.demo.processes import Children, DemoError, daemon_port, wait_for
from autotuner.errors import AutotunerError

PROJECT = "fashion"
"""Both runs train under this name, so that one study hears of both."""
DEFAULT_SECONDS = 130.0
NEEDED = ("mlx", "matplotlib", "optuna", "structlog")
"""One package of each extra that the demo uses."""
NEXT_SHARE = 0.3
"""Budget of the proposed architecture's brief training, as a share of a run's."""
START_SECONDS = 60.0
FINAL_SECONDS = 120.0
"""Patience beyond the budget for the last evaluation and the sample grids."""


@dataclass(frozen=True)
class Options:
    """What the demo was told."""

    seconds: float
    out: Path
    data: str | None
    policy: str
    seed: int
    state: Path | None
    json: bool = False


@dataclass(frozen=True)
class Trained:
    """One finished training: what the report needs to find it."""

    label: str
    run_id: str
    results: Path


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; argparse answers what is wrong with it and ends with code 2."""
    parser = argparse.ArgumentParser("autotuner demo", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if not 20 <= options.seconds <= 36_000:
        parser.error(f"--seconds {options.seconds:g}; allowed is 20 to 36000")
    return Options(options.seconds, options.out, options.data, options.policy, options.seed, options.state, options.json)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="budget of each of the two runs (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, default=Path("demo-report"), help="directory of the report (default: %(default)s)")
    parser.add_argument("--data", help="a folder of images or of idx files (default: Fashion-MNIST, else digits)")
    parser.add_argument(
        "--policy", default="default", help="policy of the tuned run, as in the daemon (default: the daemon's own)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of model and data order, the same in both runs (default: %(default)s)"
    )
    parser.add_argument("--state", type=Path, help="keep the state directory here (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="words to standard error, and one JSON document at the end")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0 done, 1 something failed, 130 interrupted."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal or a time limit must not leave children behind
        signal.signal(number, _interrupt)
    screen = Screen(sys.stderr) if options.json else Screen()
    state = options.state or Path(tempfile.mkdtemp(prefix="autotuner-demo-"))
    logs = state / "demo-logs"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with Children(logs) as children:
            report = Demo(options, state, children, screen).run()
    except KeyboardInterrupt:
        screen.say("\ninterrupted; everything that the demo started has been stopped")
        return 130
    except (AutotunerError, OSError) as error:
        screen.say(f"\ndemo: {error}\nlogs are in {logs}")
        return 1
    if options.state is None:
        shutil.rmtree(state, ignore_errors=True)
    screen.say(f"\nreport: {report.resolve()}")
    if options.json:
        print(json.dumps({"report": str(report.resolve())}))
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Demo:
    """The steps of the demo, in order."""

    def __init__(self, options: Options, state: Path, children: Children, screen: Screen) -> None:
        self.options = options
        self.state = state
        self.children = children
        self.screen = screen
        self.injected_file = state / "injected.json"
        self.injection: Injection | None = None
        self.known: set[str] = set()

    def run(self) -> Path:
        """Everything, and the report's path."""
        began = time.monotonic()
        self.introduce()
        untouched = self.train_watched("untouched", mode="observe", policy="hold")
        tuned = self.train_watched("tuned", mode="act", policy=self.options.policy)
        proposed = self.train_next()
        report = self.report(untouched, tuned, proposed)
        self.screen.say(f"\nthe demo took {(time.monotonic() - began) / 60:.1f} minutes")
        return report

    def introduce(self) -> None:
        """Say on what this runs, and what will be injected."""
        self.screen.say(f"Autotuner demo on {platform.system()} {platform.machine()}, Python {platform.python_version()}")
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise DemoError(
                f"{', '.join(missing)} not installed in {sys.prefix}; make demo, or pip install '.[demo]', brings all"
            )
        for line in self.children.run(
            "check", "autotuner.diffusion", "check", *self.data(), seconds=START_SECONDS
        ).splitlines():
            self.screen.say(f"  {line}")
        self.screen.say(f"  injected into both runs alike: {SENTENCE}")

    def data(self) -> list[str]:
        """The trainer's flags for the images."""
        return ["--data", self.options.data] if self.options.data else []

    def train_watched(self, label: str, mode: str, policy: str) -> Trained:
        """One training beside a daemon in ``mode``, under the injected events."""
        explained = "the daemon only watches" if mode == "observe" else f"the daemon acts, policy {policy!r}"
        self.screen.say(f"\n{label}: {self.options.seconds:.0f} s of training; {explained}")
        unit = self.injection.baseline_bytes if self.injection else 0
        self.injection = Injection(self.options.seconds, unit)
        self.injection.step(time.monotonic(), 0.0, 0.1, 0, 1.0).write(self.injected_file)
        daemon = self.start_daemon(label, mode, policy)
        try:
            return self.train(label, self.options.seconds, "--keep-architecture", "--injected", str(self.injected_file))
        finally:
            self.children.stop(daemon)

    def start_daemon(self, label: str, mode: str, policy: str) -> subprocess.Popen[bytes]:
        """The daemon of one run, ready to be scraped."""
        (self.state / "daemon.json").unlink(missing_ok=True)
        name = f"daemon-{label}"
        flags = ["--state-dir", str(self.state), "--mode", mode, "--policy", policy, "--port", "0", "--tick-seconds", "0.5"]
        flags += ["--observe-first", "0"]  # the state directory is new, and the watcher has a minute
        if self.injection:
            flags += ["--injected-readings", str(self.injected_file)]
        process = self.children.start(name, "autotuner", "daemon", *flags)
        wait_for(
            lambda: daemon_port(self.state) is not None,
            START_SECONDS,
            f"the daemon: {self.children.tail(name)}",
            alive=lambda: process.poll() is None,
        )
        self.screen.say(f"  status page while it runs: http://127.0.0.1:{daemon_port(self.state)}/")
        return process

    def train(self, label: str, seconds: float, *flags: str) -> Trained:
        """One training from start to result, followed on the screen."""
        results = self.options.out / label
        results.mkdir(parents=True, exist_ok=True)
        process = self.children.start(
            label,
            "autotuner.diffusion",
            "train",
            *("--name", PROJECT, "--seconds", f"{seconds:g}", "--out", str(results), "--seed", str(self.options.seed)),
            *("--state-dir", str(self.state), *self.data(), *flags),
        )
        run = self.wait_for_run(label, process)
        deadline = time.monotonic() + seconds + START_SECONDS + FINAL_SECONDS
        running = lambda: process.poll() is None and time.monotonic() < deadline  # noqa: E731
        follow(label, self.state, run, seconds, self.injection, self.injected_file, self.screen, running)
        if process.poll() != 0:
            raise DemoError(f"the training {label!r} did not end well ({process.poll()}): {self.children.tail(label)}")
        self.screen.say(f"  {label} ended: held-out loss {run.held_out if run.held_out is not None else float('nan'):.4f}")
        return Trained(label, run.declaration.run_id, results)

    def wait_for_run(self, label: str, process: subprocess.Popen[bytes]) -> Followed:
        """The run that the training attached."""
        found: list[Followed] = []

        def attached() -> bool:
            run = find_run(self.state, self.known)
            found.extend([run] if run else [])
            return bool(found)

        wait_for(attached, START_SECONDS, f"the training {label!r}", alive=lambda: process.poll() is None)
        self.known.add(found[0].directory.name)
        return found[0]

    def train_next(self) -> Trained:
        """Ask the search for the next architecture, and train it briefly beside a daemon that only watches."""
        self.screen.say("\nnext: Optuna proposes an architecture from the finished runs")
        output = self.children.run(
            "propose", "autotuner.search", "propose", "--state-dir", str(self.state), seconds=START_SECONDS
        )
        for line in output.strip().splitlines()[-4:]:
            self.screen.say(f"  {line}")
        self.injection = None
        daemon = self.start_daemon("next", "observe", "hold")
        try:
            return self.train("next", NEXT_SHARE * self.options.seconds)
        finally:
            self.children.stop(daemon)

    def report(self, untouched: Trained, tuned: Trained, proposed: Trained) -> Path:
        """Write the page that compares the two runs, one for the third, and print the table."""
        from autotuner.journal import Reader, journal_path
        from autotuner.tracking.report import ReportRun, write_report

        with Reader(journal_path(self.state)) as journal:
            pair = [ReportRun.load(journal, one.run_id, one.results, one.label) for one in (untouched, tuned)]
            third = ReportRun.load(journal, proposed.run_id, proposed.results, proposed.label)
        write_report([third], self.options.out / "next.html", "The run that the search proposed")
        notes = [
            f"Injected into both runs alike: {SENTENCE}.",
            f"A third run, of the architecture that the search proposes, had {NEXT_SHARE:.0%} of this budget: see next.html.",
        ]
        report = write_report(pair, self.options.out / "index.html", "Autotuner demo", notes)
        self.screen.say()
        for line in report.table_lines:
            self.screen.say(line)
        return report.path


if __name__ == "__main__":
    sys.exit(main())
