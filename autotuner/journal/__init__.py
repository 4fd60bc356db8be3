"""The record of what was seen, intended, delivered, acknowledged and observed: one SQLite file (standard library only).

``Reader`` serves CLI, status page, search and reports, with or without a daemon; ``Journal`` is the daemon's writing side.
"""

from autotuner.journal.reader import Reader, journal_path
from autotuner.journal.records import (
    AdviceRecord,
    ChangeRecord,
    ComparisonRecord,
    DecisionRecord,
    EvaluationRecord,
    MachineRecord,
    ModeRecord,
    PinRecord,
    QuarantineRecord,
    RequestRecord,
    RunRecord,
    TelemetryRecord,
    model_key,
)
from autotuner.journal.writer import Journal

__all__ = [
    "AdviceRecord",
    "ChangeRecord",
    "ComparisonRecord",
    "DecisionRecord",
    "EvaluationRecord",
    "Journal",
    "MachineRecord",
    "ModeRecord",
    "PinRecord",
    "QuarantineRecord",
    "Reader",
    "RequestRecord",
    "RunRecord",
    "TelemetryRecord",
    "journal_path",
    "model_key",
]
