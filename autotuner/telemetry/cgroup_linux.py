"""Memory limits that control groups put around us: version 2, version 1, both at once, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import QUANTITIES, Absent, Reading, Unavailable, checked

_NO_LIMIT_BYTES = QUANTITIES[0].upper  # version 1 says "no limit" with a number near 2**63


@dataclass(frozen=True, slots=True)
class Version:
    """Where one version of control groups keeps its files."""

    mount: str
    limits: tuple[str, ...]
    usage: str
    reclaimable: str
    """Row of memory.stat: page cache that counts as used but is given back first."""


V2 = Version("sys/fs/cgroup", ("memory.max", "memory.high"), "memory.current", "inactive_file")
V2_HYBRID = Version("sys/fs/cgroup/unified", V2.limits, V2.usage, V2.reclaimable)
V1 = Version("sys/fs/cgroup/memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def parse_membership(text: str) -> list[tuple[Version, str]]:
    """Which group we are in, for every version that may limit memory: lines of /proc/PID/cgroup."""
    groups = []
    for line in text.splitlines():
        hierarchy, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if hierarchy == "0" and controllers == "":
            groups += [(V2, path), (V2_HYBRID, path)]
        elif "memory" in controllers.split(","):
            groups.append((V1, path))
    return groups


def parse_limit(text: str) -> int | None:
    """Bytes, or None for ``max``, for the huge number of version 1, and for what is no number."""
    word = text.strip()
    return int(word) if word.isdigit() and int(word) < _NO_LIMIT_BYTES else None


def parse_stat(text: str, row: str) -> int:
    """One row of memory.stat in bytes; 0 if it is not there."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == row and value.strip().isdigit():
            return int(value)
    return 0


class CgroupLinux:
    """The tightest memory limit around a process, over its group and every group above."""

    name = "memory_cgroup"
    source = "cgroup"

    def __init__(self, host: Host, process: str = "self") -> None:
        """``process`` is a pid, or ``self`` for this one: a service and a training script may be in different groups."""
        self._host = host
        self._process = process

    def read(self, now: float) -> tuple[Reading, ...]:
        """Limit and what is left below it; Absent where nothing limits us."""
        bounds = list(self._bounds())
        if not bounds:
            raise Absent("no control group limits memory")
        limit, left = min(bound[0] for bound in bounds), min(bound[1] for bound in bounds)
        return (checked("memory_total_bytes", limit, self.source), checked("memory_available_bytes", left, self.source))

    def _bounds(self) -> Iterator[tuple[int, int]]:
        """(limit, left) of every group around us that has a limit."""
        for version, path in parse_membership(self._host.text(f"proc/{self._process}/cgroup")):
            group = PurePosixPath("/", path)
            for directory in (group, *group.parents):
                # In a container the path is the host's and does not exist below its own mount: then only the top does.
                prefix = f"{version.mount}/{str(directory).strip('/')}".rstrip("/")
                bound = self._bound(version, prefix)
                if bound is not None:
                    yield bound

    def _bound(self, version: Version, directory: str) -> tuple[int, int] | None:
        found = [parse_limit(self._text(f"{directory}/{name}")) for name in version.limits]
        limits = [limit for limit in found if limit is not None]
        usage = self._text(f"{directory}/{version.usage}").strip()
        if not limits or not usage.isdigit():
            return None
        reclaimable = parse_stat(self._text(f"{directory}/memory.stat"), version.reclaimable)
        used = max(0, int(usage) - reclaimable)
        return min(limits), max(0, min(limits) - used)

    def _text(self, path: str) -> str:
        try:
            return self._host.text(path)
        except Unavailable:
            return ""
