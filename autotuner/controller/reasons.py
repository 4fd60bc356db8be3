"""Why something was changed or refused: one table, used by journal, log, metrics and ``explain``."""

from __future__ import annotations

REASONS: dict[str, str] = {
    # why a knob was moved
    "hold": "nothing would be better than what is in force",
    "policy": "the learned policy prefers it",
    "memory_pressure": "the machine reports memory pressure",
    "memory_high": "the run's memory is close to what the machine can give",
    "memory_free": "memory has been free for long enough",
    "out_of_memory": "the script reported that memory ran out",
    "heat": "the machine is hot and throttles or soon will",
    "cooled": "the machine has been cool for long enough",
    "coarse_first": "early training learns coarse structure, which low resolution teaches for less",
    "full_resolution": "fine detail needs full resolution",
    "restore": "the run must end at the resolution that its script chose",
    "faster": "more images a second are expected",
    "teaches_more": "an image is expected to teach more",
    "diverges": "fewer steps are lost at a smaller learning rate",
    "room_for_resolution": "full resolution needs memory that this frees",
    "room_to_distill": "a student needs memory that this frees",
    "gap_closed": "the student is as good as this stage asks",
    "time_to_distill": "the rest of the budget is what the student needs",
    "previews_cost": "previews and evaluations take too large a share of the time",
    "held_out": "this run is left at its script's own values, to measure what Autotuner gains",
    "pinned": "you pinned this knob",
    "accepted": "you accepted this advice",
    "undone": "you took the change back",
    "off": "you switched Autotuner off, so the script's own value comes back",
    # why a wish was refused
    "not_declared": "the script does not offer this knob",
    "pending": "an earlier change is not acknowledged yet",
    "ladder_end": "the knob is at the end of its ladder",
    "dwell": "the knob was changed only a moment ago",
    "settles": "the machine is in need, and the guard acts as soon as it sees what the last change did",
    "reversal": "it would undo a change made a moment ago",
    "stale": "telemetry is stale, so only load may be taken away",
    "diverging": "the loss was not finite, so only load may be taken away",
    "memory_predicted": "the run's own memory model expects too little room",
    "change_budget": "the budget of changes an hour is spent",
    "shape_budget": "another tensor shape would exceed the run's shape budget",
    "joint_limit": "micro_batch x resolution^2 would exceed the script's own limit",
    "quarantined": "these values ended or were refused in a run before",
    "illegal": "the policy asked for an action that does not exist",
}
"""Identifier to sentence. Identifiers are label values of metrics: few, stable, lower case."""
