"""Fused places: one row for each cell and direction, whose matches still name all photos."""

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.index import DamagedIndexError, IndexSettings, PhotoFile, PlaceIndex
from d2vpr_hf.index.hub import INDEX_FILES
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceGrid
from d2vpr_hf.retrieval.fuse_places import fuse_places

DIM = 6


def unit(*numbers):
    vector = np.zeros(DIM, np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.linalg.norm(vector)


# two photos of one view, one photo of the opposite view, two photos of another cell, one photo without a heading
ROWS = [
    (unit(1, 0), Place("a1.jpg", x=1.0, y=1.0, z=0.0, frame="f", yaw=10.0, timestamp="2024-01-01", condition="day")),
    (unit(0, 1), Place("a2.jpg", x=3.0, y=2.0, z=0.0, frame="f", yaw=20.0, timestamp="2024-02-01", condition="night")),
    (unit(0, 0, 1), Place("a3.jpg", x=1.0, y=1.0, z=0.0, frame="f", yaw=190.0)),
    (unit(0, 0, 0, 1), Place("b1.jpg", x=51.0, y=1.0, z=0.0, frame="f", yaw=5.0, condition="day")),
    (unit(0, 0, 0, 1, 1), Place("b2.jpg", x=51.0, y=3.0, z=0.0, frame="f", yaw=25.0, condition="day")),
    (unit(0, 0, 0, 0, 0, 1), Place("c.jpg", x=51.0, y=1.0, z=0.0, frame="f")),
]


def make_index(folder, rows=ROWS, dtype="float32"):
    settings = IndexSettings("m", "f" * 64, DIM, photo_folder=folder, dtype=dtype)
    with PlaceIndex.create(folder / "photos", settings) as index:
        index.add(np.stack([row for row, _ in rows]), [place for _, place in rows])
    return PlaceIndex.open(folder / "photos")


@pytest.fixture
def fused(tmp_path):
    fuse_places(make_index(tmp_path), tmp_path / "fused")
    return PlaceIndex.open(tmp_path / "fused")


def test_each_cell_and_direction_becomes_a_row(fused):
    assert len(fused) == 4 and fused.verify() == []
    photos = [match.photos for match in sorted(fused.search(unit(1, 1), 4)[0], key=lambda match: match.row)]
    names = [[photo.name for photo in row] for row in photos]
    assert names == [["a1.jpg", "a2.jpg"], ["a3.jpg"], ["b1.jpg", "b2.jpg"], ["c.jpg"]]


def test_mean_is_the_mean_of_unit_length(fused):
    np.testing.assert_allclose(fused.descriptors[0], unit(1, 1), atol=1e-6)
    np.testing.assert_allclose(fused.descriptors[1], unit(0, 0, 1), atol=1e-6)
    match = fused.search(unit(1, 1), 1)[0][0]
    assert match.similarity == pytest.approx(1, abs=1e-6) and match.to_dict()["photos"] == [str(p) for p in match.photos]


def test_the_place_is_the_mean_of_its_photos(fused):
    place = fused.places[0]
    assert (place.x, place.y, place.frame, place.timestamp, place.condition) == (2.0, 1.5, "f", "2024-02-01", None)
    assert place.yaw == pytest.approx(15) and fused.places[2].condition == "day" and place.path in ("a1.jpg", "a2.jpg")


def test_hops_adds_differences_from_the_mean_of_the_map(tmp_path):
    """The same by a loop: centre, sum, the mean length of the differences, and the length 1 of the photos."""
    fuse_places(make_index(tmp_path), tmp_path / "fused", method="hops")
    fused = PlaceIndex.open(tmp_path / "fused")
    rows = np.stack([row for row, _ in ROWS])
    centre = rows.mean(axis=0)
    parts = rows[:2] - centre
    total = parts.sum(axis=0)
    expected = centre + total / np.linalg.norm(total) * np.mean([np.linalg.norm(part) for part in parts])
    np.testing.assert_allclose(fused.descriptors[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_array_equal(fused.descriptors[1], rows[2])  # a single photo does not change


def test_degrees_are_fused_across_the_border_of_two_zones(tmp_path):
    views = [Place("w", latitude=48.0, longitude=11.9999999, heading=359.0), Place("e", latitude=48.0, longitude=12.0000001)]
    rows = [(unit(1, 0), views[0]), (unit(0, 1), replace(views[1], heading=1.0))]
    _, report = fuse_places(make_index(tmp_path, rows), tmp_path / "fused", grid=PlaceGrid(heading=360))
    place = PlaceIndex.open(tmp_path / "fused").places[0]
    assert report.rows == 1 and min(place.heading, 360 - place.heading) < 1e-6
    assert (place.latitude, place.longitude) == pytest.approx((48.0, 12.0))


def test_opposite_directions_have_no_mean(tmp_path):
    fuse_places(make_index(tmp_path), tmp_path / "fused", grid=PlaceGrid(heading=360))
    assert [place.yaw for place in PlaceIndex.open(tmp_path / "fused").places] == [None, None]


def test_photos_without_a_direction_are_counted(tmp_path, caplog):
    _, report = fuse_places(make_index(tmp_path), tmp_path / "fused")
    assert report.to_dict() == {"fused_photos": 6, "fused_rows": 4, "not_fused": 1}
    assert "1 of 6 photos stay rows of their own: no heading" in caplog.text


def test_the_manifest_and_the_information_have_the_fusion(fused):
    assert fused.fusion.method == "mean" and fused.fusion.photos == 6
    assert fused.info()["fused_places"] == "mean of 6 photos, cells of 10 m, directions of 30°"


def test_an_index_of_photos_has_no_trace_of_it(tmp_path):
    index = make_index(tmp_path)
    match = index.search(unit(1), 1)[0][0]
    assert match.photos == () and "photos" not in match.to_dict() and index.fusion is None
    assert '"fusion"' not in (index.folder / "manifest.json").read_text()


def test_photos_cannot_be_added_changed_or_removed(fused):
    place = Place("new.jpg", x=0.0, y=0.0, frame="f")
    for change in (
        lambda: fused.add(unit(1), place),
        lambda: fused.update(unit(1), place),
        lambda: fused.upsert(unit(1)[None], [place], [PhotoFile()]),
        lambda: fused.remove([fused.places[0].path]),
        lambda: fused.amend([fused.places[0]], [PhotoFile()]),
    ):
        with pytest.raises(ValueError, match="fuse it again"):
            change()
    fused.compact()
    assert len(fused) == 4 and fused.verify() == []


def test_a_second_fusion_replaces_the_first_one(tmp_path):
    index = make_index(tmp_path)
    fuse_places(index, tmp_path / "fused")
    index.add(unit(1, 1, 1), Place("d.jpg", x=200.0, y=1.0, z=0.0, frame="f", yaw=5.0))
    index.flush()
    fuse_places(index, tmp_path / "fused", method="hops")
    fused = PlaceIndex.open(tmp_path / "fused")
    assert len(fused) == 5 and fused.fusion.method == "hops" and fused.verify() == []
    assert len(list((tmp_path / "fused").glob("fused-photos-*"))) == 1


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_list_of_photos_is_an_error_with_a_remedy(fused, damage):
    file = next(fused.folder.glob("fused-photos-*"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    opened = PlaceIndex.open(fused.folder)
    with pytest.raises(DamagedIndexError, match="--fuse-places"):
        opened.search(unit(1), 1)
    assert "--fuse-places" in opened.verify()[0]


def test_wrong_sources_are_refused(tmp_path, fused):
    with pytest.raises(ValueError, match="fused places already"):
        fuse_places(fused, tmp_path / "again")
    index = PlaceIndex.open(tmp_path / "photos")
    with pytest.raises(FileExistsError, match="a row for each photo"):
        fuse_places(index, tmp_path / "photos")
    with pytest.raises(ValueError, match="the index of all photos itself"):
        fuse_places(index, tmp_path / "photos", overwrite=True)
    with pytest.raises(ValueError, match="mean, hops"):
        fuse_places(index, tmp_path / "x", method="median")
    no_heading = make_index(tmp_path / "n", [(row, replace(place, yaw=None)) for row, place in ROWS])
    with pytest.raises(ValueError, match="ignores directions"):
        fuse_places(no_heading, tmp_path / "x")


def test_the_store_searches_fused_rows(tmp_path):
    fuse_places(make_index(tmp_path, dtype="float16"), tmp_path / "fused", compression="int8")
    fused = PlaceIndex.open(tmp_path / "fused")
    assert fused.compression == "int8" and len(fused.search(unit(1, 1), 1)[0][0].photos) == 2


def test_a_later_fusion_keeps_the_choice_of_a_store(tmp_path):
    index = make_index(tmp_path, dtype="float16")
    fuse_places(index, tmp_path / "fused", compression="int8")
    fuse_places(index, tmp_path / "fused", method="hops")
    fused = PlaceIndex.open(tmp_path / "fused")
    assert fused.compression == "int8" and fused.store_is_fresh
    fuse_places(index, tmp_path / "fused", compression="none")
    assert PlaceIndex.open(tmp_path / "fused").compression == "none"
    fuse_places(index, tmp_path / "fused", compression="int8")
    fuse_places(index, tmp_path / "fused", overwrite=True)
    assert PlaceIndex.open(tmp_path / "fused").compression == "none"


def test_options_of_a_fusion_need_it(tmp_path):
    refused = CliRunner().invoke(app, ["index", str(tmp_path), "--out", str(tmp_path / "map"), "--fuse-cell", "20"])
    assert "belong to `--fuse-places`" in str(refused.exception)


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Four photos of two places with @ names."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for place, heading in ((0, 10), (0, 20), (50, 10), (50, 20)):
        pixels = rng.integers(0, 255, (60, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"@{400_000 + place}.00@5000000.00@32@T@@@view@@{heading}@@@@@@.jpg")
    return folder


def test_the_command_indexes_fuses_updates_and_searches(photo_folder, tmp_path):
    run = CliRunner().invoke
    photos = shutil.copytree(photo_folder, tmp_path / "photos")
    command = ["index", str(photos), "--out", str(tmp_path / "map"), "--fuse-places", "mean", "--json"]
    first = json.loads(run(app, command).stdout)
    assert (first["fused_photos"], first["fused_rows"], first["photos"]) == (4, 2, 4)
    photo = sorted(photos.iterdir())[0]
    photo.unlink()
    again = json.loads(run(app, command).stdout)
    assert (again["removed"], again["kept"], again["fused_photos"], again["fused_rows"]) == (1, 3, 3, 2)
    query = str(sorted(photos.iterdir())[-1])
    answer = json.loads(run(app, ["search", str(tmp_path / "map"), query, "--top-k", "1", "--json"]).stdout)
    assert len(answer[0]["matches"][0]["photos"]) == 2 and query in answer[0]["matches"][0]["photos"]
    refused = run(app, ["add", str(tmp_path / "map"), query])
    assert "fused places" in str(refused.exception)
    unfused = run(app, ["index", str(photos), "--out", str(tmp_path / "map")])
    assert "fuse it again" in str(unfused.exception)
    watched = run(app, ["watch", str(photos), "--out", str(tmp_path / "map")])
    assert "fuse it again" in str(watched.exception)
    other = run(app, ["index", str(photos), "--out", str(tmp_path / "map-photos"), "--fuse-places", "mean"])
    assert "a row for each photo" in str(other.exception)


def test_descriptors_of_another_program_are_fused(tmp_path):
    np.save(tmp_path / "rows.npy", np.stack([unit(1, 0), unit(0, 1)]))
    (tmp_path / "places.csv").write_text("path,x,y,yaw\na.jpg,1,1,10\nb.jpg,2,1,12\n")
    options = ["--descriptors", str(tmp_path / "rows.npy"), "--places", str(tmp_path / "places.csv")]
    result = CliRunner().invoke(app, ["index", *options, "--out", str(tmp_path / "map"), "--fuse-places", "hops"])
    assert result.exit_code == 0, result.output
    assert "Fused 2 photos to 1 rows" in result.output
    assert len(PlaceIndex.open(tmp_path / "map").search(unit(1, 1), 1)[0][0].photos) == 2


def test_the_space_names_photos_without_folders_of_the_server(fused):
    from d2vpr_hf.space.photo_map import _match_to_dict

    values = _match_to_dict(fused.search(unit(1, 1), 1)[0][0])
    assert values["photos"] == ["a1.jpg", "a2.jpg"] and str(fused.folder.parent) not in json.dumps(values)


def test_an_interrupted_fusion_is_not_complete(tmp_path, monkeypatch):
    index = make_index(tmp_path)
    monkeypatch.setattr(PlaceIndex, "store_fusion", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fuse_places(index, tmp_path / "fused")
    monkeypatch.undo()
    assert not PlaceIndex.open(tmp_path / "fused").complete
    with pytest.raises(FileExistsError, match="interrupted"):
        fuse_places(index, tmp_path / "fused")
    fuse_places(index, tmp_path / "fused", overwrite=True)
    fused = PlaceIndex.open(tmp_path / "fused")
    assert fused.complete and len(fused) == 4 and fused.verify() == []


def test_the_hub_gets_and_returns_the_list_of_photos(fused):
    name = next(fused.folder.glob("fused-photos-*")).name
    with fused.unchanged() as manifest:
        assert name in [file.name for file in manifest.files]
    assert any(fnmatch(name, pattern) for pattern in INDEX_FILES)
