"""``autotuner completion SHELL``: what a shell needs to complete this command line, made from its own parser."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from autotuner.cli import OK, whole_parser
from autotuner.cli.output import add_json, show
from autotuner.config import ALLOWED

KNOWN = {**ALLOWED, "policy": ("default", "hold", "rules", "forecast", "learned")}
"""Values of options that the parser leaves to the configuration to check."""

INSTALL = {
    "bash": "put it into force with: eval \"$(autotuner completion bash)\", in ~/.bashrc",
    "zsh": "put it into force with: eval \"$(autotuner completion zsh)\", in ~/.zshrc after compinit",
    "fish": "put it into force with: autotuner completion fish > ~/.config/fish/completions/autotuner.fish",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("SHELL", choices=tuple(WRITERS), help="bash, zsh or fish")
    add_json(parser, "print commands, options and their values as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    nodes = list(walk(whole_parser()))
    document = {" ".join(node.path): {"words": node.words, "options": node.options} for node in nodes}
    show(arguments, document, f"# {INSTALL[arguments.SHELL]}\n{WRITERS[arguments.SHELL](nodes)}")
    return OK


@dataclass
class Node:
    """One command, or one action of a command."""

    path: tuple[str, ...]
    words: dict[str, str] = field(default_factory=dict)
    """What may stand here: subcommands and the values of positional arguments, with their sentences."""
    options: dict[str, list[str] | None] = field(default_factory=dict)
    """Each option with its known values; an empty list takes any value, None takes none."""
    sentences: dict[str, str] = field(default_factory=dict)


def walk(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Node]:
    """The tree of a parser, the root first."""
    node, below = Node(path), []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            sentences = {choice.dest: choice.help or "" for choice in action._choices_actions}
            node.words |= {name: sentences.get(name, "") for name in action.choices}
            below += [walk(child, (*path, name)) for name, child in action.choices.items()]
        elif action.option_strings:
            values = [str(value) for value in action.choices or KNOWN.get(action.dest, ())]
            for option in action.option_strings:
                node.options[option] = None if action.nargs == 0 else values
                node.sentences[option] = "" if action.help in (None, argparse.SUPPRESS) else _plain(action, parser)
        elif action.choices:
            node.words |= dict.fromkeys(map(str, action.choices), "")
    yield node
    for child in below:
        yield from child


def _plain(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return parser._get_formatter()._expand_help(action)


def bash(nodes: list[Node]) -> str:
    """A function for ``complete``; where it knows no word, bash completes files."""
    ways = " | ".join(shlex.quote(" ".join(node.path)) for node in nodes if node.path)
    values, words = [], []
    for node in nodes:
        at = " ".join(node.path)
        for option, known in node.options.items():
            if known is not None:
                values.append(f"    {shlex.quote(f'{at} {option}')}) words={shlex.quote(' '.join(known))} ;;")
        listed = shlex.quote(" ".join([*node.words, *node.options]))
        words.append(f"    {shlex.quote(at)}) words={listed} ;;")
    return BASH.format(ways=ways, values="\n".join(values), words="\n".join(words))


BASH = """_autotuner() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" at="" words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${{at:+$at }}${{COMP_WORDS[i]}}" in
    {ways}) at="${{at:+$at }}${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$at $before" in
{values}
    *)
  case "$at" in
{words}
  esac
    ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _autotuner autotuner"""


def zsh(nodes: list[Node]) -> str:
    """zsh understands bash's function once it is asked to."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash(nodes)}"


def fish(nodes: list[Node]) -> str:
    """One ``complete`` a word and an option."""
    lines = ["complete -c autotuner -e"]
    for node in nodes:
        seen = " ; and ".join(f"__fish_seen_subcommand_from {name}" for name in node.path) or "__fish_use_subcommand"
        if node.path and any(other.path[:-1] == node.path for other in nodes):
            seen += f" ; and not __fish_seen_subcommand_from {' '.join(o.path[-1] for o in nodes if o.path[:-1] == node.path)}"
        when = f"complete -c autotuner -n {shlex.quote(seen)}"
        for word, sentence in node.words.items():
            lines.append(f"{when} -a {shlex.quote(word)} -d {shlex.quote(sentence)}" + (" -f" if not node.path else ""))
        for option, known in node.options.items():
            name = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            takes = "" if known is None else f" -x -a {shlex.quote(' '.join(known))}" if known else " -r"
            lines.append(f"{when} {name}{takes} -d {shlex.quote(node.sentences[option])}")
    return "\n".join(lines)


WRITERS: dict[str, Callable[[list[Node]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
