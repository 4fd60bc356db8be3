"""Published configurations, and small ones that keep every structural choice of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "diffusers"


@pytest.fixture(scope="session")
def published():
    """Read a published `config.json` by the name of its folder, changed by keywords."""

    def read(name: str, **changes: Any) -> dict[str, Any]:
        return json.loads((FIXTURES / name / "config.json").read_text()) | changes

    return read
