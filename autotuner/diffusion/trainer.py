"""The training loop: a generator that yields one small record per optimizer step and changes knobs between two."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotuner.diffusion import plan, posthoc
from autotuner.diffusion.batches import Wanted, preparing
from autotuner.diffusion.blas import mx
from autotuner.diffusion.config import TrainerConfig
from autotuner.diffusion.course import Course
from autotuner.diffusion.data import Dataset, Prefetch
from autotuner.diffusion.distillation import students
from autotuner.diffusion.distillation.gate import Verdict
from autotuner.diffusion.evaluation import PREVIEW_IMAGES, PREVIEW_SEED, Evaluated, Evaluator
from autotuner.diffusion.inert import Hook, NoRun
from autotuner.diffusion.injection import Injection
from autotuner.diffusion.live import LiveKnobs
from autotuner.diffusion.live_schedule import LiveSchedule
from autotuner.diffusion.looks import Looks
from autotuner.diffusion.multires import View, merged
from autotuner.diffusion.pace import nap
from autotuner.diffusion.progress import Progress
from autotuner.diffusion.sample import save_grid
from autotuner.diffusion.stages import Stages
from autotuner.errors import DeclarationError
from autotuner.knobs import find
from autotuner.messages import FLAG_CHECKPOINT, FLAG_FIRST_OF_SHAPE, FLAG_NOT_FINITE


class Trainer:
    """Trains a diffusion model on one dataset and, later in its budget, a few-step student of it."""

    def __init__(
        self,
        config: TrainerConfig,
        dataset: Dataset,
        run: Hook | None = None,
        *,
        out: Path | None = None,
        injection: Injection | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.run: Hook = run if run is not None else NoRun()
        self.injection = injection
        self._out = out
        self._clock = clock
        self._sleep = sleep
        self.course = Course(config)
        self.multires = config.planned_views
        self._patch = config.unit
        self.batches = Prefetch(preparing(dataset, config.seed, config.resolution, self._patch), self._foretold)
        self.knobs = LiveKnobs(config.declarations())
        self.stages = Stages(config, dataset.channels, dataset.classes, dataset.resolution, dataset.sigma_data)
        self.evaluator = Evaluator(config, dataset, self.stages)
        self.schedule = LiveSchedule(config, dataset, config.sampling_ladder, clock)
        self._image_seconds = math.inf
        """What the network may take for one image: a third of a training step's share."""
        self.step = 0
        self.images = 0
        self.seconds_before = 0.0
        """Wall time spent before the last resume."""
        self.evaluations: list[Evaluated] = []
        self.not_finite_steps = 0
        self.saved = False
        """Whether a checkpoint was written since the last step."""
        self.peak_bytes = 0
        self.shapes: set[tuple[int, int, bool]] = set()
        self._began: float | None = None
        self.lr_scale = 1.0
        self.stage_entered = 0.0
        self._looks = Looks(config)
        self._stopping = False
        self._planned_at: float | None = None
        """Share of the budget that the present views follow from; None while the form's views are not in force."""
        self.snapshots = 0
        """Snapshots of averages that were due so far."""
        if config.gradient_checkpointing:
            self.set_gradient_checkpointing(True)
        mx.set_cache_limit(self.knobs.whole("cache_limit"))

    @property
    def seconds(self) -> float:
        """Wall time of the run so far."""
        return self.seconds_before + (self._clock() - self._began if self._began is not None else 0.0)

    @property
    def budget_used(self) -> float:
        """Share of the budget that is spent, by whichever bound is nearer."""
        by_time = self.seconds / self.config.seconds if self.config.seconds else 0.0
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        return max(by_time, by_steps)

    def steps(self) -> Iterator[Progress]:
        """Train until the budget is spent; every knob change falls between two of the records."""
        if self._began is None:
            self._began = self._clock()
        if self.stages.stage != self.knobs.whole("distill"):  # there is no teacher to train first
            self._enter_stage(self.knobs["distill"])
        try:
            while self.budget_used < 1 and not self._stopping:
                self._take_changes()
                yield self._one_step()
        finally:
            self.batches.close()

    def stop(self) -> None:
        """End after the present optimizer step; safe to call from a signal handler."""
        self._stopping = True

    def set_knob(self, name: str, value: float) -> None:
        """Change a knob from the script: in force from the next optimizer step on, and told to the daemon."""
        self._refuse_new_shape(name, value)
        if self.change(name, value, "script"):
            self.run.set(name, value)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """From the next step on recompute activations in the backward pass, or keep them: same gradients, new traces.

        Raises ConfigurationError where the network cannot.
        """
        self.stages.set_gradient_checkpointing(on)

    def _refuse_new_shape(self, name: str, value: float) -> None:
        """The hook refuses what a daemon asks for beyond the budget of shapes; the script's own changes are refused here."""
        asked = {"resolution": self.knobs["resolution"], "micro_batch": self.knobs["micro_batch"], name: value}
        used = {(resolution, micro_batch) for resolution, micro_batch, _ in self.shapes}
        if (asked["resolution"], asked["micro_batch"]) not in used and len(used) >= self.config.max_shapes:
            raise DeclarationError(
                f"knob {name!r}: value {value!r} makes shape {len(used) + 1} (resolution, micro-batch); "
                f"allowed are {self.config.max_shapes}, used: {sorted(used)}"
            )

    def _take_changes(self) -> None:
        polled = self.run.poll()
        if polled is not None:
            for name, (_, new) in polled.changed.items():
                self.change(name, new, "daemon")
            self.run.acknowledge(self.step + 1)
        if not self.run.guided:
            self._follow_plan()

    def _follow_plan(self) -> None:
        edge = self.multires.planned_edge(self.config.resolution, self.budget_used)
        if self.multires.form == "progressive" and self._only_the_plan_moved("resolution"):
            self._plan("resolution", edge)
        stage = self.knobs.whole("distill")
        move = self.verdict.move if stage and self._gated else 0
        wanted, by = self.course.stage(self.budget_used, stage, move)
        # back, too: a training resumed with a larger budget has a teacher to train before its students
        if wanted > stage or self._only_the_plan_moved("distill"):
            self._plan("distill", wanted, by)

    @property
    def verdict(self) -> Verdict:
        """What the gate says of the present stage."""
        return self.course.verdict(self.knobs.whole("distill"), self.knobs.changes, self.evaluations)

    def _plan(self, name: str, value: float, by: str = "plan") -> None:
        if self.change(name, value, by):
            self.run.set(name, value)

    def _only_the_plan_moved(self, name: str) -> bool:
        return all(change.by in ("plan", "gate") for change in self.knobs.changes if change.knob == name)

    def change(self, name: str, value: float, by: str) -> bool:
        """Put a value in force from the next step on, without a word to the hook; whether anything changed."""
        changed = self.knobs.change(name, value, self.step + 1, self.seconds, by)
        if changed and name in _EFFECTS:
            _EFFECTS[name](self, value)
        if changed and find(name).shape:
            mx.clear_cache()  # buffers of the old shapes would stay: caches of several shapes add up
        return changed

    def restore_knobs(self, values: Mapping[str, float], changes: list[dict[str, Any]]) -> None:
        """Put the knobs of a checkpoint in force."""
        self.knobs.restore(values, changes)
        self._limit_cache(self.knobs["cache_limit"])
        self._set_density(self.knobs["timestep_density"])

    def restart_clock(self) -> None:
        """What has passed no longer counts: a checkpoint says how much of the budget is spent, and the next look is soon."""
        self._began = None if self._began is None else self._clock()
        self._looks = Looks(self.config)

    def _enter_stage(self, value: float) -> None:
        before = self.stages.stage
        if 0 < before < value:
            self.keep_student()
        self.stages.enter(int(value))
        if 0 < value < before and value in self.stages.kept:
            self.stages.restore_student(self.stages.kept[int(value)])
        self.stage_entered = self.budget_used
        if self._gated and value:
            self._looks.enter()

    def keep_student(self) -> None:
        """Keep the student of this stage, if any, to fall back to and, with a directory, as a file. Raises WriteError."""
        if self.stages.stage and self.stages.student is not None:
            weights = self.stages.keep()
            if self._out is not None:
                students.save(self._out, self.stages, self.config, weights)

    def finish_student(self) -> None:
        """At the end: keep the student of the last stage, and let what is measured and drawn from now on be the one kept."""
        self.keep_student()
        if self.stages.stage in self.stages.kept:
            self.stages.restore_student(self.stages.kept[self.stages.stage])

    def _limit_cache(self, value: float) -> None:
        mx.set_cache_limit(int(value))
        mx.clear_cache()  # a lower limit is otherwise felt only at the next allocation

    def _set_density(self, value: float) -> None:
        self.stages.set_density(int(value))

    def _one_step(self) -> Progress:
        began = self._clock()
        mx.reset_peak_memory()
        resolution, micro_batch = self.knobs.whole("resolution"), self.knobs.whole("micro_batch")
        views = self._views(resolution)
        rate = self._learning_rate()
        flags, traces = self._saved(), len(self.stages.learner.signatures)
        self.shapes |= {(view.edge, self._piece(view, views, micro_batch), self.stages.stage > 0) for view in merged(views)}
        loss, finite = self._learn(views, micro_batch, rate)
        if len(self.stages.learner.signatures) > traces:
            flags |= FLAG_FIRST_OF_SHAPE
        if not finite:
            flags |= FLAG_NOT_FINITE
            self.not_finite_steps += 1
        memory = (mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())
        self.peak_bytes = max(self.peak_bytes, memory[2])
        self._slow_down(self._clock() - began, max(memory[2], memory[0] + memory[1]))
        self._snapshot_if_due()
        took = self._clock() - began
        self._image_seconds = took / (3 * self.config.batch)
        self._report(loss, took, memory, flags)
        return Progress(
            step=self.step,
            seconds=self.seconds,
            loss=loss,
            images=self.images,
            step_seconds=took,
            resolution=max(view.edge for view in views),
            micro_batch=micro_batch,
            stage=self.stages.stage,
            flags=flags,
            learning_rate=rate,
            active_bytes=memory[0],
            cache_bytes=memory[1],
            peak_bytes=memory[2],
            evaluation=self._evaluate_if_due(),
        )

    def _views(self, resolution: int) -> tuple[View, ...]:
        """What this step shows: the form's views while the teacher learns and nobody has lowered the resolution."""
        self._planned_at = None if self.stages.stage or resolution != self.config.resolution else self.budget_used
        return self._planned_views(self.step) or (View(resolution),)

    def _planned_views(self, step: int) -> tuple[View, ...]:
        """The form's views of a step near this one; none while they are not in force."""
        if self._planned_at is None:
            return ()
        return self.multires.views(self.config.resolution, self._planned_at, self.config.seed, step)

    def _foretold(self, wanted: Wanted) -> Wanted:
        """What the step after that one asks for, if no knob moves."""
        views = self._planned_views(wanted.step + 1) or wanted.views
        first_image = wanted.first_image + wanted.count
        return Wanted(first_image, self.config.batch * self._factor(views), wanted.step + 1, views)

    def _factor(self, views: tuple[View, ...]) -> int:
        return self.multires.factor(views, self.config.resolution, self._patch)

    def _piece(self, view: View, views: tuple[View, ...], micro_batch: int) -> int:
        factor = self._factor(views)
        return min(micro_batch * factor, view.count(self.config.batch * factor))

    def _learn(self, views: tuple[View, ...], micro_batch: int, rate: float) -> tuple[float, bool]:
        batch, learner = self.config.batch * self._factor(views), self.stages.learner
        for view, arrays in zip(merged(views), self._draw(views, batch), strict=True):
            piece = self._piece(view, views, micro_batch)
            for start in range(0, view.count(batch), piece):
                learner.accumulate(piece / batch, *(array[start : start + piece] for array in arrays))
        applied = self.stages.apply(rate, batch)
        mx.eval(applied, learner.state)
        self.step += 1
        self.images += batch
        return float(applied.loss), bool(applied.finite)

    def _draw(self, views: tuple[View, ...], batch: int) -> list[list[mx.array]]:
        """The arrays of each view, all randomness in them."""
        given = self.batches.take(Wanted(self.images, batch, self.step, views))
        if views == (View(views[0].edge),):
            [whole] = given.shown
            updates = self.step - self.course.began(self.knobs.changes)
            steps = self.course.teacher_steps(self.stages.stage, self._stage_progress(), updates)
            drawn = self.stages.draw(whole.images, given.labels, self.step, steps)
            return [drawn if given.weights.all() else [drawn[0] * mx.array(given.weights), *drawn[1:]]]
        return self.stages.draw_views(given.shown, given.labels, self.step)

    def _learning_rate(self) -> float:
        self.lr_scale = plan.ramped(self.lr_scale, self.knobs["lr_scale"])
        rate = self.course.learning_rate(self.budget_used, self.step, self.stages.stage, self._stage_progress())
        return rate * self.lr_scale

    def _stage_progress(self) -> float:
        gated = not self.run.guided
        return self.course.stage_progress(self.budget_used, self.stages.stage, self.stage_entered, gated=gated)

    def _saved(self) -> int:
        saved, self.saved = self.saved, False
        return FLAG_CHECKPOINT if saved else 0

    def _slow_down(self, step_seconds: float, used_bytes: int) -> None:
        if self.injection is not None:
            extra = self.injection.extra_seconds(step_seconds, used_bytes, self._clock())
            nap(extra, self._sleep)
            step_seconds += extra
        nap(step_seconds * (1 / self.knobs["pace"] - 1), self._sleep)

    def _report(self, loss: float, took: float, memory: tuple[int, int, int], flags: int) -> None:
        active, cache, peak = memory
        self.run.report(
            self.step, loss, images=self.images, step_seconds=took, active_bytes=active, cache_bytes=cache, peak_bytes=peak,
            stage=self.stages.stage, flags=flags,
        )  # fmt: skip

    def _snapshot_if_due(self) -> None:
        due = int(self.budget_used * self.config.ema_snapshots)
        if self.config.ema != "power" or self._out is None or self.stages.stage or due <= self.snapshots:
            return
        self.snapshots = due
        posthoc.save(self._out / posthoc.FOLDER, posthoc.of(self.stages.teacher))

    def _evaluate_if_due(self) -> Evaluated | None:
        last = self.evaluations[-1] if self.evaluations else None
        if not self._looks.due(self.step, self.seconds, last, gated=self._gated):
            return None
        return self.evaluate(self._looks.with_quality(len(self.evaluations), last, gated=self._gated))

    @property
    def _gated(self) -> bool:
        """Whether it is the gate that ends stages."""
        return self.config.stage_rule == "gated" and not self.run.guided

    def evaluate(self, with_quality: bool) -> Evaluated:
        """Measure now, tell the hook, and save a preview when there is a directory for it."""
        entering = self._looks.taken(self.seconds)
        began = self._clock()
        measured = self.evaluator.measure(self.step, self.seconds, self.images, with_quality)
        if self._out is not None:
            if self.stages.stage == 0 and self.schedule.due(self.seconds, self._image_seconds):
                self.schedule.look(self.evaluator.sampler("teacher"))
            self._preview(self._out)
        self.peak_bytes = max(self.peak_bytes, mx.get_peak_memory())
        if self.knobs["cache_limit"] < self.config.cache_limit:  # memory is short, and the next step needs other shapes
            mx.clear_cache()
        measured = replace(measured, took_seconds=self._clock() - began)
        self.evaluations.append(measured)
        if not entering:  # the one that is kept must have learned something
            self.stages.saw(measured.gap)
        self.run.evaluation(
            measured.step,
            measured.held_out_loss,
            quality=measured.quality,
            quality_steps=measured.quality_steps,
            seconds=measured.took_seconds,
            stage=measured.stage,
            gap=measured.gap,
        )
        return measured

    def _preview(self, out: Path) -> None:
        who = "student" if self.stages.stage and self.stages.student else "teacher"
        steps = self.knobs.whole("sampling_steps")
        sigmas = self.schedule.grid(steps) if who == "teacher" else None
        images = self.evaluator.samples(who, steps, PREVIEW_IMAGES, PREVIEW_SEED, sigmas)
        save_grid(np.asarray(images), str(out / f"preview-{self.step:06d}.png"))


_EFFECTS: dict[str, Callable[[Trainer, float], None]] = {
    "distill": Trainer._enter_stage,
    "cache_limit": Trainer._limit_cache,
    "timestep_density": Trainer._set_density,
}
"""What must happen at once when a knob changes; every other knob is read at each step."""
