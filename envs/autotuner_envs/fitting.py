"""Fits the simulator to recorded runs with half of them, and judges it on the other half."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotuner.diffusion.plan import TEACHER_SHARE, student_rate, teacher_rate
from autotuner_envs.calibration import Calibration
from autotuner_envs.curves import WARM_UP, Curve, Distillation
from autotuner_envs.machine import EvaluationCost, MemoryCost, StepCost

Array = NDArray[np.float64]
_ITERATIONS = 300
SHARES = (0.25, 0.4, 0.6)
"""Of a full run's time: the losses by which phases at low resolution are compared."""


def least_squares(residuals: Callable[[Array], Array], start: Sequence[float] | Array) -> Array:
    """Levenberg-Marquardt with a numerical Jacobian; parameters should be of order one, so pass logarithms."""
    x = np.asarray(start, dtype=np.float64)
    damping, r = 1e-2, residuals(np.asarray(start, dtype=np.float64))
    for _ in range(_ITERATIONS):
        columns = [(residuals(x + 1e-5 * unit) - r) / 1e-5 for unit in np.eye(len(x))]
        jacobian = np.stack(columns, axis=1)
        normal = jacobian.T @ jacobian
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -jacobian.T @ r)
        proposed = residuals(x + step)
        if float(proposed @ proposed) < float(r @ r):
            converged = float(proposed @ proposed) > (1.0 - 1e-7) * float(r @ r)
            x, r, damping = x + step, proposed, max(damping / 3.0, 1e-9)
            if converged:
                break
        else:
            damping = min(damping * 4.0, 1e9)
    return x


@dataclass(frozen=True)
class Traces:
    """Everything recorded, by kind; the first line of each file says how it was made."""

    costs: dict[str, Any]
    curves: tuple[dict[str, Any], ...]
    distillations: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, directory: Path) -> Traces:
        """All traces in a directory."""
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]
        kinds = {kind: tuple(d for d in documents if d["kind"] == kind) for kind in ("costs", "curve", "distillation")}
        return cls(kinds["costs"][0], kinds["curve"], kinds["distillation"])


def relative_error(predicted: Iterable[float], measured: Iterable[float]) -> float:
    """Root mean square of log(predicted / measured): 0.1 is 10 %."""
    logs = [math.log(p / m) for p, m in zip(predicted, measured, strict=True)]
    return math.sqrt(sum(x * x for x in logs) / len(logs))


def fit_costs(costs: dict[str, Any]) -> tuple[StepCost, MemoryCost, EvaluationCost, dict[str, float]]:
    """Step time and memory: fitted to every other shape, judged on the rest."""
    batch, full = costs["batch"], costs["full_resolution"]
    rows = costs["rows"]
    teacher = [row for row in rows if row["stage"] == 0]
    fitted, judged = teacher[::2], teacher[1::2]

    def step_at(x: Array) -> StepCost:
        return StepCost(math.exp(x[0]), math.exp(x[1]), math.exp(x[2]))

    def seconds(cost: StepCost, row: dict[str, Any]) -> float:
        return cost.seconds(batch, row["micro_batch"], row["resolution"] / full, row["stage"])

    x = least_squares(
        lambda x: np.array([math.log(seconds(step_at(x), row) / row["step_seconds"]) for row in fitted]),
        np.log([0.004, 0.001, 2.0]),
    )
    step = step_at(x)
    students = [row for row in rows if row["stage"]]
    factor = (
        float(np.median([row["step_seconds"] / seconds(step, {**row, "stage": 0}) for row in students])) if students else 1.35
    )
    step = replace(
        step, student_factor=max(1.0, factor), compile_seconds=float(np.median([row["compile_seconds"] for row in rows]))
    )

    def memory_at(x: Array) -> MemoryCost:
        return MemoryCost(math.exp(x[0]), math.exp(x[1]), math.exp(x[2]))

    def peak(cost: MemoryCost, row: dict[str, Any]) -> float:
        return cost.resident(0, 0) + cost.activations(row["micro_batch"], row["resolution"] / full, row["stage"])

    y = least_squares(
        lambda y: np.array([math.log(peak(memory_at(y), row) / row["peak_bytes"]) for row in fitted]), np.log([3e7, 2e6, 2.0])
    )
    memory = memory_at(y)
    growth = [
        (row["peak_bytes"] - memory.resident(1, 0)) / memory.activations(row["micro_batch"], row["resolution"] / full, 0)
        for row in students
    ]
    memory = replace(memory, student_factor=max(1.0, float(np.median(growth)))) if growth else memory
    kept = sum(memory.activations(row["micro_batch"], row["resolution"] / full, 0) for row in teacher)
    memory = replace(memory, cached_share=teacher[-1]["cache_bytes"] / kept)
    evaluation = EvaluationCost(costs["held_out_seconds"], costs["quality_seconds"], costs["preview_step_seconds"])
    errors = {
        "step_seconds_fit": relative_error([seconds(step, row) for row in fitted], [row["step_seconds"] for row in fitted]),
        "step_seconds_judged": relative_error([seconds(step, row) for row in judged], [row["step_seconds"] for row in judged]),
        "peak_bytes_fit": relative_error([peak(memory, row) for row in fitted], [row["peak_bytes"] for row in fitted]),
        "peak_bytes_judged": relative_error([peak(memory, row) for row in judged], [row["peak_bytes"] for row in judged]),
    }
    return step, memory, evaluation, errors


_STARTS = asdict(Curve()) | {"best_octaves": 0.0}
_FITTED = tuple(field.name for field in fields(Curve))
_PRIOR_WEIGHT = 0.02
"""Pull of each parameter's logarithm to its start: keeps what the runs do not tell apart from running away."""
_HELD = {"fine_exponent_of_ratio": 0.4, "rate_exponent": 0.2}
"""Held closer: a few short phases at low resolution fit as well where low images teach all that full ones do, or where nothing
is learned after the middle of the schedule, and plans would go far beyond what was recorded."""
_PRIOR_WEIGHTS = np.array([_HELD.get(name, _PRIOR_WEIGHT) for name in _FITTED])


def _curve_at(x: Array) -> Curve:
    values = {name: _STARTS[name] * math.exp(value) for name, value in zip(_FITTED, x, strict=True)}
    values["best_octaves"] = float(x[_FITTED.index("best_octaves")])  # on either side of the script's own rate
    return Curve(**values)


def predicted_losses(curve: Curve, trace: dict[str, Any], densities: Sequence[float] = (1.0,) * 4) -> list[float]:
    """The held-out losses that ``curve`` expects at the evaluations of a recorded run, from its images at each resolution.

    ``densities`` is what an image is worth under each density of noise levels.
    """
    coarse_seen = fine_seen = transient = 0.0
    images_before, losses = 0.0, []
    for point in trace["points"]:
        ratio = point["resolution"] / trace["full_resolution"]
        images = point["images"] - images_before
        images_before = point["images"]
        coarse, fine = curve.weights(ratio)
        rate = teacher_rate(point["budget_used"], trace["stages"], WARM_UP)
        repaired = point["budget_used"] > trace["repaired_at"]
        scale, density = (1.0, 0) if repaired else (trace["lr_scale"], trace["density"])
        useful = images * rate**curve.rate_exponent * densities[density] * curve.efficiency(math.log2(scale))
        coarse_seen += useful * coarse
        fine_seen += useful * fine
        transient = curve.moved(transient, ratio, images)
        losses.append(curve.held_out_loss(coarse_seen, fine_seen, transient, rate))
    return losses


def _curve_residuals(curve: Curve, traces: Iterable[dict[str, Any]], densities: Sequence[float] = (1.0,) * 4) -> Array:
    logs = [
        math.log(predicted / point["held_out_loss"])
        for trace in traces
        for predicted, point in zip(predicted_losses(curve, trace, densities), trace["points"], strict=True)
    ]
    return np.asarray(logs)


def fit_curve(traces: Sequence[dict[str, Any]]) -> tuple[Curve, tuple[float, ...], dict[str, float]]:
    """The learning curve and what each density is worth: fitted to runs marked ``fit``, judged on those marked ``judge``."""
    fitted = [trace for trace in traces if trace["half"] == "fit"]
    judged = [trace for trace in traces if trace["half"] == "judge"]
    size = len(_FITTED)
    weights = np.append(_PRIOR_WEIGHTS, [_PRIOR_WEIGHT] * 3)

    def residuals(x: Array) -> Array:
        return np.concatenate([_curve_residuals(_curve_at(x[:size]), fitted, _densities(x[size:])), weights * x])

    x = least_squares(residuals, np.zeros(size + 3))
    curve, densities = _curve_at(x[:size]), _densities(x[size:])
    errors = {
        "held_out_fit": float(np.sqrt(np.mean(_curve_residuals(curve, fitted, densities) ** 2))),
        "held_out_judged": float(np.sqrt(np.mean(_curve_residuals(curve, judged, densities) ** 2))),
        "held_out_last_judged": max(abs(float(_curve_residuals(curve, [trace], densities)[-1])) for trace in judged),
    }
    for half, group in (("fit", fitted), ("judged", judged), ("all", traces)):
        predicted = [predicted_losses(curve, trace, densities) for trace in group]
        measured = [[point["held_out_loss"] for point in trace["points"]] for trace in group]
        for name, at in (("half_way", 0.5), ("last", 1.0)):
            where = [max(0, round(at * len(losses)) - 1) for losses in measured]
            found = kendall(
                [p[i] for p, i in zip(predicted, where, strict=True)], [m[i] for m, i in zip(measured, where, strict=True)]
            )
            errors[f"kendall_{name}_{half}"] = found
    return curve, densities, errors


def _densities(x: Array) -> tuple[float, ...]:
    return (1.0, *(math.exp(value) for value in x))


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation tau-a: the share of pairs in the same order less that in the other; 1 is the same order."""
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    signs = [np.sign((first[i] - first[j]) * (second[i] - second[j])) for i, j in pairs]
    return float(np.mean(signs))


@dataclass(frozen=True)
class Saving:
    """What an arm saves of the time that the plain run of its seed needs to the same loss."""

    name: str
    half: str
    share: float
    """The loss is what the plain run has at this share of its time."""
    recorded: float
    simulated: float
    """NaN where the loss is not reached."""


def savings(
    traces: Sequence[dict[str, Any]], curve: Curve, densities: Sequence[float], step: StepCost, shares: Sequence[float]
) -> list[Saving]:
    """Recorded and simulated savings of every arm, on the simulator's step times on both sides."""
    full = {trace["seed"]: trace for trace in traces if trace["name"].startswith("full")}

    def course(trace: dict[str, Any]) -> tuple[Array, Array, Array]:
        images = np.diff([0, *(point["images"] for point in trace["points"])])
        ratios = [point["resolution"] / trace["full_resolution"] for point in trace["points"]]
        seconds = [
            n / trace["batch"] * step.seconds(trace["batch"], trace["batch"], r, 0) for n, r in zip(images, ratios, strict=True)
        ]
        recorded = np.array([point["held_out_loss"] for point in trace["points"]])
        return np.cumsum(seconds), recorded, np.array(predicted_losses(curve, trace, densities))

    found = []
    for trace in traces:
        if not trace["name"].startswith("full") and trace["seed"] in full:
            (whole, *losses), (seconds, *own) = course(full[trace["seed"]]), course(trace)
            for share in shares:
                then = share * whole[-1]
                both = zip(losses, own, strict=True)
                saved = [1 - first_time(mine, seconds, float(np.interp(then, whole, other))) / then for other, mine in both]
                found.append(Saving(trace["name"], trace["half"], share, *map(float, saved)))
    return found


def first_time(losses: Array, seconds: Array, target: float) -> float:
    """When losses first meet the target, by linear interpolation; NaN if never."""
    return float(np.interp(-target, -np.minimum.accumulate(losses), seconds, right=math.nan))


def savings_agree(found: Sequence[Saving]) -> dict[str, float]:
    """Root mean square difference of the shares saved, and Kendall's tau, by half and kind of arm; of losses that both meet."""
    errors = {}
    met = [each for each in found if math.isfinite(each.recorded + each.simulated)]
    low = [each for each in met if each.name.startswith("low")]
    groups = {"judged": met, "all": met, "low_resolution_judged": low, "low_resolution_all": low}
    for label, group in groups.items():
        both = [(s.recorded, s.simulated) for s in group if label.endswith("all") or s.half == "judge"]
        if len(both) > 1:
            recorded, simulated = np.array(both).T
            errors[f"saving_{label}"] = float(np.sqrt(np.mean((recorded - simulated) ** 2)))
            errors[f"kendall_saving_{label}"] = kendall(list(recorded), list(simulated))
    return errors


def fit_distillation(traces: Sequence[dict[str, Any]], rate_exponent: float) -> tuple[Distillation, dict[str, float]]:
    """Few-step quality: the teacher's power law in its loss, then the student's way to its floor."""
    points = [(trace, point) for trace in traces for point in trace["points"] if point["stage"] == 0 and point["quality"]]
    logs = np.log([[point["held_out_loss"], point["quality"]] for _, point in points])
    reference = float(np.exp(logs[:, 0].mean()))
    exponent, level = np.polyfit(logs[:, 0] - math.log(reference), logs[:, 1], 1)
    law = replace(Distillation(), scale=float(math.exp(level)), exponent=float(exponent), reference=reference)
    fitted = [trace for trace in traces if trace["half"] == "fit"]
    judged = [trace for trace in traces if trace["half"] == "judge"]
    x = least_squares(
        lambda x: np.concatenate([_student_residuals(_student_at(law, x), fitted, rate_exponent), 0.05 * x]), np.zeros(4)
    )
    distillation = _student_at(law, x)
    errors = {
        "undistilled_quality": relative_error(
            [law.undistilled(point["held_out_loss"]) for _, point in points], np.exp(logs[:, 1])
        ),
        "student_quality_fit": float(np.sqrt(np.mean(_student_residuals(distillation, fitted, rate_exponent) ** 2))),
        "student_quality_judged": float(np.sqrt(np.mean(_student_residuals(distillation, judged, rate_exponent) ** 2))),
    }
    return distillation, errors


def _student_at(law: Distillation, x: Array) -> Distillation:
    start = Distillation()
    first = start.floors[0] * math.exp(x[1])
    return replace(
        law,
        start_ratio=start.start_ratio * math.exp(x[0]),
        floors=(first, min(first, start.floors[1] * math.exp(x[2]))),
        images=start.images * math.exp(x[3]),
    )


def _student_residuals(distillation: Distillation, traces: Iterable[dict[str, Any]], rate_exponent: float) -> Array:
    logs = []
    for trace in traces:
        ratio, before, base, entered = distillation.start_ratio, trace["points"][0], None, 0.0
        planned = (1 - TEACHER_SHARE) / trace["stages"]
        for point in trace["points"]:
            if point["stage"] != before["stage"]:
                entered = before["budget_used"]
            images, before = point["images"] - before["images"], point
            if point["stage"] == 0:
                base = point["quality"] or base
                continue
            rate = student_rate((point["budget_used"] - entered) / planned)
            ratio = distillation.moved(ratio, point["stage"], images * rate**rate_exponent)
            if point["quality"] and base:
                logs.append(math.log(ratio * base / point["quality"]))
    return np.asarray(logs)


def fit(traces: Traces) -> tuple[Calibration, dict[str, float]]:
    """Everything."""
    step, memory, evaluation, cost_errors = fit_costs(traces.costs)
    curve, densities, curve_errors = fit_curve(traces.curves)
    distillation, distillation_errors = fit_distillation(traces.distillations, curve.rate_exponent)
    plain = next(trace for trace in traces.curves if trace["name"] == "full")
    images = float(plain["points"][-1]["images"])
    agreed = savings_agree(savings(traces.curves, curve, densities, step, SHARES))
    calibration = Calibration(step, memory, evaluation, curve, distillation, densities, images)
    return calibration, {**cost_errors, **curve_errors, **agreed, **distillation_errors}
