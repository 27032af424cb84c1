"""Where the photos of a place come from: files, or Gridtown's renderer. Both give K photos of a place."""

import functools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.gridtown import TIERS, Labels, TierName, Town, draw_photo, make_town, read_labels
from d2vpr_hf.gridtown.simulate import training_views
from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.readers import PlaceTable, UnreadablePhotoError, open_photo, read_gsv_cities, read_places

_TOWNS_AT_HAND = 4  # that a worker keeps
_PHOTOS_AT_HAND = 8192  # of Gridtown, that a worker keeps: 170 MB at 84x84, 1.2 GB at 224x224


@dataclass(frozen=True)
class Shot:
    """One photo of a place.

    Attributes:
        image: RGB.
        key: Numbers that name the photo among all, which its augmentation is drawn from.
        labels: What the renderer knows of it, if that is trained on.
    """

    image: Image.Image
    key: tuple[int, ...]
    labels: Labels | None = None


class PlacePhotos(Protocol):
    """Places with photos: what training needs of a data set."""

    @property
    def cities(self) -> list[NDArray[np.int64]]:
        """The ids of each city's places, unique over the cities."""

    @property
    def must_not_mix(self) -> bool:
        """Whether places of different cities may be the same, so that none must be a negative of another."""

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Give `count` different photos of a place, drawn from `rng`, and name those that could not be read on the way.

        Raises:
            ValueError: If the place has not so many readable photos.
        """


class PhotoFiles:
    """Photos on disk.

    Args:
        table: Photos with place ids.
        images_per_place: Places with fewer photos are not among the `cities`.

    Raises:
        ValueError: If the table has no place ids, or no place has enough photos.
    """

    def __init__(self, table: PlaceTable, images_per_place: int) -> None:
        if table.place_ids is None:
            raise ValueError(
                f"{table.folder} says nowhere which photos show one place. `d2vpr places` makes a table that does, of photos "
                "with positions; or give a folder as GSV-Cities has it."
            )
        self._folder = table.folder
        self._paths = [place.path for place in table.places]
        self._groups = table.group_ids
        self._rows = {int(ids[0]): rows for ids, rows in _group(table.place_ids) if len(rows) >= images_per_place}
        if not self._rows:
            raise ValueError(f"No place in {table.folder} has {images_per_place} photos.")

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """Places by the group that `d2vpr places` put them into; else by the folder that their first photo lies in."""
        found = defaultdict(list)
        for place, rows in self._rows.items():
            found[self._city_of(rows[0])].append(place)
        return [np.array(places, dtype=np.int64) for places in found.values()]

    @property
    def must_not_mix(self) -> bool:
        """Whether there are groups: neighbouring places are in different ones, and their photos show the same."""
        return self._groups is not None

    def _city_of(self, row: int) -> Hashable:
        return PurePosixPath(self._paths[row]).parent if self._groups is None else int(self._groups[row])

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Open photos; one that cannot be read gives way to another of the place. See [`PlacePhotos`]."""
        unreadable: list[str] = []
        opened = list(islice(self._open(rng.permutation(self._rows[place]).tolist(), unreadable), count))
        if len(opened) < count:
            raise ValueError(
                f"Place {place} has only {len(opened)} readable photos, {count} are needed: {'; '.join(unreadable)}. Restore "
                "them, or take the place out of the table."
            )
        return opened, unreadable

    def _open(self, rows: Sequence[int], unreadable: list[str]) -> Iterator[Shot]:
        for row in rows:
            try:
                photo = to_rgb_image(open_photo(self._folder / self._paths[row]))
            except UnreadablePhotoError as error:
                unreadable.append(f"{self._paths[row]}: {error}")
            else:
                yield Shot(photo, (row,), self._labels_of(row))

    def _labels_of(self, row: int) -> Labels | None:
        return None


class LabelledPhotos(PhotoFiles):
    """Photos on disk with the renderer's labels beside them, as `d2vpr simulate --layout gsv-cities --label-cells` writes them.

    Args:
        table: Photos with place ids, of a folder with `Labels` in it.
        images_per_place: Places with fewer photos are not among the `cities`.

    Raises:
        FileNotFoundError: If there are no labels.
        ValueError: If a photo has none.
    """

    def __init__(self, table: PlaceTable, images_per_place: int) -> None:
        super().__init__(table, images_per_place)
        files = sorted((table.folder / "Labels").glob("*.safetensors")) or [table.folder / "Labels"]
        found = {photo: labels for file in files for photo, labels in read_labels(file).items()}
        missing = [path for path in self._paths if path not in found]
        if missing:
            raise ValueError(f"{len(missing)} photos in {table.folder} have no labels, {missing[0]} among them.")
        self._labels = [found[path] for path in self._paths]

    def buildings(self) -> torch.Tensor:
        """Return the numbers of all buildings, in ascending order: (M,) int32."""
        seen = torch.cat([labels.building.flatten() for labels in self._labels]).unique()
        return seen[seen >= 0]

    def _labels_of(self, row: int) -> Labels:
        return self._labels[row]


def _group(place_ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the (equal) ids and the rows of each place."""
    order = np.argsort(place_ids, kind="stable")
    cuts = np.flatnonzero(np.diff(place_ids[order])) + 1
    for rows in np.split(order, cuts):
        yield place_ids[rows], rows


class GridtownPhotos:
    """Gridtown's places, photographed when they are asked for.

    Two opposite views of every place are places of their own, as in what `d2vpr simulate --layout gsv-cities` writes.

    Args:
        seeds: The cities.
        num_places: Places of each city.
        image_size: Height and width in pixels.
        tier: How photos of a place differ, and how much of a city repeats.
        visits: Photos there are of each view.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_places: int,
        image_size: tuple[int, int],
        tier: TierName | str = TierName.ALL,
        visits: int = 16,
    ) -> None:
        self._seeds, self._num_places, self._size, self._visits = tuple(seeds), num_places, image_size, visits
        self._tier = TierName(tier)
        self._views = list(training_views(num_places))

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """The views of each city, numbered city after city."""
        count = len(self._views)
        return [np.arange(count, dtype=np.int64) + count * city for city in range(len(self._seeds))]

    @property
    def must_not_mix(self) -> bool:
        """No: cities of Gridtown have nothing in common."""
        return False

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Render photos, or take them from earlier epochs; all of them can be. See [`PlacePhotos`]."""
        if count > self._visits:
            raise ValueError(f"A place of this Gridtown has {self._visits} photos, {count} are needed. Raise gridtown_visits.")
        city, view = divmod(place, len(self._views))
        spot, heading = self._views[view]
        visits = (1 + rng.permutation(self._visits)[:count]).tolist()
        scene = (self._seeds[city], self._num_places, self._tier, self._size, spot, heading)
        return [Shot(_photograph(*scene, visit), (place, visit)) for visit in visits], []


@functools.lru_cache(maxsize=_PHOTOS_AT_HAND)
def _photograph(
    seed: int, num_places: int, tier: TierName, size: tuple[int, int], spot: int, heading: int, visit: int
) -> Image.Image:
    """Render a photo, unless it is at hand from an earlier epoch."""
    variation = TIERS[tier]
    town = _town(seed, num_places, variation.copy_share)
    (pixels,) = town.take([draw_photo(town.city, spot, heading, visit, variation.queries)], size)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())  # (3, H, W) -> (H, W, 3)


@functools.lru_cache(maxsize=_TOWNS_AT_HAND)
def _town(seed: int, num_places: int, copy_share: float) -> Town:
    return make_town(seed, num_places, copy_share)


def read_labelled_photos(photos: str | Path, cities: Sequence[str] | None, images_per_place: int) -> LabelledPhotos:
    """Read a training set with labels on disk: a folder as GSV-Cities has it, with `Labels` beside.

    Raises:
        FileNotFoundError, ValueError: As [`read_gsv_cities`] and [`LabelledPhotos`] raise them.
    """
    return LabelledPhotos(read_gsv_cities(photos, cities, images_per_place), images_per_place)


def read_place_photos(photos: str | Path, cities: Sequence[str] | None, images_per_place: int) -> PhotoFiles:
    """Read a training set on disk: a folder as GSV-Cities has it, or a table with place ids.

    Raises:
        FileNotFoundError, ValueError: As [`read_gsv_cities`], [`read_places`] and [`PhotoFiles`] raise them.
    """
    if (Path(photos) / "Dataframes").is_dir():
        return PhotoFiles(read_gsv_cities(photos, cities, images_per_place), images_per_place)
    if cities:
        raise ValueError(f"{photos} is not a folder as GSV-Cities has it (with Dataframes in it); leave `cities` out.")
    return PhotoFiles(read_places(photos), images_per_place)
