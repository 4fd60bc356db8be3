"""The handle of one training run: reports go into the ring, knobs come from the page, nothing ever raises or waits."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from autotuner.hook.bounds import RANK_MISSING, Bounds
from autotuner.hook.checkpoint import RESTORE, SAVE, Asked
from autotuner.hook.files import replace_text
from autotuner.hook.life import OPEN, opened, outcome
from autotuner.hook.page import Heartbeat, Revision
from autotuner.hook.proposal import Proposal
from autotuner.hook.ranks import Alone, Asks, Leader
from autotuner.hook.record import FRAME, SAMPLE_BODY, fitted
from autotuner.hook.ring import RingWriter
from autotuner.hook.shapes import ShapeLadder
from autotuner.hook.values import ChangeSet, Knobs
from autotuner.hook.warning import warn
from autotuner.messages import (
    FLAG_NOT_FINITE,
    KIND_SAMPLE,
    NAN,
    OUTCOMES,
    PROTOCOL_VERSION,
    Acknowledgement,
    Declaration,
    Evaluation,
    Goodbye,
    Sample,
)

GUIDED_SECONDS = 30.0
"""A heartbeat older than this means that nobody steers the run."""

SETTLE_SECONDS = 2.0
"""A revision written this soon after the script set a knob may not know of it: the script's value stays."""

EXCHANGE_SECONDS = 0.001
CREDIT_SECONDS = 0.1
"""A report brings its record into the file and looks at the knobs, two system calls. A script that reports more than once in
EXCHANGE_SECONDS, and goes on after CREDIT_SECONDS / EXCHANGE_SECONDS such reports, does so once for several reports."""

_BAD_VALUES = (TypeError, ValueError, OverflowError, struct.error)

# Constants of the hot path.
_pack_sample, _pack_frame = SAMPLE_BODY.pack, FRAME.pack


class Run:
    """One training run as the script sees it; made by ``attach``. Without ring and page it does nothing, quietly."""

    __slots__ = (
        "_asked", "_asks", "_auto", "_bounds", "_declaration", "_dropped", "_due", "_looking", "_owed", "_positions",
        "_proposal", "_revision", "_ring", "_set_steps", "_set_times", "_step", "directory", "knobs", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        bounds: Bounds,
        positions: tuple[int, ...] = (),
        *,
        ring: RingWriter | None = None,
        asks: Asks | None = None,
        declaration: Declaration | None = None,
        proposal: Proposal | None = None,
        auto: bool = True,
    ) -> None:
        self.name = name
        self.directory = asks.directory if asks is not None else None
        """Where the files of this run are. None when the hook is off, or a rank has not found rank 0 yet."""
        self.knobs = Knobs(bounds.values(positions))
        """The values in force. They change only in ``poll``, in ``report`` (unless ``auto=False``) and in ``set``."""
        self._bounds = bounds
        self._positions = positions
        self._ring = ring
        self._asks = asks
        self._due = 0.0
        self._declaration = declaration
        self._proposal = proposal
        self._auto = auto
        self._asked: Revision | None = None
        self._revision = 0
        self._step = 0
        self._owed = False
        self._dropped = False
        self._looking = Lock()
        self._set_times: dict[str, float] = {}
        self._set_steps: dict[str, float] = {}
        bounds.use(positions, 0)
        if ring is not None:
            opened(self)

    def report(
        self,
        step: int,
        loss: float | None,
        *,
        images: int = 0,
        step_seconds: float = NAN,
        active_bytes: int = 0,
        cache_bytes: int = 0,
        peak_bytes: int = 0,
        stage: int = 0,
        flags: int = 0,
    ) -> None:
        """Tell what one optimizer step did, with numbers that the framework has already computed.

        ``images`` counts from the beginning of the run, ``step_seconds`` is the whole step, ``peak_bytes`` the peak since the
        last report. Unless ``auto=False``, it also acknowledges the last change and polls for the next one.
        """
        try:
            if self._owed and self._auto:
                self.acknowledge(step)
            if type(loss) is float:
                if loss - loss != 0.0:  # infinite or NaN
                    flags |= FLAG_NOT_FINITE
            else:
                loss, flags = _plain_loss(loss, flags)
            self._step = step
            now, ring = monotonic(), self._ring
            if ring is not None:
                number = ring.take()
                try:
                    body = _pack_sample(
                        number, KIND_SAMPLE, PROTOCOL_VERSION, step, now, loss, images, step_seconds,
                        active_bytes, cache_bytes, peak_bytes, self._revision, stage, flags,
                    )  # fmt: skip
                except struct.error:
                    fields = (step, now, loss, images, step_seconds, active_bytes, cache_bytes, peak_bytes)
                    whole = fitted(Sample.LAYOUT, (*fields, self._revision, stage, flags))
                    body = _pack_sample(number, KIND_SAMPLE, PROTOCOL_VERSION, *whole)
                ring.append(_pack_frame(body, crc32(body), number))
            if self._due < now:
                self._exchange(now)
        except _BAD_VALUES as error:
            self._drop(f"report at step {step!r}", error)
        except Exception as error:
            self._fail("report", error)

    def poll(self) -> ChangeSet | None:
        """Take over what the daemon asks for, if anything; call it at a safe point, between two optimizer steps."""
        try:
            ring = self._ring
            if ring is not None:
                ring.flush()
            return self._look()
        except Exception as error:
            self._fail("poll", error)
            return None

    def acknowledge(self, step: int) -> None:
        """Tell that the last polled change holds from ``step`` on; does nothing when there is none."""
        try:
            if self._owed:
                self._owed = False
                self._acknowledge(self._revision, step)
        except _BAD_VALUES as error:
            self._drop(f"acknowledge({step!r})", error)
        except Exception as error:
            self._fail("acknowledge", error)

    def evaluation(
        self,
        step: int,
        held_out_loss: float,
        quality: float = NAN,
        quality_steps: int = 0,
        seconds: float = NAN,
        stage: int = 0,
        gap: float = NAN,
    ) -> None:
        """Tell a measurement on fixed data and noise at full resolution; ``quality`` is by the declared metric.

        ``gap`` is the student's distance in the steps of its stage over its teacher's in many, while one is distilled.
        """
        try:
            ring = self._ring
            if ring is not None:
                ring.evaluation(Evaluation(step, monotonic(), held_out_loss, quality, quality_steps, seconds, stage, gap))
        except _BAD_VALUES as error:
            self._drop(f"evaluation at step {step!r}", error)
        except Exception as error:
            self._fail("evaluation", error)

    def set(self, name: str, value: float) -> None:
        """Change a knob from the script's side; the daemon then leaves it alone for the rest of the run."""
        try:
            self._set(name, value)
        except Exception as error:
            self._fail("set", error)

    @property
    def guided(self) -> bool:
        """Whether a daemon is alive and acts on this run; when not, a script may follow its own plan."""
        beat = self._heartbeat()
        return beat is not None and beat.mode == "act" and monotonic() - beat.time < GUIDED_SECONDS

    @property
    def mode(self) -> str | None:
        """The daemon's mode (``observe``, ``advise`` or ``act``) at its last sign of life; None when there was none."""
        beat = self._heartbeat()
        return beat.mode if beat is not None else None

    @property
    def proposal(self) -> dict[str, Any] | None:
        """The architecture that the search proposes for this run, each value out of ``search_space``; None without one."""
        return dict(self._proposal.parameters) if self._proposal is not None else None

    def declare(self, *, model: Mapping[str, Any]) -> None:
        """Tell the architecture that the script has built; it counts for the proposal's trial unless it differs from it."""
        try:
            if self._declaration is None or self.directory is None:
                return
            parameters = self._proposal.adopted(model) if self._proposal is not None else dict(model)
            changed = replace(self._declaration, model=parameters)
            replace_text(self.directory / "run.json", changed.to_json())
            self._declaration = changed
        except (*_BAD_VALUES, OSError) as error:
            warn(f"declare(model={model!r}) is not recorded: {error}")
        except Exception as error:
            self._fail("declare", error)

    def on_save(self, callback: Callable[[Asked], object], *, alone: bool = False) -> None:
        """Let people ask this run for a checkpoint: ``callback`` is called in ``poll``, or in ``report`` with ``auto``.

        It saves and says ``asked.done(path)`` or ``asked.failed(why)``, at once or later. Without it the run is never asked.
        Of several ranks, rank 0 is asked, and only with ``alone``: that ``callback`` does not need the others.
        """
        self._offer(SAVE, callback, alone)

    def on_restore(self, callback: Callable[[Asked], object]) -> None:
        """As ``on_save``: let people ask this run to go back to the checkpoint ``asked.path``, or to its last one."""
        self._offer(RESTORE, callback)

    def close(self, outcome: str = "finished") -> None:
        """Say goodbye to the daemon; a second call does nothing, and so does every later report."""
        try:
            if outcome not in OUTCOMES:
                warn(f"close({outcome!r}): allowed are {', '.join(OUTCOMES)}; recorded as failed")
                outcome = "failed"
            ring = self._ring
            self.silence()
            if ring is not None:
                ring.goodbye(Goodbye(monotonic(), OUTCOMES.index(outcome)))
        except Exception as error:
            self._fail("close", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(outcome(kind, error))

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[str, dict[str, float]]]:
        """In another process the copy is inert: one run has one writer."""
        return inert, (self.name, dict(self._bounds.values(self._positions)))

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {'off' if self.directory is None else str(self.directory)!r}, {self.knobs!r})"

    def _offer(self, kind: str, callback: Callable[[Asked], object], alone: bool = False) -> None:
        try:
            asks = self._asks
            if isinstance(asks, Alone) or (alone and isinstance(asks, Leader)):
                asks.open_desk(lambda: self._step).offer(kind, callback)
            elif asks is not None and not alone:  # all ranks would have to begin after the same step
                warn(f"on_{kind}: a run of several ranks is not asked to {kind}")
        except Exception as error:
            warn(f"on_{kind}: this run cannot be asked to {kind}: {error}")

    def _exchange(self, now: float) -> None:
        """Records into the ring, knobs out of the page."""
        asks = self._asks
        if asks is None or not asks.agreed:  # several ranks look at every report: they must not miss the step
            self._due = max(self._due, now - CREDIT_SECONDS) + EXCHANGE_SECONDS
        ring = self._ring  # another thread may close the run
        if ring is not None:
            ring.flush()
        if self._auto:
            self._look()

    def _look(self) -> ChangeSet | None:
        asks = self._asks
        if asks is None or not self._looking.acquire(blocking=False):
            return None  # off, or another thread is at it
        try:
            self._asked = asks.news(self._step, self._asked_in_time) or self._asked
            if self.directory is None and self._asks is asks:
                self.directory = asks.directory  # a rank may find it late
            return self._accept(self._asked, asks) if self._asked is not None else None
        finally:
            self._looking.release()

    def _accept(self, revision: Revision, asks: Asks) -> ChangeSet | None:
        """Answer what is asked for, now or, when the shape in force is too young, at a later poll."""
        positions = self._keeping_own(revision, self._set_steps) if asks.agreed else self._asked_in_time(revision)
        code = self._bounds.refusal(positions, self._positions) or (RANK_MISSING if asks.missing else 0)
        if not code and self._bounds.must_wait(positions, self._step):
            return None
        self._asked = None
        if code:
            self.acknowledge(self._step)  # the daemon takes an older change that is not answered by now for lost
            self._acknowledge(revision.number, self._step, code)
            return None
        old = self._bounds.values(self._positions)
        self._apply(positions)
        self._revision, self._owed = revision.number, True
        new = self._bounds.values(positions)
        return ChangeSet(revision.number, {name: (old[name], new[name]) for name in new if new[name] != old[name]})

    def _asked_in_time(self, revision: Revision) -> tuple[int, ...]:
        """The positions that the daemon asks for, but those of knobs that the script has set since, or just before."""
        return self._keeping_own(revision, {name: at + SETTLE_SECONDS for name, at in self._set_times.items()})

    def _keeping_own(self, revision: Revision, until: Mapping[str, float]) -> tuple[int, ...]:
        names = [knob.name for knob in self._bounds.knobs]
        if not until or len(revision.positions) != len(names):
            return revision.positions
        rows = zip(names, revision.positions, self._positions, strict=True)
        return tuple(own if revision.time <= until.get(name, -math.inf) else asked for name, asked, own in rows)

    def _apply(self, positions: tuple[int, ...]) -> None:
        self._positions = positions
        self.knobs._take(self._bounds.values(positions))
        self._bounds.use(positions, self._step)

    def _set(self, name: str, value: float) -> None:
        names = [knob.name for knob in self._bounds.knobs]
        if name not in names:
            warn(f"set({name!r}, {value!r}): not a knob that this run offers; allowed are {names}")
            return
        index = names.index(name)
        ladder = self._bounds.knobs[index].values
        if value not in ladder:
            warn(f"set({name!r}, {value!r}): not on the ladder that attach() was given: {list(ladder)}")
            return
        positions = (*self._positions[:index], ladder.index(value), *self._positions[index + 1 :])
        if not self._bounds.has_shape(positions):
            warn(f"set({name!r}, {value!r}): the run has used its attach(max_shapes=...) shapes, and this would be one more")
            return
        self.acknowledge(self._step)
        self._apply(positions)
        self._set_times[name], self._set_steps[name] = monotonic(), self._step
        self._acknowledge(self._revision, self._step)

    def _acknowledge(self, revision: int, step: int, code: int = 0) -> None:
        ring = self._ring  # another thread may close the run
        if ring is not None:
            ring.acknowledgement(Acknowledgement(revision, step, monotonic(), code != 0, code, self._positions))

    def _heartbeat(self) -> Heartbeat | None:
        try:
            return self._asks.heartbeat() if self._asks is not None else None
        except Exception as error:
            self._fail("heartbeat", error)
            return None

    def _drop(self, what: str, error: Exception) -> None:
        if not self._dropped:
            self._dropped = True
            warn(f"{what} is left out: {error} (said once)")

    def _fail(self, where: str, error: Exception) -> None:
        was_on = self._asks is not None
        self.silence()
        if was_on:
            warn(f"{where} failed and the hook is off; training goes on: {type(error).__name__}: {error}")

    def silence(self) -> None:
        """Turn into a run that does nothing; the knobs keep their values."""
        self._ring = self._asks = self.directory = None
        OPEN.pop(self, None)


def inert(name: str, values: Mapping[str, float]) -> Run:
    """A run that does nothing but know its knobs."""
    return Run(name, Bounds((), values, ShapeLadder(max_shapes=1), max_pixels=None))


def _plain_loss(loss: Any, flags: int) -> tuple[float, int]:
    """None is unknown; any other number (NumPy scalar, int) becomes a float."""
    if loss is None:
        return NAN, flags
    number = float(loss)
    return number, flags if number - number == 0.0 else flags | FLAG_NOT_FINITE
