"""What ends or slows trainings on a Mac besides memory and heat: found once, by ``doctor``, and only ever told."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Unavailable
from autotuner.telemetry.sysctl_darwin import sysctl_integer

CORE_GRAPHICS = "/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics"
PMSET = "/usr/bin/pmset"
LEAST_REST_BYTES = 8 * 2**30
"""What a raised wired limit should leave to everything else; Macs froze with less (exo issue 1672, mlx-lm issue 1252)."""
SOCKET_PATH_BYTES = {"darwin": 104}
"""Longest path of a Unix socket with its final zero; 108 on Linux."""
SOCKET_NAME_BYTES = 32
"""What Python's multiprocessing adds to TMPDIR: /pymp-xxxxxxxx/listener-xxxxxxxx."""
LEAST_FREE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Hazard:
    """One line of the answer; ``grave`` ones are warned of."""

    subject: str
    grave: bool
    text: str


def hazards(host: Host, platform: str = sys.platform, temporary: Path | None = None) -> list[Hazard]:
    """Every check of this platform; one that cannot be made says so, and is not grave."""
    checks = DARWIN_HAZARDS if platform == "darwin" else {}
    found = [_asked(name.replace("_", " "), check, host) for name, check in checks.items()]
    return [*found, temporary_directory(temporary or Path(tempfile.gettempdir()), SOCKET_PATH_BYTES.get(platform, 108))]


def _asked(subject: str, check: Callable[[Host], Hazard], host: Host) -> Hazard:
    try:
        return check(host)
    except Unavailable as error:
        return Hazard(subject, False, f"not known: {error}")
    except Exception as error:  # of a library that is not as documented
        return Hazard(subject, False, f"not known: {type(error).__name__}: {error}")


def display(host: Host) -> Hazard:
    """A display that is on: macOS then ends GPU work that keeps it waiting, or the whole machine restarts (mlx issue 3267)."""
    library = host.load_library(CORE_GRAPHICS)
    library.CGMainDisplayID.restype = ctypes.c_uint32
    library.CGDisplayIsAsleep.argtypes = [ctypes.c_uint32]
    library.CGDisplayIsAsleep.restype = ctypes.c_int
    main = int(library.CGMainDisplayID())
    asleep = bool(library.CGDisplayIsAsleep(main)) if main else None
    host.note("CGMainDisplayID, CGDisplayIsAsleep", f"{main} {asleep}")
    if main == 0 or asleep:
        return Hazard("display", False, "off: macOS has no reason to end long work of the GPU")
    return Hazard(
        "display",
        True,
        "on: macOS may end long trainings on the GPU, or restart, while it waits for the picture (mlx issue 3267);"
        " overnight, run `pmset displaysleepnow`, and `caffeinate -i` without -d",
    )


def power_mode(host: Host) -> Hazard:
    """Low-power mode limits the clock without any heat."""
    if is_low_power(host.output(PMSET, "-g")):
        text = "low: the GPU runs at about 60 % of its speed (mlx-examples issue 1078); `sudo pmset -a lowpowermode 0`"
        return Hazard("power mode", True, text)
    return Hazard("power mode", False, "not low")


def is_low_power(text: str) -> bool:
    """Whether ``pmset -g`` tells of low-power mode; raises Unavailable for another kind of text."""
    found = dict(re.findall(r"^\s*(lowpowermode|powermode)\s+(\d+)", text, re.MULTILINE))
    if not found and "sleep" not in text:
        raise Unavailable(f"pmset -g printed {text[:80]!r}; expected its list of settings")
    return "1" in found.values()


def power_source(host: Host) -> Hazard:
    """A battery that empties ends a training, and slows it before."""
    source = parse_source(host.output(PMSET, "-g", "batt"))
    if source == "Battery Power":
        return Hazard("power source", True, "battery: it slows down, and ends when the battery does; plug it in")
    return Hazard("power source", False, source)


def parse_source(text: str) -> str:
    """What ``pmset -g batt`` says is drawn from; raises Unavailable."""
    match = re.search(r"Now drawing from '([^']+)'", text)
    if match is None:
        raise Unavailable(f"pmset -g batt printed {text[:80]!r}; expected: Now drawing from 'AC Power'")
    return match[1]


def wired_limit(host: Host) -> Hazard:
    """A raised limit of the GPU's memory takes from everything else, up to a kernel panic."""
    mebibytes = sysctl_integer(host, "iogpu.wired_limit_mb")
    if mebibytes == 0:
        return Hazard("wired limit", False, "as macOS sets it")
    rest = sysctl_integer(host, "hw.memsize") - mebibytes * 2**20
    text = f"raised to {mebibytes} MiB, which leaves {rest / 2**30:.1f} GiB to everything else"
    if rest < LEAST_REST_BYTES:
        least = f"{LEAST_REST_BYTES / 2**30:g}"
        return Hazard("wired limit", True, f"{text}; Macs froze with less than {least}: `sudo sysctl iogpu.wired_limit_mb=0`")
    return Hazard("wired limit", False, text)


DARWIN_HAZARDS: dict[str, Callable[[Host], Hazard]] = {
    "display": display,
    "power_mode": power_mode,
    "power_source": power_source,
    "wired_limit": wired_limit,
}
"""What is asked of a Mac, by the name that a recording calls it."""


def temporary_directory(path: Path, socket_bytes: int) -> Hazard:
    """Data loaders put sockets and shared memory there."""
    length = len(os.fsencode(path))
    if length + SOCKET_NAME_BYTES + 1 > socket_bytes:
        text = (
            f"{path}: {length} bytes; with more than {socket_bytes - SOCKET_NAME_BYTES - 1} no data loader can open its socket"
        )
        return Hazard("TMPDIR", True, f"{text}: export TMPDIR=/tmp")
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Hazard("TMPDIR", True, f"{path}: {error.strerror}; data loaders and checkpoints need it")
    if free < LEAST_FREE_BYTES:
        return Hazard("TMPDIR", True, f"{path}: {free / 2**20:.0f} MiB free; data loaders and checkpoints fail when it is full")
    return Hazard("TMPDIR", False, f"{path}, {free / 2**30:.3g} GiB free")
