"""Shell completion, asked of the real shells; and what every command has in common."""

import json
import shutil
import subprocess

import pytest

from autotuner.cli import COMMANDS, main, whole_parser
from autotuner.cli.completion import walk

CASES = [
    ("autotuner ser", {"service"}),
    ("autotuner service res", {"restart"}),
    ("autotuner daemon --mode ", {"observe", "advise", "act"}),
    ("autotuner daemon --state-dir /x --mode a", {"advise", "act"}),
    ("autotuner distill re", {"report"}),
    ("autotuner distill report --se", {"--seeds", "--set"}),
    ("autotuner mode cats ad", {"advise"}),
    ("autotuner explain --sh", {"--short"}),
]
BASH = """source {script}
line={line}
COMP_LINE="$line"; COMP_POINT=${{#line}}
read -ra COMP_WORDS <<< "$line"
[[ "$line" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_autotuner
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    def write(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


def said(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash_completes(script, line, expected):
    assert set(said("bash", "-c", BASH.format(script=script("bash"), line=repr(line)))) == expected


def test_bash_completes_the_name_of_the_command_itself(script):
    done = subprocess.run(
        ["bash", "-c", f"source {script('bash')}; complete -p autotuner"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "complete -o default -F _autotuner autotuner\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish_completes(script, line, expected):
    lines = subprocess.run(
        ["fish", "-c", f"source {script('fish')}; complete -C '{line}'"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {words.split("\t")[0] for words in lines} >= expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_function(script):
    path = script("zsh")
    assert said("zsh", "-fc", f"autoload -U compinit; compinit -u -D; source {path}; print $_comps[autotuner]")
    subprocess.run(["zsh", "-n", str(path)], check=True)


def test_the_tree_is_also_a_document(capsys):
    assert main(["completion", "bash", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["daemon"]["options"]["--mode"] == ["observe", "advise", "act"]
    assert document["daemon"]["options"]["--dry-run"] is None


def test_every_command_is_in_the_tree_and_speaks_json():
    nodes = {node.path: node for node in walk(whole_parser())}
    assert {path[0] for path in nodes if path} == {command.name for command in COMMANDS}
    parents = {path[:-1] for path in nodes if path}
    silent = [" ".join(path) for path, node in nodes.items() if path not in parents and "--json" not in node.options]
    assert silent == []
