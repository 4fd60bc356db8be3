"""Faults injected into real processes: training's own results stay what they are without a daemon, and the status tells."""

import json
import os
import resource
import signal
import subprocess
import time

import pytest

from autotuner.hook.page import PageReader
from autotuner.hook.ring import RingReader
from autotuner.telemetry.scripted import InjectedState
from tests.end_to_end.conftest import wait_for

LADDER = (4, 8, 16, 32, 64, 128)
START = 32
# Least squares by stochastic gradient descent with accumulated gradients: ``fsum`` rounds once, whatever the micro-batches are,
# so that the results depend on the number of steps alone. It trains until the file exists, or for the number of steps given.
TRAINING = f"""
import hashlib, math, os, random, sys, time
from autotuner.hook import attach, knob

finish, steps = sys.argv[1], int(sys.argv[2])
run = attach("cats", framework="fake", budget_seconds=600, knobs={{
    "micro_batch": knob({START}, {list(LADDER)}), "pace": knob(1.0, [0.5, 0.75, 1.0])}})
print(run.directory.name, flush=True)
data, weight, results, step = random.Random(7), 0.0, hashlib.sha256(), 0
while step < steps if steps else not os.path.exists(finish):
    batch, gradients, losses = [data.gauss(0.0, 1.0) for _ in range(128)], [], []
    size = run.knobs.micro_batch
    for first in range(0, 128, size):
        for x in batch[first:first + size]:
            error = (weight - 3.0) * x
            gradients.append(error * x)
            losses.append(error * error)
    weight -= 0.01 * math.fsum(gradients) / 128
    loss = math.fsum(losses) / 128
    results.update(repr((weight, loss)).encode())
    time.sleep(0.0 if steps else 0.005)
    step += 1
    run.report(step, loss, images=128 * step, step_seconds=0.005,
               active_bytes=size * 2**20, cache_bytes=2**20, peak_bytes=size * 2**20)
run.close()
print(step, results.hexdigest(), run.knobs.micro_batch, run.knobs.pace)
"""
# What a daemon under a fault runs before its own first line.
DAEMON = "import sys; from autotuner.__main__ import main; sys.exit(main(sys.argv[1:]))"
NO_SENSOR_READS = """
from autotuner.telemetry import memory_psutil
from autotuner.telemetry.host import Host
def broken(*arguments): raise OSError("the sensor is gone")
Host.text = Host.paths = memory_psutil.MemoryPsutil.read = broken
"""
STALLED_SOON = """
from autotuner.daemon import runs
runs.STALLED_SECONDS = 0.3
"""
OF_ANOTHER_VERSION = """
from autotuner import messages
messages.PROTOCOL_VERSION = 99
"""


class Scene:
    """One training, a daemon that hears of memory pressure from a file, and the way to ask both how they are."""

    def __init__(self, stage, directory):
        self.stage, self.directory, self.injected = stage, directory, directory / "injected.json"
        self.pressure(0)
        self.training = self._train(directory / "finish", 0)
        self.run_id = self.training.stdout.readline().strip()
        self.run_directory = stage.state / "runs" / self.run_id
        self.page = PageReader(self.run_directory / "knobs.page")

    def _train(self, finish, steps):
        return self.stage.start("-c", TRAINING, str(finish), str(steps), output=subprocess.PIPE)

    def pressure(self, level):
        InjectedState(time.monotonic(), memory_pressure=level).write(self.injected)
        return True

    def daemon(self, prelude=""):
        words = ("-c", prelude + DAEMON)
        return self.stage.daemon("--injected-readings", str(self.injected), program=words)

    def status(self):
        return json.loads(self.stage.get("/api/status"))

    def problems(self):
        return self.status()["problems"]

    def state(self):
        return next((run["state"] for run in self.status()["runs"] if run["run_id"] == self.run_id), None)

    def guided(self):
        """Memory pressure makes the guard act: wait until the script has answered a new ask of a smaller micro-batch."""

        def answered():
            self.pressure(2)
            return [
                change
                for change in self.stage.changes(self.run_id)
                if change.revision > before and change.state in ("acknowledged", "observed")
            ]

        before = self.page.revision().number
        (change, *_) = wait_for(answered, "an acknowledged change")
        self.pressure(0)
        assert (change.knob, change.to_value < change.from_value) == ("micro_batch", True)

    def log(self):
        path = self.stage.state / "logs" / "daemon.log"
        return path.read_text() if path.exists() else ""

    def nothing_was_lost(self):
        """No record that the training wrote escaped the daemons; the journal and the status count the same."""
        assert next(run["lost_records"] for run in self.status()["runs"] if run["run_id"] == self.run_id) == 0
        assert self.stage.run(self.run_id).lost_records == 0

    def trained_on(self, steps=30):
        """Wait for this many more samples."""
        reader = RingReader(self.run_directory / "telemetry.ring")
        reader.read()
        wanted = reader.sequence + steps
        wait_for(lambda: reader.read() is None or reader.sequence >= wanted or self.training.poll() is not None, "samples")
        reader.close()

    def finish(self):
        """End the training; its results are those of an undisturbed run of as many steps."""
        assert self.training.poll() is None, "the training was ended"
        (self.directory / "finish").touch()
        output, _ = self.training.communicate(timeout=30)
        assert self.training.returncode == 0, output
        steps, results, micro_batch, pace = output.split()
        assert int(steps) > 20
        self.stage.state = self.directory / "undisturbed"  # no daemon looks there
        undisturbed, _ = self._train("never", steps).communicate(timeout=30)
        assert undisturbed.split()[1:] == [steps, results, str(START), "1.0"]
        assert int(micro_batch) in LADDER[: LADDER.index(START) + 1], "more memory than the script began with"
        assert float(pace) in (0.5, 0.75, 1.0)


@pytest.fixture
def scene(stage, tmp_path):
    return Scene(stage, tmp_path)


def overwrite(path):
    """The same file, its size kept, every byte replaced."""
    with path.open("r+b") as file:
        file.write(b"rubbish " * (path.stat().st_size // 8))


def cut_short(path):
    """What restoring half a file does: another file of the same name."""
    half = path.with_name("half")
    half.write_bytes(path.read_bytes()[:1000])
    os.replace(half, path)


def restart(daemon, scene):
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    return scene.daemon()


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        pytest.param("telemetry.ring", overwrite, "is not a telemetry ring", marks=pytest.mark.slow),
        ("telemetry.ring", cut_short, "is cut short"),
        pytest.param("knobs.page", overwrite, "is not a knob page", marks=pytest.mark.slow),
        pytest.param("knobs.page", os.unlink, "No such file", marks=pytest.mark.slow),
    ],
    ids=["ring overwritten", "ring cut short", "page overwritten", "page deleted"],
)
def test_a_damaged_file_of_a_run_costs_its_guidance_and_the_status_says_so(scene, name, damage, says):
    daemon = scene.daemon()
    scene.guided()
    damage(scene.run_directory / name)
    daemon = restart(daemon, scene)  # a running daemon has the file open, and may never notice
    (problem,) = wait_for(scene.problems, "the problem in the status")
    assert says in problem
    assert scene.run_id in problem
    assert says in scene.stage.cli("status").stdout
    assert "event=run_files" in (scene.stage.state / "logs" / "daemon.log").read_text()
    assert daemon.poll() is None
    scene.finish()


def test_rubbish_written_into_the_ring_is_counted_and_the_next_records_are_read(scene):
    daemon = scene.daemon()
    scene.guided()
    overwrite(scene.run_directory / "telemetry.ring")
    scene.guided()
    assert daemon.poll() is None
    assert scene.problems() == []
    scene.finish()


def test_a_daemon_that_hangs_freezes_the_knobs_and_goes_on_where_it_was(scene):
    daemon = scene.daemon()
    scene.guided()
    daemon.send_signal(signal.SIGSTOP)
    frozen = scene.page.revision()
    scene.trained_on(200)
    assert scene.page.revision() == frozen
    daemon.send_signal(signal.SIGCONT)
    scene.guided()
    scene.nothing_was_lost()
    assert daemon.poll() is None
    scene.finish()


def test_a_daemon_that_comes_late_or_again_reads_all_that_was_written_without_it(scene):
    scene.trained_on(100)
    daemon = scene.daemon()
    scene.guided()
    daemon.kill()
    daemon.wait()
    scene.trained_on(100)
    daemon = scene.daemon()
    scene.guided()
    scene.nothing_was_lost()
    assert daemon.poll() is None
    scene.finish()


def test_of_two_runs_of_one_name_at_once_one_may_die_and_the_other_goes_on(scene):
    daemon = scene.daemon()
    scene.guided()
    other = scene._train(scene.directory / "never", 0)
    other_id = other.stdout.readline().strip()

    def live():
        return {run["run_id"] for run in scene.status()["runs"] if run["state"] == "live"}

    wait_for(lambda: live() == {scene.run_id, other_id}, "two live runs")
    other.kill()
    wait_for(lambda: not scene.stage.run(other_id).live, "the end of the other run")
    assert scene.stage.run(other_id).outcome == "killed"
    scene.guided()
    assert live() == {scene.run_id}
    scene.nothing_was_lost()
    assert daemon.poll() is None
    scene.finish()


def test_a_daemon_of_another_version_leaves_the_run_alone_and_the_next_one_guides_it(scene):
    daemon = scene.daemon(OF_ANOTHER_VERSION)
    wait_for(lambda: "version" in scene.log() and scene.run_id in scene.log(), "the refusal in the log")
    before = scene.page.revision()
    scene.trained_on(100)
    assert (scene.page.revision(), scene.page.heartbeat()) == (before, None)
    daemon = restart(daemon, scene)
    scene.guided()
    scene.nothing_was_lost()
    assert daemon.poll() is None
    scene.finish()


@pytest.mark.parametrize("length", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_a_ring_that_is_cut_short_in_place_does_not_end_the_training(scene, length):
    path = scene.run_directory / "telemetry.ring"
    scene.trained_on()
    os.truncate(path, length)
    wait_for(lambda: path.stat().st_size > length or scene.training.poll() is not None, "a record after the cut")
    scene.finish()


@pytest.mark.parametrize("length", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_a_page_that_is_cut_short_in_place_costs_its_guidance_alone(scene, length):
    daemon = scene.daemon()
    scene.guided()
    os.truncate(scene.run_directory / "knobs.page", length)
    scene.trained_on()
    assert daemon.poll() is None
    scene.finish()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_a_ring_that_was_cut_short_and_cannot_grow_again_turns_the_hook_off_with_one_warning(scene):
    _, hard = resource.prlimit(scene.training.pid, resource.RLIMIT_FSIZE)
    scene.trained_on()
    resource.prlimit(scene.training.pid, resource.RLIMIT_FSIZE, (0, hard))  # like a full disk
    os.truncate(scene.run_directory / "telemetry.ring", 0)
    warning = scene.training.stdout.readline()
    assert "report failed and the hook is off; training goes on: OSError: [Errno 27] File too large" in warning
    scene.finish()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_a_journal_that_cannot_grow_freezes_every_knob_until_there_is_room(scene):
    daemon = scene.daemon()
    scene.guided()
    page_bytes, (soft, hard) = 4096, resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    # Like a full disk: what exists, as the knob page does, may be overwritten; what would grow may not.
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (page_bytes, hard))
    (problem,) = wait_for(scene.problems, "the problem in the status")
    assert problem.startswith("nothing is changed: journal ")
    wait_for(lambda: scene.page.heartbeat().mode == "observe", "the frozen mode on the page")
    frozen, beat = scene.page.revision(), scene.page.heartbeat().time
    wait_for(lambda: scene.pressure(2) and scene.page.heartbeat().time > beat + 1.0, "five decisions' time")
    assert scene.page.revision() == frozen, "a change was delivered that no journal knows"
    scene.pressure(0)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (soft, hard))
    wait_for(lambda: not scene.problems(), "the end of the problem")
    assert list(scene.stage.state.glob("*corrupt*")) == []
    scene.guided()
    daemon.terminate()
    assert daemon.wait(20) == 0
    scene.finish()


def test_sensors_that_all_fail_are_named_and_the_knobs_stay(scene):
    scene.injected.write_text("rubbish")
    daemon = scene.daemon(NO_SENSOR_READS)
    wait_for(lambda: scene.state() == "live", "the run in the status")
    status = scene.status()
    assert {sensor["up"] for sensor in status["sensors"]} == {False}
    assert all(sensor["reason"] for sensor in status["sensors"])
    assert "the sensor is gone" in str(status["sensors"])
    assert status["machine"]["memory_available_bytes"] is None
    said = scene.stage.cli("status").stdout
    assert "the sensor is gone" in said
    assert "are not JSON" in said
    assert daemon.poll() is None
    scene.finish()


def test_a_training_that_is_stopped_is_shown_as_stalled_and_goes_on_where_it_was(scene):
    daemon = scene.daemon(STALLED_SOON)
    scene.guided()
    scene.training.send_signal(signal.SIGSTOP)
    wait_for(lambda: scene.state() == "stalled", "the stalled run")
    assert scene.stage.run(scene.run_id).live
    scene.training.send_signal(signal.SIGCONT)
    wait_for(lambda: scene.state() == "live", "the run at work again")
    scene.guided()
    assert daemon.poll() is None
    scene.finish()
