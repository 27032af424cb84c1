"""Labels of rendered photos, compared with an independent ray casting, and on disk."""

import numpy as np
import pytest
import torch

from d2vpr_hf.gridtown import TIERS, Surface, Variation, draw_photo, label_photos, make_town, read_labels, simulate

CELLS = 6


@pytest.fixture(scope="module")
def town():
    return make_town(7, 6)


def first_on_ray(city, camera, row, column):
    """Return depth, surface and building key of the first hit of the ray through a cell's middle, in float64."""
    focal = CELLS / 2 / np.tan(camera.field_of_view / 2)
    aside = (column + 0.5 - CELLS / 2) / focal
    slope = (row + 0.5 - CELLS / 2) / focal - np.tan(camera.pitch)
    forward = np.array([np.cos(camera.yaw), np.sin(camera.yaw)])
    step = forward + aside * np.array([forward[1], -forward[0]])
    nearest = (camera.height / slope if slope > 0 else np.inf, Surface.GROUND if slope > 0 else Surface.SKY, -1)
    walls, eye = city.walls, np.array([camera.x, camera.y])
    for number in range(len(walls.axis)):
        axis = walls.axis[number]
        depth = (walls.coordinate[number] - eye[axis]) / step[axis]
        where = eye[1 - axis] + depth * step[1 - axis]
        faces = walls.side[number] * (eye[axis] - walls.coordinate[number]) > 0
        if faces and 0.4 < depth < min(nearest[0], 130) and walls.low[number] <= where <= walls.high[number]:
            middle = 1 - abs(2 * (where - walls.low[number]) / (walls.high[number] - walls.low[number]) - 1)
            if camera.height - slope * depth < walls.height[number] + walls.gable[number] * middle:
                nearest = (depth, Surface.WALL, city.buildings.key[walls.building[number]])
    return nearest


def test_labels_agree_with_an_independent_ray_casting(town):
    """Catches a flipped axis, a depth along the ray instead of the camera's axis, and a wall behind instead of the nearest."""
    photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(6)]
    labels = label_photos(town.city, town.paintbox, photos, (CELLS, CELLS))
    agree = []
    for number, photo in enumerate(photos):
        for row, column in np.ndindex(CELLS, CELLS):
            if labels.surface[number, row, column] == Surface.STANDING:
                continue
            depth, surface, key = first_on_ray(town.city, photo.camera, row, column)
            label = labels.surface[number, row, column], labels.building[number, row, column]
            same_depth = np.isclose(labels.depth[number, row, column], min(depth, 130), rtol=1e-3)
            agree.append(label == (surface, key) and bool(same_depth))
    assert len(agree) > 150
    assert np.mean(agree) > 0.98  # a ray along an edge may meet either surface


def test_walls_face_the_camera_and_other_cells_have_no_normal(town):
    labels = label_photos(town.city, town.paintbox, [draw_photo(town.city, 2, 0, 1, Variation())], (8, 8))
    is_wall = labels.surface == Surface.WALL
    lengths = labels.normal.norm(dim=3)
    torch.testing.assert_close(lengths, is_wall.float())
    assert is_wall.any() and (labels.building >= 0).equal(is_wall)


def test_trees_vehicles_and_people_are_labelled_as_standing(town):
    photos = [draw_photo(town.city, place, 0, visit, Variation(traffic=3.0)) for place in range(6) for visit in (1, 2)]
    labels = label_photos(town.city, town.paintbox, photos, (16, 16))
    assert (labels.surface == Surface.STANDING).any()
    assert labels.depth[labels.surface == Surface.STANDING].max() < 80  # billboards are drawn up to 75 m


def test_each_photo_gets_its_own_labels_on_disk(tmp_path):
    simulate(tmp_path / "town", 4, 7, layout="gsv-cities", tier="all", photos_per_place=2, image_size=28, label_cells=2)
    stored = read_labels(tmp_path / "town" / "Labels" / "Gridtown7.safetensors")
    assert set(stored) == {path.relative_to(tmp_path / "town").as_posix() for path in (tmp_path / "town").rglob("*.jpg")}
    town = make_town(7, 4, TIERS["all"].copy_share)
    photo = draw_photo(town.city, 3, 1, 2, TIERS["all"].queries)
    (name,) = [name for name in stored if name.endswith("_3-1-2.jpg")]
    expected = label_photos(town.city, town.paintbox, [photo], (2, 2))
    assert all(torch.equal(column, batch[0]) for column, batch in zip(stored[name], expected, strict=True))


def test_labels_without_the_layout_of_gsv_cities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="gsv-cities"):
        simulate(tmp_path / "town", 4, 7, label_cells=2)
    assert not (tmp_path / "town").exists()


def test_a_missing_file_of_labels_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--label-cells"):
        read_labels(tmp_path / "none.safetensors")
