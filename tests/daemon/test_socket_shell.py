"""A run that is driven by a shell script, over the socket."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autotuner.daemon.run_files import DECLARATION, RunFiles
from autotuner.daemon.socket_server import SocketServer
from autotuner.messages import Acknowledgement, Goodbye, Sample

SCRIPT = Path(__file__).parents[2] / "examples" / "socket_client.sh"
PATIENCE_SECONDS = 60.0

pytestmark = pytest.mark.skipif(
    not shutil.which("socat") and not shutil.which("perl"), reason="neither socat nor perl, one of which the script needs"
)


def wait_for(condition, process):
    """What ``condition`` gives once it is true; a script that ended, or never gets there, fails the test."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        os.sched_yield()
    return found


def test_a_shell_script_declares_reports_follows_a_change_and_says_goodbye(tmp_path):
    server = SocketServer(tmp_path)
    environment = {**os.environ, "STEP_COMMAND": "sleep 0.01"}
    script = subprocess.Popen(
        ["sh", os.fspath(SCRIPT), os.fspath(tmp_path), "1000000"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        (declaration,) = wait_for(lambda: list(tmp_path.glob(f"runs/*/{DECLARATION}")), script)
        files, records = RunFiles(declaration.parent), []

        def has(kind, count=1):
            records.extend(files.read())
            return sum(isinstance(record, kind) for record in records) >= count

        wait_for(lambda: has(Sample, 3), script)
        files.write((0,), time.monotonic())
        wait_for(lambda: has(Acknowledgement), script)
        records.clear()
        wait_for(lambda: has(Sample, 3), script)
        first, *_, last = [record for record in records if isinstance(record, Sample)]
        assert last.revision == 1
        assert last.images - first.images == 2 * (last.step - first.step)
        script.send_signal(signal.SIGINT)
        script.communicate(timeout=PATIENCE_SECONDS)
        records.extend(files.read())
        assert records[-1].outcome == 1
        assert isinstance(records[-1], Goodbye)
        assert script.returncode == 0
    finally:
        script.kill()
        script.wait()
        server.close()


def test_a_script_without_a_daemon_says_so(tmp_path):
    done = subprocess.run(["sh", os.fspath(SCRIPT), os.fspath(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "start the daemon" in done.stderr
