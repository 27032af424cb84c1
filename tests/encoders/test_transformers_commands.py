"""Commands with a model of transformers: index, search, localize, calibrate, update and evaluate, with its options."""

import json

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from tests.command_line import run
from tests.encoders.vision_models import save_published
from tests.photos import at_name, save, save_row


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_published("dinov2", tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Nine photos as the database, and their scenes, compressed, 10 m away, as queries."""
    folder = tmp_path_factory.mktemp("town")
    save_row(folder / "database")
    for i in range(144):  # a calibration needs 50 in every other square of 100 m, some of them wrong
        scene = i % 9 if i < 108 else (i + 3) % 9
        save(folder / "queries" / at_name(544010 + 100 * (i % 9), 4172758, heading=str(i)), scene, quality=10 + i % 80)
    return folder


def succeed(*arguments) -> str:
    status, out, err = run(*arguments)
    assert status == 0, err
    return out


def test_from_photos_to_a_report(model, town, tmp_path):
    """Options are given once, with the new index; all later commands take them from it."""
    index, query = tmp_path / "index", min((town / "queries").iterdir())
    options = ("--model", model, "--pool", "mean", "--image-size", "56,84", "--layer", "2")
    status, _, err = run("index", town / "database", "--out", index, *options)
    assert status == 0, err
    manifest = json.loads((index / "manifest.json").read_text())
    assert manifest["model_options"] == {"pool": "mean", "image_size": [56, 84], "layer": 2}
    expected = PlaceEncoder(model, pool="mean", image_size=(56, 84), layer=2, device="cpu")
    rows = PlaceIndex.open(index)
    assert rows.settings.fingerprint == expected.fingerprint
    photos = [town / "database" / place.path for place in rows.places]
    np.testing.assert_allclose(rows.descriptors[:], expected.encode(photos).descriptors, atol=1e-3)  # stored as float16

    matches = json.loads(succeed("search", index, query, "--json"))[0]["matches"]
    assert matches[0]["utm_east"] + 10 == float(query.name.split("@")[1])
    succeed("calibrate", index, "--queries", town / "queries")
    assert json.loads(succeed("localize", index, query, "--json"))[0]["confidence"] is not None
    extra = save(tmp_path / "more" / at_name(545000, 4172758), 20)
    succeed("add", index, extra.parent)
    assert len(PlaceIndex.open(index)) == 10
    succeed("search", index, query, *options)  # the same, written out

    status, _, err = run("search", index, query, "--pool", "gem")
    assert status == 1 and "fingerprint" in err
    moved = model.parent / "moved-model"
    moved.symlink_to(model, target_is_directory=True)
    succeed("search", index, query, "--model", moved)


def test_the_baseline_without_an_aggregator(model, town, tmp_path, caplog):
    """The documented command for `facebook/dinov2-small`."""
    report = tmp_path / "report.json"
    arguments = ("--database", town / "database", "--queries", town / "queries", "--model", model, "--pool", "gem")
    status, out, err = run("evaluate", *arguments, "--json", report)
    assert status == 0, err
    assert "Whole photos are resized to 70x70 pixels" in caplog.text and "`center_crop=True` crops" in caplog.text
    assert "R@1" in out
    assert "[70, 70]" in json.dumps(json.loads(report.read_text()))
    caplog.clear()
    succeed("evaluate", *arguments, "--center-crop", "--json", tmp_path / "crop.json")
    assert "Whole photos" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "gem"), "in one way only, without the options `--pool`"),
        (("--image-size", "0"), "expected a side or HEIGHT,WIDTH in pixels"),
        (("--image-size", "1,2,3"), "expected a side or HEIGHT,WIDTH in pixels"),
        (("--model", "{model}", "--image-size", "71"), "`--image-size` must be a multiple of the patch size"),
        (("--model", "{model}", "--layer", "9"), "`--layer` must be in -3..3"),
        (("--model", "{model}", "--backend-precision", "int8"), "precision"),
    ],
)
def test_errors_name_flags(arguments, message, model, town, tmp_path):
    given = [argument.format(model=model) for argument in arguments]
    status, _, err = run("index", town / "database", "--out", tmp_path / "index", *given)
    assert status != 0 and message in " ".join(err.split())
