"""The panels of the Grafana dashboard: what each asks of Prometheus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUN = 'instance=~"$instance", run=~"$run"'
MACHINE = 'instance=~"$instance"'
HEAT = {"0": "nominal", "1": "moderate", "2": "heavy", "3": "trapping", "4": "sleeping"}


@dataclass(frozen=True)
class Panel:
    """One panel: where it stands (x, y, w, h), what it asks, and in which unit it answers."""

    title: str
    sentence: str
    place: tuple[int, int, int, int]
    unit: str
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)"""
    kind: str = "timeseries"
    custom: dict[str, Any] = field(default_factory=dict)
    mappings: dict[str, str] = field(default_factory=dict)
    named: bool = False
    """Whether a number stands beside its legend."""
    lines: bool = False
    """Whether the thresholds are drawn as lines."""
    dashed: str = ""
    """Series whose legend matches this expression are drawn dashed."""
    right: tuple[str, str] = ("", "")
    """(expression, unit) of the series that use the right axis."""
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),)


STEPPED = {"lineInterpolation": "stepAfter"}
WARM, HOT = ("orange", 1), ("red", 2)
DEMOTED = {"0": "as set", "1": "only advises"}

PANELS: tuple[Panel, ...] = (
    Panel(
        "Held-out loss",
        "Loss on fixed data and noise at full resolution.",
        (0, 0, 4, 4),
        "none",
        ((f"autotuner_run_held_out_loss{{{RUN}}}", "{{run}}"),),
        "stat",
    ),
    Panel(
        "Throughput",
        "Recent images a second.",
        (4, 0, 4, 4),
        "none",
        ((f"autotuner_run_images_per_second{{{RUN}}}", "{{run}}"),),
        "stat",
    ),
    Panel(
        "Budget used",
        "Share of the run's time or step budget.",
        (8, 0, 4, 4),
        "percentunit",
        ((f"autotuner_run_budget_used_ratio{{{RUN}}}", "{{run}}"),),
        "stat",
    ),
    Panel(
        "Heat",
        "Heat level of the machine; throttling begins at heavy.",
        (12, 0, 4, 4),
        "none",
        ((f"autotuner_machine_thermal_level{{{MACHINE}}}", "{{instance}}"),),
        "stat",
        mappings=HEAT,
        thresholds=(("green", None), WARM, HOT),
    ),
    Panel(
        "Memory available",
        "What the machine can still give out without swapping.",
        (16, 0, 4, 4),
        "bytes",
        ((f"autotuner_machine_memory_available_bytes{{{MACHINE}}}", "{{instance}}"),),
        "stat",
    ),
    Panel(
        "Readings",
        "Whether heat or memory are measured, or scripted for an experiment.",
        (20, 0, 4, 4),
        "none",
        ((f"autotuner_machine_injected{{{MACHINE}}}", "{{instance}}"),),
        "stat",
        mappings={"0": "measured", "1": "injected"},
        thresholds=(("green", None), WARM),
    ),
    Panel(
        "Loss and held-out loss",
        "A low-resolution phase may raise the loss while the held-out loss falls.",
        (0, 4, 12, 8),
        "none",
        (
            (f"autotuner_run_loss{{{RUN}}}", "{{run}} loss"),
            (f"autotuner_run_held_out_loss{{{RUN}}}", "{{run}} held-out"),
        ),
        custom={"scaleDistribution": {"type": "log", "log": 10}},
        dashed="/ loss$/",
    ),
    Panel(
        "Knobs: asked and acknowledged",
        "Each knob as a share of the top of its ladder; dashed is what the daemon asked for.",
        (12, 4, 12, 8),
        "percentunit",
        (
            (f"autotuner_run_knob_acknowledged{{{RUN}}} / autotuner_run_knob_maximum{{{RUN}}}", "{{knob}}"),
            (f"autotuner_run_knob_asked{{{RUN}}} / autotuner_run_knob_maximum{{{RUN}}}", "{{knob}} asked"),
        ),
        custom=STEPPED,
        dashed="/ asked$/",
    ),
    Panel(
        "Images a second",
        "As the run reports it.",
        (0, 12, 8, 7),
        "none",
        ((f"autotuner_run_images_per_second{{{RUN}}}", "{{run}}"),),
    ),
    Panel(
        "Step time",
        "Duration of one optimizer step, accumulation and pacing included.",
        (8, 12, 8, 7),
        "s",
        ((f"autotuner_run_step_seconds{{{RUN}}}", "{{run}}"),),
    ),
    Panel(
        "Knob values",
        "Values in force, each in its own unit; 1 under pinned means that a human or the script holds it.",
        (16, 12, 8, 7),
        "none",
        (
            (f"autotuner_run_knob_acknowledged{{{RUN}}}", "in force"),
            (f"autotuner_run_knob_pinned{{{RUN}}}", "pinned"),
        ),
        "table",
    ),
    Panel(
        "Memory",
        "Framework memory against what the machine has and what the run's own model predicts.",
        (0, 19, 12, 8),
        "bytes",
        (
            (f"autotuner_run_active_bytes{{{RUN}}}", "{{run}} active"),
            (f"autotuner_run_cache_bytes{{{RUN}}}", "{{run}} cache"),
            (f"autotuner_run_peak_bytes{{{RUN}}}", "{{run}} peak"),
            (f"autotuner_run_predicted_bytes{{{RUN}}}", "{{run}} predicted"),
            (f"autotuner_machine_memory_available_bytes{{{MACHINE}}}", "available"),
            (f"autotuner_machine_swap_used_bytes{{{MACHINE}}}", "swap used"),
        ),
        dashed="/ predicted$/",
    ),
    Panel(
        "Heat level and temperature",
        "Level 2 (heavy) is where throttling begins; temperature on the right axis.",
        (12, 19, 12, 8),
        "none",
        (
            (f"autotuner_machine_thermal_level{{{MACHINE}}}", "level"),
            (f"autotuner_machine_memory_pressure_level{{{MACHINE}}}", "memory pressure"),
            (f"autotuner_machine_celsius{{{MACHINE}}}", "temperature"),
        ),
        custom=STEPPED,
        right=("/temperature/", "celsius"),
    ),
    Panel(
        "Changes by reason",
        "Knob changes since the run began.",
        (0, 27, 8, 8),
        "none",
        ((f"sum by (knob, direction, reason) (autotuner_run_changes_total{{{RUN}}})", "{{knob}} {{direction}}: {{reason}}"),),
        custom=STEPPED,
    ),
    Panel(
        "Vetoes by reason",
        "Wishes of the policy that the guard refused.",
        (8, 27, 8, 8),
        "none",
        ((f"sum by (reason) (autotuner_run_vetoes_total{{{RUN}}})", "{{reason}}"),),
        custom=STEPPED,
    ),
    Panel(
        "Decisions a minute",
        "Holds included.",
        (16, 27, 8, 8),
        "none",
        ((f"60 * rate(autotuner_run_decisions_total{{{RUN}}}[$__rate_interval])", "{{run}}"),),
    ),
    Panel(
        "Sensors up",
        "A sensor that this machine does not have stays at 0.",
        (0, 35, 12, 7),
        "none",
        ((f"autotuner_sensor_up{{{MACHINE}}}", "{{sensor}} ({{source}})"),),
        custom=STEPPED,
    ),
    Panel(
        "Daemon tick",
        "Work of one tick, and how long ago the last one was.",
        (12, 35, 12, 7),
        "s",
        (
            (f"autotuner_tick_seconds{{{MACHINE}}}", "work"),
            (f"autotuner_tick_age_seconds{{{MACHINE}}}", "age"),
        ),
    ),
    Panel(
        "Gain, by the daemon's own measurement",
        "Share of time that tuned runs save to the same held-out loss, dashed its 95 % interval; below 0 it loses.",
        (0, 42, 12, 8),
        "percentunit",
        (
            (f"autotuner_gain_ratio{{{MACHINE}}}", "{{instance}} gain"),
            (f"autotuner_gain_ratio_low{{{MACHINE}}}", "{{instance}} low"),
            (f"autotuner_gain_ratio_high{{{MACHINE}}}", "{{instance}} high"),
        ),
        custom=STEPPED,
        dashed="/ (low|high)$/",
        thresholds=(("red", None), ("green", 0)),
        lines=True,
    ),
    Panel(
        "Evidence that it loses",
        "1 is none; at 20 the daemon only advises, which without a loss ever happens in at most 5 of 100 machines.",
        (12, 42, 6, 8),
        "none",
        ((f"autotuner_demotion_evidence{{{MACHINE}}}", "{{instance}}"),),
        custom={**STEPPED, "scaleDistribution": {"type": "log", "log": 10}},
        thresholds=(("green", None), ("red", 20)),
        lines=True,
    ),
    Panel(
        "Held-out runs",
        "Ended runs that were left at their script's values; the gain is told from ten on.",
        (18, 42, 6, 4),
        "none",
        ((f"autotuner_holdout_runs{{{MACHINE}}}", "{{instance}}"),),
        "stat",
    ),
    Panel(
        "Demotion",
        "Whether a daemon only advises because it loses; autotuner status says why in full.",
        (18, 46, 6, 4),
        "none",
        ((f"autotuner_demotion_info{{{MACHINE}}}", "{{policy}} {{why}}"),),
        "stat",
        mappings=DEMOTED,
        named=True,
        thresholds=(("green", None), ("red", 1)),
    ),
    Panel(
        "Slowdown",
        "Recent step time over the best with the same knobs: throttling and other load, whatever the system says of heat.",
        (0, 50, 12, 7),
        "percentunit",
        ((f"autotuner_run_slowdown_ratio{{{RUN}}}", "{{run}}"),),
        thresholds=(("green", None), ("red", 1.3)),
        lines=True,
    ),
    Panel(
        "Sensor failures",
        "Readings that failed or came too late, in the last quarter of an hour.",
        (12, 50, 12, 7),
        "none",
        ((f"increase(autotuner_sensor_failures_total{{{MACHINE}}}[15m])", "{{sensor}} {{source}}"),),
    ),
)
