"""Options from YAML and from flags follow the same rules."""

import pytest

from d2vpr_hf.training.options import CONFIGS, DistillOptions, FinetuneOptions, parse_options, to_yaml

NEEDED = ["--out", "o", "--model", "m", "--photos", "p"]


def recipe(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    path = recipe(tmp_path, "learning_rate: 1e-3\nepochs: 7\ncities: [Rome, PRG]\nredraw_order: false\npatience: null\n")
    options = parse_options(FinetuneOptions, [path, *NEEDED, "--epochs", "9", "--image-size", "98", "294"])
    assert (options.learning_rate, options.epochs, options.weight_decay) == (1e-3, 9, 1e-3)
    assert (options.cities, options.redraw_order, options.patience) == (["Rome", "PRG"], False, None)
    assert options.size == (98, 294)


def test_numbers_that_yaml_reads_as_text_become_numbers(tmp_path):
    """YAML 1.1 reads `1e-4`, without a point, as text."""
    assert parse_options(FinetuneOptions, [recipe(tmp_path, "learning_rate: 1e-4"), *NEEDED]).learning_rate == 1e-4
    assert parse_options(FinetuneOptions, [recipe(tmp_path, "ms_base: -1e-3"), *NEEDED]).ms_base == -1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown option learning_rat. Did you mean learning_rate"),
        ("teacher: x", "unknown option teacher"),  # an option of another stage
        ("- a list", "must hold options"),
        ("a: [", "is not a YAML file"),
        ("cities: []", "cities is empty"),
    ],
)
def test_errors_in_a_yaml_file_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_options(FinetuneOptions, [recipe(tmp_path, text), *NEEDED])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--places-per-batch", "0"], "at least 1, got places_per_batch=0"),
        (["--images-per-place", "1"], "at least 2 photos"),
        (["--image-size", "224"], "height and width"),
        (["--held-out-places", "-8"], "at least 0, got held_out_places=-8"),
        (["--max-grad-norm", "0"], "above 0, got max_grad_norm=0"),
        (["--patience", "3"], "patience needs validations"),
        (["--compile", "--gradient-accumulation-steps", "2"], "cannot be combined"),
        (["--photos", "gridtown", "--gridtown-seeds", "1", "9001"], r"from 1 to 8000, got \[1, 9001\]"),
        (["--photos", "gridtown", "--gridtown-wild", "1.5"], r"gridtown_wild: 1\.5, .* from 0 to 1, got 1\.5"),
        (["--photos", "gridtown", "--gridtown-textures", "photos"], "gridtown_textures: photos.* their share is 0"),
        (["--photos", "gridtown", "--gridtown-visits", "3"], "takes 4 photos of a place, but a view of Gridtown has 3"),
        (["--validation-database", "d"], "belong together"),
        (["--best-metric", "recall@5"], "recall@5 is not measured"),
        (["--best-metric", "held_out_loss"], "held_out_loss is not measured"),
    ],
)
def test_impossible_options_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_options(FinetuneOptions, [*(NEEDED[:4] if "--photos" in flags else NEEDED), *flags])


@pytest.mark.parametrize("flags", [["--epochs", "1", "--epochs=2"], ["--image-size", "9", "9", "--image_size", "9", "9"]])
def test_a_flag_given_twice_is_an_error(tmp_path, flags):
    """The last value would count; a flag may replace a line of the YAML file all the same."""
    with pytest.raises(ValueError, match="is given twice"):
        parse_options(FinetuneOptions, [recipe(tmp_path, "epochs: 3"), *NEEDED, *flags])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse_options(FinetuneOptions, [recipe(tmp_path, "photos: ~/gsv"), "--out=~/run", "--model", "~/m"])
    assert (options.photos, options.out, options.model) == (f"{tmp_path}/gsv", f"{tmp_path}/run", f"{tmp_path}/m")


def test_missing_options_and_allowed_values_are_listed(capsys):
    with pytest.raises(ValueError, match="Missing: out, model, photos, teacher"):
        parse_options(DistillOptions, [])
    with pytest.raises(FileNotFoundError, match="neither a YAML file nor a recipe of this package: distill_gridtown_small, "):
        parse_options(DistillOptions, ["none.yaml"])
    with pytest.raises(SystemExit):
        parse_options(FinetuneOptions, [*NEEDED, "--schedule", "sudden"])
    assert "constant" in capsys.readouterr().err  # the allowed values


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_options_of_every_recipe_survive_writing_and_reading(tmp_path, name):
    kind = DistillOptions if name.startswith("distill") else FinetuneOptions
    needed = [*NEEDED, *(["--teacher", "t"] if kind is DistillOptions else [])]
    options = parse_options(kind, [name, *needed])
    assert parse_options(kind, [recipe(tmp_path, to_yaml(options))]) == options


def test_a_recipe_finds_the_configuration_in_its_folder(tmp_path, monkeypatch):
    """From any current folder."""
    monkeypatch.chdir(tmp_path)
    assert parse_options(FinetuneOptions, ["teacher_gridtown_tiny", "--out", "o"]).model == str(CONFIGS / "teacher_tiny.json")
