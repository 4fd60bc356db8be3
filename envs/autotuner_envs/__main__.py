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
    from autotuner_envs.fitting import SHARES, Traces, fit, predicted_losses, savings

    traces = Traces.read(arguments.traces)
    calibration, errors = fit(traces)
    document = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "errors": {name: round(error, 5) for name, error in errors.items()},
        "parameters": calibration.to_document(),
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    load.cache_clear()
    for name, error in errors.items():
        print(f"{name:28s} {error:8.4f}")
    curve, densities = calibration.curve, calibration.density_efficiency
    print("\nheld-out loss, recorded / simulated, at 12, 24, 40, 60, 80 and 100 % of the steps")
    for trace in sorted(traces.curves, key=lambda trace: (trace["half"], trace["name"])):
        pairs = list(zip(trace["points"], predicted_losses(curve, trace, densities), strict=True))
        shown = [pairs[max(0, round(share * len(pairs)) - 1)] for share in (0.12, 0.24, 0.4, 0.6, 0.8, 1.0)]
        told = "  ".join(f"{point['held_out_loss']:.3f}/{loss:.3f}" for point, loss in shown)
        print(f"  {trace['half']:5s} {trace['name']:22s} {told}")
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    print(f"\nshare of time saved, recorded / simulated, to the loss of the plain run at {shares} of its time")
    found = savings(traces.curves, curve, densities, calibration.step, SHARES)
    for i in range(0, len(found), len(SHARES)):
        told = "  ".join(f"{each.recorded:+.2f}/{each.simulated:+.2f}" for each in found[i : i + len(SHARES)])
        print(f"  {found[i].half:5s} {found[i].name:22s} {told}")


_COMMANDS = {"list": _list, "rollout": _rollout, "record": _record, "calibrate": _calibrate}

if __name__ == "__main__":
    main()
