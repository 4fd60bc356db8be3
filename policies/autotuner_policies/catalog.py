"""The artefacts that are shipped with this package."""

from __future__ import annotations

from pathlib import Path

from autotuner.controller.learned import Learned

ARTEFACTS = Path(__file__).with_name("artifacts")


def shipped(root: Path = ARTEFACTS) -> tuple[Path, ...]:
    """Directories of all artefacts, by name."""
    return tuple(sorted(path.parent for path in root.glob("*/card.json")))


def load(name: str = "default", root: Path = ARTEFACTS) -> Learned:
    """The artefact called ``name``; raises ArtefactError when it is absent or made for another build."""
    return Learned.load(root / name)
