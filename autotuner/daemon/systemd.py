"""The systemd user unit of Linux."""

from __future__ import annotations

import os
from pathlib import Path

from autotuner.daemon.service import RESTART_SECONDS, STOP_SECONDS, Host, Result, ServiceError, Settings, Status, write_file

SYSTEMCTL = "systemctl"
UNIT = "autotuner.service"
SHOWN = ("LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStatus")

# Only what a user's own manager may do without a namespace: the daemon must see the processes of the user's trainings in /proc.
HARDENING = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallArchitectures=native",
    "UMask=0077",
)
EXPLANATIONS = (
    (
        "Failed to connect to",
        "no user manager in this session; log in normally (not with su), or: loginctl enable-linger $USER",
    ),
    ("System has not been booted with systemd", "this machine runs no systemd; start the daemon with: autotuner daemon"),
    ("is not installed", "this machine has no systemd; start the daemon with: autotuner daemon"),
)


def quoted(word: str) -> str:
    """A word of ``ExecStart``: systemd expands ``%`` and ``$``, and splits at blanks."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(character in word for character in " \t\"'\\;") else escaped


def unit(settings: Settings) -> str:
    """The unit file."""
    lines = (
        "[Unit]",
        "Description=Autotuner watches and tunes diffusion-model training",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=exec",
        "ExecStart=" + " ".join(quoted(word) for word in settings.command),
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Environment=PYTHONUNBUFFERED=1",
        # Exit code 0 stays down: a wrong setting must not become a restart loop.
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        f"TimeoutStopSec={STOP_SECONDS}",
        "KillMode=mixed",
        *HARDENING,
        "",
        "[Install]",
        "WantedBy=default.target",
    )
    return "\n".join(lines) + "\n"


def facts(output: str) -> dict[str, str]:
    """``Name=value`` lines of ``systemctl show``."""
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


class Systemd:
    """Installs the unit for the user who calls it."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        configuration = os.environ.get("XDG_CONFIG_HOME")
        base = Path(configuration) if configuration else settings.home / ".config"
        self.path: Path = base / "systemd" / "user" / UNIT
        self._host = host

    def print(self) -> str:
        """The unit file."""
        return unit(self.settings)

    def install(self) -> str:
        """Write the unit and start it, now and at every login."""
        self.settings.state_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(self.path, unit(self.settings).encode())
        self._must("daemon-reload")
        self._must("enable", UNIT)
        self._must("restart", UNIT)  # starts it, and gives a running one the new file
        return (
            f"installed {self.path}\n"
            "to keep it running while you are logged out: loginctl enable-linger $USER\n"
            "check with: autotuner service status"
        )

    def uninstall(self) -> str:
        """Stop the daemon and delete the unit; state and logs stay."""
        if not self.path.exists():
            return "the service was not installed"
        self._must("disable", "--now", UNIT)
        self.path.unlink()
        self._must("daemon-reload")
        return f"removed {self.path}"

    def restart(self) -> str:
        """Stop the daemon and start it again."""
        if not self.path.exists():
            raise ServiceError("not installed; install with: autotuner service install")
        self._must("restart", UNIT)
        return f"restarted {UNIT}"

    def status(self) -> Status:
        """What systemd says of the unit."""
        known = facts(self._must("show", UNIT, *(f"--property={name}" for name in SHOWN)))
        if known.get("LoadState") == "not-found":
            return Status("not installed; install with: autotuner service install", False)
        words = [f"{known.get('ActiveState', 'unknown')} ({known.get('SubState', 'unknown')})"]
        if known.get("MainPID", "0") != "0":
            words.append(f"pid {known['MainPID']}")
        words.append(f"restarts {known.get('NRestarts', '0')}, last exit code {known.get('ExecMainStatus', '0')}")
        return Status("installed: " + ", ".join(words), known.get("ActiveState") == "active")

    def _must(self, *arguments: str) -> str:
        answer = self._host.run((SYSTEMCTL, "--user", *arguments))
        if answer.code != 0:
            raise ServiceError(f"systemctl --user {arguments[0]} failed: {_words(answer)}")
        return answer.output


def _words(answer: Result) -> str:
    said = answer.output.strip() or f"code {answer.code}"
    help_text = next((help_text for beginning, help_text in EXPLANATIONS if beginning in said), "")
    return f"{said} ({help_text})" if help_text else said
