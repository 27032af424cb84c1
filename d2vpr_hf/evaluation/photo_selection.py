"""Selection of the photos that can be evaluated, with positions that can be compared."""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.frame_numbers import number_frames
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.places.geometry import EARTH, frame_points
from d2vpr_hf.places.place import LOCAL_FRAME, all_with_degrees
from d2vpr_hf.readers import PlaceTable, Remark


@dataclass(frozen=True)
class PhotoSelection:
    """The photos of the database, or of the queries, that can be evaluated.

    Attributes:
        name: `"database"` or `"queries"`.
        table: All photos that were given.
        places: Places of the selected photos.
        photos: Positions, headings or frame numbers of the selected photos, depending on the rule.
        skipped: Reasons why photos are not selected, by path.
        remarks: Lines about values that the comparison with the other side assumes.
    """

    name: str
    table: PlaceTable
    places: list[Place]
    photos: PhotoSet
    skipped: dict[str, str]
    remarks: tuple[Remark, ...] = ()

    def keep_rows(self, rows: NDArray[np.int64], skipped: dict[str, str]) -> "PhotoSelection":
        """Return the selection of some rows; `skipped` has all photos that are not in the new selection."""
        return replace(self, places=[self.places[row] for row in rows], photos=self.photos.take(rows), skipped=skipped)


def select_photos(database: PlaceTable, queries: PlaceTable, rule: PositiveRule) -> tuple[PhotoSelection, PhotoSelection]:
    """Select the photos that have the positions or frame numbers the rule needs.

    Positions are compared in the plane if all are in one UTM zone or one local frame, within each frame if all are in local
    frames, and on the sphere if all have degrees or a UTM zone.

    Raises:
        ValueError: If no photo has a position, two positions or headings cannot be compared, a heading is missing, or
            the sequences that the rule compares are not aligned.
    """
    if rule.frame_tolerance is not None:
        places = database.places, queries.places
        comparable = _frame_numbers(*places, rule.frame_tolerance)
    else:
        places = _usable_places(database), _usable_places(queries)
        comparable = _comparable_positions(*places)
    headings = (None, None) if rule.heading_tolerance is None else _headings(*places)
    return (
        _selection("database", database, places[0], comparable[0], headings[0]),
        _selection("queries", queries, places[1], comparable[1], headings[1]),
    )


@dataclass(frozen=True)
class _Comparable:
    """Values of one side that are compared with those of the other: fields of [`PhotoSet`], and remarks on them."""

    values: dict[str, Any]
    remarks: tuple[Remark, ...] = ()


def _usable_places(table: PlaceTable) -> list[Place]:
    """Return the places with a position."""
    places = [place for place in table.places if place.has_position]
    if not places:
        raise ValueError(
            f"None of the {len(table.places)} photos in {table.folder} has a position in metres, so no match can be checked. "
            "Give positions in a CSV file, @ names or EXIF, or `frame_tolerance` for sequences."
        )
    return places


def _comparable_positions(database: list[Place], queries: list[Place]) -> tuple[_Comparable, _Comparable]:
    """Return the positions of database and queries in coordinates that can be compared."""
    frame = _common_flat_frame(database, queries)
    if frame is not None:
        sides = [_flat_positions(places, frame) for places in (database, queries)]
        if not frame.startswith(LOCAL_FRAME):
            return _Comparable({"positions": sides[0]}), _Comparable({"positions": sides[1]})
        return _compare_heights(sides, database, queries)
    points = [frame_points(places) for places in (database, queries)]
    regions = [_regions(side, len(places)) for side, places in zip(points, (database, queries), strict=True)]
    if all(name.startswith(LOCAL_FRAME) for name in chain(*regions)) and set(regions[0]) & set(regions[1]):
        sides = [_flat_positions(places, None) for places in (database, queries)]
        compared = zip(_compare_heights(sides, database, queries), regions, strict=True)
        with_regions = [replace(side, values=side.values | {"regions": names}) for side, names in compared]
        return with_regions[0], with_regions[1]
    if all(EARTH in side and len(side[EARTH][0]) == len(names) for side, names in zip(points, regions, strict=True)):
        on_sphere = [{"positions": _degrees(places), "in_degrees": True} for places in (database, queries)]
        return _Comparable(on_sphere[0]), _Comparable(on_sphere[1])
    raise ValueError(_frames_message(regions, database, queries))


def _common_flat_frame(database: list[Place], queries: list[Place]) -> str | None:
    """Return the name of the flat frame in which all places have a position, or `None`."""
    common_frames = list(flat_coordinates(database[0]))
    for place in chain(database, queries):
        frames = flat_coordinates(place)
        common_frames = [frame for frame in common_frames if frame in frames]
        if not common_frames:
            return None
    return common_frames[0]


def _flat_positions(places: list[Place], frame: str | None) -> NDArray[np.float64]:
    """Return the positions of places in a flat frame, or each in its first one if `None`, (N, 2) or (N, 3) metres."""
    metres = (flat_coordinates(place) for place in places)
    numbers = chain.from_iterable(next(iter(frames.values())) if frame is None else frames[frame] for frames in metres)
    return np.fromiter(numbers, np.float64).reshape(len(places), -1)


def _compare_heights(
    sides: list[NDArray[np.float64]], database: list[Place], queries: list[Place]
) -> tuple[_Comparable, _Comparable]:
    """Mark missing heights in local frames as not known, where other places have heights."""
    missing = [[row for row, place in enumerate(places) if place.z is None] for places in (database, queries)]
    if not any(missing) or len(missing[0]) + len(missing[1]) == len(database) + len(queries):
        return _Comparable({"positions": sides[0]}), _Comparable({"positions": sides[1]})
    comparable = []
    for positions, rows, places in zip(sides, missing, (database, queries), strict=True):
        positions[rows, 2] = np.nan
        text = "photos without a height, whose positions are compared in the plane"
        remarks = (Remark("assumed", text, len(rows), places[rows[0]].path),) if rows else ()
        comparable.append(_Comparable({"positions": positions}, remarks))
    return comparable[0], comparable[1]


def _degrees(places: list[Place]) -> NDArray[np.float64]:
    """Return latitudes and longitudes (N, 2) of places that all have degrees or UTM metres of a zone."""
    return np.array([(place.latitude, place.longitude) for place in all_with_degrees(places)], np.float64)


def _regions(points: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]], count: int) -> list[str]:
    """Return the first frame of each of `count` places."""
    names = [""] * count
    for frame, (rows, _) in reversed(points.items()):
        for row in rows.tolist():
            names[row] = frame
    return names


def _frames_message(regions: list[list[str]], database: list[Place], queries: list[Place]) -> str:
    """Return the error of positions that cannot be compared, with the photos of two frames."""
    first: dict[str, Place] = {}  # the first place of each frame
    for name, place in zip(chain(*regions), chain(database, queries), strict=True):
        first.setdefault(name, place)
    here = next(iter(first))
    others = [name for name in first if name != here]
    there = next((name for name in others if not (name.startswith(LOCAL_FRAME) and here.startswith(LOCAL_FRAME))), others[0])
    names = ["degrees" if name == EARTH else name for name in (here, there)]
    return (
        f"Positions of different frames cannot be compared: {first[here].path} is in {names[0]}, {first[there].path} in "
        f"{names[1]}. Evaluate each of them separately."
    )


def _frame_numbers(database: list[Place], queries: list[Place], tolerance: int) -> tuple[_Comparable, _Comparable]:
    paths = [[place.path for place in places] for places in (database, queries)]
    numbers = number_frames(paths[0], paths[1], tolerance)
    remarks: tuple[Remark, ...] = ()
    if numbers.by_order is not None:
        text = f"photos that are paired with the database in the order of their names, {numbers.by_order}"
        remarks = (Remark("assumed", text, len(queries), paths[1][0]),)
    return (
        _Comparable({"frames": numbers.database, "regions": numbers.database_sequences}),
        _Comparable({"frames": numbers.queries, "regions": numbers.query_sequences}, remarks),
    )


def _selection(
    name: str, table: PlaceTable, places: list[Place], comparable: _Comparable, headings: NDArray[np.float64] | None
) -> PhotoSelection:
    paths = {place.path for place in places}
    without_position = {place.path: "no position in metres" for place in table.places if place.path not in paths}
    photos = PhotoSet(
        headings=headings,
        paths=[place.path for place in places],
        conditions=[place.condition for place in places],
        folder=table.folder,
        **comparable.values,
    )
    return PhotoSelection(name, table, places, photos, table.skipped | without_position, comparable.remarks)


def _headings(database: list[Place], queries: list[Place]) -> list[NDArray[np.float64]]:
    """Return the headings of database and queries, or their yaws: the two are measured from different directions."""
    for name in ("heading", "yaw"):
        headings = [[getattr(place, name) for place in places] for places in (database, queries)]
        if not any(heading is None for side in headings for heading in side):
            return [np.array(side, np.float64) for side in headings]
    for name, places in (("database", database), ("queries", queries)):
        missing = [place.path for place in places if place.heading is None and place.yaw is None]
        if missing:
            raise ValueError(
                f"`heading_tolerance` needs the heading of every photo; {len(missing)} of {len(places)} in the {name} have "
                f"none, {missing[0]} first. Give the headings, or evaluate without `heading_tolerance`."
            )
    without_heading, without_yaw = (
        next(place.path for place in chain(database, queries) if getattr(place, name) is None) for name in ("heading", "yaw")
    )
    raise ValueError(
        f"`heading_tolerance` compares headings from north or yaws of a local frame; {without_yaw} has only a heading, "
        f"{without_heading} only a yaw. Give one of the two for all photos, or evaluate without `heading_tolerance`."
    )
