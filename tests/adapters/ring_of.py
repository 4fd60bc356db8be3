"""What a run has told, read back from its files."""

from autotuner.hook.ring import RingReader
from autotuner.messages import Declaration


def records(run, kind):
    """All records of one kind, oldest first."""
    run.poll()
    ring = RingReader(run.directory / "telemetry.ring")
    try:
        return [record for record in ring.read() if isinstance(record, kind)]
    finally:
        ring.close()


def declaration(run):
    return Declaration.from_json((run.directory / "run.json").read_text())
