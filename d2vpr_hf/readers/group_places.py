"""Group photos with positions into places for training: photos of one grid cell with the same direction show one place.

Cells, directions and groups of places that never share a batch are CosPlace's (Rethinking Visual Geo-localization for
Large-Scale Applications, arXiv 2204.02287). Photos on two sides of a cell's edge show the same street but belong to different
places, which would be negatives of each other in a batch. Groups keep such neighbours apart and use every place, while a grid
with gaps would lose most places. CosPlace's groups take every fifth cell each way and every other direction; here a place joins
the first group that holds no neighbour of it, because drives fill few cells, and groups of a regular pattern would be many and
small.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.places.place import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates, number_values
from d2vpr_hf.places.timestamps import to_day
from d2vpr_hf.readers.gsv_cities import IMAGES_PER_PLACE
from d2vpr_hf.readers.place_table import PlaceTable

Pose = tuple[str, float, float, float, float]  # frame; east, north and height in metres; direction in degrees


@dataclass(frozen=True)
class PlaceGrid:
    """The rule that groups photos into places, and places into groups that may share a batch.

    A group is in one frame (a UTM zone of one hemisphere, or a local frame), because distances between frames are not known.
    Photos of different places of a group were taken at least `spacing` apart, or their directions differ by over `heading`.

    Attributes:
        cell: Side of a cell in metres. In local frames cells are cubes, so that floors differ.
        heading: Width of a bin of directions in degrees, a whole fraction of 360. 360 ignores directions: photos in opposite
            directions then share a place.
        spacing: Metres between places of a group. With the default, no negative in a batch would be a positive in evaluation.
    """

    cell: float = 10.0
    heading: float = 30.0
    spacing: float = POSITIVE_DIST_THRESHOLD

    def __post_init__(self) -> None:
        for name in ("cell", "spacing"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 metres, got {getattr(self, name)}.")
        if not 0 < self.heading <= 360 or not math.isclose(self.num_bins * self.heading, 360):
            raise ValueError(
                f"heading must be a whole fraction of 360 degrees, such as 30, or 360 to ignore headings; got {self.heading}."
            )

    @property
    def num_bins(self) -> int:
        """The number of bins of directions."""
        return round(360 / self.heading)

    def __str__(self) -> str:
        directions = "any direction" if self.num_bins == 1 else f"directions of {self.heading:g}°"
        return f"cells of {self.cell:g} m, {directions}, {self.spacing:g} m between places of a group"

    def locate(self, place: Place) -> Pose | str:
        """Return the frame, position and direction of a photo, or the reason why it has no cell or no direction."""
        if not place.has_position:
            return "no position"
        coordinates = flat_coordinates(place)
        if not coordinates:
            return "no position in metres: UTM ends at 80° S and 84° N"
        frame, metres = next(iter(coordinates.items()))
        east, north, height = (*metres, 0.0)[:3]
        if self.num_bins == 1:
            return frame, east, north, height, 0.0
        direction = place.heading
        if place.is_local and place.heading is None:  # yaw and compass headings are not comparable: each counts as a frame
            frame, direction = f"{frame}, yaw", place.yaw
        return "no heading" if direction is None else (frame, east, north, height, direction)

    def views(self, poses: Sequence[Pose]) -> NDArray[np.int64]:
        """Return the views (N, 5) of photos: numbers of frame, cell (3) and bin. Photos of equal views show one place."""
        numbers = np.array([pose[1:] for pose in poses], np.float64).reshape(-1, 4)
        bins = np.floor(numbers[:, 3] % 360 / self.heading)
        bins = np.minimum(bins, self.num_bins - 1)  # -1e-15 % 360 is 360
        frames = number_values([pose[0] for pose in poses])
        return np.column_stack([frames, np.floor(numbers[:, :3] / self.cell), bins]).astype(np.int64)

    def groups(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the groups (N,), from 0 without gaps, of views (N, 5) that must be different and in order.

        Each view joins the first group of its frame that holds no neighbour, which is a view within `spacing` and of the same
        or the next bin.
        """
        reach = math.ceil(self.spacing / self.cell)  # cells at most this far apart are neighbours
        scale = np.array([reach + 1, 1, 1, 1, reach])  # frames are never neighbours, bins are if they touch
        tree = cKDTree(views * scale, boxsize=[0, 0, 0, 0, self.num_bins * reach])
        groups = np.full(len(views), -1)
        for row, point in enumerate(tree.data):
            taken = set(groups[tree.query_ball_point(point, reach, p=np.inf)].tolist())
            groups[row] = next(number for number in itertools.count() if number not in taken)
        return _number_rows(np.column_stack([views[:, 0], groups]))


def group_places(
    table: PlaceTable, grid: PlaceGrid | None = None, *, min_photos: int = IMAGES_PER_PLACE, min_days: int = 1
) -> PlaceTable:
    """Group photos into places for training. A batch takes places of one group, and as many photos of each.

    Args:
        table: The photos, in any order. Their earlier place ids are ignored.
        grid: The rule that decides which photos show one place; `None` for cells of 10 m and directions of 30°.
        min_photos: Places with fewer photos are skipped.
        min_days: Places with photos of fewer known days are skipped: photos of one drive are almost the same.

    Returns:
        The photos in the order of their places (by frame, cell and direction) and paths, with `place_ids` and `group_ids`;
        `skipped` names all other photos.

    Raises:
        ValueError: If no place is left, or a number is below 1.
    """
    if min_photos < 1 or min_days < 1:
        raise ValueError(f"min_photos and min_days must be at least 1, got {min_photos} and {min_days}.")
    grid = grid or PlaceGrid()
    photos = sorted(table.places, key=attrgetter("path"))
    poses = [grid.locate(place) for place in photos]
    skipped = {place.path: pose for place, pose in zip(photos, poses, strict=True) if isinstance(pose, str)}
    inside = [place for place, pose in zip(photos, poses, strict=True) if not isinstance(pose, str)]
    views = grid.views([pose for pose in poses if not isinstance(pose, str)])
    reasons = _why_small(inside, _number_rows(views), min_photos, min_days)
    skipped |= {inside[row].path: reason for row, reason in reasons.items()}
    if len(reasons) == len(inside):
        raise ValueError(_nothing_left(grid, min_photos, min_days, skipped))
    rows = np.array([row for row in range(len(inside)) if row not in reasons])
    return _in_order(table, [inside[row] for row in rows], views[rows], grid, table.skipped | skipped)


def _in_order(
    table: PlaceTable, places: list[Place], views: NDArray[np.int64], grid: PlaceGrid, skipped: dict[str, str]
) -> PlaceTable:
    """Return a table of the photos, place by place, with place ids and group ids."""
    place_ids = _number_rows(views)
    order = np.argsort(place_ids, kind="stable")
    groups = grid.groups(_unique_rows(views))[place_ids]
    return PlaceTable(table.folder, [places[row] for row in order], table.source, skipped, place_ids[order], groups[order])


def describe_places(table: PlaceTable) -> str:
    """Return the numbers of places and groups in words, and the number of places whose photos are all of one day."""
    if table.place_ids is None or table.group_ids is None:
        raise ValueError("The table has no place ids and group ids. `group_places` computes them.")
    first, sizes = np.unique(table.place_ids, return_index=True, return_counts=True)[1:]
    groups = np.bincount(table.group_ids[first])
    days = _count_days(table.places, table.place_ids)
    return (
        f"{len(sizes)} places of {sizes.min()} to {sizes.max()} photos, {sizes.sum()} in all, in {len(groups)} groups of "
        f"{groups.min()} to {groups.max()} places.\n"
        f"Places with photos of one known day only: {(days == 1).sum()}; of unknown days: {(days == 0).sum()}."
    )


def _count_days(places: Sequence[Place], place_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the different days that the photos of each place (P,) are of, see [`to_day`]; 0 where no timestamp is known."""
    days = number_values(["", *(to_day(place.timestamp) for place in places)])[1:]  # 0 stands for an unknown day
    seen = _unique_rows(np.column_stack([place_ids, days])[days > 0])
    return np.bincount(seen[:, 0], minlength=place_ids.max(initial=-1) + 1).astype(np.int64)


def _number_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers (N,) of rows (N, M), from 0 without gaps in the order of the rows; equal rows have equal numbers."""
    numbers = np.zeros(len(rows), np.int64)
    for column in rows.T:  # np.unique(axis=0) compares whole rows, which is slow
        values, inverse = np.unique(column, return_inverse=True)
        numbers = np.unique(numbers * len(values) + inverse, return_inverse=True)[1]
    return numbers.astype(np.int64)


def _unique_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.unique(_number_rows(rows), return_index=True)[1]]


def _why_small(places: Sequence[Place], place_ids: NDArray[np.int64], min_photos: int, min_days: int) -> dict[int, str]:
    """Return the reason for each row whose place has too few photos or days."""
    sizes = np.bincount(place_ids)[place_ids]
    days = _count_days(places, place_ids)[place_ids] if min_days > 1 else np.ones_like(place_ids)
    reasons = {}
    for row in np.flatnonzero((sizes < min_photos) | (days < min_days)).tolist():
        few_photos = sizes[row] < min_photos
        count, least, what = (sizes[row], min_photos, "photos") if few_photos else (days[row], min_days, "known days")
        reasons[row] = f"its place has {count} {what}, fewer than {least}"
    return reasons


def _nothing_left(grid: PlaceGrid, min_photos: int, min_days: int, skipped: dict[str, str]) -> str:
    path, reason = next(iter(skipped.items()), ("The table", "it lists no photo"))
    days = f" of {min_days} days" if min_days > 1 else ""
    return (
        f"No place has {min_photos} photos{days} ({grid}). {path}: {reason}. Take larger cells, a lower `min_photos`, or "
        "`heading=360`, which ignores headings."
    )
