"""What has been measured once and for all: plain numbers by a name that says everything they depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotuner.diffusion.plain import finite
from autotuner.errors import AutotunerError
from autotuner.hook.files import SHARED, replace_text

VERSION = 1


class Ledger:
    """Numbers by name, written to a file as each is measured, so that a measurement that was stopped goes on."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what ``path`` holds; None keeps everything in memory. Raises AutotunerError for a file that is damaged."""
        self._path = path
        self.report: dict[str, Any] | None = None
        """What was last made of the numbers, null for what is not finite."""
        self._known: dict[str, list[float | None]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def knows(self, name: str) -> bool:
        """Whether this was measured."""
        return name in self._known

    def once(self, name: str, measure: Callable[[], Sequence[float]]) -> list[float]:
        """The numbers called ``name``, from ``measure`` where they are not known yet."""
        if name not in self._known:
            self._known[name] = finite([float(value) for value in measure()])
            self._write()
        return [math.nan if value is None else value for value in self._known[name]]

    def conclude(self, report: dict[str, Any]) -> None:
        """Write the report that was made of the numbers."""
        self.report = finite(report)
        self._write()

    def _read(self, path: Path) -> None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            version, self.report, self._known = document["version"], document["report"], dict(document["measured"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AutotunerError(f"{path} holds no measurements ({error!r}); move it away to measure again") from None
        if version != VERSION:
            raise AutotunerError(f"{path}: version {version!r}, allowed is {VERSION}; move it away to measure again")

    def _write(self) -> None:
        if self._path is None:
            return
        document = {"version": VERSION, "report": self.report, "measured": self._known}
        replace_text(self._path, json.dumps(document, indent=1, allow_nan=False), SHARED)
