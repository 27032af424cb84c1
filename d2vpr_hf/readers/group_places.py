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
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import utm
from numpy.typing import NDArray

from d2vpr_hf.places.geometry import earth_vectors
from d2vpr_hf.places.place import (
    POSITIVE_DIST_THRESHOLD,
    Place,
    all_with_degrees,
    all_with_utm,
    check_finite_numbers,
    flat_coordinates,
    number_values,
    place_zone,
)
from d2vpr_hf.places.timestamps import to_day
from d2vpr_hf.places.utm_zones import zone_text
from d2vpr_hf.readers.gsv_cities import IMAGES_PER_PLACE
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.remarks import Remark

_STEP = 1000.0  # metres; side of the cubes that connect photos of one area
_FARTHEST_EAST = (-200_000.0, 1_200_000.0)  # metres east of which, or west of which, a zone's metres become inaccurate

Pose = tuple[str, float, float, float, float]  # frame; east, north, height (or NaN) in metres; degrees


@dataclass(frozen=True)
class PlaceGrid:
    """The rule that groups photos into places, and places into groups that may share a batch.

    A group is in one frame: a UTM zone of one hemisphere, or a local frame. Photos around the border of two zones are in
    the zone of most of them, so that a place can contain the border. Photos of different places of a group were taken at least
    `spacing` apart, or their directions differ by over `heading`. Heights count only where both are known.

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
        frame, (east, north, *_) = next(iter(coordinates.items()))
        height = 0.0
        if place.is_local:
            height = math.nan if place.z is None else place.z
        if self.num_bins == 1:
            return frame, east, north, height, 0.0
        direction = place.heading
        if place.is_local and place.heading is None:  # yaw and compass headings are not comparable: each counts as a frame
            frame, direction = f"{frame}, yaw", place.yaw
        return "no heading" if direction is None else (frame, east, north, height, direction)

    def views(self, poses: Sequence[Pose]) -> NDArray[np.int64]:
        """Return the views (N, 5) of photos: numbers of frame, cell (3) and bin. Photos of equal views show one place.

        A photo without a height is in the only cell with photos above or below its place, or else in the lowest one from 0.
        """
        numbers = np.array([pose[1:] for pose in poses], np.float64).reshape(-1, 4)
        bins = np.floor(numbers[:, 3] % 360 / self.heading)
        bins = np.minimum(bins, self.num_bins - 1)  # -1e-15 % 360 is 360
        frames = number_values([pose[0] for pose in poses])
        cells = np.floor(numbers[:, :3] / self.cell)
        cells[:, 2] = _fill_heights(_number_rows(np.column_stack([frames, cells[:, :2]]).astype(np.int64)), cells[:, 2])
        return np.column_stack([frames, cells, bins]).astype(np.int64)

    def groups(self, views: NDArray[np.int64], has_height: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return the groups (N,), from 0 without gaps, of views (N, 5) that must be different and in order.

        Each view joins the first group of its frame that holds no neighbour, which is a view within `spacing` and of the same
        or the next bin. Where the height of a view's photos is not known (`has_height`, (N,)), views of all heights are
        neighbours.
        """
        from scipy.spatial import cKDTree

        reach = math.ceil(self.spacing / self.cell)  # cells at most this far apart are neighbours
        scale = np.array([reach + 1, 1, 1, 1, reach])  # frames are never neighbours, bins are if they touch
        bounds = np.array([0, 0, 0, 0, self.num_bins * reach])
        tree = cKDTree(views * scale, boxsize=bounds)
        plane = [0, 1, 2, 4]  # columns without the height
        flat_tree = cKDTree((views * scale)[:, plane], boxsize=bounds[plane])
        groups = np.full(len(views), -1)
        has_height = np.ones(len(views), bool) if has_height is None else has_height
        all_have_heights = bool(has_height.all())
        for row, point in enumerate(tree.data):
            neighbours = np.array(tree.query_ball_point(point, reach, p=np.inf))
            if not all_have_heights:
                in_plane = np.array(flat_tree.query_ball_point(point[plane], reach, p=np.inf))
                neighbours = np.union1d(neighbours, in_plane[~has_height[in_plane] | ~has_height[row]])
            taken = set(groups[neighbours].tolist())
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
        ValueError: If no place is left, a number is below 1, or a number of a place is not finite.
    """
    if min_photos < 1 or min_days < 1:
        raise ValueError(f"min_photos and min_days must be at least 1, got {min_photos} and {min_days}.")
    check_finite_numbers(table.places)
    grid = grid or PlaceGrid()
    photos = sorted(table.places, key=attrgetter("path"))
    poses = [grid.locate(place) for place in _in_common_zones(all_with_utm(all_with_degrees(photos)))]
    skipped = {place.path: pose for place, pose in zip(photos, poses, strict=True) if isinstance(pose, str)}
    inside = [place for place, pose in zip(photos, poses, strict=True) if not isinstance(pose, str)]
    usable = [pose for pose in poses if not isinstance(pose, str)]
    views = grid.views(usable)
    has_height = ~np.isnan([pose[3] for pose in usable])
    reasons = _why_small(inside, _number_rows(views), min_photos, min_days)
    skipped |= {inside[row].path: reason for row, reason in reasons.items()}
    if len(reasons) == len(inside):
        raise ValueError(_nothing_left(grid, min_photos, min_days, skipped))
    rows = np.array([row for row in range(len(inside)) if row not in reasons])
    remarks = table.remarks + _remark_on_heights(usable, inside)
    place_ids = _number_rows(views[rows])
    first_rows = np.unique(place_ids, return_index=True)[1]
    heights = np.ones(len(first_rows), bool)  # of each place: whether all its photos have one
    np.logical_and.at(heights, place_ids, has_height[rows])
    groups = grid.groups(views[rows][first_rows], heights)[place_ids]
    order = np.argsort(place_ids, kind="stable")
    places = [inside[row] for row in rows[order].tolist()]
    return PlaceTable(
        table.folder, places, table.source, table.skipped | skipped, place_ids[order], groups[order], remarks=remarks
    )


def number_places(photos: Sequence[Place], grid: PlaceGrid) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Return the number (N,) of the place that each photo shows, and the reasons for photos that show none, by row.

    Numbers are from 0 on without gaps, in the order of frames, cells and directions; -1 for a photo without a place.
    """
    poses = [grid.locate(place) for place in _in_common_zones(all_with_utm(all_with_degrees(photos)))]
    reasons = {row: pose for row, pose in enumerate(poses) if isinstance(pose, str)}
    numbers = np.full(len(photos), -1)
    numbers[[row for row in range(len(poses)) if row not in reasons]] = _number_rows(
        grid.views([pose for pose in poses if not isinstance(pose, str)])
    )
    return numbers, reasons


def _in_common_zones(places: list[Place]) -> list[Place]:
    """Return places with UTM metres of one zone where photos of several zones are next to each other.

    Photos that are connected by steps of about a kilometre are moved to the zone of most of them. Connections that reach
    beyond the next zone stay in their zones.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    zones = [None if place.latitude is None or place.is_local else place_zone(place) for place in places]
    rows = np.array([row for row, zone in enumerate(zones) if zone is not None])
    if len({str(zone) for zone in zones if zone is not None}) < 2:
        return places
    degrees = np.array([(places[row].latitude, places[row].longitude) for row in rows.tolist()], np.float64)
    cells = np.floor(earth_vectors(degrees[:, 0], degrees[:, 1]) / _STEP).astype(np.int64)
    cell_numbers = _number_rows(cells)
    distinct = _unique_rows(cells)
    pairs = cKDTree(distinct).query_pairs(1.5, p=np.inf, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(distinct), len(distinct)))
    areas = connected_components(links, directed=False)[1][cell_numbers]
    moved = list(places)
    zone_numbers = number_values([str(zones[row]) for row in rows.tolist()])
    num_zones = np.bincount(_unique_rows(np.column_stack([areas, zone_numbers]))[:, 0])
    for area in np.flatnonzero(num_zones > 1).tolist():
        inside = np.flatnonzero(areas == area)
        counts = np.bincount(zone_numbers[inside])
        target = zones[rows[inside[zone_numbers[inside] == counts.argmax()][0]]]
        assert target is not None
        others = inside[zone_numbers[inside] != counts.argmax()]
        easts, norths, _, _ = utm.from_latlon(*degrees[others].T, target.number, force_northern=target.is_north)
        if not ((easts > _FARTHEST_EAST[0]) & (easts < _FARTHEST_EAST[1])).all():
            continue
        for row, east, north in zip(rows[others].tolist(), easts.tolist(), norths.tolist(), strict=True):
            text = zone_text(target, None)
            moved[row] = replace(places[row], latitude=None, longitude=None, utm_east=east, utm_north=north, utm_zone=text)
    return moved


def _fill_heights(columns: NDArray[np.int64], heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace unknown heights (NaN) of cells by the only known height of their column, or by 0."""
    is_known = ~np.isnan(heights)
    if is_known.all():
        return heights
    lowest = np.full(columns.max(initial=-1) + 1, np.inf)
    highest = np.full(len(lowest), -np.inf)
    np.minimum.at(lowest, columns[is_known], heights[is_known])
    np.maximum.at(highest, columns[is_known], heights[is_known])
    return np.where(is_known, heights, np.where(lowest == highest, lowest, 0.0)[columns])


def _remark_on_heights(poses: Sequence[Pose], places: Sequence[Place]) -> tuple[Remark, ...]:
    """Return a remark on photos without a height in local frames where other photos have one."""
    with_heights = {pose[0] for pose in poses if not math.isnan(pose[3])}
    unknown = [place.path for pose, place in zip(poses, places, strict=True) if math.isnan(pose[3]) and pose[0] in with_heights]
    text = "photos without a height, in local frames with heights, are compared in the plane"
    return (Remark("assumed", text, len(unknown), unknown[0]),) if unknown else ()


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
