"""The login services, driven by fake runners that answer as launchctl and systemctl do.

The outputs of launchctl are the published ones; needs a Mac: nobody has run this against a real launchd yet.
"""

import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autotuner.daemon.launchd import Launchd, agent, facts
from autotuner.daemon.service import Host, Result, ServiceError, Settings, Status, platform_service, run_command
from autotuner.daemon.systemd import Systemd, quoted, unit

OK = Result(0, "")
NOT_FOUND = Result(113, 'Could not find service "dev.autotuner.daemon" in domain for user gui: 501\n')
BUSY = Result(5, "Bootstrap failed: 5: Input/output error\n")
NO_DOMAIN = Result(125, "Bootstrap failed: 125: Domain does not support specified action\n")
PRINTED = Result(
    0,
    """gui/501/dev.autotuner.daemon = {
	active count = 1
	path = /Users/you/Library/LaunchAgents/dev.autotuner.daemon.plist
	state = running

	program = /Users/you/venv/bin/python
	environment = {
		SECRET => hunter2
	}
	runs = 7
	pid = 4711
	last exit code = (never exited)
}
""",
)


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "venv/bin/python", tmp_path, tmp_path / "state")


class FakeLaunchd:
    """Behaves as documented: bootout returns before the service is gone, and bootstrap of a label that is loaded, leaving or
    disabled answers 5. ``lingering`` prints still succeed after bootout, ``busy`` bootstraps fail first.
    """

    def __init__(self, loaded=None, lingering=0, busy=0, no_gui=False, bootout=OK, disabled=False):
        self.disabled = disabled
        self.loaded, self.lingering, self.busy, self.no_gui, self.bootout = loaded, lingering, busy, no_gui, bootout
        self.leaving, self.calls, self.slept = False, [], 0

    def __call__(self, arguments):
        assert arguments[0] == "/bin/launchctl"
        self.calls.append(" ".join(arguments[1:]))
        verb, target = arguments[1], arguments[2]
        if verb == "print":
            if self.leaving:
                self.lingering -= 1
                if self.lingering < 0:
                    self.loaded, self.leaving = None, False
            return PRINTED if self.loaded and target.startswith(self.loaded) else NOT_FOUND
        if verb == "bootout":
            self.leaving = True
            return self.bootout
        if verb == "kickstart":
            target = arguments[-1]
            return OK if self.loaded and target.startswith(self.loaded) else NOT_FOUND
        if verb == "enable":
            self.disabled = False
            return OK
        if self.no_gui and target.startswith("gui"):
            return NO_DOMAIN
        if self.loaded or self.disabled:
            return BUSY
        self.busy -= 1
        if self.busy >= 0:
            return BUSY
        self.loaded = target
        return OK

    def sleep(self, seconds):
        self.slept += 1
        assert self.slept < 1000, "no bound"

    def service(self, settings):
        return Launchd(settings, Host(self, self.sleep, uid=501))


def test_the_agent_says_what_launchd_must_know(settings):
    document = plistlib.loads(agent(settings))
    assert document["Label"] == "dev.autotuner.daemon"
    assert document["ProgramArguments"] == [
        str(settings.python), "-m", "autotuner", "daemon", "--service", "--state-dir", str(settings.state_directory)
    ]  # fmt: skip
    assert document["KeepAlive"] == {"SuccessfulExit": False}
    assert document["Umask"] == 63
    assert document["ProcessType"] == "Standard"
    assert document["ExitTimeOut"] == 20
    for key in ("WorkingDirectory", "StandardOutPath", "StandardErrorPath"):
        assert Path(document[key]).is_absolute()
    assert "Nice" not in document  # a negative one is for root, and training must not inherit any


def test_installing_writes_the_agent_and_loads_it(settings):
    fake = FakeLaunchd()
    service = fake.service(settings)
    assert "gui/501" in service.install()
    assert service.path.read_bytes() == agent(settings)
    assert service.path.stat().st_mode & 0o777 == 0o644
    assert (settings.home / "Library/Logs/autotuner").is_dir()
    assert settings.state_directory.is_dir()
    assert fake.calls[-1] == f"bootstrap gui/501 {service.path}"


def test_installing_again_waits_until_the_old_one_is_gone(settings):
    fake = FakeLaunchd(loaded="gui/501", lingering=3, busy=2)
    fake.service(settings).install()
    assert fake.loaded == "gui/501"
    assert fake.calls.count("bootout gui/501/dev.autotuner.daemon") == 1
    assert fake.slept == 5


def test_a_bootstrap_that_keeps_failing_is_given_up_with_the_reason(settings):
    with pytest.raises(ServiceError, match=r"failed: 5: Input/output error.*Login Items.*launchctl enable"):
        FakeLaunchd(busy=10_000).service(settings).install()


def test_a_service_that_never_leaves_is_given_up(settings):
    with pytest.raises(ServiceError, match="still runs"):
        FakeLaunchd(loaded="gui/501", lingering=10_000).service(settings).install()


def test_without_a_graphical_session_the_user_domain_is_used(settings):
    fake = FakeLaunchd(no_gui=True)
    assert "user/501" in fake.service(settings).install()


def test_a_session_without_any_domain_is_explained(settings):
    host = Host(lambda arguments: NO_DOMAIN if arguments[1] == "bootstrap" else NOT_FOUND, lambda _: None, 501)
    with pytest.raises(ServiceError, match="no graphical session"):
        Launchd(settings, host).install()


def test_removing_unloads_and_deletes_the_file_and_keeps_the_state(settings):
    fake = FakeLaunchd()
    service = fake.service(settings)
    service.install()
    (settings.state_directory / "journal.sqlite3").write_text("mine")
    # bootout answers 3 when the service left by itself in between.
    fake.bootout = Result(3, "Boot-out failed: 3: No such process")
    assert service.uninstall() == f"removed {service.path}"
    assert not service.path.exists()
    assert (settings.state_directory / "journal.sqlite3").exists()
    assert service.uninstall() == "the service was not installed"


def test_status_shows_the_known_fields_and_never_the_environment(settings):
    assert facts(PRINTED.output) == {"state": "running", "pid": "4711", "last exit code": "(never exited)", "runs": "7"}
    status = FakeLaunchd(loaded="gui/501").service(settings).status()
    said = status.sentence
    assert status.running
    assert said == "installed in gui/501: state running, pid 4711, last exit code (never exited), runs 7"
    assert "hunter2" not in said


def test_status_tells_not_installed_from_not_loaded(settings):
    service = FakeLaunchd().service(settings)
    assert service.status().sentence.startswith("not installed")
    service.path.parent.mkdir(parents=True)
    service.path.touch()
    assert "exists but is not loaded" in service.status().sentence


SHOWN = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=4711\nNRestarts=2\nExecMainStatus=0\n"


class FakeSystemd:
    def __init__(self, **answers):
        self.answers, self.calls = answers, []

    def __call__(self, arguments):
        assert tuple(arguments[:2]) == ("systemctl", "--user")
        self.calls.append(" ".join(arguments[2:]))
        return self.answers.get(arguments[2].replace("-", "_"), OK)

    def service(self, settings):
        return Systemd(settings, Host(self, lambda _: None, 1000))


@pytest.fixture(autouse=True)
def own_configuration(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def test_installing_the_unit_enables_and_starts_it(settings):
    fake = FakeSystemd()
    service = fake.service(settings)
    service.install()
    assert service.path == settings.home / ".config/systemd/user/autotuner.service"
    assert service.path.read_text() == unit(settings) == service.print()
    assert fake.calls == ["daemon-reload", "enable autotuner.service", "restart autotuner.service"]


def test_removing_the_unit_stops_it_first_and_twice_is_no_error(settings):
    fake = FakeSystemd()
    service = fake.service(settings)
    service.install()
    fake.calls.clear()
    assert service.uninstall() == f"removed {service.path}"
    assert fake.calls == ["disable --now autotuner.service", "daemon-reload"]
    assert not service.path.exists()
    assert service.uninstall() == "the service was not installed"


def test_the_unit_restarts_after_a_crash_only():
    text = unit(Settings(Path("/venv/bin/python"), Path("/home/you"), Path("/home/you/state")))
    assert "Restart=on-failure" in text
    assert "NoNewPrivileges=yes" in text
    assert "UMask=0077" in text


@pytest.mark.parametrize(
    "path", ["/home/a b/state", "/home/50%/state", '/home/"q"/state', "/home/$HOME/state", "/home/back\\slash"]
)
def test_a_path_with_special_characters_stays_one_word(path):
    assert shlex.split(quoted(path)) in ([path], [path.replace("%", "%%").replace("$", "$$")])


def test_systemd_itself_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("this machine has no systemd")
    file = tmp_path / "autotuner.service"
    file.write_text(unit(Settings(Path(sys.executable), tmp_path, tmp_path / "a state $ % dir")))
    # Without --user: in a container the user's manager has no runtime directory to read other units from.
    said = subprocess.run([analyze, "verify", str(file)], capture_output=True, text=True, check=False)
    assert "autotuner.service" not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (SHOWN, "installed: active (running), pid 4711, restarts 2, last exit code 0"),
        ("LoadState=not-found\n", "not installed; install with: autotuner service install"),
        (
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nMainPID=0\nNRestarts=10\nExecMainStatus=1\n",
            "installed: failed (failed), restarts 10, last exit code 1",
        ),
    ],
)
def test_status_of_the_unit_is_one_sentence(settings, output, expected):
    assert FakeSystemd(show=Result(0, output)).service(settings).status() == Status(
        expected, expected.startswith("installed: active")
    )


@pytest.mark.parametrize(
    ("said", "help_text"),
    [
        ("Failed to connect to bus: No medium found", "enable-linger"),
        ("System has not been booted with systemd as init system (PID 1). Can't operate.", "autotuner daemon"),
        ("systemctl is not installed", "no systemd"),
        ("Failed to reload daemon: Access denied", "Access denied"),
    ],
)
def test_what_systemctl_refuses_is_explained(settings, said, help_text):
    with pytest.raises(ServiceError, match=f"daemon-reload failed: .*{help_text}"):
        FakeSystemd(daemon_reload=Result(1, said)).service(settings).install()


def test_every_platform_has_its_service_and_others_are_told(tmp_path):
    assert isinstance(platform_service(tmp_path, "darwin"), Launchd)
    assert isinstance(platform_service(tmp_path, "linux"), Systemd)
    with pytest.raises(ServiceError, match="supported: darwin, linux"):
        platform_service(tmp_path, "win32")


def test_the_interpreter_of_the_virtual_environment_is_kept(tmp_path):
    command = platform_service(tmp_path, "linux").print().split("ExecStart=")[1].splitlines()[0]
    assert command.startswith(sys.executable)


def test_a_missing_service_manager_is_a_result():
    assert run_command(["/no/such/launchctl"]) == Result(127, "/no/such/launchctl is not installed")


def test_an_agent_that_was_once_disabled_is_enabled_by_installing_it(settings):
    fake = FakeLaunchd(disabled=True)
    fake.service(settings).install()
    assert fake.loaded == "gui/501"


def test_a_restart_is_one_kickstart_of_the_loaded_agent(settings):
    fake = FakeLaunchd(loaded="user/501")
    assert fake.service(settings).restart() == "restarted dev.autotuner.daemon in user/501"
    assert fake.calls[-1] == "kickstart -k user/501/dev.autotuner.daemon"


def test_what_is_not_loaded_cannot_be_restarted(settings):
    with pytest.raises(ServiceError, match="not installed; install with"):
        FakeLaunchd().service(settings).restart()
    with pytest.raises(ServiceError, match="not installed; install with"):
        FakeSystemd().service(settings).restart()


def test_a_kickstart_that_fails_is_told(settings):
    def refuse(arguments):
        return PRINTED if arguments[1] == "print" else Result(37, "Operation already in progress")

    with pytest.raises(ServiceError, match="kickstart failed: Operation already in progress"):
        Launchd(settings, Host(refuse, lambda _: None, 501)).restart()


def test_the_unit_is_restarted_and_reloaded_by_systemd(settings):
    fake = FakeSystemd()
    service = fake.service(settings)
    service.install()
    fake.calls.clear()
    assert service.restart() == "restarted autotuner.service"
    assert fake.calls == ["restart autotuner.service"]
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit(settings)


@pytest.mark.parametrize("fake", [FakeLaunchd(), FakeSystemd()])
def test_installing_again_after_an_upgrade_keeps_what_the_state_directory_holds(settings, fake):
    service = fake.service(settings)
    service.install()
    (settings.state_directory / "journal.sqlite3").write_text("mine")
    service.path.write_text("the file of an older version")
    service.install()
    assert service.path.read_text() == service.print()
    assert (settings.state_directory / "journal.sqlite3").read_text() == "mine"
