"""One TOML file that says everything about a training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from autotuner.diffusion import recipe
from autotuner.diffusion.config import TrainerConfig
from autotuner.errors import ConfigurationError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_an_empty_file_is_the_preset_under_the_files_name(written):
    read = recipe.read(written(""))
    assert (read.config.name, read.config.network, read.source, read.hook) == ("mine", "dit", None, True)
    assert read.out == read.path.parent / "runs/mine"


def test_every_field_of_the_trainer_can_be_said_in_exactly_one_section():
    places = [key for section, keys in recipe.sections().items() if section not in ("data", "hook") for key in keys]
    keyed = {*places, *recipe.NOT_IN_A_SECTION, "resolution"}
    assert keyed == {field.name for field in fields(TrainerConfig)}
    assert len(places) == len(set(places))
    assert set(recipe.SECTION_OF) <= {field.name for field in fields(TrainerConfig)}


def test_values_arrive_with_their_types(written):
    read = recipe.read(
        written("""
            [budget]
            seconds = 5
            [knobs]
            micro_batches = [16, 32]
            micro_batch = 32
            [training]
            batch = 32
            learning_rate = 1
            [model]
            width = 96
            patch = 7
            [hook]
            enabled = false
            [data]
            source = "emoji"
            resolution = 32
        """)
    )
    config = read.config
    assert (config.seconds, config.micro_batches, config.learning_rate) == (5.0, (16, 32), 1.0)
    assert isinstance(config.learning_rate, float)
    assert config.model == {"width": 96, "depth": 3, "mlp_ratio": 2}
    assert config.fixed["patch"] == 7
    assert (read.hook, read.source, read.resolution) == (False, "emoji", 32)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[trainnig]\nbatch = 3", r"unknown key 'trainnig'; allowed: .*training"),
        ("[training]\nbacth = 3", r"\[training\] has an unknown key 'bacth'; allowed: batch"),
        ('[training]\nbatch = "many"', r"training\.batch is 'many'; allowed is int"),
        ("[training]\nbatch = true", r"training\.batch is True; allowed is int"),
        ("[budget]\nseconds = -1", r"seconds -1\.0; allowed is a positive number"),
        ("[knobs]\nmicro_batches = 8", r"knobs\.micro_batches is 8; allowed is tuple"),
        ('[model]\nnetwork = "gan"', r"model\.network 'gan'; allowed: dit, unet"),
        ('preset = "huge"', r"preset 'huge'; allowed: fashion-tiny"),
        ("training = 3", r"training is 3; allowed is a section \[training\]"),
        ("name = 3", r"name is 3; allowed is str"),
        ("x = [", "not a TOML file"),
        ("[data]\nresolution = 0", r"data\.resolution 0; allowed is a positive number"),
        ('name = "../x"', r"name '\.\./x'; allowed is the name of one folder"),
        ('name = ""', r"name ''; allowed is the name of one folder"),
        ('name = ".."', r"name '\.\.'; allowed is the name of one folder"),
        ("[training]\nbatch = 0", r"batch 0; allowed is 1 to"),
        ("[model]\nwidht = 8", r"model has an unknown key 'widht'; allowed: width, depth"),
        ("[model]\nwidth = 0", r"model\.width 0; allowed is a whole number from 1 on"),
        ("[distillation]\nstudent_model = {widht = 8}", r"student_model has an unknown key 'widht'"),
        ('out = "pictures/out"\n[data]\nsource = "pictures"', r"out .*pictures/out lies in data\.source"),
    ],
)
def test_a_wrong_file_is_answered_with_its_name_the_value_and_what_is_allowed(written, text, complaint):
    path = written(text)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        recipe.read(path)
    assert str(path) in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.toml: cannot be read"):
        recipe.read(tmp_path / "absent.toml")


def test_a_change_from_the_command_line_wins_and_is_checked_too(written):
    path = written("[budget]\nseconds = 5")
    read = recipe.read(path, {"budget.seconds": "7", "model.width": "32", "name": "other"})
    assert (read.config.seconds, read.config.model["width"], read.config.name) == (7.0, 32, "other")
    with pytest.raises(ConfigurationError, match=r"budget\.seconds is 'soon'"):
        recipe.read(path, {"budget.seconds": "soon"})


def test_a_budget_in_steps_alone_has_no_bound_in_seconds(written):
    assert recipe.read(written("[budget]\nsteps = 9")).config.seconds is None
    both = recipe.read(written("[budget]\nsteps = 9\nseconds = 5")).config
    assert (both.seconds, both.steps) == (5.0, 9)


@pytest.mark.parametrize(
    ("batch", "ladder", "start"), [(16, (8, 16), 16), (128, (8, 16, 32, 64), 64), (100, (10, 20, 25, 50), 50)]
)
def test_micro_batches_follow_another_batch_unless_the_file_says_them(written, batch, ladder, start):
    config = recipe.read(written(f"[training]\nbatch = {batch}")).config
    assert (config.micro_batches, config.micro_batch) == (ladder, start)


def test_a_ladder_that_small_pictures_leave_one_rung_is_said_once(written, stripes, caplog):
    path = written("[model]\npatch = 8")
    assert recipe.read(path).fitted(stripes).resolutions == (8,)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "rungs=(8,) unit=8" in caplog.text
    caplog.clear()
    recipe.read(written("[model]\npatch = 8\n[knobs]\nresolutions = [8]")).fitted(stripes)
    assert not caplog.records


def test_a_resolution_ladder_is_checked_against_the_pictures_not_the_preset(written, pictures):
    text = f'[data]\nsource = "{pictures}"\nresolution = 24\n[knobs]\nresolutions = '
    assert recipe.read(written(text + "[12, 24]")).prepared()[1].resolutions == (12, 24)
    for ladder, complaint in (("[12, 20]", "resolution 24 is not on its ladder"), ("[10, 24]", "allowed are multiples of 4")):
        with pytest.raises(ConfigurationError, match=rf"mine\.toml: .*{complaint}"):
            recipe.read(written(text + ladder)).prepared()


def test_every_path_of_a_file_counts_from_the_file(written, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    path = written('preset = "stable-diffusion-lora"\n[data]\nsource = "pictures"\n[model]\nfolder = "sd"')
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = recipe.read(Path("..") / path.name)
    folder = Path(read.config.fixed["folder"])
    assert (read.out, Path(read.source), folder) == (tmp_path / "runs/mine", tmp_path / "pictures", tmp_path / "sd")
    assert recipe.read(written('[data]\nsource = "hf:fashion_mnist"')).source == "hf:fashion_mnist"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_valid(path):
    assert recipe.read(path).config.seconds


@pytest.fixture
def pictures(tmp_path):
    """A folder of wide, tall and square pictures."""
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", ((48, 24), (24, 48), (32, 32))[number % 3], (8 * number, 40, 90)).save(folder / f"{number}.png")
    return folder


def test_a_folder_in_buckets_stays_within_the_budget_of_shapes(written, pictures):
    path = written(f'preset = "unet-tiny"\n[data]\nsource = "{pictures}"\nresolution = 16\nbuckets = 3\n')
    dataset, config = recipe.read(path).prepared()
    assert len(dataset.shapes_at(16)) == 3
    assert len(dataset.buckets) * len(config.resolutions) * len(config.micro_batches) <= config.max_shapes
    assert config.micro_batch in config.micro_batches


BUCKETED = 'preset = "unet-tiny"\n[data]\nsource = "pictures"\nresolution = 16\nbuckets = 3\n[knobs]\n'


def test_what_the_file_says_of_knobs_holds_with_buckets_too(written, pictures):
    assert recipe.read(written(BUCKETED + "micro_batch = 8")).prepared()[1].micro_batches == (8, 16)
    assert recipe.read(written(BUCKETED + "micro_batches = [64]\nresolutions = [8, 16]")).prepared()[1].resolutions == (8, 16)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ("resolutions = [8, 12, 16]\nmax_shapes = 4", r"3 buckets at resolutions \(8, 12, 16\) .* shapes; allowed are 4"),
        ("micro_batches = [8, 32, 64]", r"micro-batches \(8, 32, 64\) make 9 shapes"),
        ("max_shapes = 2", r"make 3 shapes; allowed are 2 \(knobs\.max_shapes\)"),
    ],
)
def test_more_shapes_than_the_budget_are_refused(written, pictures, knobs, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        recipe.read(written(BUCKETED + knobs)).prepared()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[data]\nsource = "digits"\nbuckets = 2', "network 'dit'; allowed: unet, unet2d"),
        ('preset = "unet-tiny"\n[data]\nsource = "digits"\nbuckets = 2', "data.source 'digits'; allowed is a folder"),
        ('preset = "unet-tiny"\n[data]\nbuckets = 9', "allowed is 0 to 8"),
        (
            'preset = "unet-tiny"\n[data]\nbuckets = 2\n[multires]\nform = "mixed"\nrungs = [8]',
            "form 'mixed'; allowed is 'fixed'",
        ),
    ],
)
def test_buckets_that_cannot_be_are_refused_before_any_picture_is_read(written, text, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        recipe.read(written(text)).prepared()
