"""The settings file and the environment's values."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hypothesis import strategies as st

from autotuner.config import ALLOWED, RANGES, Config, load, origins, variable_of
from autotuner.errors import ConfigurationError
from tests.fuzz.damage import TEXTS, damaged, overwrite, readable

NAMES = tuple(field.name for field in fields(Config))
WHOLE = b"""# settings
mode = "observe"
port = 9871
tick_seconds = 0.5
holdout = 0.1
policy = "rules"
state_directory = "/tmp/state"
log_level = "info"
"""
VALUES = (
    "0", "-1", "1", "99999999999999999999", "1" + "0" * 400, "1" + "0" * 5000, "0x" + "f" * 8000, "1.5", "-0.0", "5e-324",
    "1e308", "1e999",
    "inf", "-inf", "nan", "true", "false", '""', '"act"', '"1"',
    '"1e999"', '"inf"', '"nan"', '"' + "9" * 5000 + '"',
    '"\\u0000"', '"' + "a" * 5000 + '"', '"~"', '"~nobody-here/x"', '"ä"', "[]", "[1]", "{}", "{a = 1}", "1979-05-27",
    "07:32:00",
    "[" * 3000 + "]" * 3000, "[" * 200 + "]" * 200, "[" * 3000,
    "{a = " * 500,
    '"""', "'''x", '"\\ud800"', "1_0", "+1",
)  # fmt: skip
NAMES_IN_FILE = (*NAMES, "colour", '""', '"a b"', "mode.deep", "a" * 3000, "ä", "mode", ".".join("a" * 900))
VARIABLES = (
    "0",
    "-1",
    "5",
    "1.5",
    "1e999",
    "nan",
    "inf",
    "act",
    " ",
    "9" * 5000,
    "0x10",
    "1_0",
    "\udcff",
    "a" * 5000,
    "~nobody-here",
    *TEXTS[:3],
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A settings file."""
    lines = [WHOLE] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        form = draw(st.sampled_from(("{} = {}\n", "{} = {}\n", "[{}]\n{}\n", "[[{}]]\nx = {}\n")))
        lines.append(form.format(draw(st.sampled_from(NAMES_IN_FILE)), draw(st.sampled_from(VALUES))).encode())
    data = b"".join(draw(st.permutations(lines)))
    return draw(damaged(data, 3)) if draw(st.integers(0, 2)) == 0 else data


variables = st.dictionaries(st.sampled_from([variable_of(name) for name in NAMES]), st.sampled_from(VARIABLES), max_size=3)


class ConfigurationInput:
    """A Config whose every value is of its type and within its bounds, or a ConfigurationError of readable length."""

    cases = st.tuples(files(), variables)

    def __init__(self, directory: Path) -> None:
        self.path = directory / "autotuner.toml"

    def check(self, case: tuple[bytes, dict[str, str]]) -> None:
        data, environment = case
        overwrite(self.path, data)
        environment = {"HOME": "/home/me", **environment}
        try:
            config = load(self.path, environment=environment)
        except ConfigurationError as error:
            readable(error)
            return
        for field in fields(Config):
            value = getattr(config, field.name)
            assert type(value).__name__ in (field.type, "PosixPath")
            assert field.name not in ALLOWED or value in ALLOWED[field.name]
            low, high = RANGES.get(field.name, (0, 0))
            assert field.name not in RANGES or low <= value <= high
            assert "\x00" not in str(value)
        assert set(origins(self.path, environment=environment)) == set(NAMES)

    def close(self) -> None:
        pass
