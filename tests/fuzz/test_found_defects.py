"""Every defect that damaged input has brought to light, as small as it can be told."""

import itertools
import json
import os
import sqlite3
import struct
import threading
import warnings
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from autotuner.config import load, origins, state_directory
from autotuner.controller.actions import ACTION_COUNT
from autotuner.controller.learned import Learned
from autotuner.controller.observation import FEATURES
from autotuner.daemon.address import read_address
from autotuner.daemon.run_files import RunFiles, read_declaration
from autotuner.daemon.socket_lines import DEEPEST, LineError, parse
from autotuner.errors import ArtefactError, AutotunerError, ConfigurationError, DeclarationError, JournalError, ProtocolError
from autotuner.hook.page import LAST_REVISION, PageWriter, create_page
from autotuner.hook.ring import HEADER_BYTES, MAX_CAPACITY, RingReader, RingWriter
from autotuner.journal import Journal, Reader, RunRecord
from autotuner.knobs import declare
from autotuner.messages import Evaluation, Sample
from tests.fuzz.artefact_input import CARD, SHAPES
from tests.fuzz.damage import deep
from tests.fuzz.journal_input import DECLARATION, RECORDS
from tests.fuzz.page_input import SLOT, _sealed
from tests.fuzz.ring_input import header
from tests.suites.fake_run import FakeRun

HOME = {"HOME": "/home/me"}
WHOLE_CARD = json.dumps(CARD).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 1" + "0" * 5000, "is not TOML"),
        ("port = 0x" + "f" * 8000, "a number with thousands of digits"),
        ("tick_seconds = 0x" + "f" * 8000, "a number with thousands of digits"),
        ("port = inf", "port = inf; expected int"),
        ("port = 1.5", "port = 1.5; expected int"),
        ("x = " + "[" * 3000, "is not TOML"),
        ("policy = [1]", r"policy = \[1\]; expected str"),
        ('policy = "\\u0000"', "expected str"),
        ('state_directory = "~nobody-here/x"', "no such home directory"),
        ("#" * 200_000, "more than 100000 bytes"),
        ("a" * 5000 + " = 1", "unknown setting 'aaa"),
    ],
)
def test_a_settings_file_that_overruns_a_number_or_a_parser_is_refused(tmp_path, text, message):
    path = tmp_path / "autotuner.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as error:
        load(path, environment=HOME)
    assert len(str(error.value)) < 1000


def test_the_origins_of_a_damaged_file_are_an_error_too(tmp_path):
    path = tmp_path / "autotuner.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        origins(path, environment=HOME)


def test_the_home_of_nobody_is_told_by_its_variable():
    with pytest.raises(ConfigurationError, match="AUTOTUNER_STATE_DIR = '~nobody-here'"):
        state_directory({"AUTOTUNER_STATE_DIR": "~nobody-here"})


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"a": [float("nan")]}}, {"model": deep(40)}, {"search_space": {"a": [float("inf")]}},
        {"pid": -1}, {"pid": 2**31}, {"created_unix": 1e299}, {"created_unix": -1.0},
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_be_written_again_or_shown_is_refused(change):
    with pytest.raises(DeclarationError):
        replace(DECLARATION, **change).check()


@pytest.mark.parametrize(
    "knob", [("x" * 5000, 1, [1]), ("pace", 10**400, [1]), ("pace", 1, ["9" * 5000]), ("pace", 1, [1], "x" * 5000)]
)
def test_a_knob_that_is_refused_is_told_in_a_readable_length(knob):
    with pytest.raises(DeclarationError) as error:
        declare(*knob)
    assert len(str(error.value)) < 500


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path):
    run = FakeRun(tmp_path)
    for name in ("run.json", "telemetry.ring", "knobs.page"):
        (run.directory / name).unlink()
        os.mkfifo(run.directory / name)
    with pytest.raises(OSError, match="no regular file"):
        read_declaration(run.directory)
    files = RunFiles(run.directory)
    assert files.read() == []
    assert "telemetry cannot be read" in files.problem
    files.heartbeat(1.0, "act")
    files.close()


@pytest.mark.parametrize("capacity", [3, MAX_CAPACITY * 2, 2**31])
def test_a_ring_whose_capacity_nobody_writes_is_refused_before_it_is_read(tmp_path, capacity):
    path = tmp_path / "ring"
    path.write_bytes(header(capacity))
    with pytest.raises(ProtocolError, match="damaged header"):
        RingReader(path)


def test_a_writer_that_never_pauses_does_not_keep_the_reader(tmp_path, monkeypatch):
    ring = RingWriter(tmp_path / "ring", 16)
    steps = itertools.count(1)
    plain = os.pread

    def pread(file, count, offset):
        for _ in range(count // 128 if offset >= HEADER_BYTES else 0):
            ring.sample(next(steps), 1.0, 0.5, 0, 0.1, 0, 0, 0, 0, 0, 0)
        return plain(file, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    with closing(RingReader(tmp_path / "ring")) as reader:
        assert 0 < len(reader.read()) <= 2 * reader.capacity


def test_numbers_that_no_training_measures_count_as_unknown(tmp_path):
    run = FakeRun(tmp_path)
    for loss in (0.5, 1e300, 5e-324, -1e308, float("inf")):
        run.sample(1.0, loss)
        run.evaluate(2.0, loss)
    run.sample(1e300, 0.5)
    run.sample(-1.0, 0.5)
    files = RunFiles(run.directory)
    records = files.read()
    files.close()
    losses = [record.loss for record in records if isinstance(record, Sample)]
    held_out = [record.held_out_loss for record in records if isinstance(record, Evaluation)]
    assert losses[0] == held_out[0] == 0.5
    assert len(losses) == len(held_out) == 5
    assert all(value != value for value in losses[1:] + held_out[1:])
    assert files.lost == 2


def test_a_page_whose_revision_numbers_are_used_up_is_refused(tmp_path):
    path = tmp_path / "page"
    create_page(path, (0,), 0.0)
    with path.open("r+b") as file:
        file.seek(64)
        file.write(_sealed(SLOT.pack(2**64 - 2, 0.0, 1, *[0] * 16)))
        file.seek(16)
        file.write(struct.pack("<Q", 2**64 - 2))
    with pytest.raises(ProtocolError, match=str(LAST_REVISION)):
        PageWriter(path)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 200, 900])
def test_a_line_that_nests_deeply_is_refused_as_a_line(depth):
    line = b'{"type": "declare", "name": "a", "model": {"a": ' + b"[" * depth + b"]" * depth + b"}}"
    with pytest.raises(LineError, match=r"nests deeper|not JSON"):
        parse(line)


@pytest.mark.parametrize(
    "change",
    [
        {"knobs": 5}, {"knobs": "pace"}, {"name": ["x"]}, {"features": 5}, {"actions": {"a": 1}}, {"sha256": 5},
        {"observation_version": "9" * 5000},
    ],
)  # fmt: skip
def test_a_card_with_fields_of_other_types_is_refused(tmp_path, change):
    write_artefact(tmp_path, card=json.dumps({**CARD, **change}).encode())
    with pytest.raises(ArtefactError) as error:
        Learned.load(tmp_path)
    assert len(str(error.value)) < 1000


def test_a_card_that_nests_deeply_is_refused(tmp_path):
    write_artefact(tmp_path, card=b"[" * 90_000)
    with pytest.raises(ArtefactError, match="not JSON"):
        Learned.load(tmp_path)


@pytest.mark.parametrize(("weight", "loads"), [(1e5, True), (1e7, False), (3e38, False)])
def test_weights_that_could_overflow_are_refused(tmp_path, weight, loads):
    write_artefact(tmp_path, weight=weight)
    if not loads:
        with pytest.raises(ArtefactError, match="or beyond"):
            Learned.load(tmp_path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Learned.load(tmp_path).choose((1e30,) * len(FEATURES), (True,) * ACTION_COUNT)


def test_an_artefact_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "card.json")
    refused = []

    def load_it():
        try:
            Learned.load(tmp_path)
        except ArtefactError as error:
            refused.append(str(error))

    thread = threading.Thread(target=load_it, daemon=True)
    thread.start()
    thread.join(10.0)
    assert "no regular file" in refused[0]


def write_artefact(directory, card=WHOLE_CARD, weight=0.1):
    (directory / "card.json").write_bytes(card)
    arrays = {name: np.full(shape, weight, np.float32) for name, shape in SHAPES.items()}
    (directory / "policy.safetensors").write_bytes(save(arrays))


@pytest.mark.parametrize(
    "change",
    [
        {"port": "1@other"},
        {"port": 2**70},
        {"port": None},
        {"pid": 2**70},
        {"pid": -1},
        {"pid": "1"},
        {"colour": 1},
        "[" * 90_000,
    ],
)
def test_an_address_that_no_daemon_wrote_is_none(tmp_path, change):
    whole = {"pid": os.getpid(), "port": 9871, "started_unix": 1.0, "version": "1"}
    (tmp_path / "daemon.json").write_text(json.dumps(whole))
    assert read_address(tmp_path) is not None
    (tmp_path / "daemon.json").write_text(change if isinstance(change, str) else json.dumps({**whole, **change}))
    assert read_address(tmp_path) is None


@pytest.fixture
def journal_path(tmp_path):
    path = tmp_path / "journal.sqlite3"
    with closing(Journal(path)) as journal:
        for record in RECORDS:
            journal.write(record)
        journal.commit()
        journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize("value", ["many", b"\xff", None])
def test_a_cell_of_another_type_is_a_journal_error_and_not_a_row(journal_path, value):
    with closing(sqlite3.connect(journal_path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'step INTEGER NOT NULL', 'step') WHERE name = 'runs'")
        connection.commit()
    with closing(sqlite3.connect(journal_path)) as connection:
        connection.execute("UPDATE runs SET step = ?", (value,))
        connection.commit()
    with Reader(journal_path) as reader, pytest.raises(JournalError, match="table runs holds a row whose values"):
        reader.runs()


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[" * 5000, '{"knobs": 3}', '{"knobs": [{}]}'])
def test_a_row_whose_json_is_none_is_a_journal_error(text):
    run = RunRecord("r", "r", "", "", text, 1.0, 1.0)
    with pytest.raises(JournalError):
        _ = run.last_values
    with pytest.raises(AutotunerError):
        _ = run.declaration
    if not text.startswith("{"):
        with pytest.raises(JournalError):
            _ = run.trial


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (44, b"\xff\xff\xff\xff"),  # the schema format, of which SQLite says "unsupported file format"
        (100, None),  # the first page's tree, with names that are no text any more
    ],
)
def test_damage_that_sqlite_calls_an_operational_error_is_moved_aside(journal_path, offset, value):
    data = bytearray(journal_path.read_bytes())
    if value is None:
        for i in range(2000, 4096):
            data[i] = data[i] | 0x80 if data[i] else 0
    else:
        data[offset : offset + len(value)] = value
    journal_path.write_bytes(data)
    with pytest.raises(JournalError), Reader(journal_path) as reader:
        reader.runs()
    aside = []
    with closing(Journal(journal_path, lambda target, why: aside.append(target))) as journal:
        assert journal.runs() == []
    assert aside[0].read_bytes()[100:] == bytes(data)[100:]
