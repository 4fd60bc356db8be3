"""What ``attach`` does: check what the script said, make the files of the run, and never raise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotuner.config import state_directory
from autotuner.errors import AutotunerError, DeclarationError
from autotuner.hook.attach import Offer
from autotuner.hook.bounds import Bounds
from autotuner.hook.files import declaration_at, make_run_directory, replace_text
from autotuner.hook.launch import Launch, launch
from autotuner.hook.life import end_earlier
from autotuner.hook.page import PageReader, create_page
from autotuner.hook.process import process_start
from autotuner.hook.proposal import proposal_path, read_proposal
from autotuner.hook.ranks import Alone, Asks, Follower, Leader, find_launch, tell_launch
from autotuner.hook.ring import RingWriter
from autotuner.hook.run import Run, inert
from autotuner.hook.settings import checked_settings
from autotuner.hook.shapes import ShapeLadder
from autotuner.hook.warning import warn
from autotuner.knobs import KnobDeclaration, declare
from autotuner.messages import Declaration

RUN_DIRECTORY_VARIABLE = "AUTOTUNER_RUN_DIR"
"""Where ranks above 0 find the run of rank 0, for launchers that leave no mark of their own in the environment."""


def start(
    name: str,
    knobs: Mapping[str, Offer] | None,
    settings: Mapping[str, Any],
    state_dir: str | os.PathLike[str] | None,
    auto: bool,
) -> Run:
    """Open the run, or return one that does nothing."""
    name = str(name)
    try:
        offered, fixed = checked_knobs(knobs or {})
        checked = checked_settings(settings)
        shapes = ShapeLadder(checked["max_shapes"], checked.pop("shape_dwell_steps"), checked.pop("clear_cache"))
        bounds = Bounds(offered, fixed, shapes, checked["max_pixels"])
        missing = {"resolution", "micro_batch"} - {*fixed, *(knob.name for knob in offered)}
        if checked["max_pixels"] is not None and missing:
            warn(f"attach(max_pixels={checked['max_pixels']}) has no effect: knob {' and '.join(sorted(missing))} is not given")
        return _open(name, bounds, checked, state_dir, auto)
    except Exception as error:
        warn(f"attach({name!r}) failed and the hook is off; training goes on: {type(error).__name__}: {error}")
        return inert(name, {str(knob): offer.start for knob, offer in (knobs or {}).items() if isinstance(offer, Offer)})


def checked_knobs(knobs: Mapping[str, Offer]) -> tuple[tuple[KnobDeclaration, ...], dict[str, float]]:
    """What the daemon may be offered, and the values of the rest; bad knobs are told and keep the script's value.

    A ladder of one value is how a script says that a knob is fixed, so it is left out without a warning.
    """
    offered: list[KnobDeclaration] = []
    fixed: dict[str, float] = {}
    for name, offer in knobs.items():
        if not isinstance(offer, Offer):
            warn(f"knob {name!r} is {offer!r}; allowed is knob(start, values); it stays as it is")
            fixed[name] = offer
            continue
        try:
            knob = declare(name, _plain(offer.start), [_plain(value) for value in offer.values], offer.effect)
        except (DeclarationError, TypeError, ValueError) as error:
            warn(f"attach(): knob {name!r} = {offer!r} is not offered and stays at {offer.start!r}: {error}")
            fixed[name] = offer.start
            continue
        if len(knob.values) > 1:
            offered.append(knob)
        else:
            fixed[name] = offer.start
    return tuple(offered), fixed


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python number that JSON can hold."""
    return value.item() if hasattr(value, "item") else value


def _open(name: str, bounds: Bounds, checked: dict[str, Any], state_dir: str | os.PathLike[str] | None, auto: bool) -> Run:
    positions = tuple(knob.start for knob in bounds.knobs)
    state = Path(state_dir).expanduser() if state_dir is not None else state_directory()
    place = os.environ.get(RUN_DIRECTORY_VARIABLE, "")
    who = launch()
    try:
        if who.rank == 0:
            return _lead(name, bounds, positions, checked, state, who, auto)
        if bounds.knobs and (place or who.key):
            return _follow(name, bounds, positions, state, who, place, auto)
    except (OSError, AutotunerError) as error:
        where = f"{RUN_DIRECTORY_VARIABLE}={place}" if who.rank and place else state
        warn(f"{where} cannot be used, the hook is off and training goes on: {error}")
    return Run(name, bounds, positions, auto=auto)


def _lead(
    name: str, bounds: Bounds, positions: tuple[int, ...], checked: dict[str, Any], state: Path, who: Launch, auto: bool
) -> Run:
    """The run that reports. Its ``run.json`` appears last, so that the daemon never finds half a run."""
    end_earlier(name)
    created = time.time()
    proposal = read_proposal(proposal_path(state, name), checked["search_space"])
    directory = make_run_directory(state, name, created)
    try:
        declaration = _declaration(name, directory.name, bounds.knobs, checked, created)
        ring = RingWriter(directory / "telemetry.ring")
        create_page(directory / "knobs.page", positions, time.monotonic())
        page = PageReader(directory / "knobs.page")
        asks: Asks = Alone(directory, page) if who.alone else Leader(directory, page, positions, who.size)
        replace_text(directory / "run.json", declaration.to_json())
        if not who.alone:
            tell_launch(state, name, who, directory)
    except BaseException:
        import shutil  # costly, and needed here alone

        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Run(name, bounds, positions, ring=ring, asks=asks, declaration=declaration, proposal=proposal, auto=auto)


def _follow(name: str, bounds: Bounds, positions: tuple[int, ...], state: Path, who: Launch, place: str, auto: bool) -> Run:
    """A run of another rank: it follows the knobs of rank 0 and reports nothing."""

    def find() -> Path | None:
        directory = Path(place) if place else find_launch(state, name, who)
        if directory is not None:
            leader = declaration_at(directory / "run.json")
            if leader.knobs != bounds.knobs:
                raise DeclarationError(
                    f"rank 0 declared {leader.knobs}, this rank {bounds.knobs}; both must offer the same knobs"
                )
        return directory

    follower = Follower(who.rank, find)
    follower.join()
    return Run(name, bounds, positions, asks=follower, auto=auto)


def _declaration(
    name: str, run_id: str, knobs: tuple[KnobDeclaration, ...], checked: dict[str, Any], created_unix: float
) -> Declaration:
    pid = os.getpid()
    declaration = Declaration(run_id, name, pid, process_start(pid) or 0.0, created_unix, knobs, **checked)
    declaration.check()
    return declaration
