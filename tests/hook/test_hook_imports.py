"""The hook is paid by every training process: standard library only, and cheap to import."""

import ast
import sys
from pathlib import Path

import pytest

import autotuner.hook

HOOK = sorted(Path(autotuner.hook.__file__).parent.glob("*.py"))
COSTLY = {"dataclasses", "inspect", "json", "pathlib", "re", "typing", "subprocess", "ctypes", "tomllib", "mmap"}


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def test_the_hook_works_without_any_installed_package(python, state):
    code = """
from autotuner.hook import attach, knob, Run, AutotunerWarning
with attach("bare", knobs={"pace": knob(1.0, [0.5, 1.0])}) as run:
    run.report(1, 0.5)
    print(run.knobs.pace, isinstance(run, Run), run.directory is not None)
"""
    out, err = finish(python(code, "-S", "-W", "error"))
    assert (out, err) == ("1.0 True True\n", "")


def test_using_every_file_of_the_hook_loads_only_the_standard_library(python):
    modules = ", ".join(f"autotuner.hook.{path.stem}" for path in HOOK if path.stem != "__init__")
    code = f"import sys, {modules}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    out, _ = finish(python(code, "-S"))
    foreign = {name for name in out.split() if name not in sys.stdlib_module_names} - {"autotuner", "__main__", "__mp_main__"}
    assert {name for name in foreign if not name.startswith("_sysconfigdata")} == set()


def test_importing_the_hook_loads_nothing_costly(python):
    out, _ = finish(python("import sys, autotuner.hook\nprint(*sys.modules)", "-S"))
    loaded = set(out.split())
    assert "autotuner.hook.attach" in loaded
    assert loaded & COSTLY == set()
    assert {name for name in loaded if name.startswith("autotuner")} == {
        "autotuner",
        "autotuner.hook",
        "autotuner.hook.attach",
        "autotuner.hook.warning",
    }


@pytest.mark.parametrize("path", HOOK, ids=lambda path: path.stem)
def test_no_file_of_the_hook_names_a_foreign_module(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            assert name.partition(".")[0] in sys.stdlib_module_names | {"autotuner"}
            assert not name.startswith(("autotuner.controller", "autotuner.daemon", "autotuner.telemetry", "autotuner.journal"))


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autotuner.hook.nothing
