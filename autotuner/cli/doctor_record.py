"""``autotuner doctor --record``: what the sensors read, and what only other parts of the product and other frameworks tell."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotuner.telemetry.record import Probe, record
from autotuner.telemetry.registry import Registry
from autotuner.telemetry.sensor import Absent, Unavailable

CHILD_SECONDS = 60.0

_MLX = """
import json, mlx.core as mx
print(json.dumps({"version": mx.__version__, "device": str(mx.default_device()), **mx.device_info(),
    "active_bytes": mx.get_active_memory(), "cache_bytes": mx.get_cache_memory(), "peak_bytes": mx.get_peak_memory()}))
"""
_MPS = """
import json, torch
found = {"version": torch.__version__, "available": torch.backends.mps.is_available()}
if found["available"]:
    kept = torch.ones(1024, 1024, device="mps")
    names = ("current_allocated_memory", "driver_allocated_memory", "recommended_max_memory")
    found |= {name: getattr(torch.mps, name)() for name in names if hasattr(torch.mps, name)}
print(json.dumps(found))
"""


def write_record(path: Path, registry: Registry | None = None) -> None:
    """Ask everything once and write it as JSON; raises OSError where the file cannot be written."""
    document = record(registry or Registry(), PROBES)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def socket_peer() -> dict[str, Any]:
    """Whether the kernel names the process at the other end of a Unix socket as the daemon reads it."""
    from autotuner.daemon.socket_peer import peer_of

    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        server.listen(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/s")
            connection, _ = server.accept()
            with connection:
                peer = peer_of(connection)
    return {"pid_is_ours": peer.pid == os.getpid(), "uid_is_ours": peer.uid == os.getuid()}


def _in_a_child(code: str, module: str) -> Callable[[], dict[str, Any]]:
    """What a child prints as JSON: a framework that is broken may end the process that imports it."""

    def ask() -> dict[str, Any]:
        try:
            child = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{module} did not answer within {CHILD_SECONDS:.0f} s") from None
        if child.returncode != 0:
            last = (child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"])[-1]
            kind = Absent if f"No module named '{module}'" in last else Unavailable
            raise kind(last)
        answer: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
        return answer

    return ask


PROBES: dict[str, Probe] = {
    "mlx_device": Probe("mlx.core.device_info()", _in_a_child(_MLX, "mlx")),
    "torch_mps": Probe("torch.mps", _in_a_child(_MPS, "torch")),
    "socket_peer": Probe("LOCAL_PEERCRED and LOCAL_PEERPID, or SO_PEERCRED", socket_peer),
}
"""What is recorded beside the sensors, by the name that docs/needs-a-mac.md calls it."""
