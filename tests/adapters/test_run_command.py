"""``autotuner run``: real child processes, each a few lines long."""

import json
import os
import signal
import subprocess
import sys

import pytest

from autotuner.adapters.child import STARTUP, run_child, startup_environment
from autotuner.cli import main

DIES_OF_MEMORY = """
import os, sys
from autotuner.adapters import environment
from autotuner.adapters.table import offer
from autotuner.hook import attach
start = environment.start_values().get("micro_batch", 16)
ladder = [size for size in (2, 4, 8, 16) if size <= start]
run = attach(environment.run_name(), knobs={"micro_batch": offer("accelerate", "micro_batch", start, ladder)})
environment.note_run(run.directory)
if os.environ.get("MOVES"):
    run.set("micro_batch", 4)
print("micro-batch", int(start), *sys.argv[1:], flush=True)
if start > int(os.environ["FITS"]):
    raise RuntimeError("MPS backend out of memory (MPS allocated: 17.2 GB)")
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNER_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "train.py"
    path.write_text(DIES_OF_MEMORY)
    return str(path)


def run(monkeypatch, capfd, *words, fits=16):
    monkeypatch.setenv("FITS", str(fits))
    code = main(["run", *words])
    captured = capfd.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_a_run_that_fits_ends_once_and_quietly(script, monkeypatch, capfd):
    code, said, errors = run(monkeypatch, capfd, "--resume=--again", "--", script, "-x")
    assert (code, said, errors) == (0, ["micro-batch 16 -x"], "")


def test_knobs_that_moved_are_told_at_the_end(script, monkeypatch, capfd):
    monkeypatch.setenv("MOVES", "1")
    code, _, errors = run(monkeypatch, capfd, "--name", "cats", "--", script)
    assert (code, errors) == (0, "autotuner: cats: knobs moved once: micro_batch 16 to 4\n")


def test_out_of_memory_is_resumed_with_half_the_micro_batch(script, monkeypatch, capfd):
    code, said, errors = run(monkeypatch, capfd, "--resume", "--from latest", "--", sys.executable, script, fits=8)
    assert code == 0
    assert said == ["micro-batch 16", "micro-batch 8 --from latest"]
    assert "autotuner: MPS ran out of memory with micro_batch 16; it goes on from its checkpoint with micro_batch 8" in errors


def test_it_is_never_started_more_often_than_allowed(script, monkeypatch, capfd):
    code, said, errors = run(monkeypatch, capfd, "--restarts", "2", "--resume", "", "--", script, fits=1)
    assert code == 1
    assert said == ["micro-batch 16", "micro-batch 8", "micro-batch 4"]
    assert "it has been started again 2 times, as --restarts 2 allows" in errors


def test_without_resume_a_crash_is_told_and_final(script, monkeypatch, capfd):
    code, said, errors = run(monkeypatch, capfd, "--", script, fits=1)
    assert (code, len(said)) == (1, 1)
    assert "with --resume ARGS it would have gone on" in errors


def test_an_exception_of_the_scripts_own_is_not_tried_again(tmp_path, monkeypatch, capfd):
    code, _, errors = run(
        monkeypatch, capfd, "--resume", "", "--json", "--", sys.executable, "-c", "raise ValueError('bad shape')"
    )
    told = json.loads(errors.splitlines()[-1])
    assert code == 1
    assert (told["cause"], told["next"]) == ("exception", None)
    assert told["sentence"].endswith("ValueError: bad shape")


def test_a_signal_gives_the_shells_exit_code(monkeypatch, capfd):
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    code, _, errors = run(monkeypatch, capfd, "--", sys.executable, "-c", dies)
    assert code == 128 + signal.SIGKILL
    assert "SIGKILL, which the system sends when memory runs out" in errors


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run"], 2, "no command is given"),
        (["run", "--"], 2, "no command is given"),
        (["run", "--restarts", "-1", "--", "true"], 2, "--restarts -1; allowed is 0 or more"),
        (["run", "--knobs", "beauty", "--", "true"], 2, "'beauty' is not offered; allowed are micro_batch, pace, lr_scale"),
        (["run", "--", "no-such-command-here"], 127, "no-such-command-here: No such file or directory"),
    ],
)
def test_wrong_usage_is_answered_with_what_is_allowed(words, code, said, capfd):
    assert main(words) == code
    assert said in capfd.readouterr().err


def test_the_users_own_sitecustomize_and_path_are_kept(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.MINE = True")
    environment = startup_environment({**os.environ, "PYTHONPATH": str(tmp_path)}, {})
    assert environment["PYTHONPATH"].split(os.pathsep) == [STARTUP, str(tmp_path)]
    program = "import sitecustomize, sys; print(MINE, sitecustomize.__file__, 'accelerate' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", str(tmp_path / "sitecustomize.py"), "False"]
    assert said.stderr == ""


def test_the_adapter_is_installed_when_its_library_is_imported_and_never_breaks_it(tmp_path):
    package = tmp_path / "accelerate"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "accelerator.py").write_text("class Unlike: pass")
    environment = startup_environment({**os.environ, "PYTHONPATH": str(tmp_path)}, {})
    program = "import accelerate.accelerator as a; print(a.Unlike.__name__)"
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "Unlike\n"
    assert "does not fit this version of accelerate.accelerator and stays off; training goes on" in said.stderr


def test_autotuner_is_found_from_a_python_that_has_it_not(tmp_path):
    environment = startup_environment({"PATH": os.environ["PATH"]}, {})
    program = "import sys; sys.path.append(sys.argv[1]); import sitecustomize; import autotuner.hook as h; print(h.attach)"
    said = subprocess.run(
        [sys.executable, "-S", "-c", program, STARTUP],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "function attach" in said.stdout


def test_a_server_that_the_script_has_started_does_not_hold_us(tmp_path):
    program = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); sys.stderr.write('done')"
    )
    with (tmp_path / "stderr").open("wb+") as file, (tmp_path / "stdout").open("wb+") as out:
        code = f"import sys; sys.stdout = open({out.name!r}, 'w'); {program}"
        ending = run_child([sys.executable, "-c", code], os.environ, stderr=file.fileno())
        os.kill(int((tmp_path / "stdout").read_text()), signal.SIGKILL)
    assert (ending.code, ending.said) == (0, "done")


def test_a_child_has_a_terminal_for_its_progress_bars_when_we_have_one():
    ours, terminal = os.openpty()
    try:
        program = "import os, sys; sys.stderr.write(f'{sys.stderr.isatty()} {os.get_terminal_size(2).columns >= 0}')"
        ending = run_child([sys.executable, "-c", program], os.environ, stderr=terminal)
        assert ending.said == "True True"
        assert os.read(ours, 100) == b"True True"
    finally:
        os.close(ours)
        os.close(terminal)


def test_what_a_child_says_is_passed_on_and_its_end_is_kept(tmp_path):
    with (tmp_path / "stderr").open("wb+") as file:
        program = "import sys; sys.stderr.write('x' * 100_000 + 'the end'); sys.exit(3)"
        ending = run_child([sys.executable, "-c", program], os.environ, stderr=file.fileno())
        assert ending.code == 3
        assert ending.said.endswith("xthe end")
        assert len(ending.said) == 65_536
        file.seek(0)
        assert len(file.read()) == 100_007
