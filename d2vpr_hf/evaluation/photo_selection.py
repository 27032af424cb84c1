"""Selection of the photos that can be evaluated, with their positions in one common frame."""

import re
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.readers import PlaceTable


@dataclass(frozen=True)
class PhotoSelection:
    """The photos of the database, or of the queries, that can be evaluated.

    Attributes:
        name: `"database"` or `"queries"`.
        table: All photos that were given.
        places: Places of the selected photos.
        photos: Positions, headings or frame numbers of the selected photos, depending on the rule.
        skipped: Reasons why photos are not selected, by path.
    """

    name: str
    table: PlaceTable
    places: list[Place]
    photos: PhotoSet
    skipped: dict[str, str]

    def keep_rows(self, rows: NDArray[np.int64], skipped: dict[str, str]) -> "PhotoSelection":
        """Return the selection of some rows; `skipped` has all photos that are not in the new selection."""
        return replace(self, places=[self.places[row] for row in rows], photos=self.photos.take(rows), skipped=skipped)


def select_photos(database: PlaceTable, queries: PlaceTable, rule: PositiveRule) -> tuple[PhotoSelection, PhotoSelection]:
    """Select the photos that have the positions or frame numbers the rule needs, and convert positions to one frame.

    Raises:
        ValueError: If no photo has a position, the positions have no common frame, a heading that the rule needs is missing,
            or the sequences that the rule compares differ in length.
    """
    if rule.frame_tolerance is not None and len(database.places) != len(queries.places):
        raise ValueError(
            "With `frame_tolerance`, the n-th query belongs to the n-th database photo, so both need the same number of "
            f"photos; got {len(database.places)} and {len(queries.places)}. Give positions, or positives to "
            "evaluate_descriptors()."
        )
    database_places, query_places = (_usable_places(table, rule) for table in (database, queries))
    frame = _common_frame(database_places, query_places) if rule.frame_tolerance is None else None
    return (
        _selection("database", database, database_places, frame, rule),
        _selection("queries", queries, query_places, frame, rule),
    )


def _usable_places(table: PlaceTable, rule: PositiveRule) -> list[Place]:
    """Return the places with a position in metres, or all if frame numbers decide."""
    if rule.frame_tolerance is not None:
        return table.places
    places = [place for place in table.places if flat_coordinates(place)]
    if not places:
        raise ValueError(
            f"None of the {len(table.places)} photos in {table.folder} has a position in metres, so no match can be checked. "
            "Give positions in a CSV file, @ names or EXIF, or `frame_tolerance` for sequences."
        )
    return places


def _common_frame(database: list[Place], queries: list[Place]) -> str:
    """Return the name of the flat frame in which all places have a position."""
    common_frames = list(flat_coordinates(database[0]))
    for place in chain(database, queries):
        frames = flat_coordinates(place)
        if not frames.keys() & set(common_frames):
            raise ValueError(
                f"Metres between photos are defined within one UTM zone or local frame only: {database[0].path} is in "
                f"{common_frames[0]}, {place.path} in {next(iter(frames))}. Evaluate each of them separately."
            )
        common_frames = [frame for frame in common_frames if frame in frames]
    return common_frames[0]


def _selection(name: str, table: PlaceTable, places: list[Place], frame: str | None, rule: PositiveRule) -> PhotoSelection:
    paths = {place.path for place in places}
    without_position = {place.path: "no position in metres" for place in table.places if place.path not in paths}
    photos = PhotoSet(
        positions=None if frame is None else _positions(places, frame),
        headings=None if rule.heading_tolerance is None else _headings(places, name),
        frames=None if rule.frame_tolerance is None else _frame_numbers(places),
        paths=[place.path for place in places],
        conditions=[place.condition for place in places],
        folder=table.folder,
    )
    return PhotoSelection(name, table, places, photos, table.skipped | without_position)


def _positions(places: list[Place], frame: str) -> NDArray[np.float64]:
    """Return the positions of places in a frame, (N, 2) or (N, 3) metres."""
    numbers = chain.from_iterable(flat_coordinates(place)[frame] for place in places)
    return np.fromiter(numbers, np.float64).reshape(len(places), -1)


def _headings(places: list[Place], name: str) -> NDArray[np.float64]:
    headings = [place.yaw if place.heading is None else place.heading for place in places]
    missing = [place.path for place, heading in zip(places, headings, strict=True) if heading is None]
    if missing:
        raise ValueError(
            f"`heading_tolerance` needs the heading of every photo; {len(missing)} of {len(places)} in the {name} have none, "
            f"{missing[0]} first. Give the headings, or evaluate without `heading_tolerance`."
        )
    return np.array(headings, np.float64)


def _frame_numbers(places: list[Place]) -> NDArray[np.int64]:
    """Return the photos' numbers in the order of their names, in which digits count as numbers: 9.jpg, 10.jpg."""
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", place.path)] for place in places]
    frames = np.empty(len(places), np.int64)
    frames[sorted(range(len(places)), key=lambda row: keys[row])] = np.arange(len(places))
    return frames
