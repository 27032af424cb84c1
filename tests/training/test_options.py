"""Options from YAML and from flags follow the same rules."""

import pytest

from d2vpr_hf.training.option_values import ValidationSet
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
        (["--best-metric", "mean_recall@1"], "mean_recall@1 is not measured: set validation_sets"),
        (["--validation-sets", "walk=a,b,c,d"], "NAME=ROOT or NAME=DATABASE,QUERIES, optionally followed by"),
        (["--validation-sets", "a/b=c,d"], "with letters, digits"),
        (["--validation-sets", "walk=a,b,frames:x"], "such as frames:2 or metres:10; got 'frames:x'"),
        (["--validation-sets", "walk=a,b", "walk=c,d"], "Two validation sets have the name walk"),
        (["--weights", "q=2"], "weights: q is not a source of this run. The sources are p."),
        (["--weights", "p=0"], "SOURCE=WEIGHT with a weight above 0, such as p=2, got 'p=0'"),
        (["--weights", "p=1", "./p=2"], "weights names p twice"),
        (["--unlabelled", "a/x", "b/x", "--weights", "x=2"], "x is the name of several sources"),
        (["--unlabelled", "a", "p/"], "p is given twice among photos, unlabelled and panoramas"),
        (["--unlabelled", "a", "b", "c", "--places-per-batch", "3"], "cannot hold at least one of each of 4 sources"),
        (["--crop-scale", "0.9", "0.5"], r"crop_scale is a smallest and a largest value from 0.01 to 1, got \[0.9, 0.5\]"),
        (["--view-fov", "60"], r"view_fov is a smallest and a largest value from 1 to 150, got \[60.0\]"),
        (["--flip", "2"], "flip is a probability"),
        (["--view-turn", "30"], "may have nothing in common with a field of view of 55 degrees"),
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


def test_one_source_is_a_plain_text_and_several_are_a_list(tmp_path):
    """Files of runs, and options of earlier versions, have a text."""
    options = parse_options(FinetuneOptions, NEEDED)
    assert options.photos == "p" and "photos: p\n" in to_yaml(options)
    several = parse_options(FinetuneOptions, [recipe(tmp_path, "photos: [a, gridtown]\nunlabelled: [u]"), *NEEDED[:4]])
    assert several.sources == ["a", "gridtown", "u"] and several.source_weights == [1.0, 1.0, 1.0]
    assert parse_options(FinetuneOptions, [recipe(tmp_path, to_yaml(several))]) == several
    alone = parse_options(FinetuneOptions, [*NEEDED[:4], "--panoramas", "around"])
    assert alone.photos == "" and alone.sources == ["around"]
    assert parse_options(FinetuneOptions, [recipe(tmp_path, to_yaml(alone))]) == alone


def test_a_weight_names_a_source_by_its_path_or_its_last_part():
    flags = [*NEEDED[:4], "--unlabelled", "a/x", "b/y=1", "--weights", "x=2.5", "b/y=1=3"]
    assert parse_options(FinetuneOptions, flags).source_weights == [2.5, 3.0]


def test_validation_sets_have_paths_and_rules(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = [*NEEDED, "--validation-sets", "walk=~/a,~/b", "day.night=c,d,frames:2", "far=e,f,metres:7.5"]
    walk, night, far = parse_options(FinetuneOptions, flags).other_sets
    assert walk == ValidationSet("walk", f"{tmp_path}/a", f"{tmp_path}/b")
    assert night == ValidationSet("day.night", "c", "d", frame_tolerance=2)
    assert far == ValidationSet("far", "e", "f", metres=7.5)


def test_distillation_refuses_what_its_metric_loss_and_clean_view_cannot_do():
    needed = [*NEEDED, "--teacher", "t"]
    with pytest.raises(ValueError, match="gradient_accumulation_steps must be 1, got 2"):
        parse_options(DistillOptions, [*needed, "--metric-weight", "1", "--gradient-accumulation-steps", "2"])
    with pytest.raises(ValueError, match="`teacher_view: clean` needs an augmentation that moves nothing"):
        parse_options(DistillOptions, [*needed, "--teacher-view", "clean"])
    assert parse_options(DistillOptions, [*needed, "--descriptor-weight", "0", "--token-mse-weight", "1"]).has_unused_parameters
    weights = ["--descriptor-weight", "0", "--token-mse-weight", "1", "--metric-weight", "1"]
    assert not parse_options(DistillOptions, [*needed, *weights]).has_unused_parameters


def test_missing_options_and_allowed_values_are_listed(capsys):
    with pytest.raises(ValueError, match="Missing: out, model, photos, teacher"):
        parse_options(DistillOptions, [])
    with pytest.raises(
        FileNotFoundError, match=r"neither a YAML file nor a recipe of this package: .*distill_gridtown_small, "
    ):
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
