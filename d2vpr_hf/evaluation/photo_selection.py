"""Selection of the photos that can be evaluated, with positions that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.frame_numbers import number_frames
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule
from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import EARTH
from d2vpr_hf.places.place import LOCAL_FRAME
from d2vpr_hf.places.place_columns import Codes, PlaceColumns, is_known, take_texts
from d2vpr_hf.readers import Remark


class PhotoTable(Protocol):
    """All photos of one side: a [`PlaceTable`], or the rows of an index."""

    @property
    def folder(self) -> Path:
        """The folder that the places' paths are relative to."""

    @property
    def places(self) -> Sequence[Place]:
        """One place a photo."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Photos that are not among the places, with the reason."""

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Lines about values that were corrected or assumed."""

    def photo(self, place: Place) -> Path:
        """Return the file of a place."""


@dataclass(frozen=True)
class PhotoSelection:
    """The photos of the database, or of the queries, that can be evaluated.

    Attributes:
        name: `"database"`, or the name of the query set, `"queries"`.
        table: All photos that were given.
        rows: (N,) rows of the selected photos in the table, ascending.
        photos: Positions, headings or frame numbers of the selected photos, depending on the rule.
        skipped: Reasons why photos are not selected, by path.
        remarks: Lines about values that the comparison with the other side assumes.
    """

    name: str
    table: PhotoTable
    rows: NDArray[np.int64]
    photos: PhotoSet
    skipped: dict[str, str]
    remarks: tuple[Remark, ...] = ()

    @property
    def places(self) -> list[Place]:
        """Places of the selected photos."""
        return [self.table.places[row] for row in self.rows.tolist()]

    @property
    def files(self) -> list[Path]:
        """Files of the selected photos."""
        return [self.table.photo(place) for place in self.places]

    def keep_rows(self, rows: NDArray[np.int64], skipped: dict[str, str]) -> PhotoSelection:
        """Return the selection of some rows; `skipped` has all photos that are not in the new selection."""
        if len(rows) == len(self.rows):
            return replace(self, skipped=skipped)
        return replace(self, rows=self.rows[rows], photos=self.photos.take(rows), skipped=skipped)


def select_photos(
    database: PhotoTable, queries: PhotoTable, rule: PositiveRule | None, *, columns: PlaceColumns | None = None
) -> tuple[PhotoSelection, PhotoSelection]:
    """Select the photos that have the positions or frame numbers the rule needs.

    Positions are compared in the plane if all are in one UTM zone or one local frame, within each frame if all are in local
    frames, and on the sphere if all have degrees or a UTM zone.

    Args:
        database: The database.
        queries: The queries.
        rule: The rule of positives; `None` if positives are given. All photos are selected then, with positions if they are all
            known and can be compared.
        columns: Columns of the database, if they are known already.

    Raises:
        ValueError: If no photo has a position, two positions or headings cannot be compared, a heading is missing, or
            the sequences that the rule compares are not aligned.
    """
    columns = PlaceColumns(database.places) if columns is None else columns
    sides = _Side(database, columns), _Side(queries, PlaceColumns(queries.places))
    headings = None
    if rule is None:
        comparable = _positions_if_known(*sides)
    elif rule.frame_tolerance is not None:
        comparable = _frame_numbers(*sides, rule.frame_tolerance)
    else:
        sides = sides[0].with_position(), sides[1].with_position()
        comparable = _comparable_positions(*sides)
    if rule is not None and rule.heading_tolerance is not None:
        headings = _headings(*sides)
    return (
        _selection("database", sides[0], comparable[0], None if headings is None else headings[0]),
        _selection("queries", sides[1], comparable[1], None if headings is None else headings[1]),
    )


@dataclass(frozen=True)
class _Comparable:
    """Values of one side that are compared with those of the other: fields of [`PhotoSet`], and remarks on them."""

    values: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The photos of one side, by the columns of their places; `rows` are those of photos that are used, `None` all."""

    table: PhotoTable
    columns: PlaceColumns
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.columns) if self.rows is None else len(self.rows)

    def take(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values (M, ...) of the used photos from those of all photos (N, ...)."""
        return values if self.rows is None else values[self.rows]

    def place(self, number: int) -> Place:
        """Return the place of a used photo."""
        return self.columns.places[number if self.rows is None else int(self.rows[number])]

    def paths(self) -> Sequence[str]:
        """Return the paths of the used photos."""
        return self.columns.paths if self.rows is None else take_texts(self.columns.paths, self.rows)

    def with_position(self) -> _Side:
        """Return the side of the photos with a position."""
        rows = np.flatnonzero(self.columns.has_position)
        if not len(rows):
            raise ValueError(
                f"None of the {len(self.columns)} photos in {self.table.folder} has a position in metres, so no match can be "
                "checked. Give positions in a CSV file, @ names or EXIF, `positives`, or `frame_tolerance` for sequences."
            )
        return self if len(rows) == len(self.columns) else replace(self, rows=rows)

    def is_in_frame(self, frame: str) -> bool:
        """Return whether all used photos have metres in a flat frame."""
        codes, names = self._flat_frames(frame)
        return frame in names and bool((self.take(codes) == names.index(frame)).all())

    def flat_points(self, frame: str) -> NDArray[np.float64]:
        """Return metres in a flat frame: (N, 3) in a local one, where a missing height is 0, and (N, 2) of UTM."""
        if frame.startswith(LOCAL_FRAME):
            return np.nan_to_num(self.take(self.columns.local_points), nan=0.0)
        return self.take(self.columns.utm_points)

    def first_frames(self) -> list[str]:
        """Return the flat frames of the first photo, the local one first."""
        codes = ((self.take(codes), names) for codes, names in (self.columns.local_frames, self.columns.utm_frames))
        return [names[int(numbers[0])] for numbers, names in codes if numbers[0] >= 0]

    def regions(self) -> list[str]:
        """Return the preferred frame of each used photo: a local one, the Earth, or that of its UTM metres."""
        local, utm = self.columns.local_frames, self.columns.utm_frames
        names = np.array([*local[1], EARTH, *utm[1], ""], object)
        numbers = np.where(utm[0] >= 0, utm[0] + len(local[1]) + 1, len(names) - 1)
        numbers = np.where(is_known(self.columns.degrees), len(local[1]), numbers)
        numbers = np.where(local[0] >= 0, local[0], numbers)
        return list(names[self.take(numbers)])

    def has_degrees(self) -> bool:
        """Return whether all used photos have degrees, or UTM metres of a zone."""
        return bool(is_known(self.take(self.columns.degrees)).all())

    def _flat_frames(self, frame: str) -> Codes:
        return self.columns.local_frames if frame.startswith(LOCAL_FRAME) else self.columns.utm_frames


_Sides = tuple[_Comparable, _Comparable]


def _positions_if_known(database: _Side, queries: _Side) -> _Sides:
    """Return comparable positions, or nothing unless all photos have them: given positives need none."""
    if not (database.columns.has_position.all() and queries.columns.has_position.all()):
        return _Comparable(), _Comparable()
    try:
        return _comparable_positions(database, queries)
    except ValueError:
        return _Comparable(), _Comparable()


def _comparable_positions(database: _Side, queries: _Side) -> _Sides:
    """Return the positions of database and queries in coordinates that can be compared."""
    sides = database, queries
    frame = next((name for name in database.first_frames() if all(side.is_in_frame(name) for side in sides)), None)
    if frame is not None and not frame.startswith(LOCAL_FRAME):
        return _Comparable({"positions": database.flat_points(frame)}), _Comparable({"positions": queries.flat_points(frame)})
    if frame is not None:
        return _compare_heights(database, queries)
    regions = [side.regions() for side in sides]
    if all(name.startswith(LOCAL_FRAME) for name in chain(*regions)) and set(regions[0]) & set(regions[1]):
        compared = zip(_compare_heights(database, queries), regions, strict=True)
        with_regions = [replace(side, values=side.values | {"regions": names}) for side, names in compared]
        return with_regions[0], with_regions[1]
    if database.has_degrees() and queries.has_degrees():
        on_sphere = [{"positions": side.take(side.columns.degrees), "in_degrees": True} for side in sides]
        return _Comparable(on_sphere[0]), _Comparable(on_sphere[1])
    raise ValueError(_frames_message(regions, database, queries))


def _compare_heights(database: _Side, queries: _Side) -> _Sides:
    """Return local metres, and mark missing heights as not known where other places have heights."""
    sides = database, queries
    positions = [side.flat_points(LOCAL_FRAME) for side in sides]
    missing = [np.flatnonzero(np.isnan(side.take(side.columns.local_points[:, 2]))) for side in sides]
    count = sum(map(len, missing))
    if count in (0, len(database) + len(queries)):
        return _Comparable({"positions": positions[0]}), _Comparable({"positions": positions[1]})
    comparable = []
    for side, points, rows in zip(sides, positions, missing, strict=True):
        points[rows, 2] = np.nan
        text = "photos without a height, whose positions are compared in the plane"
        remarks = (Remark("assumed", text, len(rows), side.place(int(rows[0])).path),) if len(rows) else ()
        comparable.append(_Comparable({"positions": points}, remarks))
    return comparable[0], comparable[1]


def _frames_message(regions: list[list[str]], database: _Side, queries: _Side) -> str:
    """Return the error of positions that cannot be compared, with the photos of two frames."""
    first: dict[str, str] = {}  # the path of the first photo in each frame
    for names, side in zip(regions, (database, queries), strict=True):
        for name in dict.fromkeys(names):
            first.setdefault(name, side.place(names.index(name)).path)
    here = next(iter(first))
    others = [name for name in first if name != here]
    there = next((name for name in others if not (name.startswith(LOCAL_FRAME) and here.startswith(LOCAL_FRAME))), others[0])
    names = ["degrees" if name == EARTH else name for name in (here, there)]
    return (
        f"Positions of different frames cannot be compared: {first[here]} is in {names[0]}, {first[there]} in {names[1]}. "
        "Evaluate each of them separately."
    )


def _frame_numbers(database: _Side, queries: _Side, tolerance: int) -> _Sides:
    paths = database.paths(), queries.paths()
    numbers = number_frames(paths[0], paths[1], tolerance)
    remarks: tuple[Remark, ...] = ()
    if numbers.by_order is not None:
        text = f"photos that are paired with the database in the order of their names, {numbers.by_order}"
        remarks = (Remark("assumed", text, len(queries), paths[1][0]),)
    return (
        _Comparable({"frames": numbers.database, "regions": numbers.database_sequences}),
        _Comparable({"frames": numbers.queries, "regions": numbers.query_sequences}, remarks),
    )


def _selection(name: str, side: _Side, comparable: _Comparable, headings: NDArray[np.float64] | None) -> PhotoSelection:
    rows = np.arange(len(side.columns)) if side.rows is None else side.rows
    paths, conditions = side.columns.paths, side.columns.conditions
    without_position = [] if side.rows is None else np.flatnonzero(~side.columns.has_position).tolist()
    photos = PhotoSet(
        headings=headings,
        paths=side.paths(),
        conditions=None if conditions is None else [conditions[row] for row in rows.tolist()],
        folder=side.table.folder,
        **comparable.values,
    )
    skipped = dict(side.table.skipped) | {paths[row]: "no position in metres" for row in without_position}
    return PhotoSelection(name, side.table, rows, photos, skipped, comparable.remarks)


def _headings(database: _Side, queries: _Side) -> list[NDArray[np.float64]]:
    """Return the headings of database and queries, or their yaws: the two are measured from different directions."""
    sides = database, queries
    angles = {name: [side.take(side.columns.numbers(name)) for side in sides] for name in ("heading", "yaw")}
    for headings in angles.values():
        if not any(np.isnan(side).any() for side in headings):
            return headings
    for name, side, heading, yaw in zip(("database", "queries"), sides, *angles.values(), strict=True):
        missing = np.flatnonzero(np.isnan(heading) & np.isnan(yaw))
        if len(missing):
            raise ValueError(
                f"`heading_tolerance` needs the heading of every photo; {len(missing)} of {len(side)} in the {name} have "
                f"none, {side.place(int(missing[0])).path} first. Give the headings, or evaluate without `heading_tolerance`."
            )
    without_heading, without_yaw = (
        next(
            side.place(int(np.argmax(np.isnan(values)))).path
            for side, values in zip(sides, both, strict=True)
            if np.isnan(values).any()
        )
        for both in angles.values()
    )
    raise ValueError(
        f"`heading_tolerance` compares headings from north or yaws of a local frame; {without_yaw} has only a heading, "
        f"{without_heading} only a yaw. Give one of the two for all photos, or evaluate without `heading_tolerance`."
    )
