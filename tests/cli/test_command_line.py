"""What a person sees: commands run in this process over a journal made by hand."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autotuner import cli
from autotuner.cli import COMMANDS, main
from autotuner.cli.text import duration, number, percent, size, table
from autotuner.journal import (
    AdviceRecord,
    journal_path,
)
from tests.cli.one_run import run


def test_help_lists_every_command_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {command.name}" in said and command.sentence in said for command in COMMANDS)
    assert "3  another daemon" in said
    assert "4  no daemon answers" in said


def test_help_imports_nothing_that_is_slow():
    code = (
        "import sys\nfrom autotuner.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('sqlite3', 'structlog', 'numpy', 'apscheduler', 'urllib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_an_unknown_command_is_told_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])
    assert ended.value.code == 2
    assert "explain" in capsys.readouterr().err


def test_status_without_a_daemon_is_the_journals_record_and_says_so(capsys, journal):
    code, out, err = run(capsys, "status")
    assert code == cli.NO_DAEMON
    assert "no daemon is running" in err
    row = next(line for line in out.splitlines() if line.startswith("cats-1"))
    assert row.split()[:2] == ["cats-1", "unknown"]
    assert "0.031" in row
    assert "3 GiB" in row


def test_status_without_a_journal_is_an_error_that_names_the_place(capsys, state):
    code, _, err = run(capsys, "status")
    assert code == 1
    assert str(journal_path(state)) in err


def test_status_as_json_can_be_read_by_a_program(capsys, journal):
    code, out, _ = run(capsys, "status", "--json")
    assert code == cli.NO_DAEMON
    assert json.loads(out)["runs"][0]["run_id"] == "cats-1"


def test_status_shows_a_daemons_document(capsys, journal, monkeypatch):
    knob = {"name": "micro_batch", "unit": "images", "values": [8, 16, 32], "asked": 8, "acknowledged": 16, "pinned": True}
    shown = {
        "run_id": "cats-1", "state": "live", "step": 400, "loss": 0.02, "held_out_loss": None, "images_per_second": 640.0,
        "peak_bytes": 2**30, "budget_used": 0.25, "knobs": [knob], "last_what": "micro_batch 16 to 8", "last_why": "heat",
    }  # fmt: skip
    machine = {
        "memory_available_bytes": 2**33, "memory_total_bytes": 2**34, "memory_pressure": 1, "thermal_level": None,
        "celsius": 61.4, "injected": True,
    }  # fmt: skip
    document = {
        "version": "0.1", "mode": "advise", "policy": "rules", "unix_time": 7300.0, "started_unix": 100.0, "machine": machine,
        "sensors": [{"up": True}, {"name": "macmon", "up": False, "reason": "gone"}],
        "problems": ["nothing is changed: disk full"], "runs": [shown],
    }  # fmt: skip
    monkeypatch.setattr("autotuner.cli.status.ask", lambda address: document)
    monkeypatch.setattr("autotuner.cli.status.read_address", lambda state: type("Address", (), {"url": "http://x"}))
    journal.write(AdviceRecord("abc", "cats-1", "pace", "pace 1 to 0.5", "hot", 1.0, 2.0))
    journal.commit()
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert "mode advise, policy rules, up 2 h" in out
    assert "memory 8 GiB of 16 GiB available, pressure warn, heat unknown, 61 °C  (injected" in out
    assert "1 of 2 answer" in out
    assert "macmon: gone" in out
    assert "nothing is changed: disk full" in out
    assert "abc  cats-1: pace 1 to 0.5: hot" in out
    assert "8 [16] 32" in out
    assert "asked for 8, pinned" in out
    assert "last: micro_batch 16 to 8: heat" in out
    assert "25 %" in out


def test_a_pin_and_its_release_are_left_in_the_journal(capsys, journal):
    code, out, err = run(capsys, "pin", "cats", "micro_batch", "--value", "8")
    assert (code, out) == (0, "pinned micro_batch of cats-1 at 8\n")
    assert "takes effect when one starts" in err
    assert [(pin.knob, pin.value, pin.origin) for pin in journal.pins("cats-1")] == [("micro_batch", 8.0, "you")]
    assert run(capsys, "release", "cats", "micro_batch")[1] == "released micro_batch of cats-1\n"
    assert journal.pins() == []
    assert run(capsys, "release", "cats", "micro_batch")[1] == "micro_batch of cats-1 was not pinned\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("micro_batch", "--value", "9"), "micro_batch = 9 is not on the run's ladder; allowed: 8 16 32"),
        (("resolution",), "offers no knob 'resolution'; it offers: micro_batch, pace"),
    ],
)
def test_a_pin_that_cannot_be_kept_is_refused_with_what_can(capsys, journal, words, sentence):
    code, _, err = run(capsys, "pin", "cats", *words)
    assert code == 1
    assert sentence in err
    assert journal.pins() == []


def test_a_pin_while_everything_is_off_says_when_it_holds(capsys, journal):
    run(capsys, "off")
    assert "it takes effect after: autotuner on" in run(capsys, "pin", "cats", "pace")[2]


def test_an_ended_run_cannot_be_pinned(capsys, journal):
    journal.update_run("cats-1", ended_unix=1100.0, outcome="finished")
    journal.commit()
    assert "has ended (finished)" in run(capsys, "pin", "cats", "pace")[2]


def test_config_show_names_the_origin_of_each_value(capsys, state, monkeypatch):
    (state / "autotuner.toml").write_text("retention_days = 7\nport = 1\n")
    monkeypatch.setenv("AUTOTUNER_PORT", "2")
    code, out, _ = run(capsys, "config", "show", "--mode", "observe")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}
    assert code == 0
    assert rows["retention_days"] == ["7", str(state / "autotuner.toml")]
    assert rows["port"] == ["2", "AUTOTUNER_PORT"]
    assert rows["mode"] == ["'observe'", "flag --mode"]
    assert rows["policy"] == ["'default'", "default"]


def test_a_wrong_setting_ends_with_two_but_does_not_make_a_service_restart(capsys, state):
    assert run(capsys, "daemon", "--mode", "fast")[0] == 2
    code, _, err = run(capsys, "daemon", "--mode", "fast", "--service")
    assert code == 0
    assert "mode = 'fast'; allowed: observe, advise, act" in err
    assert "stays down" in err


def test_a_dry_run_prints_the_configuration_and_starts_nothing(capsys, state):
    code, out, _ = run(capsys, "daemon", "--dry-run", "--port", "0")
    assert code == 0
    assert "flag --port" in out
    assert list(state.iterdir()) == []


def test_doctor_fails_when_the_state_directory_cannot_be_used(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("autotuner.cli.doctor._engine", lambda config: iter(()))
    monkeypatch.setattr("autotuner.cli.doctor.CHECKS", checks_without_child())
    code, out, _ = run(capsys, "doctor", "--state-dir", str(tmp_path / "file" / "below"))
    assert code == 1
    assert any(line.startswith("FAIL  state directory") for line in out.splitlines())


def checks_without_child():
    from autotuner.cli import doctor

    return tuple(check for check in doctor.CHECKS if check.__name__ != "_engine")


def test_doctor_says_one_line_a_check_and_what_to_do(capsys, state, journal, monkeypatch):
    monkeypatch.setattr("autotuner.cli.doctor.CHECKS", checks_without_child())
    (state / "journal.corrupt-1").write_text("")
    run(capsys, "off")
    state.chmod(0o755)
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert f"chmod 700 '{state}'" in out
    assert "autotuner service install" in out
    assert "nothing is changed until: autotuner on" in out
    assert "1 runs, 1 not ended" in out
    assert "journal.corrupt-1 was damaged" in out
    assert all(line.split()[0] in ("OK", "NONE", "WARN", "FAIL") for line in out.splitlines()[1:])


def test_doctor_tells_of_a_damaged_journal(capsys, state, monkeypatch):
    monkeypatch.setattr("autotuner.cli.doctor.CHECKS", checks_without_child())
    journal_path(state).write_bytes(b"rubbish" * 1000)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert any(line.startswith("FAIL  journal") for line in out.splitlines())


def test_doctor_says_that_the_daemon_brings_an_older_journal_up_to_date(capsys, state, monkeypatch):
    monkeypatch.setattr("autotuner.cli.doctor.CHECKS", checks_without_child())
    older = Path(__file__).parents[1] / "fixtures" / "journal" / "version-1.sql"
    with contextlib.closing(sqlite3.connect(journal_path(state))) as connection:
        connection.executescript(older.read_text())
    _, out, _ = run(capsys, "doctor")
    (line,) = [line for line in out.splitlines() if " journal " in line]
    assert line.startswith("WARN")
    assert "the daemon brings it to version" in line


@pytest.mark.parametrize(
    ("child", "level", "words"),
    [
        ("print('True|MLX 1 on cpu: fine')", "OK", "MLX 1 on cpu: fine"),
        ("print('False|MLX 1 on cpu: slow')", "WARN", "slow"),
        ("raise SystemExit('libblas is broken')", "FAIL", "libblas is broken"),
    ],
)
def test_doctor_asks_a_child_for_mlx(child, level, words, monkeypatch):
    from autotuner.cli import doctor

    monkeypatch.setattr(doctor, "_MLX_CHECK", child)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    (finding,) = doctor._engine(None)
    assert (finding.level, finding.subject) == (level, "MLX")
    assert words in finding.text


def test_a_recording_for_us_is_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("autotuner.cli.doctor_record.PROBES", {})  # they start children
    code, out, _ = run(capsys, "doctor", "--record", str(tmp_path / "mac.json"))
    assert code == 0
    assert "readings" in json.loads((tmp_path / "mac.json").read_text())
    assert "mac.json" in out


def test_a_missing_extra_is_told_with_how_to_get_it(capsys, monkeypatch, state):
    def lacking(arguments):
        raise ModuleNotFoundError("No module named 'structlog'", name="structlog")

    monkeypatch.setattr("autotuner.cli.status.run", lacking)
    code, _, err = run(capsys, "status")
    assert code == 2
    assert "pip install 'diffusion-autotuner[daemon]'" in err


def test_a_defect_of_ours_is_not_dressed_up_as_a_missing_extra(monkeypatch, state):
    def broken(arguments):
        raise ModuleNotFoundError("No module named 'autotuner.nonsense'", name="autotuner.nonsense")

    monkeypatch.setattr("autotuner.cli.status.run", broken)
    with pytest.raises(ModuleNotFoundError):
        main(["status"])


def test_the_demo_gets_its_words_untouched(monkeypatch):
    words = []
    monkeypatch.setattr("autotuner.demo.main.main", lambda given: words.extend(given) or 7)
    assert main(["demo", "--seconds", "30"]) == 7
    assert words == ["--seconds", "30"]


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("autotuner ")


def test_exit_codes_differ():
    assert len({cli.OK, cli.FOUND_WRONG, cli.USAGE, cli.ALREADY_RUNNING, cli.NO_DAEMON}) == 5


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "-"), (number(0.0123456), "0.01235"), (number(1234567.0), "1,234,567"), (size(None), "-"),
        (size(0), "0 B"), (size(1536), "1.5 KiB"), (size(3 * 2**30), "3 GiB"), (duration(None), "-"), (duration(-1), "0.0 s"),
        (duration(0.25), "0.2 s"), (duration(61), "1 min 1 s"), (duration(90_061), "1 d 1 h"), (percent(0.456), "46 %"),
    ],
)  # fmt: skip
def test_numbers_look_the_same_everywhere(shown, expected):
    assert shown == expected


def test_a_table_is_aligned_and_has_no_trailing_blanks():
    text = table(("NAME", "N"), [("a", "10"), ("longer", "9")], right=(1,))
    assert text == "NAME     N\na       10\nlonger   9"
