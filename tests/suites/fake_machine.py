"""Machines made of scripted answers: files below a directory, commands by name, and Darwin's libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotuner.telemetry.host import Host
from autotuner.telemetry.sensor import Unavailable

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below ``root`` and return it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


class Commands:
    """Answers by the command's first word; absent ones are Unavailable. Counts the calls."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, argv: tuple[str, ...]) -> str:
        self.calls.append(argv)
        if argv[0] not in self.answers:
            raise Unavailable(f"{argv[0]}: No such file or directory")
        return self.answers[argv[0]]


class FakeDarwin:
    """The few functions of macOS that the readers call, over values that a test may change at any time."""

    def __init__(self) -> None:
        self.sysctls: dict[str, bytes] = {
            "hw.memsize": (16 * 2**30).to_bytes(8, "little"),
            "kern.memorystatus_level": (30).to_bytes(4, "little"),
            "kern.memorystatus_vm_pressure_level": (1).to_bytes(4, "little"),
            "iogpu.wired_limit_mb": bytes(4),
            "vm.swapusage": b"".join(part.to_bytes(8, "little") for part in (4 * 2**30, 3 * 2**30, 2**30)) + bytes(8),
        }
        self.thermal_level = 0
        self.thermal_state = 0
        self.register_status = 0
        self.state_status = 0
        self.registrations = 0
        self.footprint_bytes = 5 * 2**30
        self.absent: set[str] = set()
        # Functions and not methods: foreign functions take argtypes, and so must these.
        self.sysctlbyname = lambda *arguments: self._sysctlbyname(*arguments)
        self.notify_register_check = lambda *arguments: self._register(*arguments)
        self.notify_get_state = lambda *arguments: self._state(*arguments)
        self.proc_pid_rusage = lambda *arguments: self._rusage(*arguments)
        self.CGMainDisplayID = lambda: 7
        self.CGDisplayIsAsleep = lambda which: 0
        self.objc_getClass = lambda name: 1 if name == b"NSProcessInfo" else None
        self.sel_registerName = lambda name: {b"processInfo": 2, b"thermalState": 3}[name]
        self.objc_msgSend = lambda receiver, selector: 4 if selector == 2 else self.thermal_state

    def load(self, path: str) -> FakeDarwin:
        if path in self.absent:
            raise OSError(f"{path} not found")
        return self

    def integer(self, name: str, value: int, size: int = 4) -> None:
        self.sysctls[name] = value.to_bytes(size, "little", signed=True)

    def _sysctlbyname(self, name: bytes, buffer: Any, size: Any, new: Any, new_size: int) -> int:
        raw = self.sysctls.get(name.decode())
        if raw is None:
            return -1
        ctypes.memmove(buffer, raw, len(raw))
        size._obj.value = len(raw)
        return 0

    def _register(self, name: bytes, token: Any) -> int:
        self.registrations += 1
        token._obj.value = self.registrations
        return self.register_status

    def _state(self, token: Any, state: Any) -> int:
        state._obj.value = self.thermal_level
        return self.state_status

    def _rusage(self, pid: int, flavor: int, buffer: Any) -> int:
        raw = bytes(72) + self.footprint_bytes.to_bytes(8, "little")
        ctypes.memmove(buffer, raw, len(raw))
        return 0 if pid > 0 else -1


DARWIN_ANSWERS = {
    "/usr/sbin/sysctl": "macos/sysctl_command.txt",
    "/usr/bin/vm_stat": "macos/vm_stat.txt",
    "/usr/bin/notifyutil": "macos/notifyutil.txt",
    "/usr/bin/pmset": "macos/pmset_therm_intel.txt",
    "/opt/homebrew/bin/macmon": "macos/macmon_pipe.json",
}


class FakeSampler:
    """The form of ``macmon.Sampler`` (macmon-lib 0.7): one reading after the other, the last for ever."""

    readings: tuple[tuple[float, float, float], ...] = ((71.5, 68.0, 31.25),)
    opened = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self._next = 0

    def metrics(self) -> SimpleNamespace:
        cpu, gpu, board = self.readings[min(self._next, len(self.readings) - 1)]
        self._next += 1
        power = SimpleNamespace(package=board / 2, cpu=4.0, gpu=9.0, ram=1.0, gpu_ram=0.5, ane=0.0, board=board)
        return SimpleNamespace(temperature=SimpleNamespace(cpu_average=cpu, gpu_average=gpu), power=power)


class FakeEnergy:
    """The form of ``zeus_apple_silicon.AppleEnergyMonitor`` (1.1): cumulative millijoules, 20 J more each time it is asked."""

    def __init__(self) -> None:
        self._asked = 0

    def get_cumulative_energy(self) -> SimpleNamespace:
        self._asked += 1
        rails = {"cpu_total_mj": 5000 * self._asked, "gpu_mj": 14000 * self._asked, "dram_mj": 1000 * self._asked}
        return SimpleNamespace(**rails, efficiency_cores_mj=700 * self._asked, gpu_sram_mj=None, ane_mj=0)


MODULES: dict[str, Any] = {
    "macmon": SimpleNamespace(Sampler=FakeSampler),
    "zeus_apple_silicon": SimpleNamespace(AppleEnergyMonitor=FakeEnergy),
}


def importer(modules: dict[str, Any]) -> Callable[[str], Any]:
    """Imports these modules, and no others; an exception in the place of a module is raised."""

    def load(name: str) -> Any:
        found = modules.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(found, Exception):
            raise found
        return found

    return load


def darwin_host(
    root: Path,
    library: FakeDarwin | None = None,
    answers: dict[str, str] | None = None,
    modules: dict[str, Any] | None = None,
) -> Host:
    """A Mac: with the library unless it is told to be absent, the recorded commands unless others are given, and no modules."""
    texts = {command: fixture(name) for command, name in DARWIN_ANSWERS.items()} if answers is None else answers
    tree(root, {command.strip("/"): "" for command in texts})
    return Host(root, Commands(texts), (library or FakeDarwin()).load, importer(modules or {}))


LINUX_FILES = {
    "proc/meminfo": "linux/meminfo.txt",
    "proc/pressure/memory": "linux/pressure_memory.txt",
    "proc/self/cgroup": "linux/cgroup_v2.txt",
}


def linux_tree(root: Path) -> Path:
    """A Linux machine with a limit, a thermal zone, throttle counters and a hardware monitor."""
    tree(root, {path: fixture(name) for path, name in LINUX_FILES.items()})
    group = "sys/fs/cgroup/user.slice/training.scope"
    zone, chip = "sys/class/thermal/thermal_zone0", "sys/class/hwmon/hwmon0"
    return tree(
        root,
        {
            f"{group}/memory.max": "8589934592\n",
            f"{group}/memory.high": "max\n",
            f"{group}/memory.current": "1073741824\n",
            f"{zone}/type": "x86_pkg_temp\n",
            f"{zone}/temp": "61000\n",
            f"{zone}/trip_point_0_type": "passive\n",
            f"{zone}/trip_point_0_temp": "95000\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "12\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "9\n",
            f"{chip}/name": "coretemp\n",
            f"{chip}/temp1_input": "63000\n",
            f"{chip}/power1_average": "18500000\n",
        },
    )
