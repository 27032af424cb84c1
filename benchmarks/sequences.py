"""Localization of sequences on drives through Gridtown cities: the tables of docs/sequences.md.

    python benchmarks/sequences.py [--image-size 112]

The plan is in docs/sequences.md. Photos are rendered and encoded once, to `build/sequences`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import bootstrap_interval
from d2vpr_hf.gridtown.photo_files import encode_jpeg, position
from d2vpr_hf.gridtown.photo_spec import Camera, Photo, draw_conditions
from d2vpr_hf.gridtown.town import Town, make_town
from d2vpr_hf.index import IndexSettings, Match, PlaceIndex
from d2vpr_hf.localization import Calibration, Localization, Reliability, estimate_position, fit_calibration, localize
from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.places.place_columns import PlaceColumns
from d2vpr_hf.sequences import Motion, SequenceAnswer, SequenceFilter, SequenceLocalizer, SequenceSettings
from d2vpr_hf.sequences.map_density import MapDensity
from d2vpr_hf.sequences.recalibration import fit_recalibration, plain_settings

CITY_PLACES = 120  # sets the size of a city: six inner streets in either direction
SPACING = 12.0  # metres between positions of the map
MAPPED_SHARE = 0.7
SPEEDS = {"driving": (8.0, 1.0), "walking": (1.4, 2.0)}  # metres a second, seconds a frame
DRIVES = {"driving": (12, 60), "walking": (36, 20)}  # drives of a city, and frames of each
LENGTHS, ODOMETRIES = (5, 10, 20), ("none", "right", "wrong")
MAX_SPEED = 15.0  # metres a second
FIT_CITIES, TEST_CITIES = (9111, 9112), (9101, 9102)


@dataclass(frozen=True)
class Drive:
    """A drive with the matches of its frames.

    Attributes:
        kind: `"driving"` or `"walking"`.
        places: The true places.
        matches: Matches of each frame.
        is_inside: (F,) whether a photo of the map is within 25 m.
        metres, turns: (F,) true movement since the last frame; 0 for the first.
    """

    kind: str
    places: list[Place]
    matches: list[list[Match]]
    is_inside: NDArray[np.bool_]
    metres: NDArray[np.float64]
    turns: NDArray[np.float64]


@dataclass(frozen=True)
class CityData:
    """The index of a city's map, and its drives."""

    index: PlaceIndex
    drives: list[Drive]


@dataclass(frozen=True)
class Frames:
    """Results of the frames of all drives: (N,) confidence, correct position, inside the map, and number of the drive."""

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    drive: NDArray[np.int64]


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


def load_city(seed: int, size: int, folder: Path) -> CityData:
    """Make the index of the mapped part of a city, and search it with all frames."""
    files = {kind: np.load(file) for kind, file in make_city_data(seed, size).items()}
    rows = {kind: range(num_drives) for kind, (num_drives, _) in DRIVES.items()}
    frames = np.concatenate([files[kind][f"{number}-places"] for kind in DRIVES for number in rows[kind]])
    spots, descriptors = files["map"]["places"], files["map"]["descriptors"]
    mapped = spots[:, 0] <= np.quantile(frames[:, 0], MAPPED_SHARE)
    settings = IndexSettings("embedded", "0" * 64, descriptors.shape[1], dtype="float32")
    with PlaceIndex.create(folder / str(seed), settings) as index:
        index.add(descriptors[mapped], _as_places(spots[mapped]))
    index, tree = PlaceIndex.open(folder / str(seed)), cKDTree(spots[mapped, :2])
    drives = []
    for kind in DRIVES:
        for number in rows[kind]:
            places, ride = (files[kind][f"{number}-{name}"] for name in ("places", "ride"))
            turns = (np.diff(places[:, 2]) + 180) % 360 - 180
            drive = Drive(
                kind,
                _as_places(places),
                index.search(files[kind][f"{number}-descriptors"], 20),
                tree.query(places[:, :2])[0] <= POSITIVE_DIST_THRESHOLD,
                np.append(0.0, _lengths(ride[:, :2])),
                np.append(0.0, turns),
            )
            drives.append(drive)
    return CityData(index, drives)


def _as_places(rows: NDArray[np.float64]) -> list[Place]:
    return [
        Place(f"{number}.jpg", utm_east=east, utm_north=north, utm_zone="32T", heading=heading)
        for number, (east, north, heading) in enumerate(rows.tolist())
    ]


def fit_frames(cities: list[CityData]) -> Calibration:
    """Fit the calibration of single frames."""
    drives = [drive for city in cities for drive in city.drives]
    estimates = [estimate_position(matches) for drive in drives for matches in drive.matches]
    return fit_calibration([each for each in estimates if each], [place for drive in drives for place in drive.places])


def run_windows(
    city: CityData, calibration: Calibration, settings: SequenceSettings, length: int, odometry: str
) -> Iterator[tuple[Drive, range, list[SequenceAnswer], SequenceLocalizer]]:
    """Yield each window of a city's drives with the answers of its frames up to each one, and the localizer."""
    first = SequenceLocalizer(city.index, calibration, settings, precision=0.0)
    scale, drift = {"none": (0.0, 0.0), "right": (1.0, 0.0), "wrong": (1.2, 2.0)}[odometry]
    for drive in city.drives:
        for start in range(0, len(drive.places) - length + 1, length):
            localizer = SequenceFilter(first.density, calibration, settings, precision=0.0)
            window, online = range(start, start + length), []
            for frame in window:
                step = {"metres": scale * drive.metres[frame], "turn": drive.turns[frame] + drift} if scale else {}
                seconds = SPEEDS[drive.kind][1] * frame
                online.append(localizer.add_matches(drive.matches[frame], seconds, **step))
            yield drive, window, online, localizer


def is_correct(answer: Localization | Match | None, truth: Place) -> bool:
    """Return whether the position of an answer is within 25 m of the truth."""
    place = None if answer is None else answer.place
    distance = None if place is None else distance_in_metres(place, truth)
    return distance is not None and distance <= POSITIVE_DIST_THRESHOLD


def recalibrated(cities: list[CityData], calibration: Calibration, settings: SequenceSettings) -> SequenceSettings:
    """Fit the recalibration to the windows of all lengths, with all odometries."""
    sequences, marks = [], []
    for city in cities:
        for length in LENGTHS:
            for odometry in ODOMETRIES:
                for drive, window, _, localizer in run_windows(city, calibration, plain_settings(settings), length, odometry):
                    answers = localizer.smooth()
                    sequences.append(answers)
                    truths = [drive.places[frame] for frame in window]
                    marks.append([is_correct(answer, truth) for answer, truth in zip(answers, truths, strict=True)])
    return fit_recalibration(sequences, marks, settings)


def measure_alone(cities: list[CityData], calibration: Calibration) -> dict[str, Frames]:
    """Localize each frame alone."""
    results: dict[str, list[tuple[float, bool, bool, int]]] = {kind: [] for kind in DRIVES}
    for number, drive in enumerate(drive for city in cities for drive in city.drives):
        for matches, truth, is_inside in zip(drive.matches, drive.places, drive.is_inside, strict=True):
            answer = localize(matches, calibration, precision=0.0)
            results[drive.kind].append((answer.confidence or 0.0, is_correct(answer, truth), bool(is_inside), number))
    return {kind: _frames(rows) for kind, rows in results.items()}


def measure_sequences(
    cities: list[CityData], calibration: Calibration, settings: SequenceSettings, length: int, odometry: str
) -> dict[str, dict[str, Frames]]:
    """Localize the windows of all drives; return the results of each method for each kind of drive."""
    results: dict[str, dict[str, list[Any]]] = {
        method: {kind: [] for kind in DRIVES} for method in ("online", "smoothed", "Viterbi")
    }
    offset = 0
    for city in cities:
        numbers = {id(drive): offset + number for number, drive in enumerate(city.drives)}
        offset += len(city.drives)
        for drive, window, online, localizer in run_windows(city, calibration, settings, length, odometry):
            answers = {"online": online, "smoothed": localizer.smooth(), "Viterbi": localizer.best_path()}
            for method, of_method in answers.items():
                for frame, answer in zip(window, of_method, strict=True):
                    confidence = (getattr(answer, "confidence", None) or 0.0) if answer is not None else 0.0
                    correct = is_correct(answer, drive.places[frame])
                    row = (confidence, correct, bool(drive.is_inside[frame]), numbers[id(drive)])
                    results[method][drive.kind].append(row)
    return {method: {kind: _frames(rows) for kind, rows in of_kind.items()} for method, of_kind in results.items()}


def _frames(rows: list[tuple[float, bool, bool, int]]) -> Frames:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Frames(columns[0], columns[1].astype(bool), columns[2].astype(bool), columns[3])


def table_row(name: str, frames: Frames, threshold: float) -> str:
    """Return the row of a table: R@1 with its interval, false answers, answers and their precision, calibration error."""
    inside, accepted = frames.is_inside, frames.confidence >= threshold
    interval = bootstrap_interval(frames.correct[inside][:, None], frames.drive[inside])
    low, high = (0.0, 0.0) if interval is None else interval[:, 0]
    recall = f"{100 * frames.correct[inside].mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"
    if not frames.confidence.any():  # of a path, which has positions only
        return f"| {name} | {recall} | | | |"
    cells = [
        name,
        recall,
        f"{100 * accepted[~inside].mean():.1f} %",
        f"{100 * accepted.mean():.1f} % ({100 * frames.correct[accepted].mean():.1f} %)" if accepted.any() else "none",
        f"{calibration_error(frames):.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def calibration_error(frames: Frames) -> float:
    """Return the expected calibration error."""
    zeros = np.zeros(len(frames.correct))
    return Reliability(frames.confidence, zeros, frames.correct, zeros, zeros).expected_calibration_error


def time_per_frame() -> None:
    """Print the milliseconds of a frame beyond the search, in a map of 100,000 places along streets, and 50 frames."""
    rng = np.random.default_rng(0)
    spots = np.column_stack([rng.integers(0, 100, 100_000) * 80.0, rng.uniform(0, 12_000, 100_000)])
    places = [Place(f"{number}", x=x, y=y, frame="city") for number, (x, y) in enumerate(spots.tolist())]
    density = MapDensity(PlaceColumns(places))
    calibration = Calibration(
        [1.0] * 5, 0.0, [0.0] * 5, [1.0] * 5, [0.9], [0.95], [0.5], [0.0, 1.0], [90.0, 5.0], num_queries=100, num_correct=50
    )
    localizer, seconds = SequenceFilter(density, calibration, SequenceSettings(), precision=0.0), []
    tree = cKDTree(spots)
    for frame in range(50):
        near = tree.query((400.0, 100.0 + 8.0 * frame), 10)[1].tolist() + rng.integers(0, len(places), 10).tolist()
        matches = [Match(rank, row, places[row], Path(), 0.9 - 0.02 * rank) for rank, row in enumerate(near, 1)]
        start = time.perf_counter()
        localizer.add_matches(matches, float(frame))
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    localizer.smooth()
    smoothing = 1000 * (time.perf_counter() - start) / 50
    median, largest = 1000 * np.median(seconds), 1000 * max(seconds)
    print(f"a frame: median {median:.1f} ms, largest {largest:.1f} ms; smoothing {smoothing:.1f} ms a frame")


def main() -> None:
    """Render, encode, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=112)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    time_per_frame()
    with tempfile.TemporaryDirectory() as folder:
        fit, test = (
            [load_city(seed, arguments.image_size, Path(folder)) for seed in seeds] for seeds in (FIT_CITIES, TEST_CITIES)
        )
        calibration = fit_frames(fit)
        settings = recalibrated(fit, calibration, SequenceSettings(Motion(max_speed=MAX_SPEED)))
        print(f"recalibration: slope {settings.slope:.2f}, agreement {settings.agreement:.2f}, bias {settings.bias:.2f}")
        threshold = min(calibration.threshold(PRECISION), PRECISION)
        print("| frames | R@1 inside the map (95 % interval) | false answers outside | answers (correct of them) | ECE |")
        print("| --- " * 5 + "|", flush=True)
        for kind, frames in measure_alone(test, calibration).items():
            print(table_row(f"{kind}, alone", frames, threshold), flush=True)
        for length in LENGTHS:
            for odometry in ODOMETRIES:
                results = measure_sequences(test, calibration, settings, length, odometry)
                for kind in DRIVES:
                    for method in results:
                        name = f"{kind}, {length} frames, odometry: {odometry}, {method}"
                        print(table_row(name, results[method][kind], threshold), flush=True)
                both = [results["smoothed"][kind] for kind in DRIVES]
                joined = Frames(*(np.concatenate([getattr(each, name) for each in both]) for name in vars(both[0])))
                print(table_row(f"both, {length} frames, odometry: {odometry}, smoothed", joined, threshold), flush=True)


if __name__ == "__main__":
    main()
