"""The one controller code path: daemon, simulator, replay and shadow mode all drive this loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotuner.controller.actions import ACTION_COUNT, ACTIONS, HOLD, Action
from autotuner.controller.decision import Change, Decision, Effect
from autotuner.controller.guard import MEMORY, NOT_LOAD, PACING, Guard, GuardLimits
from autotuner.controller.observation import moved, observe, predicted_bytes
from autotuner.controller.policy import Choice, Policy
from autotuner.controller.reasons import REASONS
from autotuner.controller.window import Interval, RunWindow
from autotuner.messages import Acknowledgement, Declaration, Evaluation, MachineState, Record, Sample

INTERVALS_A_BUDGET = 60
SHORTEST_INTERVAL_SECONDS = 2.0
LONGEST_INTERVAL_SECONDS = 60.0
INTERVAL_WITHOUT_BUDGET_SECONDS = 15.0
LATEST_EFFECT_SECONDS = 600.0


def interval_for(declaration: Declaration) -> float:
    """Seconds between two decisions: a sixtieth of the budget, from 2 s to a minute; 15 s without a budget."""
    if declaration.budget_seconds is None:
        return INTERVAL_WITHOUT_BUDGET_SECONDS
    derived = declaration.budget_seconds / INTERVALS_A_BUDGET
    return min(LONGEST_INTERVAL_SECONDS, max(SHORTEST_INTERVAL_SECONDS, derived))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the loop knows of a run, for people. None is unknown."""

    step: int
    images: int
    loss: float | None
    held_out_loss: float | None
    quality: float | None
    gap: float | None
    step_seconds: float | None
    images_per_second: float | None
    active_bytes: int
    cache_bytes: int
    peak_bytes: int
    predicted_bytes: float | None
    stage: int
    revision: int
    last_sample_age_seconds: float | None
    budget_used: float | None
    not_finite_steps: int
    slowdown_ratio: float | None
    """Recent step time over the best with the same knobs; see ``slowdown``."""
    slow: bool
    """Whether that is more than noise explains."""


@dataclass(slots=True)
class _Measurement:
    """A change whose effect is being measured."""

    revision: int
    knob: str
    acknowledged_at: float
    before: Interval | None


class ControlLoop:
    """Observes, asks the policy, and guards one run. Pure but for its own history: every time is an argument."""

    def __init__(
        self,
        declaration: Declaration,
        policy: Policy,
        limits: GuardLimits | None = None,
        interval_seconds: float | None = None,
    ) -> None:
        self.declaration = declaration
        self.policy = policy
        self.interval_seconds = interval_seconds or interval_for(declaration)
        self.window = RunWindow(declaration, self.interval_seconds)
        self.guard = Guard(limits or GuardLimits())
        self.pinned = self.window.pinned
        self.asked = declaration.start
        self.pending = False
        self._asked_revision = 0
        self._asked_knobs: tuple[str, ...] = ()
        self._decided_at = -math.inf
        self._measurements: list[_Measurement] = []

    @property
    def positions(self) -> tuple[int, ...]:
        """Ladder positions in force, as the script acknowledged them."""
        return self.window.positions

    @property
    def own_values(self) -> tuple[int, ...]:
        """Where the script started, and where it moved a knob itself."""
        return tuple(
            position if not knob.tunable or self.pinned.get(knob.name) == "script" else knob.start
            for knob, position in zip(self.declaration.knobs, self.positions, strict=True)
        )

    def feed(self, record: Record) -> None:
        """Take one record of the run's ring, in order."""
        if isinstance(record, Sample):
            self.window.sample(record)
        elif isinstance(record, Evaluation):
            self.window.evaluation(record)
        elif isinstance(record, Acknowledgement):
            self._acknowledge(record)

    def _acknowledge(self, message: Acknowledgement) -> None:
        before, revision_before = self.positions, self.window.revision
        self.window.acknowledged(message)
        if message.refused:
            if message.revision < self._asked_revision:
                return  # it speaks of an ask that a newer one has overtaken
            if self.pending:
                self.guard.quarantine.add(self.asked)
            self.abandon()
            return
        for declared, old, new in zip(self.declaration.knobs, before, self.positions, strict=True):
            if new < old and declared.name in MEMORY:
                self.window.out_of_memory = False  # answered; the first step that follows tells whether it was enough
        if self.pending and self.positions == self.asked:
            self.pending = False
            newest = self.window.intervals[-1] if self.window.intervals else None
            for knob in self._asked_knobs:
                self._measurements.append(_Measurement(message.revision, knob, message.time, newest))
            return
        if message.revision == revision_before:  # no change of ours: the script or its user turned the knob
            for declared, old, new in zip(self.declaration.knobs, before, self.positions, strict=True):
                if old != new:
                    self.pinned.setdefault(declared.name, "script")
        if not self.pending:
            self.asked = self.positions

    def machine(self, state: MachineState) -> None:
        """Take what the sensors said."""
        self.window.take_machine(state)

    def pin(self, knob: str, origin: str = "you") -> None:
        """Leave ``knob`` alone until released."""
        self.pinned[knob] = origin

    def release(self, knob: str) -> None:
        """Allow changes of ``knob`` again."""
        self.pinned.pop(knob, None)

    def quarantine(self, positions: tuple[int, ...]) -> None:
        """Never ask for these positions: a run ended with them."""
        self.guard.quarantine.add(tuple(positions))

    def delivered(self, revision: int) -> None:
        """The newest ask stands in the page under this number."""
        self._asked_revision = revision

    def abandon(self) -> None:
        """Forget an ask that was never delivered (shadow mode) or was refused."""
        self.pending = False
        self.asked = self.positions

    def resume(self, asked: tuple[int, ...], knobs: tuple[str, ...]) -> None:
        """Wait for the answer to an ask that an earlier daemon delivered."""
        self.asked = asked
        self._asked_knobs = knobs
        self.pending = asked != self.positions

    def due(self, now: float) -> bool:
        """Whether it is time to decide: an interval has passed, or the guard must act at once."""
        if self.window.last_sample is None:
            return False
        if now - self._decided_at >= self.interval_seconds:
            return True
        return now - self._decided_at >= 1.0 and bool(self._emergency(now)[1])

    def observe(self, now: float) -> tuple[float, ...]:
        """The observation at ``now``; ends the current interval."""
        return observe(self.window, now)

    def mask(self, now: float) -> tuple[bool, ...]:
        """Which actions the guard allows at ``now``; ends the current interval, as ``observe`` does."""
        self.window.close(now)
        return self.guard.mask(self.window, self.pinned, self.pending, now)

    def decide(self, now: float) -> Decision:
        """Observe, then let the guard or the policy choose."""
        return self._decide(None, now)

    def act(self, choice: Choice, now: float) -> Decision:
        """As ``decide``, with a choice from outside in the policy's place (an environment's agent)."""
        return self._decide(choice, now)

    def _decide(self, choice: Choice | None, now: float) -> Decision:
        observation = self.observe(now)
        mask = self.mask(now)
        self._decided_at = now
        reason, moves = self._guarded_moves(now)
        if moves or not (self.pending or self.guard.settling(self.window, now)):
            self.window.out_of_memory = False  # answered, or nothing can answer it
        if moves:
            return self._decision(now, HOLD, moves, reason, "", "guard", mask, observation)
        if choice is None:
            choice = self.policy.choose(observation, mask, self.window)
        return self._decision_for(choice, now, mask, observation)

    def _emergency(self, now: float) -> tuple[str, dict[str, int]]:
        """What critical pressure asks for. It overtakes an ask that the script has not taken over yet, but not itself."""
        reason, moves = self.guard.emergency(self.window, self.pinned, now)
        if not moves or not self.pending:
            return reason, moves
        both = self._with_what_is_asked(moves)
        if not self.guard.shape_verdict(self.window, self._with(both)):
            moves = both
        return ("", {}) if self._with(moves) == self.asked else (reason, moves)

    def _with(self, moves: dict[str, int]) -> tuple[int, ...]:
        return tuple(
            moves.get(knob.name, position) for knob, position in zip(self.declaration.knobs, self.positions, strict=True)
        )

    def _with_what_is_asked(self, moves: dict[str, int]) -> dict[str, int]:
        """``moves`` and what the overtaken ask takes away or a person asked for: the script may have taken it over by now."""
        both = dict(moves)
        for knob, asked, held in zip(self.declaration.knobs, self.asked, self.positions, strict=True):
            if knob.name in moves:
                both[knob.name] = min(moves[knob.name], asked)
            elif (asked < held and knob.name not in NOT_LOAD) or (asked != held and self.pinned.get(knob.name) == "you"):
                both[knob.name] = asked
        return both

    def _guarded_moves(self, now: float) -> tuple[str, dict[str, int]]:
        reason, moves = self._emergency(now)
        if moves or self.pending:
            return reason, moves
        return self.guard.obligation(self.window, self.pinned, self.pending, now)

    def _decision_for(self, choice: Choice, now: float, mask: tuple[bool, ...], observation: tuple[float, ...]) -> Decision:
        name = self.policy.name
        if not 0 <= choice.action < ACTION_COUNT:
            return self._decision(now, HOLD, {}, "hold", "", name, mask, observation, vetoed="illegal")
        action = ACTIONS[choice.action]
        vetoed = self.guard.verdict(self.window, action, self.pinned, self.pending, now)
        if vetoed or not action.step:
            reason = "hold" if vetoed else choice.reason
            return self._decision(now, choice.action, {}, reason, choice.detail, name, mask, observation, vetoed)
        positions = moved(self.window, action.knob, action.step)
        assert positions is not None, "the guard allows only moves that stay on the ladder"
        moves = {action.knob: positions[self.window.index[action.knob]]}
        return self._decision(now, choice.action, moves, choice.reason, choice.detail, name, mask, observation)

    def _decision(
        self,
        now: float,
        action: int,
        moves: dict[str, int],
        reason: str,
        detail: str,
        policy: str,
        mask: tuple[bool, ...],
        observation: tuple[float, ...],
        vetoed: str = "",
    ) -> Decision:
        positions = list(self.positions)
        changes = []
        for knob, position in moves.items():
            i = self.window.index[knob]
            values = self.declaration.knobs[i].values
            changes.append(Change(knob, positions[i], position, values[positions[i]], values[position], reason))
            positions[i] = position
        if changes:
            self._ask(tuple(positions), tuple(moves), now)
        what = ", ".join(change.what for change in changes) or "hold"
        why = f"refused: {REASONS[vetoed]}" if vetoed else REASONS.get(reason, reason)
        predicted = predicted_bytes(self.window, tuple(positions))
        return Decision(
            now, action, tuple(changes), tuple(positions), reason, what, why + (f" ({detail})" if detail else ""),
            policy, mask, observation, vetoed, predicted,
        )  # fmt: skip

    def force(self, knob: str, position: int, reason: str, now: float) -> Decision:
        """A change that a person asked for: only ladder, shape and joint limits are checked."""
        moves = {knob: position}
        return self._by_person(moves, reason, self.guard.shape_verdict(self.window, self._with(moves)), now)

    def accept(self, knob: str, position: int, now: float) -> Decision:
        """Advice that a person takes: refused for whatever would refuse the same wish of a policy at this moment."""
        step = position - self.positions[self.window.index[knob]]
        vetoed = self.guard.verdict(self.window, Action(knob, step), self.pinned, self.pending, now)
        return self._by_person({knob: position}, "accepted", vetoed, now)

    def undo(self, moves: dict[str, int], now: float) -> Decision:
        """Changes that a person takes back: as a wish, but neither pins nor pacing count."""
        steps = [Action(knob, position - self.positions[self.window.index[knob]]) for knob, position in moves.items()]
        verdicts = [self.guard.verdict(self.window, action, (), self.pending, now) for action in steps]
        refused = [verdict for verdict in verdicts if verdict and verdict not in PACING]
        vetoed = refused[0] if refused else self.guard.shape_verdict(self.window, self._with(moves))
        return self._by_person(moves, "undone", vetoed, now)

    def give_back(self, now: float) -> Decision:
        """Ask for ``own_values``. Nothing is checked: they are the script's."""
        return self._by_person(dict(zip(self.window.index, self.own_values, strict=True)), "off", "", now)

    def _by_person(self, moves: dict[str, int], reason: str, vetoed: str, now: float) -> Decision:
        held = dict(zip(self.window.index, self.positions, strict=True))
        moves = {} if vetoed else {knob: position for knob, position in moves.items() if position != held[knob]}
        observation, mask = self.observe(now), self.mask(now)
        return self._decision(now, HOLD, moves, reason, "", "you", mask, observation, vetoed)

    def _ask(self, positions: tuple[int, ...], knobs: tuple[str, ...], now: float) -> None:
        self.asked = positions
        self._asked_knobs = knobs
        self.pending = True
        self.guard.changed(now, len(knobs))

    def effect(self, now: float) -> Effect | None:
        """The measured effect of one acknowledged change, once; None while there is none to tell."""
        for measurement in list(self._measurements):
            if now - measurement.acknowledged_at > LATEST_EFFECT_SECONDS:
                self._measurements.remove(measurement)
                continue
            after = self._interval_after(measurement.acknowledged_at)
            if after is None:
                continue
            self._measurements.remove(measurement)
            before = measurement.before
            return Effect(
                measurement.revision,
                measurement.knob,
                before.images_per_second if before else math.nan,
                after.images_per_second,
                float(before.used_bytes) if before else math.nan,
                float(after.used_bytes),
            )
        return None

    def _interval_after(self, time: float) -> Interval | None:
        """The first whole interval that began after ``time``."""
        previous_end = math.inf
        for interval in self.window.intervals:
            if previous_end >= time and previous_end < interval.end and interval.steps:
                return interval
            previous_end = interval.end
        return None

    def summary(self, now: float) -> RunSummary:
        """The run as people want to see it."""
        window = self.window
        sample = window.last_sample
        interval = window.intervals[-1] if window.intervals else None
        return RunSummary(
            step=sample.step if sample else 0,
            images=sample.images if sample else 0,
            loss=_known(sample.loss) if sample else None,
            held_out_loss=window.evaluations[-1].held_out_loss if window.evaluations else None,
            quality=window.qualities[-1].quality if window.qualities else None,
            gap=_known(window.evaluations[-1].gap) if window.evaluations else None,
            step_seconds=_known(sample.step_seconds) if sample else None,
            images_per_second=interval.images_per_second if interval and interval.images_per_second else None,
            active_bytes=sample.active_bytes if sample else 0,
            cache_bytes=sample.cache_bytes if sample else 0,
            peak_bytes=sample.peak_bytes if sample else 0,
            predicted_bytes=predicted_bytes(window, self.asked),
            stage=sample.stage if sample else 0,
            revision=window.revision,
            last_sample_age_seconds=now - sample.time if sample else None,
            budget_used=window.budget_used(now),
            not_finite_steps=window.not_finite_steps,
            slowdown_ratio=window.slowdown.ratio,
            slow=window.slowdown.slow,
        )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
