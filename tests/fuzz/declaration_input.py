"""``run.json``, which any script may have written."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from autotuner.daemon.run_files import read_declaration
from autotuner.errors import AutotunerError
from autotuner.hook.process import process_start
from autotuner.journal import model_key
from autotuner.messages import PROTOCOL_VERSION, Declaration
from tests.fuzz.damage import damaged_json, overwrite, readable

WHOLE = {
    "run_id": "cats-1", "name": "cats", "pid": 1, "pid_start": 5.0, "created_unix": 1000.0,
    "framework": "mlx", "budget_seconds": 600.0,
    "budget_steps": 1000, "target": 0.1, "quality_metric": "d", "max_shapes": 8, "max_pixels": 100000,
    "version": PROTOCOL_VERSION,
    "model": {"width": 64, "layers": [1, 2]}, "search_space": {"width": [32, 64]},
    "knobs": [
        {"name": "micro_batch", "values": [8, 16], "start": 8, "effect": "live"},
        {"name": "pace", "values": [0.5, 1.0], "start": 1.0, "effect": "live"},
    ],
}  # fmt: skip


class DeclarationInput:
    """A declaration that can be written again, compared and looked up; everything else is an AutotunerError."""

    cases = damaged_json(WHOLE) | st.binary(max_size=200)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check(self, data: bytes) -> None:
        overwrite(self.directory / "run.json", data)
        try:
            declaration = read_declaration(self.directory)
        except AutotunerError as error:
            readable(error)
            return
        assert Declaration.from_json(declaration.to_json()) == declaration
        assert len(model_key(declaration)) == 16
        process_start(declaration.pid)
        assert all(0 <= start < len(knob.values) for start, knob in zip(declaration.start, declaration.knobs, strict=True))

    def close(self) -> None:
        pass
