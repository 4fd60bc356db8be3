"""``python -m autotuner_envs``: list the scenarios, play one, record real training, fit the simulator to it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from autotuner_envs.calibration import PATH as CALIBRATION
from autotuner_envs.calibration import load

TRACES = Path(__file__).with_name("traces")


def main() -> None:
    """Parse, then one call."""
    parser = argparse.ArgumentParser(prog="autotuner_envs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the families of scenarios and their splits")
    rollout = commands.add_parser("rollout", help="play one scenario with one policy and tell what it decided")
    rollout.add_argument("--family", default="fanless")
    rollout.add_argument("--seed", type=int, default=0)
    rollout.add_argument("--policy", default="rules", help="hold, rules, forecast, random, hand, or an artefact's directory")
    record = commands.add_parser("record", help="record short pieces of real training")
    record.add_argument("--quick", action="store_true", help="a few steps of each, to try it")
    record.add_argument("--only", default="", help="one piece by name")
    record.add_argument("-o", "--output", type=Path, default=TRACES)
    calibrate = commands.add_parser("calibrate", help="fit the simulator to the recorded pieces")
    calibrate.add_argument("--traces", type=Path, default=TRACES)
    calibrate.add_argument("-o", "--output", type=Path, default=CALIBRATION)
    arguments = parser.parse_args()
    _COMMANDS[arguments.command](arguments)


def _list(arguments: argparse.Namespace) -> None:
    from autotuner_envs.scenarios import FAMILIES

    for family in FAMILIES:
        print(f"{family.name:18s} {','.join(family.splits):22s} {family.sentence}")


def _rollout(arguments: argparse.Namespace) -> None:
    from autotuner_envs.scenarios import draw
    from autotuner_envs.schedules import chooser, decisions

    scenario = draw(arguments.family, arguments.seed)
    for line in decisions(scenario, chooser(arguments.policy)):
        print(line)


def _record(arguments: argparse.Namespace) -> None:
    from autotuner_envs.record import record

    command = "python -m autotuner_envs record" + (" --quick" if arguments.quick else "")
    for name in record(arguments.output, command, arguments.quick, arguments.only):
        print("recorded", name)


def _calibrate(arguments: argparse.Namespace) -> None:
    from autotuner_envs.fitting import Traces, fit

    calibration, errors = fit(Traces.read(arguments.traces))
    document = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "errors": {name: round(error, 5) for name, error in errors.items()},
        "parameters": calibration.to_document(),
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    load.cache_clear()
    for name, error in errors.items():
        print(f"{name:28s} {error:8.4f}")


_COMMANDS = {"list": _list, "rollout": _rollout, "record": _record, "calibrate": _calibrate}

if __name__ == "__main__":
    main()
