"""Arrays on disk: one safetensors file, replaced at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from autotuner.diffusion.blas import mx
from autotuner.errors import AutotunerError


class WriteError(AutotunerError):
    """A file could not be written; what was there before still is."""


def draft_of(path: Path) -> Path:
    """Where this process writes before the file takes its name."""
    return path.with_name(f".{path.stem}.{os.getpid()}.safetensors")


def write(path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``path`` and its directory; a kill at any moment leaves the previous file or the new one. Raises WriteError."""
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(draft), dict(arrays), metadata=dict(metadata or {}))
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:
        draft.unlink(missing_ok=True)
        raise WriteError(f"{path}: not written ({error}); what was there before stands") from None
    return path
