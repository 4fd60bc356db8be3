"""``autotuner fit CONFIG|run.json``: before training, whether it fits this machine and how fast it will be."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.adapters.supervise import cause_of
from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.text import duration, percent, size
from autotuner.cli.train import positive
from autotuner.errors import AutotunerError, ConfigurationError
from autotuner.hook.files import declaration_at
from autotuner.journal import Reader, RunRecord, journal_path, model_key
from autotuner.messages import Declaration

if TYPE_CHECKING:
    from autotuner.search.fit import Estimate, Interval, Past, Verdict

PROBE_SECONDS = 20.0
CHILD_SECONDS = 300.0
SHAPE = ("resolution", "micro_batch")


@dataclass(frozen=True)
class Asked:
    """What the file asks about."""

    name: str
    declaration: Declaration | None
    model: dict[str, Any]
    values: dict[str, float]
    batch: int | None
    budget_steps: int | None
    budget_seconds: float | None
    students: bool = False


@dataclass(frozen=True)
class Probed:
    """The probe's answer, or why it has none."""

    estimate: Estimate | None = None
    working_set_bytes: int | None = None
    problem: str = ""
    out_of_memory: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = "exit code: 0 it fits, 1 it does not or that cannot be said, 2 wrong usage"
    parser.add_argument(
        "CONFIG", type=Path, help="the TOML file of autotuner train, or the run.json of an earlier run of any trainer"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="replace one value of the TOML file"
    )
    parser.add_argument("--steps", type=positive, default=12, metavar="N", help="most steps of the probe (default: 12)")
    parser.add_argument("--no-probe", action="store_true", help="judge by earlier runs alone")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Probe, look into the journal, compare with the machine, and say it."""
    from autotuner.search import fit

    asked = _asked(arguments)
    probed = _probed(arguments, asked)
    config = configuration(arguments)
    past = fit.from_past(asked.model, _past(asked, journal_path(config.state_directory)))
    estimates = [estimate for estimate in (probed.estimate, past) if estimate is not None]
    available = _available(config.injected_readings, probed.working_set_bytes)
    if probed.out_of_memory:
        verdict = fit.Verdict(False, f"does not fit: {probed.problem}", (available or 0.0) * fit.ALLOWED_SHARE)
        estimate = None
    elif not estimates:
        raise ConfigurationError(f"{arguments.CONFIG}: nothing is known of it: {_why_unknown(arguments, probed)}")
    else:
        estimate = fit.together(estimates)
        verdict = fit.judge(estimate.needed_bytes, available)
    document = _document(asked, estimate, verdict, available)
    print(json.dumps(document, sort_keys=True) if arguments.json else _sentences(asked, estimate, verdict, available, probed))
    return OK if verdict.fits else FOUND_WRONG


def _why_unknown(arguments: argparse.Namespace, probed: Probed) -> str:
    if probed.problem:
        return f"the probe did not work ({probed.problem}), and no earlier run on this machine was alike"
    return "no earlier run on this machine was alike" + ("" if _is_run(arguments.CONFIG) else ", and --no-probe was given")


def _is_run(path: Path) -> bool:
    return path.suffix == ".json"


def _asked(arguments: argparse.Namespace) -> Asked:
    path = arguments.CONFIG
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; allowed is a TOML file of autotuner train, or the run.json of a run")
    if _is_run(path):
        if arguments.set:
            raise ConfigurationError(f"--set {arguments.set[0]!r} changes a TOML file; {path} is what an earlier run declared")
        return _asked_by_run(path)
    from autotuner.cli.train import recipe_of

    _, config = recipe_of(arguments).prepared()
    values = {name: float(getattr(config, name)) for name in SHAPE}
    return Asked(
        config.name, None, dict(config.model), values, config.batch, config.steps, config.seconds, bool(config.student_ladder)
    )


def _asked_by_run(path: Path) -> Asked:
    try:
        declared = declaration_at(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except AutotunerError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    values = {knob.name: knob.values[knob.start] for knob in declared.knobs}
    batch = declared.model.get("batch")
    return Asked(
        declared.name, declared, declared.model, values, batch if isinstance(batch, int) else None,
        declared.budget_steps, declared.budget_seconds,
    )  # fmt: skip


def _probed(arguments: argparse.Namespace, asked: Asked) -> Probed:
    """A few steps in a child process, which the system may kill without harm to us."""
    from autotuner.search import fit

    if arguments.no_probe or _is_run(arguments.CONFIG):
        return Probed()
    changes = dict(text.split("=", 1) for text in arguments.set)
    words = [str(arguments.CONFIG), json.dumps(changes), str(arguments.steps), str(PROBE_SECONDS)]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "autotuner.search.probe", *words],
            capture_output=True, text=True, timeout=CHILD_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Probed(problem=f"it was not done after {duration(CHILD_SECONDS)}")
    if child.returncode != 0:
        cause = cause_of(child.returncode, child.stderr)
        return Probed(problem=f"in the probe, {cause.sentence}", out_of_memory=cause.kind in ("memory", "killed"))
    found = json.loads(child.stdout.strip().splitlines()[-1])
    steps = [fit.Step(step["seconds"], step["peak_bytes"]) for step in found["steps"]]
    return Probed(fit.from_probe(steps, found["process_bytes"], asked.students), found["working_set_bytes"])


def _past(asked: Asked, path: Path) -> list[Past]:
    if not path.exists():
        return []
    with Reader(path) as journal:
        return [past for record in journal.runs() if (past := _past_of(asked, record, journal)) is not None]


def _past_of(asked: Asked, record: RunRecord, journal: Reader) -> Past | None:
    from autotuner.search.fit import Past, Step

    try:
        declared = record.declaration
    except AutotunerError:  # of another version
        return None
    if declared.framework != (asked.declaration.framework if asked.declaration is not None else "mlx"):
        return None
    model = {name: value for name, value in declared.model.items() if not name.startswith("_")}
    if asked.declaration is not None:
        same_model = model_key(declared) == model_key(asked.declaration)
    else:
        same_model = declared.name == asked.name and model == asked.model
    names = [knob.name for knob in declared.knobs]
    rows = [row for row in journal.telemetry(record.run_id) if _at(asked.values, dict(zip(names, row.values, strict=False)))]
    paced = names.index("pace") if "pace" in names else None
    unpaced = [row for row in rows if row.step_seconds and (paced is None or row.values[paced] == 1.0)]
    steps = [Step(row.step_seconds or 0.0, row.peak_bytes) for row in unpaced]
    peak = max((row.peak_bytes for row in rows), default=0)
    same = same_model and peak > 0
    return Past(model, steps, peak if same else record.peak_bytes, same)


def _at(wanted: Mapping[str, float], values: Mapping[str, float]) -> bool:
    """Whether the shape of the tensors is the one that is asked about."""
    return all(values.get(name) == wanted[name] for name in SHAPE if name in wanted and name in values)


def _available(injected: str, working_set_bytes: int | None) -> float | None:
    """What the machine can give now; on a Mac no more than the GPU may use."""
    from autotuner.telemetry.registry import Registry

    sampled = Registry(injected=Path(injected).expanduser() if injected else None).sample(time.monotonic())
    available = sampled.memory_available_bytes
    if available is None:
        return None
    return float(min(available, working_set_bytes) if working_set_bytes else available)


def _document(asked: Asked, estimate: Estimate | None, verdict: Verdict, available: float | None) -> dict[str, Any]:
    return {
        "name": asked.name,
        "fits": verdict.fits,
        "verdict": verdict.sentence,
        "needed_bytes": asdict(estimate.needed_bytes) if estimate else None,
        "available_bytes": available,
        "allowed_bytes": verdict.allowed_bytes,
        "step_seconds": asdict(estimate.step_seconds) if estimate and estimate.step_seconds else None,
        "source": estimate.source if estimate else "",
        "budget_steps": asked.budget_steps,
        "budget_seconds": asked.budget_seconds,
        "values": asked.values,
    }


def _sentences(asked: Asked, estimate: Estimate | None, verdict: Verdict, available: float | None, probed: Probed) -> str:
    lines = [f"{asked.name} {verdict.sentence}."]
    if estimate is not None:
        needed = estimate.needed_bytes
        lines.append(f"  memory  {_range(needed, size)}, as {estimate.source} showed")
        if available is not None:
            share = percent(verdict.allowed_bytes / available) if available else "-"
            lines.append(
                f"  machine {size(available)} available; {share} of it, {size(verdict.allowed_bytes)}, may be planned with"
            )
        lines += _speed(asked, estimate.step_seconds)
    if probed.problem and not probed.out_of_memory:
        lines.append(f"  the probe did not work: {probed.problem}")
    if not verdict.fits:
        lines.append("  a smaller micro_batch or resolution needs less; `autotuner status` shows what other runs hold")
    return "\n".join(lines)


def _speed(asked: Asked, seconds: Interval | None) -> list[str]:
    if seconds is None:
        return ["  speed   unknown: nothing like it was timed on this machine"]
    rate = f", {asked.batch / seconds.likely:.3g} images/s" if asked.batch else ""
    lines = [f"  speed   {_range(seconds, _milliseconds)} an optimizer step{rate}; heat can make it slower"]
    if asked.budget_steps:
        took = _range(seconds.times(asked.budget_steps), duration)
        lines.append(f"  time    {took} for {asked.budget_steps} steps, evaluations not counted")
    elif asked.budget_seconds:
        steps = f"{asked.budget_seconds / seconds.high:.0f} to {asked.budget_seconds / seconds.low:.0f}"
        lines.append(f"  time    {steps} steps in its {duration(asked.budget_seconds)}, evaluations not counted")
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else duration(seconds)


def _range(interval: Interval, shown: Any) -> str:
    low, likely, high = shown(interval.low), shown(interval.likely), shown(interval.high)
    return likely if low == high else f"{likely} ({low} to {high})"
