"""Write what is generated here: service samples and the Grafana dashboard. Run: python deploy/generate.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "grafana")]

from dashboard import dashboard  # noqa: E402 - the paths above come first

from autotuner.daemon.launchd import agent  # noqa: E402
from autotuner.daemon.service import Settings  # noqa: E402
from autotuner.daemon.systemd import unit  # noqa: E402

MAC = Settings(
    Path("/Users/you/autotuner/.venv/bin/python"), Path("/Users/you"), Path("/Users/you/Library/Application Support/autotuner")
)
LINUX = Settings(Path("/home/you/autotuner/.venv/bin/python"), Path("/home/you"), Path("/home/you/.local/state/autotuner"))


def files() -> dict[Path, bytes]:
    """Content by path."""
    return {
        HERE / "launchd" / "dev.autotuner.daemon.plist": agent(MAC),
        HERE / "systemd" / "autotuner.service": unit(LINUX).encode(),
        HERE / "grafana" / "autotuner.json": (json.dumps(dashboard(), indent=2) + "\n").encode(),
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.write_bytes(content)
