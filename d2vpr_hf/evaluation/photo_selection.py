"""Database and queries before they are encoded: which photos can be judged, and where they are in one common frame."""

import re
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.readers import PlaceTable


@dataclass(frozen=True)
class Side:
    """The photos of one side that can be judged, before they are encoded."""

    name: str
    table: PlaceTable
    places: list[Place]
    photos: PhotoSet
    skipped: dict[str, str]


def prepare_sides(database: PlaceTable, queries: PlaceTable, rule: PositiveRule) -> tuple[Side, Side]:
    """Choose the photos that the rule can judge, and bring their positions into one frame.

    Raises:
        ValueError: If no photo has a position, the positions share no frame, headings that the rule needs are missing, or
            sequences that it compares differ in length.
    """
    if rule.frame_tolerance is not None and len(database.places) != len(queries.places):
        raise ValueError(
            f"frame_tolerance takes the n-th query for the n-th database photo, so both sides need as many; got "
            f"{len(database.places)} and {len(queries.places)}. Give positions, or positives to evaluate_descriptors()."
        )
    chosen = [_choose(side, rule) for side in (database, queries)]
    frame = _common_frame(*chosen) if rule.frame_tolerance is None else None
    known, asked = (
        _side(name, table, places, frame, rule)
        for name, table, places in zip(("database", "queries"), (database, queries), chosen, strict=True)
    )
    return known, asked


def _choose(table: PlaceTable, rule: PositiveRule) -> list[Place]:
    """Return the places that the rule can judge."""
    if rule.frame_tolerance is not None:
        return table.places
    places = [place for place in table.places if flat_coordinates(place)]
    if not places:
        raise ValueError(
            f"None of the {len(table.places)} photos in {table.folder} has a position in metres, so nobody can tell which "
            "matches are right. Give a CSV file, @ names or EXIF, or a frame tolerance for sequences."
        )
    return places


def _common_frame(database: list[Place], queries: list[Place]) -> str:
    """Name the flat frame that all positions share."""
    common = list(flat_coordinates(database[0]))
    for place in chain(database, queries):
        found = flat_coordinates(place)
        kept = [frame for frame in common if frame in found]
        if not kept:
            raise ValueError(
                f"Metres between photos are defined within one UTM zone or local frame only: {database[0].path} lies in "
                f"{common[0]}, {place.path} in {next(iter(found))}. Evaluate each by itself."
            )
        common = kept
    return common[0]


def _side(name: str, table: PlaceTable, places: list[Place], frame: str | None, rule: PositiveRule) -> Side:
    kept = {place.path for place in places}
    unknown = {place.path: "no position in metres" for place in table.places if place.path not in kept}
    photos = PhotoSet(
        positions=None if frame is None else _positions(places, frame),
        headings=None if rule.heading_tolerance is None else _headings(places, name),
        frames=None if rule.frame_tolerance is None else _frame_numbers(places),
        paths=[place.path for place in places],
        conditions=[place.condition for place in places],
        folder=table.folder,
    )
    return Side(name, table, places, photos, table.skipped | unknown)


def _positions(places: list[Place], frame: str) -> NDArray[np.float64]:
    """Return metres in a frame, (N, 2) or (N, 3)."""
    numbers = chain.from_iterable(flat_coordinates(place)[frame] for place in places)
    return np.fromiter(numbers, np.float64).reshape(len(places), -1)


def _headings(places: list[Place], side: str) -> NDArray[np.float64]:
    headings = [place.yaw if place.heading is None else place.heading for place in places]
    missing = [place.path for place, heading in zip(places, headings, strict=True) if heading is None]
    if missing:
        raise ValueError(
            f"heading_tolerance needs the heading of every photo; {len(missing)} of {len(places)} in the {side} have none, "
            f"{missing[0]} first. Leave it out, or give the headings."
        )
    return np.array(headings, np.float64)


def _frame_numbers(places: list[Place]) -> NDArray[np.int64]:
    """Number photos by the order of their names, in which numbers count as such: 9.jpg, 10.jpg."""
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", place.path)] for place in places]
    frames = np.empty(len(places), np.int64)
    frames[sorted(range(len(places)), key=lambda row: keys[row])] = np.arange(len(places))
    return frames


def keep_rows(side: Side, rows: NDArray[np.int64], skipped: dict[str, str]) -> Side:
    """Leave out the photos that could not be read; `skipped` names them with all the others."""
    return replace(side, places=[side.places[row] for row in rows], photos=side.photos.take(rows), skipped=skipped)
