"""Sources of training photos: files, or Gridtown's renderer. Both return K photos of a place."""

import functools
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.gridtown import (
    TIERS,
    Labels,
    TierName,
    Town,
    Wildness,
    cut_textures,
    draw_photo,
    make_town,
    make_wild,
    read_labels,
)
from d2vpr_hf.gridtown.simulate import training_views
from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.readers import PlaceTable, UnreadablePhotoError, open_photo, read_gsv_cities, read_places
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.training.data.geometry import Cutter

logger = logging.getLogger(__name__)

_NOT_WILD = Wildness()
_CACHED_TOWNS = 4  # in each worker
_CACHED_PHOTOS = 8192  # rendered photos in each worker: 170 MB at 84x84, 1.2 GB at 224x224


@dataclass(frozen=True)
class Shot:
    """One photo of a place.

    Attributes:
        image: RGB image.
        key: Numbers that identify the photo in its data set; its augmentation is drawn from them.
        labels: The renderer's labels, if they are trained on.
        cutter: Rule that draws the part of the photo that is trained on; `None` for the usual one of the run.
        place: Id of the place that the photo shows; `None` for the place that was asked for.
    """

    image: Image.Image
    key: tuple[int, ...]
    labels: Labels | None = None
    cutter: Cutter | None = None
    place: int | None = None


class PlacePhotos(Protocol):
    """A training set: places with photos."""

    @property
    def cities(self) -> list[NDArray[np.int64]]:
        """The place ids of each city. No two cities share an id."""

    @property
    def must_not_mix(self) -> bool:
        """Whether places of different cities may show the same, so that they must not be negatives of each other."""

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Keep places apart from the others: neither replaces one of the other part whose photos cannot be read."""

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Draw photos of a place.

        Args:
            place: Id of the place.
            count: Number of different photos to return.
            rng: Random generator.

        Returns:
            The photos; and the names of photos that were skipped because they could not be read, with the reason.

        Raises:
            ValueError: If the place has fewer readable photos.
        """


class PhotoFiles:
    """Photos on disk.

    Args:
        table: Photos with place ids.
        images_per_place: Least number of photos of a place; places with fewer are not in `cities`.

    Raises:
        ValueError: If the table has no place ids, or no place has enough photos.
    """

    def __init__(self, table: PlaceTable, images_per_place: int) -> None:
        if table.place_ids is None:
            raise ValueError(
                f"{table.folder} has no place ids, which identify photos of the same place. `d2vpr places` makes a table "
                "with place ids from photos with positions; or pass a folder in the layout of GSV-Cities."
            )
        self._folder = table.folder
        self._paths = [place.path for place in table.places]
        self._groups = table.group_ids
        self._rows = {place: rows for place, rows in _group_rows(table.place_ids) if len(rows) >= images_per_place}
        if not self._rows:
            raise ValueError(f"No place in {table.folder} has {images_per_place} photos.")

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """The place ids of each group of `d2vpr places`; without groups, of each folder, by the place's first photo."""
        places_of: dict[Hashable, list[int]] = defaultdict(list)
        for place, rows in self._rows.items():
            row = rows[0]
            city = PurePosixPath(self._paths[row]).parent if self._groups is None else int(self._groups[row])
            places_of[city].append(place)
        return [np.array(places, dtype=np.int64) for places in places_of.values()]

    @property
    def must_not_mix(self) -> bool:
        """Whether there are groups: neighbouring places, which show the same, are in different groups."""
        return self._groups is not None

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Do nothing: a photo is replaced by another one of its place only."""

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Open photos of a place; another photo replaces one that cannot be read. See [`PlacePhotos.take`]."""
        skipped: list[str] = []
        shots: list[Shot] = []
        for row in rng.permutation(self._rows[place]).tolist():
            try:
                photo = to_rgb_image(open_photo(self._folder / self._paths[row]))
            except UnreadablePhotoError as error:
                skipped.append(f"{self._paths[row]}: {error}")
                continue
            shots.append(Shot(photo, (row,), self._labels_of(row)))
            if len(shots) == count:
                return shots, skipped
        raise ValueError(
            f"Place {place} has only {len(shots)} readable photos, {count} are needed: {'; '.join(skipped)}. Restore "
            "them, or remove the place from the table."
        )

    def _labels_of(self, row: int) -> Labels | None:
        return None


class LabelledPhotos(PhotoFiles):
    """Photos on disk with the renderer's labels, as `d2vpr simulate --layout gsv-cities --label-cells` writes them.

    Args:
        table: Photos with place ids, from a folder that contains `Labels`.
        images_per_place: Least number of photos of a place; places with fewer are not in `cities`.

    Raises:
        FileNotFoundError: If the folder has no labels.
        ValueError: If a photo has no labels.
    """

    def __init__(self, table: PlaceTable, images_per_place: int) -> None:
        super().__init__(table, images_per_place)
        files = sorted((table.folder / "Labels").glob("*.safetensors")) or [table.folder / "Labels"]
        labels_of = {photo: labels for file in files for photo, labels in read_labels(file).items()}
        missing = [path for path in self._paths if path not in labels_of]
        if missing:
            raise ValueError(f"{len(missing)} photos in {table.folder} have no labels, for example {missing[0]}.")
        self._labels = [labels_of[path] for path in self._paths]

    def buildings(self) -> torch.Tensor:
        """Return the numbers of all buildings, in ascending order: (M,) int32."""
        numbers = torch.cat([labels.building.flatten() for labels in self._labels]).unique()
        return numbers[numbers >= 0]

    def _labels_of(self, row: int) -> Labels:
        return self._labels[row]


def _group_rows(place_ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the id and the rows of each place."""
    order = np.argsort(place_ids, kind="stable")
    cuts = np.flatnonzero(np.diff(place_ids[order])) + 1
    for rows in np.split(order, cuts):
        if len(rows):  # an empty table gives one empty part
            yield int(place_ids[rows[0]]), rows


class GridtownPhotos:
    """Photos of Gridtown's places, rendered when `take` is called.

    Two opposite views of a place count as two places, as in the files of `d2vpr simulate --layout gsv-cities`.

    Args:
        seeds: Seeds of the cities.
        num_places: Number of places in each city.
        image_size: Height and width in pixels.
        tier: Difficulty: how much photos of a place differ, and how much of a city repeats.
        visits: Number of photos of each view.
        wildness: Share of places whose photos are wild, and the folder of their textures.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_places: int,
        image_size: tuple[int, int],
        tier: TierName | str = TierName.ALL,
        visits: int = 16,
        wildness: Wildness = _NOT_WILD,
    ) -> None:
        self._seeds = tuple(seeds)
        self._num_places = num_places
        self._size = image_size
        self._visits = visits
        self._tier = TierName(tier)
        self._wildness = wildness
        self._views = list(training_views(num_places))

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """The place ids of each city: its views, numbered city after city."""
        count = len(self._views)
        return [np.arange(count, dtype=np.int64) + count * city for city in range(len(self._seeds))]

    @property
    def must_not_mix(self) -> bool:
        """Always false, because cities of Gridtown have nothing in common."""
        return False

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Do nothing: no photo is replaced."""

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Render photos of a place, or take them from the cache; no photo is skipped. See [`PlacePhotos.take`]."""
        if count > self._visits:
            raise ValueError(f"A place of this Gridtown has {self._visits} photos, {count} are needed. Raise gridtown_visits.")
        city, view = divmod(place, len(self._views))
        spot, heading = self._views[view]
        visits = (1 + rng.permutation(self._visits)[:count]).tolist()
        photos = [
            _photograph(self._seeds[city], self._num_places, self._tier, self._wildness, self._size, spot, heading, visit)
            for visit in visits
        ]
        return [Shot(photo, (place, visit)) for photo, visit in zip(photos, visits, strict=True)], []


@functools.lru_cache(maxsize=_CACHED_PHOTOS)
def _photograph(
    seed: int,
    num_places: int,
    tier: TierName,
    wildness: Wildness,
    size: tuple[int, int],
    spot: int,
    heading: int,
    visit: int,
) -> Image.Image:
    """Render a photo; later epochs take it from the cache."""
    variation = TIERS[tier]
    town = _town(seed, num_places, variation.copy_share, wildness.textures)
    photo = make_wild(town.city, draw_photo(town.city, spot, heading, visit, variation.queries), wildness)
    (pixels,) = town.take([photo], size)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())  # (3, H, W) -> (H, W, 3)


@functools.lru_cache(maxsize=_CACHED_TOWNS)
def _town(seed: int, num_places: int, copy_share: float, textures: str | Path | None) -> Town:
    return make_town(seed, num_places, copy_share, None if textures is None else cut_textures(textures, seed))


def read_labelled_photos(photos: str | Path, cities: Sequence[str] | None, images_per_place: int) -> LabelledPhotos:
    """Read a training set with labels from disk: a folder in the layout of GSV-Cities that also contains `Labels`.

    Raises:
        FileNotFoundError, ValueError: As [`read_gsv_cities`] and [`LabelledPhotos`] raise them.
    """
    return LabelledPhotos(_report_table(read_gsv_cities(photos, cities, images_per_place)), images_per_place)


def read_place_photos(photos: str | Path, cities: Sequence[str] | None, images_per_place: int) -> PhotoFiles:
    """Read a training set from disk: a folder in the layout of GSV-Cities, or a table with place ids.

    Raises:
        FileNotFoundError, ValueError: As [`read_gsv_cities`], [`read_places`] and [`PhotoFiles`] raise them.
    """
    if (Path(photos) / "Dataframes").is_dir():
        return PhotoFiles(_report_table(read_gsv_cities(photos, cities, images_per_place)), images_per_place)
    if cities:
        raise ValueError(
            f"`cities` needs a folder in the layout of GSV-Cities, which contains Dataframes; {photos} is not one. Remove "
            "`cities`, or pass such a folder."
        )
    return PhotoFiles(_report_table(read_places(photos)), images_per_place)


def _report_table(table: PlaceTable) -> PlaceTable:
    """Log a warning that counts the skipped photos of a training set, and one for each remark; return the table."""
    report_remarks(table.remarks)
    if table.skipped:
        path, reason = next(iter(table.skipped.items()))
        logger.warning(
            "Skipped %d of %d photos of %s, such as %s: %s.", len(table.skipped), table.count, table.folder, path, reason
        )
    return table
