"""What must stay true of the tree itself, beside the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STANDARD_LIBRARY_ONLY = ["__init__.py", "errors.py", "knobs.py", "messages.py", "config.py", "journal", "hook", "controller"]
READS_WEIGHTS = "learned.py"


def modules_of(entry):
    path = ROOT / "autotuner" / entry
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("entry", STANDARD_LIBRARY_ONLY)
def test_the_light_parts_import_the_standard_library_only(entry):
    paths = modules_of(entry)
    assert paths
    for path in paths:
        roots = {name.split(".")[0] for name in imported(path)}
        foreign = roots - set(sys.stdlib_module_names) - {"autotuner"}
        assert foreign <= ({"safetensors"} if path.name == READS_WEIGHTS else set()), path


def test_no_function_of_the_controller_reads_a_clock():
    for path in modules_of("controller"):
        assert not {"time", "datetime", "os", "random"} & set(imported(path)), path


def test_make_alone_lists_the_targets():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("install", "demo", "test", "test-slow", "check", "bench", "ci"):
        assert re.search(rf"^  make {target} ", listed, re.MULTILINE), target


def test_every_relative_link_in_the_documents_leads_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
    assert documents
    for document in documents:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_example_of_an_own_loop_trains_without_a_daemon(tmp_path):
    script = ROOT / "examples" / "own_loop.py"
    environment = {"AUTOTUNER_STATE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, "1"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ steps, loss 0\.\d+", done.stdout)
