"""Localization of sequences on drives through Gridtown cities: the tables of docs/sequences.md.

    python benchmarks/sequences.py [--image-size 112]

The plan is in docs/sequences.md. Photos are rendered and encoded once, to `build/sequences`.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.gridtown.photo_files import encode_jpeg, position
from d2vpr_hf.gridtown.photo_spec import Camera, Photo, draw_conditions
from d2vpr_hf.gridtown.town import Town, make_town
from d2vpr_hf.places import Place

CITY_PLACES = 120  # sets the size of a city: six inner streets in either direction
SPACING = 12.0  # metres between positions of the map
MAPPED_SHARE = 0.7
SPEEDS = {"driving": (8.0, 1.0), "walking": (1.4, 2.0)}  # metres a second, seconds a frame
DRIVES = {"driving": (12, 60), "walking": (36, 20)}  # drives of a city, and frames of each
FIT_CITIES, TEST_CITIES = (9111, 9112), (9101, 9102)


@dataclass(frozen=True)
class Drive:
    """A drive with its descriptors.

    Attributes:
        places: The true places, with headings.
        descriptors: (F, D).
        metres, turns: (F,) movement since the last frame; 0 for the first.
        seconds: (F,) times.
    """

    places: list[Place]
    descriptors: NDArray[np.float32]
    metres: NDArray[np.float64]
    turns: NDArray[np.float64]
    seconds: NDArray[np.float64]


@dataclass(frozen=True)
class Ride:
    """Cameras of a drive along a route: positions (F, 2) and directions (F,) in the city."""

    points: NDArray[np.float64]
    yaws: NDArray[np.float64]


def map_cameras(town: Town) -> list[tuple[float, float, float]]:
    """Return x, y and yaw of the map's photos: both directions of all inner streets."""
    city = town.city
    cameras = []
    for along, lines, ends in ((0, city.street_y[1:-1], city.street_x), (1, city.street_x[1:-1], city.street_y)):
        for line in lines.tolist():
            for spot in np.arange(ends[1], ends[-2], SPACING).tolist():
                x, y = (spot, line) if along == 0 else (line, spot)
                cameras += [(x, y, along * np.pi / 2), (x, y, along * np.pi / 2 + np.pi)]
    return cameras


def draw_ride(town: Town, rng: np.random.Generator, num_frames: int, step: float) -> Ride:
    """Draw a route over the crossings of the inner streets, and return a camera every `step` metres."""
    xs, ys = town.city.street_x[1:-1], town.city.street_y[1:-1]
    crossing = rng.integers([len(xs), len(ys)])
    move = np.array([1, 0])
    corners = [crossing]
    length = 0.0
    while length < num_frames * step:
        moves = [np.array(each) for each in ((1, 0), (-1, 0), (0, 1), (0, -1)) if tuple(each) != tuple(-move)]
        inside = [each for each in moves if (crossing + each >= 0).all() and (crossing + each < [len(xs), len(ys)]).all()]
        straight = [each for each in inside if (each == move).all()]
        move = straight[0] if straight and rng.random() < 0.5 else inside[rng.integers(len(inside))]
        crossing = crossing + move
        corners.append(crossing)
        length = float(_lengths(np.array([(xs[i], ys[j]) for i, j in corners])).sum())
    points = np.array([(xs[i], ys[j]) for i, j in corners])
    lengths = np.concatenate([[0.0], np.cumsum(_lengths(points))])
    spots = np.arange(num_frames) * step
    positions = np.stack([np.interp(spots, lengths, points[:, axis]) for axis in (0, 1)], axis=1)
    before, after = (
        np.stack([np.interp(spots + shift, lengths, points[:, axis]) for axis in (0, 1)], axis=1) for shift in (-4.0, 4.0)
    )
    ahead = after - before  # a turn takes some metres
    return Ride(positions, np.arctan2(ahead[:, 1], ahead[:, 0]))


def _lengths(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(np.diff(points, axis=0), axis=1)


def map_photos(town: Town) -> Iterator[Photo]:
    """Yield the photos of the map."""
    for number, (x, y, yaw) in enumerate(map_cameras(town)):
        rng = np.random.default_rng([town.city.seed, 71, number])
        x, y = (float(value + rng.uniform(-0.5, 0.5)) for value in (x, y))
        camera = Camera(
            x, y, float(rng.uniform(2.1, 2.4)), yaw + np.radians(rng.uniform(-2, 2)), np.radians(5.0), np.radians(80.0)
        )
        yield Photo(number, 0, 0, int(rng.integers(1 << 40)), camera, draw_conditions("day", rng), 1.0)


def drive_photos(town: Town, ride: Ride, number: int) -> Iterator[Photo]:
    """Yield the photos of a drive: light, lane, mounting and field of view are those of the drive, traffic that of a frame."""
    rng = np.random.default_rng([town.city.seed, 72, number])
    conditions, field_of_view = draw_conditions("day", rng), np.radians(80.0 + rng.uniform(-12, 12))
    lane, mounting = rng.uniform(-3, 3), rng.uniform(-15, 15)
    tilt, height = rng.uniform(1, 9), rng.uniform(1.9, 2.6)
    for frame, ((x, y), yaw) in enumerate(zip(ride.points.tolist(), ride.yaws.tolist(), strict=True)):
        camera = Camera(
            x=float(x - lane * np.sin(yaw)),
            y=float(y + lane * np.cos(yaw)),
            height=float(height),
            yaw=float(yaw + np.radians(mounting + rng.normal(0, 3))),
            pitch=float(np.radians(tilt)),
            field_of_view=float(field_of_view),
        )
        yield Photo(number, 0, frame + 1, int(rng.integers(1 << 40)), camera, conditions, 1.0)


def encode(town: Town, photos: list[Photo], encoder: PlaceEncoder, size: int) -> NDArray[np.float32]:
    """Render and encode photos."""
    parts = []
    for start in range(0, len(photos), 64):
        block = photos[start : start + 64]
        files = [
            encode_jpeg(pixels, photo, town.city) for pixels, photo in zip(town.take(block, (size, size)), block, strict=True)
        ]
        parts.append(np.asarray(encoder.encode(files).descriptors, np.float32))
    return np.concatenate(parts)


def places_of(town: Town, photos: list[Photo]) -> NDArray[np.float64]:
    """Return east, north and heading (N, 3) of photos."""
    spots = [position(town.city, photo) for photo in photos]
    return np.array(
        [(spot.east, spot.north, float(town.city.heading(photo.camera.yaw))) for spot, photo in zip(spots, photos, strict=True)]
    )


def make_city_data(seed: int, size: int) -> dict[str, Path]:
    """Render and encode the map and the drives of a city, unless that was done; return the files."""
    names = ["map", *(f"{kind}-{drives}x{frames}" for kind, (drives, frames) in DRIVES.items())]
    files = {name.partition("-")[0]: Path(f"build/sequences/{seed}-{size}-{name}.npz") for name in names}
    if all(file.exists() for file in files.values()):
        return files
    town, encoder = make_town(seed, CITY_PLACES), PlaceEncoder("embedded", device="cpu")
    for name, file in files.items():
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                file, **(_map_columns(town, encoder, size) if name == "map" else _drive_columns(town, encoder, size, name))
            )
    return files


def _map_columns(town: Town, encoder: PlaceEncoder, size: int) -> dict[str, NDArray[Any]]:
    photos = list(map_photos(town))
    return {"descriptors": encode(town, photos, encoder, size), "places": places_of(town, photos)}


def _drive_columns(town: Town, encoder: PlaceEncoder, size: int, kind: str) -> dict[str, NDArray[Any]]:
    (speed, interval), (num_drives, num_frames) = SPEEDS[kind], DRIVES[kind]
    columns = {}
    for number in range(num_drives):
        rng = np.random.default_rng([town.city.seed, 73, number, len(kind)])
        ride = draw_ride(town, rng, num_frames, speed * interval)
        frames = list(drive_photos(town, ride, number + (1000 if kind == "walking" else 0)))
        columns[f"{number}-descriptors"] = encode(town, frames, encoder, size)
        columns[f"{number}-places"] = places_of(town, frames)
        columns[f"{number}-ride"] = np.column_stack([ride.points, ride.yaws])
    return columns


def main() -> None:
    """Render, encode, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=112)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in (*FIT_CITIES, *TEST_CITIES):
        print(*make_city_data(seed, arguments.image_size).values(), flush=True)


if __name__ == "__main__":
    main()
