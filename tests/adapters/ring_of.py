"""What a run has told, read back from its files, and what a daemon asks of it."""

from autotuner.hook.checkpoint import Request, answer_on, ask
from autotuner.hook.page import PageWriter
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


def ask_for(run, kind, number=1, path=""):
    """What the daemon does for ``autotuner checkpoint``."""
    page = PageWriter(run.directory / "knobs.page")
    ask(page, Request(number, 1e9, kind, path))
    page.close()


def answer_of(run):
    return answer_on((run.directory / "knobs.page").read_bytes())
