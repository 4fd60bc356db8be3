"""Whatever another program may have put in the place of a file: it is read up to a bound, and nobody waits for it."""

import json
import os
import sqlite3
import threading

import pytest

from autotuner.adapters.supervise import Remains, read_remains
from autotuner.cli import service
from autotuner.cli.fit import _asked_by_run
from autotuner.daemon.address import read_address
from autotuner.daemon.policies import _winner
from autotuner.daemon.run_files import read_declaration
from autotuner.errors import AutotunerError, JournalError
from autotuner.hook.files import LARGEST_DECLARATION_BYTES, LARGEST_NOTE_BYTES, read_bytes
from autotuner.hook.launch import Launch, launch
from autotuner.hook.proposal import proposal_path, read_proposal
from autotuner.hook.ranks import find_launch
from autotuner.journal import Journal, Reader
from autotuner.journal.schema import LARGEST_VALUE_BYTES
from autotuner.search import proposals
from autotuner.telemetry.scripted import InjectedState
from autotuner.telemetry.sensor import Unavailable


def raised(error, read):
    try:
        read()
    except error as problem:
        return str(problem)
    return "nothing was raised"


READERS = {
    "proposal in a training": (
        lambda state: proposal_path(state, "cats"),
        lambda state, path: read_proposal(path, {"width": [32]}),
        lambda said: said is None,
    ),
    "proposal in the search": (
        lambda state: proposals.proposal_path(state, "cats"),
        lambda state, path: proposals.read(state, "cats"),
        lambda said: said is None,
    ),
    "launch": (
        lambda state: state / "launches" / "cats.json",
        lambda state, path: find_launch(state, "cats", Launch(1, 2, "key")),
        lambda said: said is None,
    ),
    "host file": (
        lambda state: state / "hosts.json",
        lambda state, path: launch({"MLX_RANK": "1", "MLX_HOSTFILE": str(path)}),
        lambda said: said.size == 1,
    ),
    "declaration in the daemon": (
        lambda state: state / "run.json",
        lambda state, path: raised((OSError, AutotunerError), lambda: read_declaration(state)),
        lambda said: "run.json" in said,
    ),
    "declaration in fit": (
        lambda state: state / "run.json",
        lambda state, path: raised(AutotunerError, lambda: _asked_by_run(path)),
        lambda said: "run.json" in said,
    ),
    "declaration of a run that ended": (
        lambda state: state / "run.json",
        lambda state, path: read_remains(state),
        lambda said: said == Remains(),
    ),
    "address of the daemon": (
        lambda state: state / "daemon.json",
        lambda state, path: read_address(state),
        lambda said: said is None,
    ),
    "card of a policy": (
        lambda state: state / "card.json",
        lambda state, path: _winner(path),
        lambda said: said == "",
    ),
    "injected readings": (
        lambda state: state / "injected.json",
        lambda state, path: raised(Unavailable, lambda: InjectedState.read(path)),
        lambda said: "injected.json" in said,
    ),
}


def a_pipe(path):
    os.mkfifo(path)


def too_large(path):
    with path.open("wb") as file:
        file.truncate(2 * LARGEST_DECLARATION_BYTES)


def deeply_nested(path):
    path.write_text("[" * 50_000)


@pytest.mark.filterwarnings("ignore:the proposal in")
@pytest.mark.parametrize("make", [a_pipe, too_large, deeply_nested])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_cannot_be_used_is_as_good_as_none(tmp_path, reader, make):
    where, read, is_right = READERS[reader]
    path = where(tmp_path)
    path.parent.mkdir(exist_ok=True)
    make(path)
    said = []
    thread = threading.Thread(target=lambda: said.append(read(tmp_path, path)), daemon=True)
    thread.start()
    thread.join(10.0)
    assert said, f"{reader} waits"
    assert is_right(said[0]), said


def test_a_file_is_read_up_to_its_bound_and_a_device_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="it has more than 99 bytes"):
        read_bytes(path, 99)
    for other, why in (("/dev/zero", "no regular file"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=why):
            read_bytes(other, LARGEST_NOTE_BYTES)


def test_the_end_of_a_log_is_bounded_and_begins_with_a_whole_line(tmp_path, monkeypatch):
    log = tmp_path / "daemon.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    monkeypatch.setattr(service, "LARGEST_TAIL_BYTES", 20)
    assert service.tail(log, 50) == ["line 98", "line 99"]
    monkeypatch.setattr(service, "LARGEST_TAIL_BYTES", 10**6)
    assert len(service.tail(log, 1000)) == 100


def test_a_value_of_the_journal_is_bounded(tmp_path):
    path = tmp_path / "journal.sqlite3"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO pins VALUES ('r', zeroblob(?), 1.0, 'you', 1.0)", (LARGEST_VALUE_BYTES + 1,))
    connection.close()
    with Reader(path) as journal, pytest.raises(JournalError, match="too big"):
        journal.pins()


def test_an_environment_that_is_nested_too_deeply_is_no_start_value():
    from autotuner.adapters.environment import START, start_values

    assert start_values({START: "[" * 50_000}) == {}
    assert start_values({START: json.dumps({"pace": 1})}) == {"pace": 1.0}
