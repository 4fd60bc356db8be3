"""What docs/security.md claims: its table names tests that exist, and the claims about the whole tree are checked here."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from autotuner.daemon.web_wishes import WISHES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
PRODUCT = sorted((ROOT / "autotuner").rglob("*.py"))
RUNS_WHAT_IT_READS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            yield name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}, isinstance(function, ast.Name)


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not set(imported(tree)) & RUNS_WHAT_IT_READS
    for name, keywords, plain in called(tree):
        assert not (plain and name in ("eval", "exec")), f"{name}() in {path}"
        assert keywords.get("allow_pickle", "False") == "False"
        assert keywords.get("weights_only", "True") == "True"
        assert keywords.get("shell", "False") == "False"


def test_the_daemon_opens_no_connection_and_everything_it_makes_is_its_owners(tmp_path):
    """A real daemon with its sensors, web server and socket for some ticks, in a process that listens to its own calls."""
    code = """
import json, sys, threading
from pathlib import Path
seen = []
sys.addaudithook(lambda event, arguments: seen.append([event, str(arguments[1:])]) if event in (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect") else None)
from autotuner.config import Config
from autotuner.daemon import process
state = Path(sys.argv[1])
ticks = []
tick = process.Daemon.tick
def counted(daemon, moment):
    tick(daemon, moment)
    ticks.append(moment)
    if len(ticks) == 3:
        process.os.kill(process.os.getpid(), process.signal.SIGTERM)
process.Daemon.tick = counted
config = Config(state, port=0, tick_seconds=0.05)
process.run(config, lambda: config, log_to_stderr=False)
print(json.dumps(seen))
"""
    before = os.umask(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "state")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=ROOT,
        )
    finally:
        os.umask(before)
    assert json.loads(done.stdout) == []
    made = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert {path.name for path in made} >= {"state", "journal.sqlite3", "logs", "daemon.log", "daemon.lock"}
    assert [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_every_claim_names_tests_that_exist():
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::([a-z_0-9]+))?`", PAGE)
    assert len(named) >= 20
    for file, function in named:
        path = ROOT / file
        assert path.is_file(), file
        if function:
            functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
            assert function in functions, f"{file}::{function}"


def test_every_wish_is_named():
    assert {name for name in WISHES if f"`{name}`" not in PAGE} == set()
