"""The launchd agent of macOS. Needs a Mac: driven here by published outputs of ``launchctl`` only."""

from __future__ import annotations

import plistlib
import re
from collections.abc import Iterator
from pathlib import Path

from autotuner.daemon.service import (
    LABEL,
    RESTART_SECONDS,
    STOP_SECONDS,
    Host,
    Result,
    ServiceError,
    Settings,
    Status,
    write_file,
)

LAUNCHCTL = "/bin/launchctl"
ATTEMPTS, PAUSE_SECONDS = 20, 0.5
"""``bootout`` returns before the daemon is gone: how often and how long to wait for it."""

EXPLANATIONS = {
    5: "it is still loaded, switched off in System Settings > General > Login Items, or disabled with launchctl. "
    f"Switch it on there, or run: launchctl enable gui/$(id -u)/{LABEL}",
    113: "launchd does not know the service: it is not installed",
    125: "this user has no graphical session (a login over SSH). Log in at the screen, then install again",
}
_FIELDS = {
    "state": re.compile(r"^\s*state = (.+)$", re.MULTILINE),
    "pid": re.compile(r"^\s*pid = (\d+)$", re.MULTILINE),
    "last exit code": re.compile(r"^\s*last exit code = (.+)$", re.MULTILINE),
    "runs": re.compile(r"^\s*runs = (\d+)$", re.MULTILINE),
}


def agent(settings: Settings) -> bytes:
    """The property list of the agent."""
    logs = settings.home / "Library" / "Logs" / "autotuner"
    document = {
        "Label": LABEL,
        "ProgramArguments": list(settings.command),
        "RunAtLoad": True,
        # Exit code 0 stays down: a wrong setting must not become a restart loop.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Standard",  # Background would coarsen the timers of a daemon that ticks every second
        "Umask": 0o077,
        "EnvironmentVariables": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONUNBUFFERED": "1"},
        "WorkingDirectory": str(settings.state_directory),
        "StandardOutPath": str(logs / "daemon.out.log"),
        "StandardErrorPath": str(logs / "daemon.err.log"),
    }
    return plistlib.dumps(document, sort_keys=False)


def facts(output: str) -> dict[str, str]:
    """The few fields of ``launchctl print`` that matter; the rest holds environment values and is never shown."""
    found = {name: pattern.search(output) for name, pattern in _FIELDS.items()}
    return {name: match.group(1).strip() for name, match in found.items() if match}


class Launchd:
    """Installs the agent for the user who calls it."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.path: Path = settings.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self._host = host

    def print(self) -> str:
        """The property list."""
        return agent(self.settings).decode()

    def install(self) -> str:
        """Write the agent, replace a loaded one, and start it."""
        self._make_directories()
        write_file(self.path, agent(self.settings))
        self._boot_out()
        domain = self._bootstrap()
        return (
            f"installed {self.path} in {domain}\n"
            "macOS shows a notice that a background item was added, under the name of the Python interpreter.\n"
            "check with: autotuner service status"
        )

    def uninstall(self) -> str:
        """Unload the agent and delete its file; state and logs stay."""
        loaded = self._boot_out()
        existed = self.path.exists()
        self.path.unlink(missing_ok=True)
        return f"removed {self.path}" if loaded or existed else "the service was not installed"

    def restart(self) -> str:
        """``kickstart -k``: launchd ends the daemon and starts it again in one step."""
        for domain in self._domains():
            if self._launchctl("print", f"{domain}/{LABEL}").code != 0:
                continue
            answer = self._launchctl("kickstart", "-k", f"{domain}/{LABEL}")
            if answer.code != 0:
                raise ServiceError(f"launchctl kickstart failed: {_words(answer)}")
            return f"restarted {LABEL} in {domain}"
        raise ServiceError(self.status().sentence)

    def status(self) -> Status:
        """What launchd says of the agent."""
        for domain in self._domains():
            answer = self._launchctl("print", f"{domain}/{LABEL}")
            if answer.code == 0:
                told = facts(answer.output)
                known = ", ".join(f"{name} {value}" for name, value in told.items())
                return Status(f"installed in {domain}: {known or 'loaded'}", told.get("state") == "running")
        file = f"the file {self.path} exists but is not loaded" if self.path.exists() else "not installed"
        return Status(file + "; install with: autotuner service install", False)

    def _domains(self) -> Iterator[str]:
        yield from (f"gui/{self._host.uid}", f"user/{self._host.uid}")

    def _launchctl(self, *arguments: str) -> Result:
        return self._host.run((LAUNCHCTL, *arguments))

    def _make_directories(self) -> None:
        self.settings.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.settings.home / "Library" / "Logs" / "autotuner").mkdir(parents=True, exist_ok=True, mode=0o700)

    def _boot_out(self) -> bool:
        """Unload wherever it is loaded, and wait until it is gone; whether it was loaded."""
        loaded = False
        for domain in self._domains():
            if self._launchctl("print", f"{domain}/{LABEL}").code != 0:
                continue
            loaded = True
            answer = self._launchctl("bootout", f"{domain}/{LABEL}")
            self._wait_until_gone(domain, answer)
        return loaded

    def _wait_until_gone(self, domain: str, answer: Result) -> None:
        for _ in range(ATTEMPTS + int(STOP_SECONDS / PAUSE_SECONDS)):
            if self._launchctl("print", f"{domain}/{LABEL}").code != 0:
                return
            self._host.sleep(PAUSE_SECONDS)
        raise ServiceError(f"launchd still runs the service after bootout: {_words(answer)}")

    def _bootstrap(self) -> str:
        """Load into the first domain that exists; the domain."""
        answer = Result(125, "")
        for domain in self._domains():
            self._launchctl("enable", f"{domain}/{LABEL}")  # a label that was once disabled answers 5 for ever
            for _ in range(ATTEMPTS):
                answer = self._launchctl("bootstrap", domain, str(self.path))
                if answer.code == 0:
                    return domain
                if answer.code != 5:  # only 5 can mean that the old one is not gone yet
                    break
                self._host.sleep(PAUSE_SECONDS)
            if answer.code != 125:
                break
        raise ServiceError(f"launchctl bootstrap failed: {_words(answer)}")


def _words(answer: Result) -> str:
    # The first line only: print shows environment values further down.
    said = answer.output.strip().splitlines()[:1] or [f"code {answer.code}"]
    explanation = EXPLANATIONS.get(answer.code)
    return f"{said[0]} ({explanation})" if explanation else said[0]
