"""A state directory of its own, and a journal with one run in it."""

import pytest

from autotuner.journal import Journal, journal_path
from tests.cli.one_run import RUN


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def journal(state):
    with Journal(journal_path(state)) as opened:
        opened.write(RUN)
        opened.commit()
        yield opened
