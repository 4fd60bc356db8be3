import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from autotuner.errors import JournalError
from autotuner.journal import (
    AdviceRecord,
    ChangeRecord,
    DecisionRecord,
    EvaluationRecord,
    Journal,
    MachineRecord,
    PinRecord,
    QuarantineRecord,
    Reader,
    RequestRecord,
    RunRecord,
    TelemetryRecord,
    model_key,
    schema,
)
from autotuner.journal.schema import SCHEMA_VERSION
from autotuner.knobs import declare
from autotuner.messages import Declaration

DECLARATION = Declaration(
    "r-1", "r", 1, 0.0, 100.0, (declare("micro_batch", 32, [16, 32, 64]),), "mlx", model={"width": 64, "_trial": 7}
)
RUN = RunRecord("r-1", "r", "mlx", model_key(DECLARATION), DECLARATION.to_json(), 100.0, 101.0)
CHANGE = ChangeRecord("r-1", 1, "micro_batch", 1, 0, 32.0, 16.0, "memory", "micro_batch 32 to 16", "low", "rules", 110.0)
TELEMETRY = TelemetryRecord("r-1", 102.0, 5, 160, 0.5, 0.1, 320.0, 10, 20, 30, None, 0, 0, "[32]")
EVERY_RECORD = (
    RUN,
    CHANGE,
    TELEMETRY,
    DecisionRecord("r-1", 103.0, "act", 0, "steady", "hold", "nothing to gain", "rules", mask="10", observation_json="[1.5]"),
    MachineRecord(104.0, celsius=61.5, injected=1),
    EvaluationRecord("r-1", 105.0, 6, 0.25, None, 0, 1.5, 0, 1.25),
    PinRecord("r-1", "micro_batch", 32.0, "you", 106.0),
    QuarantineRecord("m", '{"micro_batch": 64.0}', "r-1", "killed with memory at 95 %", 107.0),
    RequestRecord("accept", "r-1", "a", 110.0),
    AdviceRecord("a", "r-1", "micro_batch", "micro_batch 32 to 16", "low", 108.0, 109.0, 32.0, 16.0),
)
OLDER = sorted((Path(__file__).parents[1] / "fixtures" / "journal").glob("version-*.sql"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path):
    opened = Journal(path)
    yield opened
    opened._connection.close()


def fail_when(journal: Journal, monkeypatch: pytest.MonkeyPatch, word: str, message: str) -> None:
    real = journal._connection

    class Failing:
        def execute(self, statement, arguments=()):
            if word in statement:
                raise sqlite3.OperationalError(message)
            return real.execute(statement, arguments)

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(journal, "_connection", Failing())


@pytest.mark.parametrize("record", EVERY_RECORD, ids=lambda record: type(record).__name__)
def test_every_record_comes_back_as_it_was_written(journal, path, record):
    journal.write(record)
    journal.commit()
    with Reader(path) as reader:
        (read,) = reader._select(type(record), "1", (), "rowid")
    serial = {name: getattr(read, name) for name in ("change_id", "decision_id", "request_id") if hasattr(read, name)}
    assert read == replace(record, **serial)


def test_a_reader_sees_only_what_was_committed(journal, path):
    journal.write(RUN)
    with Reader(path) as reader:
        assert reader.runs() == []
        journal.commit()
        assert reader.runs() == [RUN]


def test_a_run_tells_its_trial_and_its_declaration():
    assert RUN.trial == 7
    assert RUN.declaration == DECLARATION
    assert replace(RUN, last_values_json="[16.0]").last_values == {"micro_batch": 16.0}


def test_the_model_key_ignores_the_trial_and_needs_the_architecture():
    other = replace(DECLARATION, model={"width": 64, "_trial": 8})
    assert model_key(other) == model_key(DECLARATION)
    assert model_key(replace(DECLARATION, model={"width": 32})) != model_key(DECLARATION)
    assert model_key(replace(DECLARATION, model={}, name="b")) != model_key(replace(DECLARATION, model={}, name="a"))


def test_a_change_walks_from_intended_to_observed(journal):
    journal.intend([CHANGE])
    for state, time in (("delivered", 111.0), ("acknowledged", 112.0), ("observed", 113.0)):
        journal.advance("r-1", 1, state, time)
        journal.commit()
        assert journal.changes("r-1")[0].state == state
    change = journal.changes("r-1")[0]
    assert (change.delivered_unix, change.acknowledged_unix, change.observed_unix) == (111.0, 112.0, 113.0)


def test_a_state_never_goes_back(journal):
    journal.intend([CHANGE])
    journal.advance("r-1", 1, "acknowledged", 111.0, step=9)
    journal.advance("r-1", 1, "delivered", 112.0)
    journal.advance("r-1", 1, "lost", 113.0)
    journal.commit()
    change = journal.changes("r-1")[0]
    assert (change.state, change.step) == ("acknowledged", 9)


def test_open_changes_are_those_without_a_fate(journal):
    journal.intend([CHANGE, replace(CHANGE, revision=2)])
    journal.advance("r-1", 1, "refused", 111.0, refusal="shape budget spent")
    journal.commit()
    assert [change.revision for change in journal.open_changes("r-1")] == [2]


def test_an_intent_is_synced_to_the_disk_and_a_commit_is_not(journal):
    statements: list[str] = []
    journal._connection.set_trace_callback(statements.append)
    journal.write(TELEMETRY)
    journal.commit()
    assert not any("synchronous" in statement for statement in statements)
    journal.intend([CHANGE])
    levels = [statement for statement in statements if "synchronous" in statement or statement == "COMMIT"][1:]
    assert levels == ["PRAGMA synchronous = FULL", "COMMIT", "PRAGMA synchronous = NORMAL"]


def test_a_failed_commit_keeps_its_rows_for_the_next(journal, monkeypatch):
    journal.write(RUN)
    with monkeypatch.context() as patch:
        fail_when(journal, patch, "INSERT", "database or disk is full")
        with pytest.raises(JournalError, match="disk is full"):
            journal.commit()
    journal.commit()
    assert journal.runs() == [RUN]


def test_a_failed_intent_is_never_written_later(journal, monkeypatch):
    journal.write(RUN)
    with monkeypatch.context() as patch:
        fail_when(journal, patch, "COMMIT", "database or disk is full")
        with pytest.raises(JournalError):
            journal.intend([CHANGE])
    journal.commit()
    assert journal.changes("r-1") == []
    assert journal.runs() == [RUN]


def test_a_full_queue_gives_up_telemetry_before_anything_else(journal, monkeypatch):
    monkeypatch.setattr("autotuner.journal.writer.MAX_WAITING_ROWS", 50)
    journal.write(RUN)
    for second in range(60):
        journal.write(replace(TELEMETRY, time_unix=float(second)))
    assert len(journal._waiting) == 50
    journal.commit()
    assert journal.runs() == [RUN]
    assert journal.telemetry("r-1")[0].time_unix == 11.0


@pytest.mark.parametrize(
    "damage",
    [b"this is no database, whatever its name says" * 40, b"SQLite format 3\0" + b"\xff" * 4096, None],
    ids=["text", "torn header", "pages"],
)
def test_a_damaged_journal_is_moved_aside_and_said_so(path, damage):
    with Journal(path) as journal:
        journal.write(RUN)
        for second in range(500):
            journal.write(replace(TELEMETRY, time_unix=float(second)))
    whole = path.read_bytes()
    path.write_bytes(damage or whole[:8192] + b"\xa5" * 8192 + whole[16384:])
    said = []
    with Journal(path, lambda target, why: said.append((target, why))) as journal:
        assert journal.runs() == []
    assert [target for target, _ in said] == [path.with_name("journal.corrupt-1")]
    assert said[0][0].read_bytes() == path.with_name("journal.corrupt-1").read_bytes() != b""
    assert str(path) in said[0][1]


def test_a_journal_of_another_version_is_moved_aside_with_a_number_of_its_own(path):
    said = []
    for _ in range(2):
        Journal(path).close()
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        Journal(path, lambda target, why: said.append((target.name, why))).close()
    assert [name for name, _ in said] == ["journal.corrupt-1", "journal.corrupt-2"]
    assert "version 99" in said[0][1]


def test_a_locked_journal_is_an_error_and_not_damage(journal, path, monkeypatch):
    monkeypatch.setattr("autotuner.journal.schema.BUSY_MILLISECONDS", 10)
    other = sqlite3.connect(path, isolation_level=None)
    journal._connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")
    journal.write(RUN)
    with pytest.raises(JournalError, match="locked"):
        journal.commit()
    other.execute("ROLLBACK")
    other.close()
    journal.commit()
    assert journal.runs() == [RUN]
    assert list(path.parent.glob("*corrupt*")) == []


def test_no_journal_is_told_by_its_path(path):
    with pytest.raises(JournalError, match=r"no journal at .*journal\.sqlite3"):
        Reader(path)


def test_a_reader_never_moves_a_damaged_journal(path):
    path.write_bytes(b"no database at all, nothing to see here" * 100)
    with pytest.raises(JournalError):
        Reader(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_run_is_found_by_id_prefix_or_newest_of_its_name(journal, monkeypatch):
    for run_id, created in (("cats-1", 1.0), ("cats-2", 2.0), ("dogs-1", 3.0)):
        journal.write(replace(RUN, run_id=run_id, name=run_id[:4], created_unix=created))
    journal.commit()
    assert journal.find_run("cats-1").run_id == "cats-1"
    assert journal.find_run("cats").run_id == "cats-2"
    assert journal.find_run("do").run_id == "dogs-1"
    monkeypatch.setattr(type(journal), "runs", lambda *_, **__: pytest.fail("all runs are read to find one"))
    assert journal.find_run("cats").run_id == "cats-2"
    monkeypatch.undo()
    with pytest.raises(JournalError, match="means 2 runs; candidates: cats-1, cats-2"):
        journal.find_run("cats-")
    with pytest.raises(JournalError, match="no run is called 'x'; known runs: cats-1"):
        journal.find_run("x")


def test_last_gives_the_newest_rows_oldest_first(journal):
    for second in range(5):
        journal.write(replace(TELEMETRY, time_unix=float(second)))
    journal.commit()
    assert [row.time_unix for row in journal.telemetry("r-1", last=2)] == [3.0, 4.0]
    assert [row.time_unix for row in journal.telemetry("r-1", since_unix=3.5)] == [4.0]


def test_another_process_that_pins_changes_the_data_version(journal, path):
    version = journal.data_version()
    assert journal.data_version() == version
    with Journal(path) as other:
        other.pin(PinRecord("r-1", "pace", 0.5, "you", 1.0))
    assert journal.data_version() != version
    assert journal.pins("r-1")[0].value == 0.5
    journal.release("r-1", "pace")
    journal.commit()
    assert journal.pins() == []


def test_retention_deletes_old_rows_and_gives_the_space_back(journal, monkeypatch):
    monkeypatch.setattr("autotuner.journal.writer._DELETED_AT_ONCE", 100)
    for second in range(2000):
        journal.write(replace(TELEMETRY, time_unix=float(second), values_json=json.dumps([1.0] * 20)))
    journal.write(RUN)
    journal.intend([CHANGE])
    before = journal.size_bytes()
    assert journal.delete_before(1990.0) == 1990
    assert journal.size_bytes() < before / 4
    assert len(journal.telemetry("r-1")) == 10
    assert journal.changes("r-1")
    assert journal.runs()


def test_withdrawn_advice_is_gone_and_the_rest_stands(journal):
    advice = EVERY_RECORD[-1]
    journal.write(advice)
    journal.write(replace(advice, advice_id="b"))
    journal.withdraw_advice("r-1", keep=["b"])
    journal.commit()
    assert [row.advice_id for row in journal.advice("r-1")] == ["b"]


def test_a_journal_opened_again_keeps_waiting_rows(journal, path):
    journal.write(RUN)
    journal.reopen()
    journal.commit()
    assert journal.runs() == [RUN]


def older_journal(path, dump):
    connection = sqlite3.connect(path)
    connection.executescript(dump.read_text())
    connection.close()


@pytest.mark.parametrize("dump", OLDER, ids=lambda dump: dump.stem)
def test_a_journal_of_an_older_version_keeps_every_row(path, dump):
    older_journal(path, dump)
    moved = []
    with Journal(path, lambda target, why: moved.append(why)) as journal:
        finished, live = journal.runs()
        journal.write(replace(live, step=8, own_mode="observe"))
        journal.ask(RequestRecord("undo", "cats-2", "", 1.0))
    assert moved == []
    assert (finished.run_id, finished.outcome, finished.step, finished.arm, finished.own_mode) == (
        "cats-1",
        "finished",
        400,
        "",
        "",
    )
    with Reader(path) as reader:
        assert (reader.run("cats-2").step, reader.run("cats-2").own_mode) == (8, "observe")
        assert reader.changes("cats-1")[0].what == "micro_batch 32 to 16"
        assert [len(rows) for rows in (reader.decisions("cats-1"), reader.telemetry("cats-1"), reader.machine())] == [1, 1, 1]
        assert reader.evaluations("cats-1")[0].held_out_loss == 0.25
        assert [pin.knob for pin in reader.pins("cats-2")] == ["micro_batch"]
        assert [record.why for record in reader.quarantine("m")] == ["killed with memory at 95 %"]
        assert reader.advice()[0].to_value is None


def test_every_older_version_has_its_journal_here():
    assert [dump.stem for dump in OLDER] == [f"version-{number}" for number in range(1, SCHEMA_VERSION)]


def test_an_upgrade_that_is_interrupted_leaves_the_older_journal(path, monkeypatch):
    older_journal(path, OLDER[0])
    before = sorted(sqlite3.connect(path).iterdump())
    monkeypatch.setattr(schema.Table, "statements", lambda table: iter(("this is no SQL",)))
    with pytest.raises(JournalError):
        Journal(path)
    assert sorted(sqlite3.connect(path).iterdump()) == before


def test_a_reader_of_an_older_journal_says_who_brings_it_up_to_date(path):
    older_journal(path, OLDER[-1])
    with pytest.raises(JournalError, match=r"schema version 4; the daemon brings it to version 5 when it starts"):
        Reader(path)


def test_a_request_waits_for_its_answer(journal, path):
    number = journal.ask(RequestRecord("undo", "r-1", "", 5.0))
    (waiting,) = journal.open_requests()
    assert (waiting.request_id, waiting.answered_unix) == (number, None)
    journal.write(replace(waiting, answered_unix=6.0, done=1, answer="undone"))
    journal.commit()
    assert journal.open_requests() == []
    with Reader(path) as reader:
        assert reader.request(number).answer == "undone"
