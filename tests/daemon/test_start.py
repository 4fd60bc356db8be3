"""What a start costs: what is imported before the first answer, and whom the web server asks."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from autotuner.daemon.web import serve

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("apscheduler", "importlib.metadata", "multiprocessing", "numpy", "rich", "sqlalchemy", "tomllib", "torch", "mlx")


def test_a_daemon_answers_before_it_imports_what_only_its_jobs_and_files_need():
    code = f"import sys, autotuner.cli.daemon, autotuner.daemon.process; print(*set(sys.modules) & set({NOT_NEEDED!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_web_server_asks_no_resolver(tmp_path, monkeypatch):
    def asked(*_: object) -> str:
        raise AssertionError("the resolver was asked")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "getaddrinfo"):
        monkeypatch.setattr(socket, name, asked)
    server = serve(lambda: None, 0, tmp_path / "journal.sqlite3")
    assert server.port > 0
    server.close()
