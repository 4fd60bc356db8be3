"""A snapshot with everything in it: two live runs, a stalled one with unknown values, and an ended one."""

from dataclasses import replace

from autotuner.daemon.snapshot import GainSnapshot, KnobSnapshot, RunSnapshot, SensorSnapshot, Snapshot
from autotuner.messages import MachineState

NOW = 5000.0
UNIX = 1_760_000_000.0
GIB = 2**30

RUN = RunSnapshot(
    run_id="digits-20261009-085320-4711-0",
    name="digits",
    framework="mlx",
    state="live",
    started_unix=UNIX - 1800,
    step=1420,
    images=84_480,
    loss=0.1873,
    held_out_loss=0.2051,
    quality=3.62,
    gap=1.18,
    step_seconds=0.413,
    images_per_second=154.9,
    active_bytes=int(1.21 * GIB),
    cache_bytes=int(0.34 * GIB),
    peak_bytes=int(2.07 * GIB),
    predicted_bytes=2.6 * GIB,
    stage=0,
    revision=7,
    last_sample_age_seconds=0.4,
    budget_used=0.5,
    knobs=(
        KnobSnapshot("resolution", "pixels", (8, 16, 32), 16, 16),
        KnobSnapshot("micro_batch", "images", (8, 16, 32, 64, 128), 64, 32),
        KnobSnapshot("sampling_steps", "steps", (2, 4, 8, 16), 8, 8, pinned=True),
        KnobSnapshot("pace", "ratio", (0.5, 0.7, 0.85, 1.0), 0.85, 0.85),
        KnobSnapshot("cache_limit", "bytes", (256 * 2**20, 512 * 2**20, GIB), GIB, GIB),
    ),
    policy="rules",
    last_what="micro_batch 32 to 64",
    last_why="memory headroom 61 % and throughput still grows with the batch: 131 to an expected 160 images/s",
    decisions=212,
    changes={("micro_batch", "up", "headroom"): 2, ("micro_batch", "down", "memory_pressure"): 1, ("pace", "down", "heat"): 4},
    vetoes={"cool_down": 3, "predicted_memory": 1},
    not_finite_steps=1,
    slowdown_ratio=1.31,
    slow=True,
    lost_records=0,
)

STALLED = replace(
    RUN,
    run_id="faces-20261009-081100-4650-0",
    name="faces",
    framework="torch",
    state="stalled",
    started_unix=UNIX - 4300,
    step=310,
    images=2480,
    loss=0.911,
    held_out_loss=None,
    quality=None,
    gap=None,
    step_seconds=None,
    images_per_second=None,
    active_bytes=0,
    cache_bytes=0,
    peak_bytes=0,
    predicted_bytes=None,
    revision=0,
    last_sample_age_seconds=341.0,
    budget_used=None,
    knobs=(KnobSnapshot("micro_batch", "images", (4, 8), 8, 8),),
    last_what="",
    last_why="",
    decisions=20,
    changes={},
    vetoes={},
    not_finite_steps=0,
    slowdown_ratio=None,
    slow=False,
)

ENDED = replace(
    RUN,
    run_id="digits-20261009-070000-4500-0",
    state="ended",
    started_unix=UNIX - 8600,
    last_sample_age_seconds=1900.0,
    revision=3,
)

MACHINE = MachineState(
    time=NOW - 0.25,
    memory_total_bytes=16 * GIB,
    memory_available_bytes=6 * GIB,
    memory_pressure=0,
    swap_used_bytes=120 * 2**20,
    thermal_level=1,
    celsius=81.5,
    injected=True,
)

SENSORS = (
    SensorSnapshot("memory", "meminfo", True, 0.00021, 0.25),
    SensorSnapshot("pressure", "psi", True, 0.00013, 0.25),
    SensorSnapshot("heat", "injected", True, 0.00008, 0.5),
    SensorSnapshot("heat", "thermal zones", False, 0.00004, float("inf"), "no thermal zone on this machine", 3),
)

SNAPSHOT = Snapshot(
    unix_time=UNIX,
    started_unix=UNIX - 7260,
    version="0.1.0",
    mode="act",
    policy="rules",
    tick_seconds=0.0021,
    machine=MACHINE,
    sensors=SENSORS,
    runs=(RUN, STALLED, ENDED),
    journal_bytes=3_276_800,
    gain=GainSnapshot(0.18, 0.05, 0.29, 96, 11),
    holdout_runs=11,
)

EMPTY = Snapshot(UNIX, UNIX - 3, "0.1.0", "observe", "hold", 0.001, MachineState(NOW))
