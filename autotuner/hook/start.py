"""What ``attach`` does: check what the script said, make the files of the run, and never raise."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotuner.config import state_directory
from autotuner.errors import AutotunerError, DeclarationError
from autotuner.hook.attach import Offer
from autotuner.hook.bounds import Bounds
from autotuner.hook.files import make_run_directory, replace_text
from autotuner.hook.page import PageReader, create_page
from autotuner.hook.process import process_start, rank
from autotuner.hook.proposal import proposal_path, read_proposal
from autotuner.hook.ring import RingWriter
from autotuner.hook.run import Run, inert
from autotuner.hook.settings import checked_settings
from autotuner.hook.shapes import ShapeLadder
from autotuner.hook.warning import warn
from autotuner.knobs import KnobDeclaration, declare
from autotuner.messages import Declaration

RUN_DIRECTORY_VARIABLE = "AUTOTUNER_RUN_DIR"
"""Set for ranks above 0, it names the run whose knobs they follow."""


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
    place = os.environ.get(RUN_DIRECTORY_VARIABLE)
    number = rank()
    try:
        if number == 0:
            return _lead(name, bounds, positions, checked, state, auto)
        if place:
            return _follow(name, bounds, positions, Path(place), auto)
    except (OSError, AutotunerError) as error:
        where = state if number == 0 else f"{RUN_DIRECTORY_VARIABLE}={place}"
        warn(f"{where} cannot be used, the hook is off and training goes on: {error}")
    return Run(name, bounds, positions, auto=auto)


def _lead(name: str, bounds: Bounds, positions: tuple[int, ...], checked: dict[str, Any], state: Path, auto: bool) -> Run:
    """The run that reports. Its ``run.json`` appears last, so that the daemon never finds half a run."""
    created = time.time()
    proposal = read_proposal(proposal_path(state, name), checked["search_space"])
    directory = make_run_directory(state, name, created)
    try:
        declaration = _declaration(name, directory.name, bounds.knobs, checked, created)
        ring = RingWriter(directory / "telemetry.ring")
        create_page(directory / "knobs.page", positions, time.monotonic())
        page = PageReader(directory / "knobs.page")
        replace_text(directory / "run.json", declaration.to_json())
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return Run(
        name,
        bounds,
        positions,
        ring=ring,
        page=page,
        directory=directory,
        declaration=declaration,
        proposal=proposal,
        auto=auto,
    )


def _follow(name: str, bounds: Bounds, positions: tuple[int, ...], directory: Path, auto: bool) -> Run:
    """A run of another rank: it follows the knobs of rank 0 and reports nothing."""
    leader = Declaration.from_json((directory / "run.json").read_text(encoding="utf-8"))
    if leader.knobs != bounds.knobs:
        raise DeclarationError(f"rank 0 declared {leader.knobs}, this rank {bounds.knobs}; both must offer the same knobs")
    return Run(name, bounds, positions, page=PageReader(directory / "knobs.page"), directory=directory, auto=auto)


def _declaration(
    name: str, run_id: str, knobs: tuple[KnobDeclaration, ...], checked: dict[str, Any], created_unix: float
) -> Declaration:
    pid = os.getpid()
    declaration = Declaration(run_id, name, pid, process_start(pid) or 0.0, created_unix, knobs, **checked)
    declaration.check()
    return declaration
