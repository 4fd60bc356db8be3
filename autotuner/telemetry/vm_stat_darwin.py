"""Available memory of macOS by counting pages, as vm_stat prints them."""

from __future__ import annotations

import re

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Reading, Unavailable, checked

VM_STAT_COMMAND = ("/usr/bin/vm_stat",)


def parse_vm_stat(text: str) -> int:
    """Available bytes: free, speculative and inactive pages of the size that the header names."""
    size = re.search(r"page size of (\d+) bytes", text)
    rows = {name: int(count) for name, count in re.findall(r'^"?([^":\n]+)"?:\s+(\d+)\.?$', text, re.MULTILINE)}
    pages = [rows.get(f"Pages {kind}") for kind in ("free", "speculative", "inactive")]
    counts = [count for count in pages if count is not None]
    if size is None or len(counts) < len(pages):
        raise Unavailable("vm_stat lacks the page size, or free, speculative or inactive pages")
    return int(size[1]) * sum(counts)


class VmStat:
    """Available memory by counting pages, where the kernel's percentage is missing."""

    name = "memory_vm_stat"
    source = VM_STAT_COMMAND[0]

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, now: float) -> tuple[Reading, ...]:
        """Available memory."""
        return (checked("memory_available_bytes", parse_vm_stat(self._host.output(*VM_STAT_COMMAND)), self.source),)
