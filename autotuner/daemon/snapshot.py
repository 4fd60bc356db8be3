"""The daemon's state at one tick, immutable: what metrics, status page and CLI show."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotuner.messages import MachineState


@dataclass(frozen=True)
class KnobSnapshot:
    """One knob of one run: asked by the daemon, acknowledged by the script, seen in the samples."""

    name: str
    unit: str
    values: tuple[float, ...]
    asked: float
    acknowledged: float
    pinned: bool = False


@dataclass(frozen=True)
class AdviceSnapshot:
    """A change that mode ``advise`` recommends; ``autotuner accept ID`` makes it."""

    advice_id: str
    what: str
    why: str


@dataclass(frozen=True)
class RunSnapshot:
    """One run. None is unknown."""

    run_id: str
    name: str
    framework: str
    state: str
    """``live``, ``stalled`` (no sample for long) or ``ended``."""
    started_unix: float
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
    knobs: tuple[KnobSnapshot, ...]
    policy: str
    last_what: str
    last_why: str
    decisions: int
    changes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Count by (knob, direction, reason)."""
    vetoes: dict[str, int] = field(default_factory=dict)
    """Count of wishes refused by the guard, by reason."""
    not_finite_steps: int = 0
    slowdown_ratio: float | None = None
    """Recent step time over the best with the same knobs."""
    slow: bool = False
    """Whether that is more than noise explains: throttling as the run itself shows it."""
    lost_records: int = 0
    """Ring records overwritten before the daemon read them."""
    held_out: bool = False
    """Left at its script's own values, to measure the gain."""
    mode: str = ""
    """``observe``, ``advise``, ``act`` or ``off``."""
    mode_why: str = ""
    """Why it is not the machine's mode; empty when it is."""
    advice: tuple[AdviceSnapshot, ...] = ()
    """What stands since the last decision."""
    checkpoint: str = ""
    """What became of the last request to save or to restore; empty when nobody asked."""
    checkpoints_unanswered: int = 0
    """Such requests that the script did not answer in time."""


@dataclass(frozen=True)
class SensorSnapshot:
    """One sensor's last reading."""

    name: str
    source: str
    up: bool
    seconds: float
    """How long reading took."""
    age_seconds: float
    reason: str = ""
    """Why there is no value; empty when there is."""
    failures: int = 0
    """Since the daemon started."""


@dataclass(frozen=True)
class GainSnapshot:
    """Share of time saved on the way to the same held-out loss, treated runs against held-out ones; with its interval."""

    ratio: float
    low: float
    high: float
    treated: int
    held_out: int


@dataclass(frozen=True)
class Snapshot:
    """Everything at one tick."""

    unix_time: float
    started_unix: float
    version: str
    mode: str
    policy: str
    tick_seconds: float
    """Duration of the last tick's work."""
    machine: MachineState
    sensors: tuple[SensorSnapshot, ...] = ()
    runs: tuple[RunSnapshot, ...] = ()
    journal_bytes: int = 0
    tick_interval_seconds: float = 1.0
    """Planned time from one tick to the next: how old a healthy snapshot may be."""
    gain: GainSnapshot | None = None
    """None while too few runs have ended on either side."""
    holdout_runs: int = 0
    """Ended runs that were held out from the policy in use."""
    demoted: bool = False
    """The daemon only advises, because it loses by its own measurement."""
    demoted_why: str = ""
    """The sentence that says by how much; what comes before its bracket is short enough for a label."""
    evidence: float = 1.0
    """That tuned runs lose (``gain.evidence``): 1 is none, at ``holdout.EVIDENCE_LIMIT`` the daemon demotes itself."""
    problems: tuple[str, ...] = ()
    """What keeps the daemon from doing all that it was told to, one sentence each."""
    notice: str = ""
    """What people should know and nobody must mend: that a person switched everything off."""
