"""The commands `calibrate` and `localize`, from photos to answers."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import load_calibration
from tests.photos import save_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A map of 12 spots with labelled queries."""
    return save_town(tmp_path_factory.mktemp("town"), noise=12)


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_calibration_gives_confidences_survives_updates_and_is_verified(town, tmp_path):
    index, query = tmp_path / "index", next((town / "queries").glob("*@1@@@@@@@@.png"))
    run("index", town / "database", "--out", index)
    before = json.loads(run("localize", index, query, "--json"))[0]
    assert before["confidence"] is None and "not calibrated" in before["note"]
    printed = run("calibrate", index, "--queries", town / "queries", "--plots", tmp_path / "plots")
    assert "expected calibration error" in printed and "of 120 positions are correct" in printed
    report = json.loads(run("calibrate", index, "--queries", town / "queries", "--json"))
    assert report["count"] == 120 and report["skipped"] == {} and report["remarks"] == []
    assert f"{100 * report['correct']:.1f} % of 120 positions are correct" in printed
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["precision_coverage.png", "reliability.png"]
    after = json.loads(run("localize", index, query, "--json", "--precision", "0"))[0]
    assert 0 <= after["confidence"] <= 1 and after["radius_90"] > 0 and after["no_match"] is False
    assert "within" in run("localize", index, query, "--precision", "0")
    run("remove", index, PlaceIndex.open(index).places[0].path)
    run("add", index, query)
    run("compact", index)
    run("index", town / "database", "--out", index)
    assert load_calibration(PlaceIndex.open(index)).num_queries == 120
    run("verify", index)
    file = next(index.glob("calibration-*.json"))
    file.write_bytes(file.read_bytes().replace(b"120", b"121"))
    with pytest.raises(ValueError, match=file.name):
        run("verify", index)
    with pytest.raises(ValueError, match=file.name):
        run("localize", index, query)


def test_an_index_without_positions_cannot_be_calibrated(town, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, file in enumerate((town / "database").iterdir()):
        (photos / f"{number}.png").write_bytes(file.read_bytes())
    run("index", photos, "--out", tmp_path / "index")
    with pytest.raises(ValueError, match=r"cannot be calibrated: none of its photos has a position.* List them in a CSV"):
        run("calibrate", tmp_path / "index", "--queries", town / "queries")
    assert "no positions" in run("localize", tmp_path / "index", next(photos.iterdir()))


def test_unusable_queries_are_refused_with_advice_before_photos_are_encoded(town, tmp_path, monkeypatch):
    """Too few queries, queries without positions, and an index of another model are refused before photos are encoded."""
    index = tmp_path / "index"
    few, bare = tmp_path / "few", tmp_path / "bare"
    run("index", town / "database", "--out", index)
    few.mkdir()
    bare.mkdir()
    for number, file in enumerate(sorted((town / "queries").iterdir())[:60]):
        (bare / f"{number}.png").write_bytes(file.read_bytes())
        if number < 7:
            (few / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(PlaceEncoder, "encode", None)
    with pytest.raises(ValueError, match=r"at least 50 labelled queries; of 7 photos in .*few, 7 have a position\. Add photos"):
        run("calibrate", index, "--queries", few)
    with pytest.raises(ValueError, match=r"of 60 photos in .*bare, 0 have a position\. Add photos with positions: in a CSV"):
        run("calibrate", index, "--queries", bare)
    monkeypatch.setattr(PlaceEncoder, "fingerprint", "other")
    with pytest.raises(ValueError, match=r"built with another model .* Use that model \(`--model`\), or build"):
        run("calibrate", index, "--queries", town / "queries")


def test_queries_that_are_in_the_index_are_warned_of(town, tmp_path, caplog):
    """Confidences that were fitted to them would be too high."""
    queries = tmp_path / "queries"
    shutil.copytree(town / "queries", queries)
    copies = sorted((town / "database").iterdir())[:3]
    for file in copies:
        shutil.copy(file, queries / file.name.replace("@@.png", "@copy@.png"))
    run("index", town / "database", "--out", tmp_path / "index")
    run("calibrate", tmp_path / "index", "--queries", town / "queries")
    assert "are also photos of the index" not in caplog.text
    run("calibrate", tmp_path / "index", "--queries", queries)
    assert "3 of 123 queries are also photos of the index, such as @500000" in caplog.text
    assert f"(there: {copies[0].name}): confidence is too high." in caplog.text


def test_a_map_over_a_zone_border_gives_the_answers_of_one_inside_a_zone(town, tmp_path):
    """The same photos on both sides of Greenwich, and 1.5 degrees to the east, where all are in zone 31."""
    answers = {}
    for shift in (0.0, 1.5):
        folder = tmp_path / str(shift)
        folder.mkdir()
        for side in ("database", "queries"):
            lines = ["path,latitude,longitude"]
            for photo in sorted((town / side).glob("@*.png")):
                metres = float(photo.name.split("@")[1]) - 501_650  # from the middle of the spots
                lines.append(f"{photo},51.4779,{shift + metres / 69_260:.7f}")
            (folder / f"{side}.csv").write_text("\n".join(lines))
        run("index", folder / "database.csv", "--out", folder / "index")
        run("calibrate", folder / "index", "--queries", folder / "queries.csv")
        photos = sorted((town / "queries").glob("@*.png"))[::6]
        answers[shift] = json.loads(run("localize", folder / "index", *photos, "--json", "--precision", "0"))
    assert {answer["utm_zone"] for answer in answers[0.0]} == {"30U", "31U"}
    assert {answer["utm_zone"] for answer in answers[1.5]} == {"31U"}
    for here, there in zip(*answers.values(), strict=True):
        assert here["confidence"] == pytest.approx(there["confidence"], abs=1e-6)
        assert (here["latitude"], here["longitude"] + 1.5) == pytest.approx((there["latitude"], there["longitude"]), abs=1e-6)
        assert here["radius_90"] == pytest.approx(there["radius_90"], rel=0.01)
