"""``autotuner replay [RUN]``: finished runs as episodes, for learning and for asking another policy in the shadow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.output import add_json, show
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.text import clock, number, percent, table
from autotuner.errors import DeclarationError, ProtocolError

if TYPE_CHECKING:
    from autotuner.replay.episode import Episode
    from autotuner.replay.past import Past
    from autotuner.replay.shadow import Compared

DIFFERENCES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = "a finished run by id, beginning of an id, or name (default: all of them); or the file of a journal"
    parser.add_argument("RUN", nargs="?", metavar="RUN|JOURNAL", help=what)
    parser.add_argument("--policy", metavar="NAME", help="ask this policy at each decision again: a name or an artefact")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="a journal elsewhere; runs/ beside it is looked at too")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the episodes here: .npz or .json")
    add_json(parser, "print one JSON document: each run, and with --policy each decision of both")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found, and write it if asked. 1 when there is no decision to show."""
    from autotuner.journal import Reader, journal_path
    from autotuner.replay.episode import read_episode
    from autotuner.replay.episode_file import check_suffix, write_episodes
    from autotuner.replay.past import read_past

    if arguments.output:
        check_suffix(arguments.output)
    path, name = _journal_and_run(arguments) or (journal_path(configuration(arguments).state_directory), arguments.RUN)
    found: list[tuple[Past, Episode]] = []
    with Reader(path) as journal:
        for chosen in [journal.find_run(name)] if name else journal.runs(live=False):
            if chosen.live:
                return _complain(f"{chosen.run_id} has not ended; only finished runs become episodes")
            try:
                past = read_past(journal, chosen, path.parent / "runs" / chosen.run_id)
                found.append((past, read_episode(journal, past)))
            except (
                DeclarationError,
                ProtocolError,
            ) as error:  # of another version, most likely
                print(f"autotuner: {chosen.run_id} is left out: {error}", file=sys.stderr)
    _tell_refused([episode for _, episode in found])
    found = [(past, episode) for past, episode in found if episode.decisions]
    if not found:
        return _complain(f"{path}: no finished run has a decision that this Autotuner can read")
    compared = _shadow(arguments.policy, found) if arguments.policy else None
    if arguments.output:
        write_episodes(arguments.output, [episode for _, episode in found])
    words = [_summary([episode for _, episode in found])]
    words += [*_differences(compared)] if compared else []
    words += [f"wrote {arguments.output}"] if arguments.output else []
    show(arguments, _document(path, found, compared), "\n".join(words))
    return OK


def _journal_and_run(arguments: argparse.Namespace) -> tuple[Path, str | None] | None:
    """The journal that was named, in either way, and the run; None when the state directory's is meant."""
    if arguments.journal is not None:
        return arguments.journal, arguments.RUN
    if arguments.RUN is not None and Path(arguments.RUN).is_file():
        return Path(arguments.RUN), None
    return None


def _complain(words: str) -> int:
    print(f"autotuner: {words}", file=sys.stderr)
    return FOUND_WRONG


def _tell_refused(episodes: Sequence[Episode]) -> None:
    from autotuner.controller.observation import OBSERVATION_VERSION

    for episode in episodes:
        for version, count in sorted(episode.refused.items()):
            what = f"observation version {version or 'unknown'}"
            print(
                f"autotuner: {episode.about['run_id']}: {count} decisions of {what} refused; "
                f"this Autotuner observes version {OBSERVATION_VERSION}",
                file=sys.stderr,
            )


def _summary(episodes: Sequence[Episode]) -> str:
    head = ("RUN", "ENDED AS", "ARM", "POLICY", "DECISIONS", "ASKED", "FIRST", "BEST", "PRESSURE", "HEAT", "RING")
    rows = []
    for episode in episodes:
        about, columns = episode.about, episode.columns
        rows.append(
            (
                about["run_id"], about["outcome"], about["arm"] or "-", about["policy"], str(episode.decisions),
                str(int(sum(columns["changes"]))), number(about["first_held_out_loss"]), number(about["best_held_out_loss"]),
                _share(columns["pressure_share"]), _share(columns["heat_share"]), "yes" if about["ring"] else "no",
            )
        )  # fmt: skip
    return table(head, rows, right=(4, 5, 6, 7, 8, 9))


def _share(values: list[float]) -> str:
    known = [value for value in values if value == value]
    return percent(sum(known) if known else None)


@dataclass(frozen=True)
class Shadowed:
    """What one policy would have decided in each run."""

    policy: str
    problem: str
    runs: dict[str, list[Compared]]


def _shadow(name: str, found: Sequence[tuple[Past, Episode]]) -> Shadowed:
    from autotuner.daemon.policies import resolve_policy, shipped_artefacts
    from autotuner.replay.shadow import shadow

    resolved = resolve_policy(name, shipped_artefacts())
    if resolved.problem:
        print(f"autotuner: {resolved.problem}", file=sys.stderr)
    runs = {past.run.run_id: list(shadow(past, episode, resolved.policy)) for past, episode in found}
    return Shadowed(resolved.policy.name, resolved.problem, runs)


def _differences(compared: Shadowed) -> Iterator[str]:
    for run_id, decisions in compared.runs.items():
        same = sum(one.agrees for one in decisions)
        yield f"\n{run_id}: {compared.policy} agrees in {same} of {len(decisions)} decisions"
        for one in [one for one in decisions if not one.agrees][:DIFFERENCES_SHOWN]:
            detail = f" ({one.detail})" if one.detail else ""
            wished, wishes = _action(one.wished), _action(one.wishes)
            yield f"  {clock(one.time_unix)}  {one.by} wished {wished}; {compared.policy} wishes {wishes}{detail}"


def _action(number: int) -> str:
    from autotuner.controller.actions import ACTION_NAMES

    return ACTION_NAMES[number] if 0 <= number < len(ACTION_NAMES) else f"action {number}"


def _document(path: Path, found: Sequence[tuple[Past, Episode]], compared: Shadowed | None) -> dict[str, Any]:
    document: dict[str, Any] = {"journal": path, "runs": [{**e.about, "decisions": e.decisions} for _, e in found]}
    if compared is not None:
        document |= {"policy": compared.policy, "problem": compared.problem}
        for run in document["runs"]:
            decisions = compared.runs[run["run_id"]]
            run["agrees"], run["asked"] = sum(one.agrees for one in decisions), len(decisions)
            run["compared"] = [
                {**vars(one), "wished": _action(one.wished), "wishes": _action(one.wishes), "agrees": one.agrees}
                for one in decisions
            ]
    return document
