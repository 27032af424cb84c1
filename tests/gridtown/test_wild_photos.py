"""Wild photos: a share of places, the same textures in all photos of a place, and unchanged pixels everywhere else."""

import csv
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.gridtown import Variation, Wildness, cut_textures, draw_photo, label_photos, make_town, make_wild, simulate
from d2vpr_hf.gridtown.painting.textures import Ground
from d2vpr_hf.gridtown.photo_spec import NO_VARIATION
from d2vpr_hf.gridtown.rendering.render import render
from d2vpr_hf.gridtown.rendering.scene import make_scene
from d2vpr_hf.gridtown.rendering.view import make_view
from d2vpr_hf.gridtown.rendering.walls import cast_walls, mirrored, wall_light
from d2vpr_hf.gridtown.wildness import TONE_KNOTS, Look
from d2vpr_hf.readers import read_gsv_cities, read_places

ALL_WILD = Wildness(share=1.0)
NEUTRAL = Look(
    tone=(tuple(np.linspace(0, 1, TONE_KNOTS).tolist()),) * 3,
    saturation=1.0,
    vignette=0.0,
    lens_centre=(0.0, 0.0),
    grain=0.0,
    grain_size=1.0,
    foliage=(1.0, 1.0, 1.0),
    snow_cover=0.0,
    ground=(1.0,) * len(Ground),  # no texture
)
# means of red, green and blue, rendered before there were wild photos
PLAIN_MEANS = [
    *([165.68, 154.77, 158.94], [217.4, 215.5, 213.36], [97.68, 94.67, 93.95]),
    *([185.23, 172.68, 172.83], [173.3, 176.89, 177.58], [166.77, 169.88, 170.36]),
]


@pytest.fixture(scope="module")
def town():
    return make_town(3, 30)


@pytest.fixture(scope="module")
def flat_town(town):
    """A town whose textures have one colour each, by which they are recognised."""
    colours = np.random.default_rng(0).integers(40, 255, (24, 1, 1, 3), dtype=np.uint8)
    return replace(town, paintbox=town.paintbox.with_textures(np.tile(colours, (1, 128, 128, 1))))


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        (folder / str(number % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((80, 60)).save(folder / str(number % 2) / f"{number}.png")
    return folder


def draw(town, places, visit=1, wildness=ALL_WILD, variation=NO_VARIATION):
    photos = [draw_photo(town.city, place, place % 4, visit, variation) for place in places]
    return [make_wild(town.city, photo, wildness) for photo in photos]


def test_photos_that_are_not_wild_are_those_of_before(town):
    photos = [draw_photo(town.city, place, 0, 1, Variation()) for place in range(6)]
    assert all(make_wild(town.city, photo, Wildness()) is photo for photo in photos)
    means = town.take(photos, (48, 48)).float().mean((2, 3))
    assert torch.allclose(means, torch.tensor(PLAIN_MEANS), atol=0.2)  # processors round a few pixels differently


def test_textures_do_not_change_photos_that_are_not_wild(town, flat_town):
    photos = [draw_photo(town.city, place, 0, 1, Variation()) for place in range(3)]
    assert torch.equal(town.take(photos, (48, 48)), flat_town.take(photos, (48, 48)))


def test_the_share_counts_places_and_a_larger_one_adds_places(town):
    def wild_places(share):
        return {place for place in range(1000) if Wildness(share).covers(town.city, place)}

    few, many = wild_places(0.3), wild_places(0.6)
    assert 250 < len(few) < 350 and few < many
    assert not wild_places(0.0) and len(wild_places(1.0)) == 1000


def test_a_wild_photo_depends_on_its_place_view_and_visit_only(town):
    first, again = draw(town, [4, 9]), draw(town, [9, 4])
    assert first == again[::-1]
    looks = [photo.look for visit in range(1, 9) for photo in draw(town, [4], visit)]
    assert len({look.tone for look in looks}) == len({look.foliage for look in looks}) == len(looks)
    assert len({look.ground for look in looks}) == 1
    assert {photo.condition for photo in first} == {"wild-day"}


def test_the_ground_belongs_to_the_street(town):
    places = town.city.places
    spots = zip(places.along, np.where(places.along == 0, places.y, places.x), strict=True)
    grounds: dict[tuple[int, float], set[tuple[float, ...]]] = {}
    for spot, photo in zip(spots, draw(town, range(30)), strict=True):
        grounds.setdefault(spot, set()).add(photo.look.ground)
    assert len(grounds) > 2 and all(len(numbers) == 1 for numbers in grounds.values())
    assert len(set.union(*grounds.values())) == len(grounds)


def colours_of_buildings(town, place, visit):
    """Return the median light of each building that a photo shows, with the same light on all walls."""
    (photo,) = draw(town, [place], visit, variation=Variation(weathers=("day",), traffic=0.0))
    even = replace(photo.conditions, sunlight=(0.0,) * 3, skylight=(1.0,) * 3, lit_windows=1e-9)
    scene = make_scene(town.city, [replace(photo, conditions=even)])
    view = make_view(scene, (48, 48))
    light = wall_light(scene, view, cast_walls(scene, view), town.paintbox)[:, 0]
    (building,) = label_photos(town.city, town.paintbox, [photo], (48, 48)).building
    numbers, counts = building.unique(return_counts=True)
    large = numbers[(numbers >= 0) & (counts > 40)].tolist()
    return {number: light[:, building == number].median(dim=1).values for number in large}


def test_a_building_keeps_its_texture_from_all_camera_positions(flat_town):
    """With one colour for each texture, a building's colour must not differ between photos, or the place has no identity."""
    first, second = ({}, {})
    for place in range(2, 8):
        first |= colours_of_buildings(flat_town, place, 1)
        second |= colours_of_buildings(flat_town, place, 2)
    both = first.keys() & second.keys()
    same = [float((first[number] - second[number]).abs().max()) for number in both]
    different = [float((first[a] - second[b]).abs().max()) for a in both for b in both if a != b]
    assert len(both) > 5
    assert np.median(same) < 0.3 * np.median(different)


def test_a_neutral_look_changes_nothing(town):
    """Every effect must have a value without effect; a shifted tone curve or a second noise would show here."""
    photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(4)]
    (wild,) = draw(town, [0])
    neutral = [type(wild)(**vars(photo) | {"look": NEUTRAL}) for photo in photos]
    difference = (town.take(photos, (48, 48)).float() - town.take(neutral, (48, 48)).float()).abs()
    assert difference.mean() < 0.15 and difference.max() <= 1  # tone curves have 1024 steps


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"saturation": 0.0}, lambda plain, wild: (wild[0] - wild[2]).abs().max() <= 1),
        ({"tone": ((0.5,) * TONE_KNOTS,) * 3}, lambda plain, wild: set(wild.unique().tolist()) <= {127.0, 128.0}),
        ({"vignette": 0.6}, lambda plain, wild: wild[:, 0, 0].mean() < 0.8 * plain[:, 0, 0].mean()),
        ({"grain": 0.1}, lambda plain, wild: 8 < (wild - plain).std() < 20),
        ({"snow_cover": 1.0}, lambda plain, wild: wild[:, -8:].mean() > plain[:, -8:].mean() + 30),
    ],
)
def test_each_effect_changes_the_photo_as_named(town, change, check):
    (photo,) = draw(town, [6])
    photo = replace(photo, conditions=draw_photo(town.city, 6, 2, 1, NO_VARIATION).conditions, look=NEUTRAL)
    plain, wild = town.take([photo, replace(photo, look=replace(NEUTRAL, **change))], (64, 64)).float()
    assert check(plain, wild)


def test_wild_and_other_photos_may_be_rendered_together(town):
    wildness = Wildness(share=0.5)
    photos = draw(town, range(6), wildness=wildness)
    assert len({type(photo) for photo in photos}) == 2
    together = town.take(photos, (32, 48))
    assert torch.equal(together, torch.cat([town.take([photo], (32, 48)) for photo in photos]))
    with pytest.raises(ValueError, match=r"got \d wild ones of 6"):
        make_scene(town.city, photos)


def test_a_batch_of_wild_photos_is_rendered_as_single_calls_are(flat_town):
    photos = draw(flat_town, range(5))
    batched = render(make_scene(flat_town.city, photos), flat_town.paintbox, (64, 96))
    assert (batched - flat_town.take(photos, (64, 96)).float()).abs().mean() < 0.5


def test_textures_follow_from_photos_and_seed(photo_folder):
    textures = cut_textures(photo_folder, seed=5, count=8)
    assert textures.shape == (8, 128, 128, 3) and textures.dtype == np.uint8
    assert np.array_equal(textures, cut_textures(photo_folder, seed=5, count=8))
    assert not np.array_equal(textures, cut_textures(photo_folder, seed=6, count=8))
    light = ((textures / 255.0) ** 2).mean(axis=(1, 2, 3))
    assert light.min() > 0.04 and light.max() < 0.5


def test_broken_photos_are_skipped_and_counted(photo_folder, tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    with pytest.raises(ValueError, match=r"No photo in .* can be decoded"):
        cut_textures(tmp_path, seed=0)
    Image.open(next(photo_folder.rglob("*.png"))).save(tmp_path / "good.png")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(cut_textures(tmp_path, seed=0, count=3)) == 3
    assert "1 of 2 photos were skipped" in caplog.text and "broken.jpg" in caplog.text


def test_positions_are_folded_at_whole_numbers():
    assert torch.allclose(
        mirrored(torch.tensor([0.0, 0.25, 1.0, 1.25, 2.0, -0.25])), torch.tensor([0.0, 0.25, 1.0, 0.75, 0.0, 0.25])
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.jpg")}


def test_files_of_wild_places_are_marked_and_the_others_are_unchanged(tmp_path, photo_folder):
    options = {"photos_per_place": 1, "image_size": 28}
    wildness = Wildness(share=0.5, textures=photo_folder)
    simulate(tmp_path / "plain", 4, 3, **options)
    assert simulate(tmp_path / "wild", 4, 3, wildness=wildness, **options) == 20
    plain, wild = contents(tmp_path / "plain"), contents(tmp_path / "wild")
    shared = plain.keys() & wild.keys()
    assert 0 < len(shared) < 20 and len(shared) % 5 == 0  # whole places
    assert all(plain[name] == wild[name] for name in shared)
    places = read_places(tmp_path / "wild" / "images" / "test" / "database").places
    assert {place.condition for place in places} == {"day", "wild-day"}


@pytest.mark.slow  # starts processes
def test_files_of_wild_places_do_not_depend_on_workers(tmp_path, photo_folder):
    for workers in (1, 2):
        wildness = Wildness(share=0.7, textures=photo_folder)
        simulate(tmp_path / str(workers), 3, 3, photos_per_place=1, image_size=28, workers=workers, wildness=wildness)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_the_table_of_gsv_cities_has_the_condition(tmp_path):
    simulate(tmp_path / "g", 3, 3, layout="gsv-cities", photos_per_place=4, image_size=28, wildness=Wildness(0.5))
    with (tmp_path / "g" / "Dataframes" / "Gridtown3.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    conditions = {(row["place_id"], row["condition"].startswith("wild-")) for row in rows}
    assert len(conditions) == 6 and {is_wild for _, is_wild in conditions} == {True, False}
    assert len(read_gsv_cities(tmp_path / "g", images_per_place=4).places) == 24


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        Wildness(share=1.5)
    with pytest.raises(ValueError, match="their share is 0"):
        Wildness(textures=tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        simulate(tmp_path / "out", 1, 0, wildness=Wildness(1.0, tmp_path / "missing"))
    assert not (tmp_path / "out").exists()


def test_the_command_line_renders_wild_places(tmp_path, photo_folder):
    command = [
        "simulate",
        str(tmp_path / "out"),
        "--places",
        "1",
        "--seed",
        "3",
        "--image-size",
        "28",
        "--photos-per-place",
        "1",
    ]
    result = CliRunner().invoke(app, [*command, "--wild", "1", "--textures", str(photo_folder)])
    assert result.exit_code == 0, result.exception
    (query,) = read_places(tmp_path / "out" / "images" / "test" / "queries").places
    assert query.condition == "wild-day"
    assert CliRunner().invoke(app, [*command, "--wild", "2"]).exit_code == 2
