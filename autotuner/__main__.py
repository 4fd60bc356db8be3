"""``python -m autotuner``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    from autotuner.cli import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
