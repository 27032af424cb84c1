"""The embedded model has seen few real places: commands that use it for photos without its name warn of that, once."""

import json
import logging

import pytest

from d2vpr_hf import PlaceIndex
from d2vpr_hf.encoders.embedded_notice import is_gridtown_photo, warn_of_embedded_model
from d2vpr_hf.gridtown.city_layout import make_city
from d2vpr_hf.gridtown.photo_files import at_name, gsv_name
from d2vpr_hf.gridtown.photo_spec import draw_photo
from d2vpr_hf.gridtown.tiers import TIERS, TierName
from tests.command_line import run, run_program
from tests.photos import draw, save_row

NOTICE = "is small and has seen few real places"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_row(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def index(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "index"
    assert run("index", photos, "--model", "embedded", "--out", out)[0] == 0
    return out


@pytest.fixture(scope="module")
def names():
    """Return names of simulated photos, in both layouts."""
    city = make_city(7, 3, 0.0)
    photos = [
        draw_photo(city, place, heading, 0, TIERS[TierName.STANDARD].variation(0)) for place in range(3) for heading in (0, 2)
    ]
    return [name(city, photo) for name in (at_name, gsv_name) for photo in photos]


@pytest.fixture(scope="module")
def town(names, tmp_path_factory):
    """Small images with the names of simulated photos."""
    folder = tmp_path_factory.mktemp("town")
    for part in ("database", "queries"):
        (folder / part).mkdir()
        for number, name in enumerate(name for name in names if name.startswith("@")):
            draw(number, 70, 70).save(folder / part / name)
    return folder


def notices(caplog):
    return [record.getMessage() for record in caplog.records if NOTICE in record.getMessage()]


def test_simulated_photos_are_recognised_by_their_names(names):
    assert len(names) == 12 and all(map(is_gridtown_photo, names)) and is_gridtown_photo(f"database/{names[0]}")
    real = [
        "IMG_0001.jpg",
        "Gridtown.jpg",
        "@0544000.32@4177609.18@10@S@037.74472@-122.50057@NY0VsOD8K4d0YA9fd0CCGA@@0@@@@201708@@.jpg",
    ]
    assert not any(map(is_gridtown_photo, real))


def test_photos_of_a_town_give_no_warning(town, tmp_path, caplog):
    out = tmp_path / "index"
    assert run("index", town / "database", "--out", out)[0] == 0
    query = next(iter((town / "queries").glob("*.jpg")))
    for arguments in (["search", out, query], ["info", out], ["index", town / "database", "--out", out]):
        assert run(*arguments)[0] == 0
    assert run("evaluate", "--database", town / "database", "--queries", town / "queries")[0] == 0
    assert notices(caplog) == []


def test_a_new_index_of_photos_warns_once_and_names_the_option(photos, tmp_path, caplog):
    assert run("index", photos, "--out", tmp_path / "index")[0] == 0
    (line,) = notices(caplog)
    assert "`--model auto` takes a larger model" in line and "`--model embedded` hides this line" in line
    assert run("evaluate", "--database", photos, "--queries", photos)[0] == 0
    assert len(notices(caplog)) == 2


def test_the_name_of_the_model_hides_the_warning(photos, index, tmp_path, caplog):
    query = sorted(photos.glob("*.jpg"))[0]
    for arguments in (["index", photos, "--out", tmp_path / "index"], ["search", index, query]):
        assert run(*arguments, "--model", "embedded")[0] == 0
    assert notices(caplog) == []


@pytest.mark.parametrize("command", ["search", "info", "add"])
def test_commands_on_an_index_of_photos_warn(photos, index, command, caplog):
    arguments = {"search": [sorted(photos.glob("*.jpg"))[0]], "info": [], "add": [photos]}[command]
    assert run(command, index, *arguments)[0] == 0
    (line,) = notices(caplog)
    assert "`d2vpr index PHOTOS --model auto --out NEW`" in line
    assert ("hides this line" in line) == (command != "info")


def test_the_warning_is_not_in_json(index):
    status, out, err = run_program("info", index, "--json")
    assert status == 0 and json.loads(out)["model"] == "embedded"
    assert err.count(NOTICE) == 1 and "`--model auto`" not in out


def test_unknown_names_warn_and_a_map_of_both_does(caplog):
    caplog.set_level(logging.WARNING)
    town = "Gridtown7_0000001_2001_02_090_47.1_8.5_0-1-1.jpg"
    warn_of_embedded_model([town])
    assert notices(caplog) == []
    warn_of_embedded_model(None)
    warn_of_embedded_model([town, "street.jpg"])
    assert len(notices(caplog)) == 2


def test_the_library_itself_does_not_warn(index, caplog):
    """Programs choose their model in code; the Space, the demonstration and training use the embedded one on purpose."""
    from d2vpr_hf import PlaceEncoder

    PlaceEncoder()
    PlaceEncoder.for_index(PlaceIndex.open(index))
    assert notices(caplog) == []
