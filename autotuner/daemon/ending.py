"""How a run ended, and what is to be learned from it."""

from __future__ import annotations

import json

from autotuner.daemon import checkpoints
from autotuner.daemon.moment import Moment
from autotuner.daemon.runs import MonitoredRun
from autotuner.journal import QuarantineRecord, model_key
from autotuner.messages import OUTCOMES

LOST_SECONDS = 600.0
"""A run over the socket that has had no connection for so long has ended as ``lost``, though its process lives."""
DEADLY_MEMORY_SHARE = 0.8
"""A run that was killed with more of its possible memory in use than this is counted as killed by memory."""
OUT_OF_MEMORY_SECONDS = 60.0
"""An out-of-memory report this short before the end explains it."""


def outcome_of(run: MonitoredRun, now: float) -> str:
    """``finished``, ``interrupted``, ``failed`` (its own word), ``killed``, ``vanished`` or ``lost``; empty while it lives."""
    if run.goodbye is not None:
        return OUTCOMES[run.goodbye.outcome] if run.goodbye.outcome < len(OUTCOMES) else "failed"
    if not run.process_lives:
        return "killed"
    if not run.files.present:
        return "vanished"
    return "lost" if _is_lost(run, now) else ""


def _is_lost(run: MonitoredRun, now: float) -> bool:
    if not run.files.unconnected():
        run.connected_at = now
        return False
    run.connected_at = min(run.connected_at, now)  # the first look of a daemon that was restarted
    return now - run.connected_at > LOST_SECONDS and run.files.unconnected(lose=True)


def end(run: MonitoredRun, outcome: str, moment: Moment) -> None:
    """Journal the end with the last knobs, settle what is open, and quarantine what probably killed it."""
    run.ended_at, run.outcome = moment.now, outcome
    run.keep_totals(moment)
    sample = run.loop.window.last_sample
    ended_unix = moment.unix_at(run.goodbye.time) if run.goodbye else moment.unix_at(sample.time) if sample else moment.unix
    run.journal.update_run(run.run_id, ended_unix=ended_unix, outcome=outcome)
    run.journal.supersede(run.run_id, 2**62)
    run.journal.withdraw_advice(run.run_id)
    checkpoints.end(run, outcome, moment)
    run.advice = ()
    run.log.info("ended", outcome=outcome, step=sample.step if sample else 0)
    why = cause_of_death(run) if outcome in ("killed", "failed") else ""
    if why:
        values = dict(zip((knob.name for knob in run.declaration.knobs), run.values(run.loop.positions), strict=True))
        record = QuarantineRecord(model_key(run.declaration), json.dumps(values, sort_keys=True), run.run_id, why, moment.unix)
        run.journal.write(record)
        run.log.warning("quarantined", why=why, **values)
    run.files.close()


def cause_of_death(run: MonitoredRun) -> str:
    """The sentence that blames memory; empty when nothing speaks for it."""
    sample = run.loop.window.last_sample
    if sample is None or not run.declaration.knobs:
        return ""
    if sample.time - run.out_of_memory_at < OUT_OF_MEMORY_SECONDS:
        return f"{run.outcome} at step {sample.step}, shortly after the framework ran out of memory"
    if run.outcome == "killed" and run.memory_share is not None and run.memory_share > DEADLY_MEMORY_SHARE:
        return f"killed at step {sample.step} with {run.memory_share * 100:.0f} % of its possible memory in use"
    return ""
