"""Gridtown: geometry computed by hand, bytes that depend on the seed only, and files that the package's readers can read."""

import hashlib
import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.gridtown import (
    TEST_SEEDS,
    TIERS,
    TRAIN_SEEDS,
    VAL_SEEDS,
    WEATHERS,
    TierName,
    Variation,
    draw_photo,
    make_city,
    make_town,
    simulate,
    tier_digest,
)
from d2vpr_hf.gridtown.city import SIDEWALK
from d2vpr_hf.gridtown.city_layout import MAX_PLACES
from d2vpr_hf.gridtown.hashing import hash_unit
from d2vpr_hf.gridtown.painting.atlas import make_atlas
from d2vpr_hf.gridtown.painting.textures import Ground
from d2vpr_hf.gridtown.photo_files import position
from d2vpr_hf.gridtown.photo_spec import NO_VARIATION
from d2vpr_hf.gridtown.rendering.ground import _surface
from d2vpr_hf.gridtown.rendering.render import render
from d2vpr_hf.gridtown.rendering.scene import make_scene
from d2vpr_hf.gridtown.rendering.view import make_view
from d2vpr_hf.gridtown.rendering.walls import cast_walls
from d2vpr_hf.readers import read_gsv_cities, read_places

# Digests of the draws of each tier. Results before and after a change cannot be compared: record the change in docs/LOG.md.
TIER_DIGESTS = {
    TierName.EASY: "2a06ac39375b57efc36ff7f9588e1a2c928d1d6c57c6173f258f807e2e27ccd4",
    TierName.STANDARD: "649fec9ecf34fa9458816e47b7a6f81887a99dc1dc90699cb172d9c445f5b904",
    TierName.ALL: "97a54b2699e6b1945a469474752e6748f3aa48a6c2ce881afc94486d30076ebf",
}
SEED_WITHOUT_WALLS = 1643  # of a city with one place
STILL = Variation(weathers=("day",), shift=0.0, advance=0.0, turn=0.0, tilt=0.0, zoom=0.0, traffic=0.0)


@pytest.fixture(scope="module")
def town():
    return make_town(3, 30)


@pytest.mark.parametrize("tier", TierName)
def test_the_tiers_are_frozen(tier):
    assert tier_digest(tier) == TIER_DIGESTS[tier]


def test_training_validation_and_test_seeds_are_different():
    assert not {*TEST_SEEDS} & {*VAL_SEEDS} and not ({*TEST_SEEDS} | {*VAL_SEEDS}) & {*TRAIN_SEEDS}


def test_a_city_follows_from_its_seed():
    first, second = make_city(7, 20), make_city(7, 20)
    assert np.array_equal(first.walls.coordinate, second.walls.coordinate)
    assert np.array_equal(first.buildings.key, second.buildings.key)
    assert not np.array_equal(first.street_x, make_city(8, 20).street_x)


def test_neighbouring_seeds_are_far_apart():
    """Photos of two cities that are evaluated together must never count as one place."""
    origins = {make_city(seed, 1).origin for seed in (*TEST_SEEDS, *VAL_SEEDS, 1, 2, 3, 76, 77, 78, 8000, 11087)}
    gaps = [math.dist(a, b) for a, b in itertools.combinations(origins, 2)]
    assert len(gaps) == 12 * 11 / 2 and min(gaps) >= 5999
    city = make_city(1, MAX_PLACES)
    spots = np.stack(city.to_utm(city.places.x, city.places.y)) - np.array(city.origin)[:, None]
    assert np.abs(spots).max() < 3000 - 25


def test_places_are_farther_apart_than_positives():
    """Two places within 25 m would be positives of each other."""
    places = make_city(5, 400).places
    spots = np.stack((places.x, places.y), axis=1)
    gaps = np.linalg.norm(spots[:, None] - spots[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert len(places) == 400 and gaps.min() > 25


def test_houses_do_not_stand_in_streets():
    city = make_city(5, 60)
    walls = city.walls
    along_y = walls.axis == 0  # walls at constant x must not stand in a street at constant x
    gaps = np.abs(walls.coordinate[along_y][:, None] - city.street_x[None]) - city.width_x / 2
    assert gaps.min() > -1e-6
    assert (walls.high > walls.low).all() and (walls.height > 5).all()


def test_copied_segments_repeat_buildings():
    """Perceptual aliasing: without it, a match of a single facade would always be correct."""
    keys = [make_city(5, 200, copy_share=share).buildings.key for share in (0.0, 0.5)]
    repeated = [1 - len(np.unique(key)) / len(key) for key in keys]
    assert 0.15 < repeated[0] < 0.35 < repeated[1]


def test_utm_positions_and_headings_agree_with_the_camera(town):
    """A step of 1 m in viewing direction moves the camera east by the heading's sine and north by its cosine."""
    city = town.city
    for heading in range(4):
        photo = draw_photo(city, 11, heading, 0, NO_VARIATION)
        camera = photo.camera
        ahead = (camera.x + math.cos(camera.yaw), camera.y + math.sin(camera.yaw))
        moved = np.subtract(city.to_utm(*ahead), city.to_utm(camera.x, camera.y))
        compass = math.radians(float(city.heading(camera.yaw)))
        assert np.allclose(moved, (math.sin(compass), math.cos(compass)), atol=1e-6)


def test_visits_of_a_place_differ(town):
    photos = [draw_photo(town.city, 4, 1, visit, Variation()) for visit in range(40)]
    x, y = (np.array([getattr(photo.camera, axis) for photo in photos]) for axis in "xy")
    spot = (town.city.places.x[4], town.city.places.y[4])
    assert np.hypot(x - spot[0], y - spot[1]).max() <= math.hypot(3, 4)
    turns = np.degrees([photo.camera.yaw for photo in photos]) - np.degrees(photos[0].camera.yaw)
    assert 30 < np.ptp(turns) <= 50
    assert {photo.conditions.weather for photo in photos} == set(WEATHERS)
    assert len({photo.key for photo in photos}) == 40


def test_a_photo_does_not_depend_on_the_others(town):
    assert draw_photo(town.city, 4, 1, 3, Variation()) == draw_photo(town.city, 4, 1, 3, Variation())
    with pytest.raises(IndexError, match="has the places 0 to 29, got 30"):
        draw_photo(town.city, 30, 0, 0, Variation())
    with pytest.raises(IndexError, match="has the views 0 to 3, got 4"):
        draw_photo(town.city, 3, 4, 0, Variation())
    with pytest.raises(ValueError, match="at least one weather"):
        draw_photo(town.city, 3, 0, 0, Variation(weathers=()))


def test_the_wall_ahead_has_the_distance_of_a_brute_force_search(town):
    """With a view across the street, the middle column meets the nearest wall that a brute-force search finds."""
    city, checked_places = town.city, 0
    for place in range(12):
        photo = draw_photo(city, place, 1, 0, STILL)
        scene = make_scene(city, [photo])
        hits = cast_walls(scene, make_view(scene, (64, 65)))
        walls, camera = city.walls, photo.camera
        axis = 1 - int(city.places.along[place])  # the visible walls are at a constant coordinate of this axis
        across, along = (camera.x, camera.y)[axis], (camera.y, camera.x)[axis]
        step = round(math.cos(camera.yaw)) if axis == 0 else round(math.sin(camera.yaw))
        ahead = (walls.axis == axis) & (walls.low <= along) & (along <= walls.high) & (walls.side == -step)
        depths = (walls.coordinate[ahead] - across) * step
        depths = depths[depths > 0]
        if len(depths) and depths.min() < 60:
            foot = scene.camera["height"][0] / hits.foot[0, 32]
            assert float(foot) == pytest.approx(depths.min(), rel=1e-3)
            checked_places += 1
    assert checked_places > 4


def test_carriageway_kerb_and_sidewalk_have_the_distances_of_the_street(town):
    """Carriageway, kerb and sidewalk from the middle outwards, at distances that follow from the street's width."""
    city = town.city
    photo = draw_photo(city, 2, 0, 0, STILL)
    scene = make_scene(city, [photo])
    width = float(city.places.street_width[2])
    across = torch.tensor([0.0, width / 2 - SIDEWALK - 0.3, width / 2 - SIDEWALK + 0.3, width / 2 - 0.3]).view(1, 1, 4)
    along = torch.zeros_like(across)
    x, y = (along, across) if city.places.along[2] == 0 else (across, along)
    blur = torch.full_like(across, 0.01)
    surface, paint = _surface(scene, x, y, blur, blur)
    assert surface.flatten().tolist() == [Ground.ASPHALT, Ground.ASPHALT, Ground.PAVING, Ground.PAVING]
    kerb = across[..., :1] + width / 2 - SIDEWALK + 0.08  # in the middle of the kerb
    x, y = (along[..., :1], kerb) if city.places.along[2] == 0 else (kerb, along[..., :1])
    assert _surface(scene, x, y, blur[..., :1], blur[..., :1])[1].item() == pytest.approx(0.55, abs=0.01)
    assert paint[..., 1:].max() == 0


def test_markings_do_not_move_with_the_camera(town):
    """The dashes of the middle line must be at the same spots of the town in photos from two camera positions."""
    city, spots = town.city, torch.arange(0, 12, 0.5, dtype=torch.float64)
    paints = []
    for advance in (0.0, 2.3):
        photo = draw_photo(city, 2, 0, 0, STILL)
        along = "x" if city.places.along[2] == 0 else "y"
        photo = replace(photo, camera=replace(photo.camera, **{along: getattr(photo.camera, along) + advance}))
        off = (spots - advance).float().view(1, 1, -1)
        x, y = (off, torch.zeros_like(off)) if along == "x" else (torch.zeros_like(off), off)
        paints.append(_surface(make_scene(city, [photo]), x, y, torch.full_like(x, 0.01), torch.full_like(x, 0.01))[1])
    assert torch.allclose(*paints, atol=0.02) and paints[0].max() > 0.5 > paints[0].min()


def test_a_city_without_walls_can_be_rendered():
    """A city whose four blocks are all open has no walls, which must not be an error."""
    city = make_city(SEED_WITHOUT_WALLS, 1)
    assert len(city.walls.axis) == 0
    photo = draw_photo(city, 0, 0, 0, Variation())
    assert render(make_scene(city, [photo]), make_town(3, 1).paintbox, (32, 32)).isfinite().all()


def test_houses_do_not_overlap_and_fixtures_do_not_stand_on_crossings():
    """Houses of a block must not overlap, and street furniture must not stand on a crossing carriageway."""
    city = make_city(5, 80)
    walls, fixtures = city.walls, city.fixtures
    fronts = [np.flatnonzero(walls.building == number) for number in range(len(city.buildings.key))]
    boxes = np.array([_box(walls, rows) for rows in fronts])
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    np.fill_diagonal(shared, 0)
    assert shared.max() < 1e-6
    x_gap = (np.abs(fixtures.x[:, None] - city.street_x) - city.width_x / 2 + SIDEWALK).min(axis=1)
    y_gap = (np.abs(fixtures.y[:, None] - city.street_y) - city.width_y / 2 + SIDEWALK).min(axis=1)
    assert min(x_gap.min(), y_gap.min()) > 0


def _box(walls, rows):
    """Return low x, low y, high x and high y of a building with the walls `rows`."""
    x = walls.coordinate[rows][walls.axis[rows] == 0]
    y = walls.coordinate[rows][walls.axis[rows] == 1]
    return x.min(), y.min(), x.max(), y.max()


def test_bytes_do_not_depend_on_the_batch_or_the_threads(town):
    photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(5)]
    together = town.take(photos, (96, 128))
    assert together.shape == (5, 3, 96, 128) and together.dtype == torch.uint8
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        alone = torch.cat([town.take([photo], (96, 128)) for photo in reversed(photos)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone.flip(0))


def test_a_batch_renders_the_same_photos_as_single_calls(town):
    """A GPU renders photos as a batch, whose tables are padded to one length."""
    photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(5)]
    batched = render(make_scene(town.city, photos), town.paintbox, (64, 96))
    single = town.take(photos, (64, 96)).float()
    assert (batched - single).abs().mean() < 0.5


def test_weather_changes_brightness_and_contrast(town):
    """Night is darker than day, fog has less contrast, snow makes the ground brighter."""
    pictures = {}
    for weather in WEATHERS:
        photos = [draw_photo(town.city, place, 0, 1, Variation(weathers=(weather,))) for place in range(6)]
        pictures[weather] = town.take(photos, (64, 64)).float()
    assert pictures["night"].mean() < 0.6 * pictures["day"].mean()
    assert pictures["fog"].std() < 0.8 * pictures["day"].std()
    assert pictures["snow"][:, :, 50:].mean() > pictures["day"][:, :, 50:].mean() + 30


def test_vehicles_people_and_lit_windows_differ_between_visits(town):
    """Vehicles, people and lit windows must differ between visits; otherwise they would identify the place."""
    pictures = town.take([draw_photo(town.city, 6, 0, visit, NO_VARIATION) for visit in (1, 2)], (96, 96)).float()
    assert (pictures[0] - pictures[1]).abs().mean() > 1


def test_far_pictures_fade_to_their_mean():
    """A checkerboard must be grey, not black or white by chance, if the distance between pixels is its whole width."""
    board = np.zeros((16, 32, 4), np.float32)
    board[::2, ::2], board[1::2, 1::2] = 1.0, 1.0
    atlas = make_atlas([board])
    where, step = torch.rand(50), torch.ones(50)
    far = atlas.read(torch.zeros(50, dtype=torch.long), where, where, step, step)
    assert torch.allclose(far, torch.full((4, 50), 0.5), atol=0.01)
    across = torch.tensor([0.5 / 32, 1.5 / 32])
    near = atlas.read(torch.zeros(2, dtype=torch.long), across, torch.full((2,), 0.5 / 16), *torch.full((2, 2), 1e-3))
    assert torch.allclose(near[0], torch.tensor([1.0, 0.0]), atol=0.01)


def test_hashed_numbers_are_uniform():
    numbers = hash_unit(torch.arange(100_000), 17, torch.tensor(3))
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert (counts - 5000).abs().max() < 400
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def digest(folder: Path) -> str:
    """Return a hash of the names and bytes of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def test_photos_with_at_names_do_not_depend_on_workers_and_are_read_back(tmp_path):
    """Any number of workers writes the same bytes, and readers find the city's positions."""
    options = {"photos_per_place": 2, "image_size": 56, "tier": "all"}
    assert simulate(tmp_path / "a", 3, 4, workers=1, **options) == 3 * (4 + 2)
    simulate(tmp_path / "b", 3, 4, workers=2, **options)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    city = make_city(4, 3)
    database = read_places(tmp_path / "a" / "images" / "test" / "database")
    queries = read_places(tmp_path / "a" / "images" / "test" / "queries")
    assert (len(database.places), len(queries.places)) == (12, 6)
    photo = draw_photo(city, 0, 0, 0, TIERS[TierName.ALL].database)
    place = next(place for place in database.places if "@4-0-0-0@" in place.path)
    east, north, latitude, longitude = position(city, photo)
    assert (place.utm_east, place.utm_north) == pytest.approx((east, north), abs=0.006)
    assert place.utm_zone == "32T" and place.condition == "day"
    assert place.heading == pytest.approx(float(city.heading(photo.camera.yaw)), abs=0.006)
    assert {place.condition for place in queries.places} <= set(WEATHERS)
    with Image.open(database.photo(place)) as image:
        assert image.size == (56, 56)
        gps = image.getexif().get_ifd(0x8825)
    degrees = [float(sum(part / 60**power for power, part in enumerate(gps[tag]))) for tag in (2, 4)]
    assert degrees == pytest.approx([latitude, longitude], abs=1e-6)


def test_photos_in_the_layout_of_gsv_cities_are_read_back(tmp_path):
    simulate(tmp_path / "g", 2, 6, layout="gsv-cities", photos_per_place=4, image_size=42)
    table = read_gsv_cities(tmp_path / "g", images_per_place=4)
    assert len(table.places) == 2 * 2 * 4
    assert np.bincount(table.place_ids).tolist() == [4] * 4


@pytest.mark.parametrize("layout", ["at-names", "gsv-cities"])
def test_several_cities_share_a_folder(tmp_path, layout):
    """Each city must be written as if it were alone: the cities must not overwrite each other's files."""
    options = {"layout": layout, "photos_per_place": 1, "image_size": 42}
    options |= {"label_cells": 3} if layout == "gsv-cities" else {}
    count = simulate(tmp_path / "both", 2, 6, num_cities=2, **options)
    assert count == sum(simulate(tmp_path / str(seed), 2, seed, **options) for seed in (6, 7))
    for seed in (6, 7):
        shutil.copytree(tmp_path / str(seed), tmp_path / "joined", dirs_exist_ok=True)
    assert digest(tmp_path / "both") == digest(tmp_path / "joined")


def test_impossible_arguments_are_refused_before_files_are_written(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        simulate(tmp_path / "full", 2, 0)
    with pytest.raises(ValueError, match="photos_per_place=0"):
        simulate(tmp_path / "out", 2, 0, photos_per_place=0)
    with pytest.raises(ValueError, match="'hard' is not a valid TierName"):
        simulate(tmp_path / "out", 2, 0, tier="hard")
    with pytest.raises(ValueError, match="Expected weathers among day, dusk, night, fog, rain, snow, got hail"):
        simulate(tmp_path / "out", 2, 0, conditions=["hail"])
    for count in (0, MAX_PLACES + 1):
        with pytest.raises(ValueError, match="1 to 5000 places"):
            make_city(0, count)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_command_line_writes_photos_of_the_chosen_weather(tmp_path):
    command = ["simulate", str(tmp_path / "out"), "--places", "1", "--seed", "6", "--image-size", "28", "--conditions", "night"]
    result = CliRunner().invoke(app, [*command, "--photos-per-place", "1"])
    assert result.exit_code == 0, result.exception
    assert "Wrote 5 photos of 1 places" in result.output
    (query,) = read_places(tmp_path / "out" / "images" / "test" / "queries").places
    assert query.condition == "night"
