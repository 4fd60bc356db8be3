"""Real processes: killed, forked, spawned, ranked, out of disk. What they leave behind is what a daemon would read."""

import signal
from pathlib import Path

import pytest

from autotuner.hook.ring import RingReader
from autotuner.messages import OUTCOMES, Declaration, Goodbye, Sample

ATTACH = """
from autotuner.hook import attach, knob
run = attach("child", knobs={"micro_batch": knob(64, [8, 16, 32, 64])})
print(run.directory, flush=True)
"""


def finish(process):
    out, err = process.communicate(timeout=60)
    return out.split(), err


def records(directory):
    reader = RingReader(Path(directory) / "telemetry.ring")
    try:
        return reader.read()
    finally:
        reader.close()


def outcomes(directory):
    return [OUTCOMES[record.outcome] for record in records(directory) if isinstance(record, Goodbye)]


def test_the_last_record_of_a_killed_training_is_still_there(python):
    code = "import os, signal\nfor step in range(1, 51):\n    run.report(step, 0.5)\nos.kill(os.getpid(), signal.SIGKILL)"
    (directory,), _ = finish(python(ATTACH + code))
    assert [record.step for record in records(directory)] == list(range(1, 51))


def test_reports_without_a_pause_reach_the_file_in_order_and_with_the_next_poll(python):
    code = """
import os, signal
for step in range(1, 10_001):
    run.report(step, 1 / step, peak_bytes=step)
run.poll()
os.kill(os.getpid(), signal.SIGKILL)
"""
    (directory,), _ = finish(python(ATTACH + code))
    reader = RingReader(Path(directory) / "telemetry.ring")
    found = reader.read()
    reader.close()
    assert [record.step for record in found] == list(range(10_001 - 4096, 10_001))
    assert found[-1].peak_bytes == 10_000
    assert reader.lost == 10_000 - 4096


def test_a_training_killed_in_the_middle_of_reporting_leaves_whole_records(python):
    process = python(ATTACH + "step = 0\nwhile True:\n    step += 1\n    run.report(step, 1 / step, images=step)")
    directory = process.stdout.readline().strip()
    reader = RingReader(Path(directory) / "telemetry.ring")
    seen = []
    while not seen or seen[-1].step < 5000:
        seen += reader.read()
    process.send_signal(signal.SIGKILL)
    finish(process)
    seen += reader.read()
    reader.close()
    steps = [record.step for record in seen]
    assert steps == sorted(set(steps))
    assert all(record.images == record.step and record.loss == 1 / record.step for record in seen)
    assert steps[-1] == reader.sequence


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("", "finished"),
        ("raise SystemExit(0)", "finished"),
        ("raise ValueError('diverged')", "failed"),
        ("raise KeyboardInterrupt", "interrupted"),
        ("run.close('interrupted')", "interrupted"),
    ],
)
def test_the_end_of_the_process_closes_the_run(python, ending, outcome):
    (directory,), _ = finish(python(ATTACH + ending))
    assert outcomes(directory) == [outcome]


def test_the_declared_pid_is_that_of_the_process(python):
    process = python(ATTACH)
    (directory,), _ = finish(process)
    assert Declaration.from_json((Path(directory) / "run.json").read_text()).pid == process.pid


def test_a_forked_child_is_inert_and_its_end_is_not_the_end_of_the_run(python):
    code = """
import os, sys
run.report(1, 0.5)
if os.fork() == 0:
    run.report(2, 0.5)
    run.evaluation(2, 0.5)
    run.set("micro_batch", 8)
    run.close("failed")
    sys.exit(0 if run.directory is None else 1)
_, status = os.wait()
run.report(3, 0.5)
print(status, run.knobs.micro_batch)
"""
    (directory, status, micro_batch), err = finish(python(ATTACH + code))
    assert (status, micro_batch, err) == ("0", "64", "")
    found = records(directory)
    assert [record.step for record in found if isinstance(record, Sample)] == [1, 3]
    assert len(found) == 3
    assert outcomes(directory) == ["finished"]


def test_a_forked_child_may_attach_itself(python):
    code = """
import os
if os.fork() == 0:
    own = attach("child")
    own.report(7, 0.5)
    print(own.directory, flush=True)
    raise SystemExit
os.wait()
"""
    (parent, child), _ = finish(python(ATTACH + code))
    assert parent != child
    assert [record.step for record in records(child) if isinstance(record, Sample)] == [7]
    assert (outcomes(parent), outcomes(child)) == (["finished"], ["finished"])


def test_a_spawned_process_gets_an_inert_run(python, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("""
import multiprocessing
from autotuner.hook import attach, knob

def work(run):
    run.report(2, 0.5)
    print(run.knobs.micro_batch, run.directory, flush=True)

if __name__ == "__main__":
    run = attach("parent", knobs={"micro_batch": knob(64, [8, 64])})
    print(run.directory, flush=True)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(run,))
    process.start()
    process.join()
    run.report(1, 0.5)
""")
    (directory, micro_batch, place), err = finish(python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"))
    assert (micro_batch, place, err) == ("64", "None", "")
    assert [record.step for record in records(directory) if isinstance(record, Sample)] == [1]


def test_a_file_size_limit_turns_the_hook_off_and_training_goes_on(python, state):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
    code = limit + ATTACH + "run.report(1, 0.5); print(run.knobs.micro_batch)"
    out, err = finish(python(code))
    assert out == ["None", "64"]
    assert err.count("AutotunerWarning") == 1
    assert "training goes on" in err
    assert list((state / "runs").iterdir()) == []


def test_an_interrupt_from_the_keyboard_in_the_middle_of_a_report_ends_the_run_as_interrupted(python):
    process = python(ATTACH + "step = 0\nwhile True:\n    step += 1\n    run.report(step, 1 / step, images=step)")
    directory = process.stdout.readline().strip()
    reader = RingReader(Path(directory) / "telemetry.ring")
    while reader.sequence < 3000:
        reader.read()
    reader.close()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert "AutotunerWarning" not in errors
    found = records(directory)
    assert outcomes(directory) == ["interrupted"]
    assert all(record.images == record.step for record in found if isinstance(record, Sample))


CELL = """
run = attach("notebook", knobs={"micro_batch": knob(64, [8, 64])}); print(run.directory, flush=True)

for step in range(1, 4):
    run.report(step, 0.5)

"""


@pytest.mark.parametrize(
    ("between", "ended"),
    [
        ("", "finished"),
        ("raise ValueError('diverged')\n", "failed"),
        ("raise KeyboardInterrupt\n", "interrupted"),
        ("run.close('finished'); raise ValueError('a later cell')\n", "finished"),
    ],
)
def test_a_cell_that_is_run_again_ends_its_earlier_run(python, between, ended):
    session = "raise ValueError('an earlier cell')\nfrom autotuner.hook import attach, knob\n" + CELL + between + CELL
    process = python("", "-i", "-q")
    out, _ = process.communicate(session + "exit()\n", timeout=60)
    first, second = out.split()
    assert outcomes(first) == [ended]
    assert [record.step for record in records(first) if isinstance(record, Sample)] == [1, 2, 3]
    assert [record.step for record in records(second) if isinstance(record, Sample)] == [1, 2, 3]


def test_a_script_may_have_several_runs_of_one_name(python):
    code = """
other = attach("child")
for step in range(1, 4):
    run.report(step, 0.5)
    other.report(10 * step, 0.5)
print(other.directory)
"""
    (first, second), _ = finish(python(ATTACH + code))
    assert [record.step for record in records(first) if isinstance(record, Sample)] == [1, 2, 3]
    assert [record.step for record in records(second) if isinstance(record, Sample)] == [10, 20, 30]
