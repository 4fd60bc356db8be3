"""attach(): bad input and a bad machine cost one warning, never an exception and never the training."""

import errno
import json
import math
import os
import warnings

import pytest

from autotuner.hook import AutotunerWarning, attach, files, knob
from autotuner.hook.files import slug
from autotuner.hook.process import process_start
from autotuner.hook.ring import RingReader
from autotuner.messages import PROTOCOL_VERSION, Declaration


def declaration(run):
    return Declaration.from_json((run.directory / "run.json").read_text())


def check_it_does_nothing(run, micro_batch=64):
    """Every method of a run that is off can be called, and the knobs have their values."""
    run.report(1, 0.5)
    run.evaluation(1, 0.5)
    run.acknowledge(1)
    run.set("micro_batch", 32)
    run.declare(model={"width": 8})
    assert run.poll() is None
    assert run.proposal is None
    assert (run.guided, run.mode, run.directory) == (False, None, None)
    assert run.knobs.micro_batch in (micro_batch, 32)
    run.close()


def test_the_declaration_says_all_that_attach_was_told(start, state):
    space = {"width": [32, 64], "depth": (2, 3)}
    run = start(
        "My Run",
        model={"width": 32},
        framework="mlx",
        budget_seconds=3600,
        budget_steps=1000,
        target=0.1,
        quality_metric="frechet",
        search_space=space,
        max_shapes=4,
        max_pixels=65536,
    )
    told = declaration(run)
    assert run.directory.parent == state / "runs"
    assert (told.run_id, told.name, told.framework) == (run.directory.name, "My Run", "mlx")
    assert (told.budget_seconds, told.budget_steps, told.target) == (3600, 1000, 0.1)
    assert (told.max_shapes, told.max_pixels, told.quality_metric) == (4, 65536, "frechet")
    assert (told.model, told.search_space) == ({"width": 32}, {"width": [32, 64], "depth": [2, 3]})
    assert (told.pid, told.pid_start) == (os.getpid(), process_start(os.getpid()))
    assert [(knob.name, knob.values, knob.start, knob.effect) for knob in told.knobs] == [
        ("micro_batch", (8, 16, 32, 64), 3, "live"),
        ("pace", (0.5, 0.7, 0.85, 1.0), 3, "live"),
    ]


def test_only_the_owner_may_read_a_run(start, state):
    run = start()
    for directory in (state, state / "runs", run.directory):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in run.directory.iterdir()} == {
        "run.json": 0o600,
        "telemetry.ring": 0o600,
        "knobs.page": 0o600,
    }


def test_the_declaration_appears_last_and_whole(monkeypatch, start):
    seen = []
    replace = os.replace

    def look(source, target):
        seen.extend(sorted(path.name for path in target.parent.iterdir()))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", look)
    run = start()
    assert "run.json" not in seen
    assert {"telemetry.ring", "knobs.page"} < set(seen)
    assert declaration(run).name == "my-run"


def test_two_runs_with_one_name_get_directories_of_their_own(start):
    runs = [start() for _ in range(3)]
    assert len({run.directory for run in runs}) == 3
    for step, run in enumerate(runs):
        run.report(step, 0.5)
    for step, run in enumerate(runs):
        reader = RingReader(run.directory / "telemetry.ring")
        assert [record.step for record in reader.read()] == [step]
        reader.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my-run", "my-run"),
        ("My Run!", "my-run"),
        ("../../etc/passwd", "etc-passwd"),
        ("flowers_28px.v2", "flowers_28px.v2"),
        ("", "run"),
        ("...", "run"),
        ("héllo 世界", "h-llo"),
        ("x" * 200, "x" * 64),
    ],
)
def test_a_slug_is_safe_in_a_file_name(name, expected):
    assert slug(name) == expected


def test_a_name_that_is_no_string_is_taken_as_one(start):
    assert start(7).name == "7"


BAD_KNOBS = {
    "an unknown knob": ("dropout", knob(0.1, [0.1, 0.2]), "unknown knob 'dropout'; known knobs: resolution"),
    "an empty ladder": ("micro_batch", knob(8, []), "the ladder is empty"),
    "a value out of bounds": ("pace", knob(1.0, [0.1, 1.0]), "value 0.1; allowed is a number from 0.5 to 1.0"),
    "a broken number": ("micro_batch", knob(8, [8, 8.5]), "value 8.5; allowed is a whole number"),
    "a NaN": ("pace", knob(1.0, [math.nan, 1.0]), "value nan"),
    "a start that is not on the ladder": ("micro_batch", knob(24, [8, 16]), "starts at 24, which is not on its ladder"),
    "an unknown effect": ("micro_batch", knob(8, [8, 16], effect="soon"), "effect 'soon'; allowed: live"),
    "a ladder that is no list": ("micro_batch", knob(8, 16), "'micro_batch'"),
    "a ladder of words": ("micro_batch", knob(8, [8, "many"]), "'micro_batch'"),
    "too many values": ("micro_batch", knob(8, list(range(1, 30))), "29 values; at most 16"),
}


@pytest.mark.parametrize("case", BAD_KNOBS)
def test_a_bad_knob_is_not_offered_and_keeps_the_value_of_the_script(case):
    name, offer, words = BAD_KNOBS[case]
    with pytest.warns(AutotunerWarning) as caught:
        run = attach("bad", knobs={name: offer, "lr_scale": knob(1.0, [0.5, 1.0])})
    assert len(caught) == 1
    assert words in str(caught[0].message)
    assert caught[0].filename == __file__
    assert run.knobs[name] == offer.start
    assert [knob.name for knob in declaration(run).knobs] == ["lr_scale"]


def test_a_ladder_of_one_value_is_a_fixed_knob_and_no_mistake():
    run = attach("fixed", knobs={"micro_batch": knob(64, [64])})
    assert run.knobs.micro_batch == 64
    assert declaration(run).knobs == ()


def test_a_plain_value_in_place_of_a_knob_is_kept_and_told():
    with pytest.warns(AutotunerWarning, match=r"'micro_batch' is 64; allowed is knob\(start, values\)"):
        run = attach("plain", knobs={"micro_batch": 64})
    assert run.knobs.micro_batch == 64


def test_whole_numbers_stay_ints_and_others_are_floats():
    run = attach("types", knobs={"micro_batch": knob(8.0, [4.0, 8.0]), "pace": knob(1, [0.5, 1])})
    assert (type(run.knobs.micro_batch), type(run.knobs.pace)) == (int, float)


def test_numpy_numbers_are_as_good_as_plain_ones():
    numpy = pytest.importorskip("numpy", reason="numpy belongs to the extras")
    run = attach("numpy", knobs={"micro_batch": knob(numpy.int64(8), list(numpy.array([4, 8])))})
    assert declaration(run).knobs[0].values == (4, 8)


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("budget_seconds", -1, "a positive number below 1e9"),
        ("budget_seconds", math.nan, "a positive number below 1e9"),
        ("budget_seconds", "1h", "a positive number below 1e9"),
        ("budget_steps", 1.5, "a positive whole number"),
        ("target", math.inf, "a finite number"),
        ("framework", 3, "a string"),
        ("quality_metric", ["fid"], "a string"),
        ("max_shapes", 0, "a whole number from 1 to 64"),
        ("max_shapes", 65, "a whole number from 1 to 64"),
        ("max_pixels", True, "a positive whole number"),
        ("model", {"width": object()}, "a dict that JSON can hold"),
        ("model", {"rate": math.nan}, "a dict that JSON can hold"),
        ("model", [1, 2], "a dict that JSON can hold"),
        ("search_space", {"width": []}, "a dict of non-empty lists"),
        ("search_space", {"width": 32}, "a dict of non-empty lists"),
        ("search_space", {3: [1]}, "a dict of non-empty lists"),
    ],
)
def test_a_bad_setting_is_told_and_takes_its_default(start, setting, value, allowed):
    with pytest.warns(AutotunerWarning) as caught:
        run = start(**{setting: value})
    assert len(caught) == 1
    message = str(caught[0].message)
    assert setting in message
    assert repr(value) in message
    assert allowed in message
    default = Declaration("id", "name", 1, 0.0, 0.0)
    assert getattr(declaration(run), setting) == getattr(default, setting)


def test_a_joint_limit_without_both_of_its_knobs_is_told(start):
    with pytest.warns(AutotunerWarning, match="max_pixels=4096.* knob resolution is not given"):
        start(max_pixels=4096)


def test_a_state_directory_that_is_a_file_turns_the_hook_off(start, state):
    state.write_text("in the way")
    with pytest.warns(AutotunerWarning, match="training goes on") as caught:
        run = start()
    assert len(caught) == 1
    assert str(state) in str(caught[0].message)
    check_it_does_nothing(run)


def no_room(descriptor, size):
    raise OSError(errno.ENOSPC, "No space left on device")


def not_allowed(*arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_full_disk_turns_the_hook_off_and_leaves_no_half_run(start, state, monkeypatch):
    monkeypatch.setattr(files, "allocate", no_room)
    with pytest.warns(AutotunerWarning, match="No space left on device") as caught:
        run = start()
    assert len(caught) == 1
    assert list((state / "runs").iterdir()) == []
    check_it_does_nothing(run)


@pytest.mark.parametrize("call", ["replace", "open", "mkdir"])
def test_a_state_directory_without_permission_turns_the_hook_off(start, monkeypatch, call):
    monkeypatch.setattr(files.os, call, not_allowed)
    with pytest.warns(AutotunerWarning, match="Permission denied"):
        run = start()
    monkeypatch.undo()
    check_it_does_nothing(run)


def not_supported(*arguments):
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.fixture(params=["fallocate", "no fallocate", "not on this file system"])
def fallocate(request, monkeypatch):
    """The ways in which a system can offer to allocate blocks."""
    if request.param == "no fallocate":
        monkeypatch.delattr(files.os, "posix_fallocate", raising=False)
    elif request.param == "not on this file system":
        monkeypatch.setattr(files.os, "posix_fallocate", not_supported, raising=False)


def test_a_new_file_has_its_blocks_before_anything_is_stored(tmp_path, fallocate):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    files.allocate(descriptor, 200_000)
    status = os.fstat(descriptor)
    os.close(descriptor)
    assert status.st_blocks * 512 >= status.st_size == 200_000
    assert (tmp_path / "file").read_bytes() == bytes(200_000)


def test_a_failed_replacement_leaves_the_old_text_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    files.replace_text(path, "old")
    monkeypatch.setattr(files.os, "replace", not_allowed)
    with pytest.raises(PermissionError):
        files.replace_text(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"


def test_an_unexpected_error_in_attach_turns_the_hook_off(start, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("autotuner.hook.start.make_run_directory", broken)
    with pytest.warns(AutotunerWarning, match="the hook is off; training goes on: ZeroDivisionError: a bug"):
        run = start()
    assert run.knobs.micro_batch == 64
    run.report(1, 0.5)


def test_warnings_as_errors_do_not_raise_into_training(start, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = start(budget_seconds=-1)
    assert "budget_seconds=-1" in capsys.readouterr().err
    run.report(1, 0.5)
    assert declaration(run).budget_seconds is None


def test_the_state_directory_can_be_given(start, tmp_path):
    assert start(state_dir=tmp_path / "else where").directory.parent == tmp_path / "else where" / "runs"


def test_run_json_is_plain_json(start):
    assert json.loads((start().directory / "run.json").read_text())["version"] == PROTOCOL_VERSION
