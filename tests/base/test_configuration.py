"""Configuration: defaults, file, environment, flags; and errors that say what is allowed and where the value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotuner.config import load, state_directory
from autotuner.errors import ConfigurationError


def test_later_sources_win(tmp_path):
    path = tmp_path / "autotuner.toml"
    path.write_text('mode = "observe"\nport = 1000\ntick_seconds = 2\n')
    config = load(path, {"port": 3000}, {"HOME": "/home/me", "AUTOTUNER_PORT": "2000", "AUTOTUNER_MODE": "advise"})
    assert (config.mode, config.port, config.tick_seconds) == ("advise", 3000, 2.0)


def test_the_state_lives_where_the_platform_keeps_state():
    home = {"HOME": "/home/me"}
    assert state_directory(home, "darwin") == Path("/home/me/Library/Application Support/autotuner")
    assert state_directory(home, "linux") == Path("/home/me/.local/state/autotuner")
    assert state_directory({**home, "XDG_STATE_HOME": "/s"}, "linux") == Path("/s/autotuner")
    assert state_directory({**home, "AUTOTUNER_STATE_DIR": "/x"}, "darwin") == Path("/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mode = "wild"', "mode = 'wild'; allowed: observe, advise, act"),
        ("port = 70000", "port = 70000; allowed: 0 to 65535"),
        ('port = "many"', "port = 'many'; expected int"),
        ("colour = 1", "unknown setting 'colour'; known: state_directory, mode"),
        ("tick_seconds = true", "tick_seconds = True; expected float"),
        ("mode = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_answered_with_its_path_and_what_is_allowed(tmp_path, text, message):
    path = tmp_path / "autotuner.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load(path, environment={"HOME": "/home/me"})
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_wrong_variable_and_a_wrong_flag_name_themselves():
    with pytest.raises(ConfigurationError, match="AUTOTUNER_PORT: port = '-1'"):
        load(environment={"HOME": "/home/me", "AUTOTUNER_PORT": "-1"})
    with pytest.raises(ConfigurationError, match="flag --tick-seconds: tick_seconds = 0"):
        load(flags={"tick_seconds": 0}, environment={"HOME": "/home/me"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        load(tmp_path / "nothing.toml")
