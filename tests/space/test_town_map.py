"""The map that the Space opens with: made once, kept, one for each model, with photos of it to try."""

import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import distance_in_metres
from d2vpr_hf.readers import read_place
from d2vpr_hf.space import town_map
from d2vpr_hf.space.about import about_page
from d2vpr_hf.space.opening import OpenedSpace, open_space
from d2vpr_hf.space.settings import Settings, read_settings
from d2vpr_hf.space.town_map import TownPlan, open_town_map

PLAN = TownPlan(places=15, image_size=32, queries_per_place=1, examples=4)


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, num_workers=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def town(encoder, cache):
    return open_town_map(encoder, cache, PLAN)


def test_examples_are_no_photos_of_the_map_and_two_lie_outside_it(town):
    index = PlaceIndex.open(town.index)
    mapped = {place.path for place in index.places}
    assert len(index) == 40 and town.queries == 10  # of 15 places, two thirds: four photos each, and a query
    assert len(town.examples) == 4 and not mapped & {photo.name for photo in town.examples}
    assert all(photo.is_file() for photo in town.examples)
    away = [min(distance_in_metres(read_place(photo), place) for place in index.places) for photo in town.examples]
    assert max(away[:2]) <= 25 and min(away[2:]) > 50
    assert 0 <= town.found <= town.queries


def test_examples_are_filled_up_where_few_are_found():
    mapped, found, outside = [f"in{n}" for n in range(6)], ["in1"], ["out0", "out1", "out2", "out3"]
    assert town_map._choose_examples(mapped, found, outside, 5) == ["in1", "in0", "in3", "out0", "out2"]
    assert town_map._choose_examples(mapped, mapped, outside, 5) == ["in0", "in1", "in2", "out0", "out2"]
    many = [f"in{n}" for n in range(40)]  # the best first
    assert town_map._choose_examples(many, many, outside, 4) == ["in0", "in5", "out0", "out2"]
    assert town_map._choose_examples(["in0"], [], [], 5) == ["in0"]


def test_a_second_start_makes_nothing(town, encoder, cache, monkeypatch):
    for name in ("_render", "index_photos", "search_photos"):
        monkeypatch.setattr(town_map, name, None)
    assert open_town_map(encoder, cache, PLAN) == town


def test_a_start_that_was_interrupted_is_gone_on_with(town, encoder, cache, monkeypatch):
    """The notes are written last: without them photos that are there are kept, and the index ends the same."""
    notes = town.index.with_suffix(".json")
    before, descriptors = notes.read_text(), {path.name: path.read_bytes() for path in town.index.glob("descriptors-*")}
    notes.unlink()
    monkeypatch.setattr(town_map, "simulate", None)
    assert open_town_map(encoder, cache, PLAN) == town and notes.read_text() == before
    assert {path.name: path.read_bytes() for path in town.index.glob("descriptors-*")} == descriptors


def test_models_do_not_share_a_map(town, encoder, cache, monkeypatch):
    class Other:
        fingerprint = "another"

    monkeypatch.setattr(town_map, "_render", lambda *_: cache)
    made = []
    monkeypatch.setattr(
        town_map, "_make", lambda photos, index, *_: made.append(index) or {"examples": [], "queries": 0, "found": 0}
    )
    other = open_town_map(Other(), cache, PLAN)
    assert made == [other.index] and other.index != town.index


def test_opening_the_town(tiny_folder, town, cache):
    opened = open_space(Settings(str(tiny_folder), None, cache, None), PLAN)
    assert opened.town == town and opened.examples == town.examples and opened.index_name == "a simulated town"
    page = about_page(opened)
    assert f"{round(100 * town.found / 10)} % of 10 other photos" in page and "40 photos" in page and "2511.12528" in page


def test_opening_an_index_of_ones_own(town, encoder, cache):
    """The index names its model; its own photos are offered, as far as they are there."""
    opened = open_space(Settings(None, str(town.index), cache, None))
    assert opened.photo_map.encoder.fingerprint == encoder.fingerprint and opened.town is None
    assert len(opened.examples) == 8 and {photo.name for photo in opened.examples} <= {
        place.path for place in opened.photo_map.places
    }
    assert opened.index_name == town.index.name and "nothing was measured on it here" in about_page(opened)


def test_an_index_and_a_model_that_do_not_fit_are_refused(town, cache):
    with pytest.raises(ValueError, match="was built with"):
        open_space(Settings("d2vpr_hf/assets/d2vpr-tiny", str(town.index), cache, None))


def test_the_embedded_model_has_a_name_for_people(encoder):
    class Map:
        encoder = type("Encoder", (), {"model_name": None})

    assert OpenedSpace(Map, [], None, None).model_name == "the small embedded model"
    Map.encoder.model_name = "user/street-model"
    assert OpenedSpace(Map, [], None, None).model_name == "street-model"


def test_settings(tmp_path):
    assert read_settings({"XDG_CACHE_HOME": "/c"}) == Settings(None, None, type(tmp_path)("/c/d2vpr-space"), None)
    tiles = {"D2VPR_TILES": "https://host/{z}/{x}/{y}.png"}
    found = read_settings(
        {"D2VPR_MODEL": "m", "D2VPR_INDEX": "", "D2VPR_CACHE": "/k", "D2VPR_TILES_ATTRIBUTION": "who", **tiles}
    )
    assert (found.model, found.index, str(found.cache), found.tiles.attribution) == ("m", None, "/k", "who")
    with pytest.raises(ValueError, match="D2VPR_TILES_ATTRIBUTION"):
        read_settings(tiles)
