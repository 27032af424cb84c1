"""Validation during training on data sets: the documented command of stage 1 on GSV-Cities and two forms of MSLS-val."""

import json

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from PIL import Image

from d2vpr_hf import Evaluation
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.options import CONFIGS, DistillOptions, FinetuneOptions, parse_options
from d2vpr_hf.training.validation import ValidationSet
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.readers.data_sets.trees import at_name, save_objects, write_msls_city
from tests.training.places import write_places
from tests.training.run_files import read_metrics

TRAINING_CITIES = yaml.safe_load((CONFIGS / "distill_gsv_cities.yaml").read_text())["cities"]
STARTS = {"cph": (55.67, 12.56), "sf": (37.77, -122.42)}


def draw(path, place, photo):
    """Draw a photo of coarse blocks that are nearly the same for all photos of a place."""
    blocks = np.random.default_rng(place).integers(0, 240, (6, 8, 3))
    change = np.random.default_rng([place, photo]).integers(0, 16, (6, 8, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((blocks + change).astype(np.uint8)).resize((64, 48), Image.Resampling.BILINEAR).save(path, quality=95)


def write_raw_msls(root):
    """Write two cities of four places; the last query of each looks like the first place."""
    for number, (city, (latitude, longitude)) in enumerate(STARTS.items()):
        for side in ("database", "query"):
            photos = [(f"{city}{side[0]}{i}", latitude + i / 1000, longitude, 90.0, False, False, "Forward") for i in range(4)]
            write_msls_city(root / "train_val" / city, photos, side)
            for place, photo in enumerate(photos):
                looks = 0 if side == "query" and place == 3 else place
                draw(root / "train_val" / city / side / "images" / f"{photo[0]}.jpg", 10 * number + looks, side == "query")
    return root


def write_listed_msls(root):
    """Write the lists of SALAD: eight places; the last query looks like the first place."""
    paths = {side: [f"cph/{side}/images/{side[0]}{place}.jpg" for place in range(8)] for side in ("database", "query")}
    for side, of_side in paths.items():
        for place, path in enumerate(of_side):
            draw(root / path, 0 if side == "query" and place == 7 else place, side == "query")
    np.save(root / "msls_val_dbImages.npy", np.array(paths["database"]))
    np.save(root / "msls_val_qImages.npy", np.array(paths["query"]))
    save_objects(root / "msls_val_gt_25m.npy", [[place] for place in range(8)])
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name in ("database", "queries", "queries_night"):
        for place in range(4):
            draw(root / "svox/images/test" / name / at_name(51.75 + place / 1000, -1.25, pano=name), 30 + place, len(name))
    return {
        "photos": str(write_places(root / "gsv", places_per_city=2, photos=4, cities=TRAINING_CITIES)),
        "teacher": str(save_folder(tiny_cricavpr(use_cross_image_encoder=True), root / "teacher")),
        "model": str(save_folder(tiny_model(), root / "student")),
        "raw": str(write_raw_msls(root / "MSLS")),
        "npy": str(write_listed_msls(root / "msls-val")),
        "svox": str(root / "svox"),
    }


def run(folders, out, *flags, steps=10):
    """Run the documented command on small photos, and return the lines of its log."""
    AcceleratorState._reset_state()
    needed = [f"--{name}={folders[name]}" for name in ("photos", "teacher", "model")]
    small = ["--image-size", "42", "42", "--num-workers", "0", "--max-steps", str(steps), "--out", str(out)]
    distill(parse_options(DistillOptions, ["distill_gsv_cities", *needed, *small, *flags]))
    return read_metrics(out)


@pytest.mark.parametrize(("form", "name", "highest"), [("raw", "MSLS val", 0.75), ("npy", "msls_val", 0.875)])
def test_the_documented_command_validates_on_msls(folders, tmp_path, form, name, highest, caplog):
    """The wrong matches count: 2 of 8 queries, one in each city, and 1 of 8."""
    caplog.set_level("INFO")
    lines = run(folders, tmp_path, f"--validation-data={folders[form]}", "--best-metric", "recall@5", "--resize", "bicubic")
    validations = [line for line in lines if "recall@5" in line]
    assert [line["step"] for line in validations] == [0, 5, 10]  # once an epoch, as published
    report = Evaluation.load(tmp_path / "best" / "validation.json")
    assert report.query_set["count"] == 8 and report.data_set["variant"].startswith(name)
    recall = report.recall()["recall@1"]["recall"]
    assert recall == validations[0]["recall@1"] <= highest
    assert f": {name}" in caplog.text
    for folder in ("best", "last"):
        assert json.loads((tmp_path / folder / "preprocessor_config.json").read_text())["resample"] == 3, "bicubic"
        assert str(tmp_path) not in (tmp_path / folder / "README.md").read_text()
    assert folders[form] not in (tmp_path / "best" / "validation.json").read_text()


def test_query_sets_have_numbers_of_their_own(folders, tmp_path):
    sets = [f"--validation-data={folders['svox']}", "--validation-sets", f"val={folders['npy']}", f"svox={folders['svox']}"]
    (line,) = [line for line in run(folders, tmp_path, *sets, steps=1) if line["step"] == 0]
    names = ["recall@1", "queries_night/recall@1", "val/recall@1", "svox/queries/recall@1", "svox/queries_night/recall@1"]
    assert [name for name in line if name.endswith("recall@1") and name != "mean_recall@1"] == names
    assert line["mean_recall@1"] == pytest.approx(np.mean([line[name] for name in names]))
    assert line["recall@1"] == line["svox/queries/recall@1"]


def test_wrong_data_sets_are_refused_before_the_first_step(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        run(folders, tmp_path / "a", "--validation-data", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="There is no layout nothing"):
        run(folders, tmp_path / "b", f"--validation-data={folders['raw']}", "--validation-layout", "nothing")
    with pytest.raises(ValueError, match="metrics that begin with queries_night/"):
        names = ["--validation-sets", f"queries_night={folders['npy']}"]
        run(folders, tmp_path / "c", f"--validation-data={folders['svox']}", *names)


def test_data_sets_are_options(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    needed = ["--out", "o", "--model", "m", "--photos", "p"]
    sets = ["--validation-sets", "msls=~/MSLS", "raw=MSLS,layout:msls", "walk=a,metres:5", "n=a,b,frames:2"]
    assert parse_options(FinetuneOptions, [*needed, *sets]).other_sets == [
        ValidationSet("msls", root=f"{tmp_path}/MSLS"),
        ValidationSet("raw", root="MSLS", layout="msls"),
        ValidationSet("walk", root="a", metres=5.0),
        ValidationSet("n", "a", "b", frame_tolerance=2),
    ]
    options = parse_options(FinetuneOptions, [*needed, "--validation-data", "MSLS", "--best-metric", "mean_recall@1"])
    assert options.chosen_by == "mean_recall@1"
    assert parse_options(FinetuneOptions, [*needed, "--validation-data", "MSLS", "--patience", "3"]).chosen_by == "recall@1"
    for flags, message in (
        (["--validation-data", "d", "--validation-database", "gridtown"], "validation_data has database and queries"),
        (["--validation-layout", "msls"], "validation_layout is that of validation_data"),
        (["--validation-sets", "n=a,b,layout:msls"], "got 'layout:msls'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_options(FinetuneOptions, [*needed, *flags])
