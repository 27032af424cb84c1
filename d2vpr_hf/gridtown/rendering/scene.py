"""The surroundings of a batch of photos as tensors: nearby walls, streets, street furniture, vehicles and people."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from d2vpr_hf.gridtown.city import SIDEWALK, City, Fixture
from d2vpr_hf.gridtown.painting.textures import Group, group_size, group_start
from d2vpr_hf.gridtown.photo_spec import Photo
from d2vpr_hf.gridtown.wildness import TONE_KNOTS, WildPhoto

_REACH = 130.0  # metres up to which walls are drawn
_STANDING_REACH = 75.0  # metres up to which street furniture, vehicles and people are drawn
_NUM_STREETS = 4  # streets of each direction that are drawn on the ground
_FAR = 1e6
_TONES = 1024  # steps of a tone curve: finer than the 256 of a photo
_CAR_SIZES = ((4.0, 4.7), (1.42, 1.6))  # metres, length and height
_CAR_WIDTH = 1.8
# pads the tables of photos with fewer walls: no ray meets this wall, and no length is 0, by which the renderer would divide
_NO_WALL = {"coordinate": _FAR} | dict.fromkeys(("length", "height", "bay_width", "floor_height", "ground_height"), 1.0)

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Scene:
    """The surroundings of B photos. Tables with fewer rows than the longest are padded with rows that are never visible.

    Attributes:
        camera: Columns (B,): x, y, height, yaw, pitch (as a tangent), field_of_view.
        conditions: Columns (B,) or (B, 3): the fields of [`Conditions`] that are numbers.
        walls: Columns (B, M): those of [`Walls`] and [`Buildings`], and length; coordinates relative to the camera.
        streets: Columns (B, 4): x, width_x, y, width_y; relative to the camera.
        open_blocks: (B, Q, 5) low x, low y, high x, high y, relative to the camera; 1 for a park or 0 for a square.
        standing: Columns (B, S) of street furniture, vehicles and people: x, y, width, height, picture.
        key: (B,) the photos' keys.
        wild: Columns (B, ...): the fields of [`Look`], with tone curves of `_TONES` steps; `None` if the photos are not wild.
    """

    camera: dict[str, torch.Tensor]
    conditions: dict[str, torch.Tensor]
    walls: dict[str, torch.Tensor]
    streets: dict[str, torch.Tensor]
    open_blocks: torch.Tensor
    standing: dict[str, torch.Tensor]
    key: torch.Tensor
    wild: dict[str, torch.Tensor] | None


def make_scene(city: City, photos: list[Photo], device: str = "cpu") -> Scene:
    """Collect the surroundings of photos of a city, which are all wild or all not wild.

    Raises:
        ValueError: If only some photos are wild.
    """
    cameras = [vars(photo.camera) | {"pitch": np.tan(photo.camera.pitch)} for photo in photos]
    numbers = [{k: v for k, v in vars(photo.conditions).items() if k not in ("weather", "jpeg_quality")} for photo in photos]
    return Scene(
        camera=_table(cameras, device),
        conditions=_table(numbers, device),
        walls=_padded([_near_walls(city, photo) for photo in photos], device, _NO_WALL),
        streets=_table([_near_streets(city, photo) for photo in photos], device),
        open_blocks=_padded([{"box": _near_open_blocks(city, photo)} for photo in photos], device, {"box": _FAR})["box"],
        standing=_padded([_standing(city, photo) for photo in photos], device, {"x": _FAR, "y": _FAR}),
        key=torch.tensor([photo.key for photo in photos], device=device),
        wild=_looks(photos, device),
    )


def _table(rows: list[dict[str, Any]], device: str) -> dict[str, torch.Tensor]:
    return {name: _tensor(np.array([row[name] for row in rows]), device) for name in rows[0]}


def _looks(photos: list[Photo], device: str) -> dict[str, torch.Tensor] | None:
    """Return the looks of wild photos, or `None` if no photo is wild."""
    looks = [vars(photo.look) for photo in photos if isinstance(photo, WildPhoto)]
    if len(looks) not in (0, len(photos)):
        raise ValueError(f"A scene has wild photos or others, got {len(looks)} wild ones of {len(photos)}. Make two scenes.")
    knots, steps = np.linspace(0, 1, TONE_KNOTS), np.linspace(0, 1, _TONES)
    rows = [look | {"tone": [np.interp(steps, knots, curve) for curve in look["tone"]]} for look in looks]
    return _table(rows, device) if rows else None


def _padded(tables: list[Rows], device: str, fill: dict[str, float]) -> dict[str, torch.Tensor]:
    """Stack tables of different lengths, padded with the values of `fill`, or 0."""
    length = max(1, *(len(next(iter(table.values()))) for table in tables))  # the renderer needs at least one row

    def pad(name: str) -> NDArray[Any]:
        columns = [table[name] for table in tables]
        widths = [[(0, length - len(column)), *[(0, 0)] * (column.ndim - 1)] for column in columns]
        value = fill.get(name, 0)
        return np.stack([np.pad(c, w, constant_values=value) for c, w in zip(columns, widths, strict=True)])

    return {name: _tensor(pad(name), device) for name in tables[0]}


def _tensor(array: NDArray[Any], device: str) -> torch.Tensor:
    dtype = torch.int64 if np.issubdtype(array.dtype, np.integer) else torch.float32
    return torch.from_numpy(array).to(device, dtype)


def _near_walls(city: City, photo: Photo) -> Rows:
    """Return the walls within reach that face the camera, relative to it, so that float32 is exact enough."""
    walls, camera = city.walls, photo.camera
    # the camera's coordinates across and along each wall
    across, along = (np.where(walls.axis == axis, camera.x, camera.y) for axis in (0, 1))
    to_nearest = np.clip(along, walls.low, walls.high) - along
    faces_camera = walls.side * (across - walls.coordinate) > 0
    seen = np.flatnonzero(faces_camera & (np.hypot(walls.coordinate - across, to_nearest) < _REACH))
    rows = {column.name: getattr(walls, column.name)[seen] for column in fields(walls)}
    building = rows.pop("building")
    rows |= {column.name: getattr(city.buildings, column.name)[building] for column in fields(city.buildings)}
    rows["length"] = rows["high"] - rows["low"]
    rows["coordinate"] = rows["coordinate"] - across[seen]
    rows["low"], rows["high"] = rows["low"] - along[seen], rows["high"] - along[seen]
    return rows


def _near_streets(city: City, photo: Photo) -> dict[str, Any]:
    """Return the nearest streets of both directions, relative to the camera."""
    rows = {}
    for name, where in (("x", photo.camera.x), ("y", photo.camera.y)):
        lines, widths = getattr(city, f"street_{name}") - where, getattr(city, f"width_{name}")
        nearest = np.argsort(np.abs(lines), kind="stable")[:_NUM_STREETS]
        missing = _NUM_STREETS - len(nearest)
        rows[name] = np.pad(lines[nearest], (0, missing), constant_values=_FAR)
        rows[f"width_{name}"] = np.pad(widths[nearest], (0, missing), constant_values=1.0)
    return rows


def _near_open_blocks(city: City, photo: Photo) -> NDArray[Any]:
    """Return the squares and parks within reach, relative to the camera."""
    camera = photo.camera
    boxes = city.open_blocks - np.array([camera.x, camera.y, camera.x, camera.y, 0.0])
    distances = np.maximum(boxes[:, :2], -boxes[:, 2:4]).max(axis=1, initial=-_FAR, where=np.ones((len(boxes), 2), bool))
    return boxes[distances < _REACH]


def _standing(city: City, photo: Photo) -> Rows:
    """Return the city's street furniture near the camera, and this photo's vehicles and people."""
    rng = np.random.default_rng([photo.key, 40])
    parts = [_near_fixtures(city, photo), _vehicles(city, photo, rng), _people(city, photo, rng)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _near_fixtures(city: City, photo: Photo) -> Rows:
    fixtures, camera = city.fixtures, photo.camera
    x, y = fixtures.x - camera.x, fixtures.y - camera.y
    near = (np.hypot(x, y) < _STANDING_REACH) & (np.hypot(x, y) > 1.5)
    kind, look = fixtures.kind[near], fixtures.look[near]
    groups = {
        Fixture.TREE: Group(photo.conditions.season),
        Fixture.LAMP: Group.LAMP,
        Fixture.SIGN: Group.SIGN,
        Fixture.BOX: Group.BOX,
    }
    picture = np.zeros_like(look)
    for fixture, group in groups.items():
        picture = np.where(kind == fixture, group_start(group) + look % group_size(group), picture)
    return {"x": x[near], "y": y[near], "width": fixtures.width[near], "height": fixtures.height[near], "picture": picture}


def _vehicles(city: City, photo: Photo, rng: Generator) -> Rows:
    """Draw parked vehicles at the kerbs of the nearest streets, and moving ones on the lanes."""
    rows = []
    for along, line, width in _streets_around(city, photo):
        # crossings of the street, metres from the camera, and the distance from them that vehicles keep
        lines, widths = (city.street_x, city.width_x) if along == 0 else (city.street_y, city.width_y)
        crossings, clearance = lines - (photo.camera.x, photo.camera.y)[along], widths / 2 + _CAR_SIZES[0][1] / 2
        kerb = width / 2 - SIDEWALK - 1.0
        for across, share in ((-kerb, 0.35), (kerb, 0.35), (-kerb / 3, 0.06), (kerb / 3, 0.06)):
            spots = np.arange(-_STANDING_REACH, _STANDING_REACH, 6.2)
            chance, look, length, height, shift = rng.random((len(spots), 5)).T
            spots = spots + shift
            in_crossing = (np.abs(crossings - spots[:, None]) < clearance).any(axis=1)
            for number in np.flatnonzero((chance < share * photo.traffic) & ~in_crossing):
                place = (spots[number], line + across)[:: 1 if along == 0 else -1]
                sizes = [length[number], height[number]]
                rows.append(_vehicle(photo, along, place, int(look[number] * (1 << 16)), sizes))
    return _rows([row for row in rows if row is not None])


def _streets_around(city: City, photo: Photo) -> list[tuple[int, float, float]]:
    """Return the nearest street along x and the nearest one along y: direction, distance from the camera, width."""
    streets = []
    for along, lines, widths, where in (
        (0, city.street_y, city.width_y, photo.camera.y),
        (1, city.street_x, city.width_x, photo.camera.x),
    ):
        nearest = int(np.argmin(np.abs(lines - where)))
        streets.append((along, float(lines[nearest] - where), float(widths[nearest])))
    return streets


def _vehicle(photo: Photo, along: int, place: tuple[float, ...], look: int, sizes: list[float]) -> dict[str, float] | None:
    """Return a vehicle, whose picture and apparent width follow from its viewing angle; `None` if too near or too far."""
    x, y = place
    distance = float(np.hypot(x, y))
    if not 3.5 < distance < _STANDING_REACH:
        return None
    side_view = abs(y if along == 0 else x) / distance  # 1 for a vehicle that is seen from its side
    (short, long), (low, high) = _CAR_SIZES
    length, height = short + (long - short) * sizes[0], low + (high - low) * sizes[1]
    group = Group.CAR_SIDE if side_view > 0.45 else Group.CAR_BEHIND
    width = length * side_view + _CAR_WIDTH * float(np.sqrt(1 - side_view**2))
    return {"x": x, "y": y, "width": width, "height": height, "picture": group_start(group) + look % group_size(group)}


def _people(city: City, photo: Photo, rng: Generator) -> Rows:
    """Draw people on the sidewalks of the nearest streets."""
    rows = []
    for along, line, width in _streets_around(city, photo):
        for _ in range(rng.poisson(6 * photo.traffic)):
            spot, side, offset, look = rng.random(4)
            across = line + (1 if side < 0.5 else -1) * (width / 2 - SIDEWALK * (0.2 + 0.6 * offset))
            x, y = ((spot - 0.5) * 1.6 * _STANDING_REACH, across)[:: 1 if along == 0 else -1]
            height = 1.55 + 0.3 * look
            picture = group_start(Group.PERSON) + int(look * (1 << 16)) % group_size(Group.PERSON)
            if np.hypot(x, y) > 2.0:
                rows.append({"x": x, "y": y, "width": 0.36 * height, "height": height, "picture": picture})
    return _rows(rows)


def _rows(rows: list[dict[str, float]]) -> Rows:
    dtypes = {"x": float, "y": float, "width": float, "height": float, "picture": np.int64}
    return {name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in dtypes.items()}
