"""Fuse the photos of each place of a map to one row, so that a map with several drives becomes smaller.

The sums of descriptors follow "A Hyperdimensional One Place Signature to Represent Them All: Stackable Descriptors For Visual
Place Recognition" (HOPS, arXiv 2412.06153), which bundles the descriptors of several reference drives of a place by addition.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Progress
from d2vpr_hf.index import PhotoFile, PlaceIndex, check_out, check_store, is_index
from d2vpr_hf.index.manifest import FUSION_METHODS, FusionMethod
from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import frame_points
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import PlaceGrid
from d2vpr_hf.readers.group_places import number_places
from d2vpr_hf.stores.exact import float32_blocks

if TYPE_CHECKING:
    from d2vpr_hf.stores import Compression, StoreWord

logger = logging.getLogger(__name__)

_LEAST_LENGTH = 1e-12
_LEAST_AGREEMENT = 0.7  # length of the mean of unit vectors; two directions 90 degrees apart have it


@dataclass(frozen=True)
class FusionReport:
    """Counts of a fusion.

    Attributes:
        photos: Number of photos.
        rows: Number of rows that they became.
        single: Number of photos that stay rows of their own because they have no cell or no direction.
        reason: The reason of the first of them; `None` without one.
    """

    photos: int
    rows: int
    single: int
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"fused_photos": self.photos, "fused_rows": self.rows, "not_fused": self.single}


def fuse_places(
    index: PlaceIndex,
    out: str | Path,
    *,
    method: FusionMethod = "mean",
    grid: PlaceGrid | None = None,
    overwrite: bool = False,
    compression: Compression | None = None,
    store: StoreWord | None = None,
    uri: str | None = None,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, FusionReport]:
    """Write an index with one row for each place of another index: the photos of one grid cell with the same direction.

    A row has the mean position and direction of its photos, the time of the latest one, and the path of the photo whose
    descriptor is the most similar to the row's. A match of it lists all of them. Photos without a position or direction stay
    rows of their own, with a warning.

    Args:
        index: The index of photos, of any encoder. It stays.
        out: Folder of the new index.
        method: `"mean"` for the mean descriptor. `"hops"` for the sum of differences from the map's mean descriptor, with the
            mean length of the photos' differences, added to that mean again: the part that all photos of the map share is then
            not enlarged. Both have the mean length of the photos' descriptors, 1 for most encoders.
        grid: The rule that decides which photos show one place; `None` for cells of 10 m and directions of 30°.
        overwrite: Whether to replace an index at `out`. One of fused places is always replaced; its compression and store are
            kept then, and its calibration is not.
        compression: As for [`d2vpr_hf.retrieval.index_photos.index_photos`].
        store: Library that searches.
        uri: Address of a service.
        progress: Called with the number of photos just fused.

    Raises:
        FileExistsError: If something else exists at `out`.
        ValueError: If there is no such method, the rows are fused already, the index is not complete or empty, or no photo has
            a cell and a direction.
    """
    grid = grid or PlaceGrid()
    folder = check_out(Path(out))
    check_store(store, uri, compression)
    check_fused_out(folder, overwrite)
    _check_source(index, folder, method)
    places = list(index.places)
    members, reasons = _group(places, grid, index.folder)
    sums = _Sums(index, method)
    earlier = None if overwrite else _fused_index(folder)
    replaces = overwrite or earlier is not None
    with PlaceIndex.create(folder, index.settings, overwrite=replaces, searched_like=earlier) as fused:
        for start in range(0, len(members), fused.settings.shard_size):
            part = members[start : start + fused.settings.shard_size]
            descriptors, best = sums.fuse(part)
            photos = [[places[row] for row in rows.tolist()] for rows in part]
            fused_places = [_fused_place(of_place, row) for of_place, row in zip(photos, best, strict=True)]
            fused.upsert(descriptors, fused_places, [PhotoFile()] * len(part), complete=False)  # until all rows are stored
            if progress is not None:
                progress(sum(map(len, part)))
        paths = [[places[row].path for row in rows.tolist()] for rows in members]
        fused.store_fusion(method, grid.cell, grid.heading, paths)
        fused.build_store(compression, store=store, uri=uri)
    reason = next(iter(reasons.values()), None)
    if reasons:
        logger.warning("%d of %d photos stay rows of their own: %s.", len(reasons), len(places), reason)
    return fused, FusionReport(len(places), len(members), len(reasons), reason)


def _check_source(index: PlaceIndex, out: Path, method: str) -> None:
    if method not in FUSION_METHODS:
        raise ValueError(f"Expected `method` as one of {', '.join(FUSION_METHODS)}, got {method!r}.")
    if index.fusion is not None:
        raise ValueError(f"The rows of {index.folder} are fused places already ({index.fusion}). Give the index of all photos.")
    if not index.complete or not len(index):
        raise ValueError(
            f"The index {index.folder} is not complete or has no rows. `d2vpr index` with the same photos resumes it."
        )
    if out.resolve() == index.folder.resolve():
        raise ValueError(f"{out} is the index of all photos itself. Give another folder for that of the fused places.")


def check_fused_out(out: Path, overwrite: bool) -> None:
    """Raise FileExistsError if an index of photos, which must not be lost, is where one of fused places will be written."""
    if not overwrite and is_index(out) and _fused_index(out) is None:
        raise FileExistsError(
            f"{out} is an index with a row for each photo, or its fusion was interrupted. In the latter case remove it; else "
            "give another `out` for the fused places, or `overwrite=True`."
        )


def _fused_index(folder: Path) -> PlaceIndex | None:
    """Return the index of fused places in a folder, or `None`."""
    index = PlaceIndex.resume(folder, replacement=False)
    return None if index is None or index.fusion is None else index


def _group(places: Sequence[Place], grid: PlaceGrid, folder: Path) -> tuple[list[NDArray[np.int64]], dict[int, str]]:
    """Return the rows of each place, in the order of their first rows, and the reasons why other photos are alone, by row."""
    numbers, reasons = number_places(places, grid)
    if len(reasons) == len(places):
        row, reason = next(iter(reasons.items()))
        raise ValueError(
            f"No photo of {folder} has a cell and a direction ({grid}). {places[row].path}: {reason}. Give positions, or "
            "`fuse_heading=360`, which ignores directions (in Python, `PlaceGrid(heading=360)`)."
        )
    single = np.flatnonzero(numbers < 0)
    numbers[single] = numbers.max() + 1 + np.arange(len(single))
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return sorted(groups, key=lambda rows: int(rows[0])), reasons


class _Sums:
    """Fused descriptors of some rows of an index.

    Args:
        index: The index of photos.
        method: As of [`fuse_places`].
    """

    def __init__(self, index: PlaceIndex, method: FusionMethod) -> None:
        self._descriptors = index.descriptors
        self._centre = np.zeros(index.settings.descriptor_dim, np.float64)
        if method == "hops":
            for block in float32_blocks(self._descriptors):
                self._centre += block.sum(axis=0, dtype=np.float64)
            self._centre /= len(self._descriptors)

    def fuse(self, members: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.float32], list[int]]:
        """Return the descriptors (P, D) of places, and the position among its photos of the one that is most like each.

        Args:
            members: Rows of the photos of each of P places.
        """
        fused = np.empty((len(members), self._descriptors.shape[1]), np.float32)
        best = []
        for place, rows in enumerate(members):
            photos = self._descriptors.take(rows).astype(np.float64)
            fused[place] = self._sum(photos) if len(rows) > 1 else photos[0]
            best.append(int(np.argmax(photos @ fused[place])))
        return fused, best

    def _sum(self, photos: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the descriptor (D,) of the photos (M, D) of a place."""
        parts = photos - self._centre
        fused = self._centre + _with_length(parts.mean(axis=0), _mean_length(parts))
        return _with_length(fused, _mean_length(photos))


def _with_length(vector: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    return np.asarray(vector * (length / max(float(np.linalg.norm(vector)), _LEAST_LENGTH)))


def _mean_length(vectors: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean())


def _fused_place(photos: Sequence[Place], best: int) -> Place:
    """Return the place of several photos, under the path of one of them."""
    chosen = photos[best]
    if len(photos) == 1 or not chosen.has_position:
        return chosen
    from d2vpr_hf.localization.consensus import mean_place  # imports this package

    count = len(photos)
    mean = mean_place(photos, frame_points(photos), np.arange(count), np.full(count, 1 / count))
    latest = max(photos, key=lambda photo: np.nan_to_num(to_seconds(photo.timestamp), nan=-math.inf))
    conditions = {photo.condition for photo in photos}
    return replace(
        mean,
        path=chosen.path,
        heading=_mean_direction([photo.heading for photo in photos]),
        yaw=_mean_direction([photo.yaw for photo in photos]),
        timestamp=latest.timestamp,
        condition=conditions.pop() if len(conditions) == 1 else None,
    )


def _mean_direction(directions: Sequence[float | None]) -> float | None:
    """Return the mean of directions in degrees, in [0, 360); `None` if one is not known, or they have no common direction."""
    if any(direction is None for direction in directions):
        return None
    turns = np.radians(np.array(directions, np.float64))
    x, y = float(np.cos(turns).mean()), float(np.sin(turns).mean())
    return None if math.hypot(x, y) < _LEAST_AGREEMENT else math.degrees(math.atan2(y, x)) % 360
