"""What fewer steps cost: quality and time of a teacher and its students, each in its steps, held against the teacher in many.

Every distance is measured several times, on disjoint noise and, where there are enough, disjoint training pictures, always of
the same number; means and intervals are over these draws. Resampling one draw instead would repeat pictures, which raises a
Frechet distance by more than chance does. At one number of pictures all distances share a bias: the floor shows it, and it
draws ratios towards 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autotuner.diffusion.data import Dataset
from autotuner.diffusion.distillation import interval
from autotuner.diffusion.distillation.contenders import Contender
from autotuner.diffusion.distillation.interval import UNKNOWN, Interval
from autotuner.diffusion.distillation.ledger import Ledger
from autotuner.diffusion.distillation.measurements import Measurements, Plan
from autotuner.diffusion.distillation.references import References
from autotuner.diffusion.evaluation import FEWEST_IMAGES
from autotuner.diffusion.sample import CHUNK
from autotuner.errors import ConfigurationError

Tell = Callable[[float, str], None]
"""Share of the work that is done, and what comes next."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender."""

    who: str
    run: str
    steps: int
    guidance: float
    parameters: int
    evaluations: int
    """Of the network, for one image."""
    frechet: Interval
    kernel: Interval
    class_agreement: Interval
    """Share of samples that the classifier puts in the class they were asked for; NaN without classes."""
    paired_error: Interval
    """Root mean square difference from its teacher's exact paths, pixels in [-1, 1]; NaN where none was asked for.

    A consistency student is free to leave these paths: its distances judge it.
    """
    seconds_per_image: float
    ratio: Interval
    """Frechet distance over that of its teacher in the most steps, from the same noise."""
    frechet_draws: tuple[float, ...]
    best: bool = False
    """Whether no other one that is as fast has a smaller Frechet distance: the curve of trade-offs."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    dataset: str
    features: str
    """Name of the Frechet distance."""
    images: int
    """Pictures of each kind in one draw."""
    seeds: int
    """Draws."""
    disjoint: bool
    """Whether no training picture was compared with twice."""
    batch: int
    """Images drawn at once while the clock ran."""
    machine: str
    """That the clock stood on."""
    floor: Interval
    """Frechet distance of held-out pictures; see ``References.floor``."""
    kernel_floor: Interval
    most_steps: int
    """Of a teacher: what ratios are to."""
    rows: tuple[Row, ...]

    def ratios(self, run: str) -> dict[int, Interval]:
        """The ratio of each student of a run, by its steps."""
        return {row.steps: row.ratio for row in self.rows if row.who == "student" and row.run == run}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an interval is (value, low, high)."""
        return asdict(self)


def measure(
    contenders: Sequence[Contender],
    dataset: Dataset,
    plan: Plan | None = None,
    ledger: Ledger | None = None,
    tell: Tell = lambda share, what: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Measure what ``ledger`` does not know yet; the report of everything. ``clock`` gives seconds.

    Raises ConfigurationError for contenders without a teacher, and where too few pictures are there to compare with.
    """
    plan = plan or Plan()
    teachers = [each for each in contenders if each.network.who == "teacher"]
    if not teachers:
        raise ConfigurationError("no teacher among the contenders; students are held against theirs")
    most = max(each.steps for each in teachers)
    references = References(dataset, _images(teachers[0], dataset, plan), plan.seeds)
    measured = Measurements(references, plan, ledger or Ledger(), clock)
    _measure(contenders, measured, tell)
    floor, kernel_floor = map(interval.of_mean, zip(*(measured.floor(draw) for draw in range(plan.seeds)), strict=True))
    return Report(
        dataset.name,
        references.metric,
        references.images,
        plan.seeds,
        references.disjoint,
        CHUNK,
        measured.machine,
        floor,
        kernel_floor,
        most,
        _with_best([_row(each, replace(each, network=each.teacher, steps=most), measured) for each in contenders]),
    )


def _images(teacher: Contender, dataset: Dataset, plan: Plan) -> int:
    wanted = plan.images or teacher.network.sampler.config.quality_images
    count = min(wanted, len(dataset.held_out_images), len(dataset.images))
    if count < FEWEST_IMAGES:
        raise ConfigurationError(
            f"{count} pictures of each kind: the least of {wanted} asked for, {len(dataset.held_out_images)} held out and "
            f"{len(dataset.images)} to train on; a distance needs {FEWEST_IMAGES} or more"
        )
    return count


def _measure(contenders: Sequence[Contender], measured: Measurements, tell: Tell) -> None:
    """All that is slow, telling how far it is; paired errors and the clock take little beside the draws."""
    draws = range(measured.plan.seeds)
    total, done = sum(measured.cost(each, draw) for each in contenders for draw in draws), 0
    for each in contenders:
        for draw in draws:
            cost = measured.cost(each, draw)
            if cost:
                tell(done / total, f"{each.title}, draw {draw + 1} of {len(draws)}")
            measured.draw(each, draw)
            done += cost
        measured.path(each)
    for turn in range(measured.plan.timings):
        for each in contenders:
            measured.time(each, turn)


def _row(each: Contender, base: Contender, measured: Measurements) -> Row:
    draws = range(measured.plan.seeds)
    frechet, kernel, agreement = zip(*(measured.draw(each, draw) for draw in draws), strict=True)
    squares = measured.path(each)
    network = each.network
    return Row(
        network.who,
        network.run,
        each.steps,
        network.guidance,
        network.parameters,
        network.evaluations(each.steps),
        interval.of_mean(frechet),
        interval.of_mean(kernel),
        interval.of_mean(agreement),
        interval.of_root_mean_square(squares) if squares else UNKNOWN,
        measured.seconds(each),
        interval.of_ratio(frechet, [measured.draw(base, draw)[0] for draw in draws]),
        frechet,
    )


def _with_best(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, those on the curve of trade-offs marked."""
    least, best = math.inf, set()
    for index in sorted(range(len(rows)), key=lambda index: (rows[index].seconds_per_image, rows[index].frechet.value)):
        if rows[index].frechet.value < least:
            least = rows[index].frechet.value
            best.add(index)
    return tuple(replace(row, best=index in best) for index, row in enumerate(rows))
