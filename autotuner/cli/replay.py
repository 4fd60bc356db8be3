"""``autotuner replay [RUN]``: finished runs as episodes, for learning and for asking another policy in the shadow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotuner.cli import FOUND_WRONG, OK
from autotuner.cli.settings import add_state_directory, configuration
from autotuner.cli.text import clock, number, percent, table

if TYPE_CHECKING:
    from autotuner.replay.episode import Episode
    from autotuner.replay.past import Past

DIFFERENCES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("RUN", nargs="?", help="a finished run by id, beginning of an id, or name (default: all of them)")
    parser.add_argument("--policy", metavar="NAME", help="ask this policy at each decision again: a name or an artefact")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="a journal elsewhere; runs/ beside it is looked at too")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the episodes here: .npz or .json")
    add_state_directory(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found, and write it if asked. 1 when there is no decision to show."""
    from autotuner.journal import Reader, journal_path
    from autotuner.replay.episode import read_episode
    from autotuner.replay.episode_file import check_suffix, write_episodes
    from autotuner.replay.past import read_past

    if arguments.output:
        check_suffix(arguments.output)
    path = arguments.journal or journal_path(configuration(arguments).state_directory)
    found: list[tuple[Past, Episode]] = []
    with Reader(path) as journal:
        for chosen in [journal.find_run(arguments.RUN)] if arguments.RUN else journal.runs(live=False):
            if chosen.live:
                return _complain(f"{chosen.run_id} has not ended; only finished runs become episodes")
            past = read_past(journal, chosen, path.parent / "runs" / chosen.run_id)
            found.append((past, read_episode(journal, past)))
    _tell_refused([episode for _, episode in found])
    found = [(past, episode) for past, episode in found if episode.decisions]
    if not found:
        return _complain(f"{path}: no finished run has a decision that this Autotuner can read")
    print(_summary([episode for _, episode in found]))
    if arguments.policy:
        _shadow(arguments.policy, found)
    if arguments.output:
        write_episodes(arguments.output, [episode for _, episode in found])
        print(f"wrote {arguments.output}")
    return OK


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


def _shadow(name: str, found: Sequence[tuple[Past, Episode]]) -> None:
    from autotuner.controller.actions import ACTION_NAMES
    from autotuner.daemon.policies import resolve_policy, shipped_artefacts
    from autotuner.replay.shadow import shadow

    resolved = resolve_policy(name, shipped_artefacts())
    if resolved.problem:
        print(f"autotuner: {resolved.problem}", file=sys.stderr)
    for past, episode in found:
        compared = list(shadow(past, episode, resolved.policy))
        same = sum(one.agrees for one in compared)
        print(f"\n{past.run.run_id}: {resolved.policy.name} agrees in {same} of {len(compared)} decisions")
        for one in [one for one in compared if not one.agrees][:DIFFERENCES_SHOWN]:
            detail = f" ({one.detail})" if one.detail else ""
            names = [ACTION_NAMES[i] if 0 <= i < len(ACTION_NAMES) else f"action {i}" for i in (one.wished, one.wishes)]
            print(f"  {clock(one.time_unix)}  {one.by} wished {names[0]}; {resolved.policy.name} wishes {names[1]}{detail}")
