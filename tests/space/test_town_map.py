"""The Space's default map: made once for each model and cached, with example photos; and the opening of Spaces."""

import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import distance_in_metres
from d2vpr_hf.readers import read_place
from d2vpr_hf.space import town_map
from d2vpr_hf.space.about import about_page
from d2vpr_hf.space.opened_space import OpenedSpace, open_space
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


def test_examples_are_not_in_the_map_and_two_are_from_outside_it(town):
    index = PlaceIndex.open(town.index)
    mapped = {place.path for place in index.places}
    assert len(index) == 40 and town.num_queries == 10  # two thirds of 15 places, with four photos and a query each
    assert len(town.examples) == 4 and not mapped & {photo.name for photo in town.examples}
    assert all(photo.is_file() for photo in town.examples)
    distances = [min(distance_in_metres(read_place(photo), place) for place in index.places) for photo in town.examples]
    assert max(distances[:2]) <= 25 and min(distances[2:]) > 50
    assert 0 <= town.num_correct <= town.num_queries


def test_examples_are_filled_up_if_few_queries_are_correct():
    inside = [f"in{n}" for n in range(6)]
    outside = [f"out{n}" for n in range(4)]
    assert town_map._choose_examples(inside, ["in1"], outside, 5) == ["in1", "in0", "in3", "out0", "out2"]
    assert town_map._choose_examples(inside, inside, outside, 5) == ["in0", "in1", "in2", "out0", "out2"]
    many = [f"in{n}" for n in range(40)]  # the best first
    assert town_map._choose_examples(many, many, outside, 4) == ["in0", "in5", "out0", "out2"]
    assert town_map._choose_examples(["in0"], [], [], 5) == ["in0"]


def test_a_second_start_makes_nothing(town, encoder, cache, monkeypatch):
    for name in ("_render", "index_photos", "search_photos"):
        monkeypatch.setattr(town_map, name, None)
    assert open_town_map(encoder, cache, PLAN) == town


def test_an_interrupted_start_is_continued(town, encoder, cache, monkeypatch):
    """The notes are written last: a start without them uses the existing photos and ends with the same index."""
    notes = town.index.with_suffix(".json")
    before = notes.read_text()
    descriptors = {path.name: path.read_bytes() for path in town.index.glob("descriptors-*")}
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
        town_map, "_make_map", lambda photos, index, *_: made.append(index) or {"examples": [], "queries": 0, "found": 0}
    )
    second = open_town_map(Other(), cache, PLAN)
    assert made == [second.index] and second.index != town.index


def test_opening_the_town(tiny_folder, town, cache):
    opened = open_space(Settings(str(tiny_folder), None, cache, None), PLAN)
    assert opened.town == town and opened.examples == town.examples and opened.index_name == "a simulated town"
    page = about_page(opened)
    assert f"{round(100 * town.num_correct / 10)} % of 10 other photos" in page and "40 photos" in page and "2511.12528" in page


def test_opening_a_given_index(town, encoder, cache):
    """The model is the one that the index names, and the examples are photos of the index."""
    opened = open_space(Settings(None, str(town.index), cache, None))
    assert opened.photo_map.encoder.fingerprint == encoder.fingerprint and opened.town is None
    assert len(opened.examples) == 8 and {photo.name for photo in opened.examples} <= {
        place.path for place in opened.photo_map.places
    }
    assert opened.index_name == town.index.name and "the Space measured nothing on it" in about_page(opened)


def test_an_index_of_another_model_is_refused(town, cache):
    with pytest.raises(ValueError, match="was built with"):
        open_space(Settings("d2vpr_hf/assets/d2vpr-tiny", str(town.index), cache, None))


def test_the_page_names_the_model(encoder):
    class Map:
        encoder = type("Encoder", (), {"model_name": None})

    assert OpenedSpace(Map, [], None, None).model_name == "the small embedded model"
    Map.encoder.model_name = "user/street-model"
    assert OpenedSpace(Map, [], None, None).model_name == "street-model"


def test_settings(tmp_path):
    assert read_settings({"XDG_CACHE_HOME": "/c"}) == Settings(None, None, type(tmp_path)("/c/d2vpr-space"), None)
    tiles = {"D2VPR_TILES": "https://host/{z}/{x}/{y}.png"}
    settings = read_settings(
        {"D2VPR_MODEL": "m", "D2VPR_INDEX": "", "D2VPR_CACHE": "/k", "D2VPR_TILES_ATTRIBUTION": "who", **tiles}
    )
    assert (settings.model, settings.index, str(settings.cache), settings.tiles.attribution) == ("m", None, "/k", "who")
    with pytest.raises(ValueError, match="D2VPR_TILES_ATTRIBUTION"):
        read_settings(tiles)
