"""Places without labels: a photo whose crops are the photos of a place, and a direction of a panorama with its views."""

import functools
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from d2vpr_hf.readers.photos import find_photos, open_header
from d2vpr_hf.training.data.geometry import CropRange, PanoramaCutter, PhotoCutter, Pixels, ViewRange
from d2vpr_hf.training.data.place_photos import Shot

logger = logging.getLogger(__name__)

_SPARE = 1.5  # number of a decoded photo's pixels for one of the network's, at least, in each direction
_RATIO_TOLERANCE = 0.01  # a panorama is 2 : 1 up to this share
_FEWEST_COLUMNS = 64  # of a panorama's smallest level

Decoded = TypeVar("Decoded")


class Opening(NamedTuple):
    """Sizes that photos without labels are opened for.

    Attributes:
        size: Largest height or width in pixels that parts of a photo are resized to.
        cache_bytes: Number of bytes of decoded photos that a loading process keeps.
    """

    size: int
    cache_bytes: int


class UnlabelledPhotos:
    """Photos of a folder, each of which is a place: the photos of the place are random crops.

    Two photos count as different places. Photos that show the same place, such as frames of a video, would be wrong negatives
    of each other; `d2vpr places` makes places of them.

    Args:
        folder: Folder of the photos.
        crops: Range of the crops.
        opening: Sizes that photos are opened for.

    Raises:
        FileNotFoundError: If the folder does not exist, or has no photo.
        NotADirectoryError: If it is a file.
    """

    must_not_mix = False

    def __init__(self, folder: str | Path, crops: CropRange, opening: Opening) -> None:
        self._folder = Path(folder)
        self._crops, self._opening = crops, opening
        self._photos = find_photos(self._folder)
        self._held_out: frozenset[int] = frozenset()
        self._decoded = _RecentlyDecoded(opening.cache_bytes, self._decode, _bytes_of_image)

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """All photos, as one city."""
        return [np.arange(len(self._photos), dtype=np.int64)]

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Keep photos apart from the others. See [`PlacePhotos.hold_out`]."""
        self._held_out = frozenset(places.tolist())

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Return crops of a photo; the next photo of its part of the folder replaces one that cannot be read."""
        is_held_out = place in self._held_out
        rows = (row for row in _rows_from(place, len(self._photos)) if (row in self._held_out) == is_held_out)
        row, image, skipped = _first_readable(self._photos, rows, self._decoded, self._folder)
        cutter = PhotoCutter(image, self._crops)
        return [Shot(image, (row, number), cutter=cutter, place=row) for number in range(count)], skipped

    def _decode(self, photo: Path) -> Image.Image:
        """Open a photo, reduced as far as its smallest crops have enough pixels."""
        smallest = math.ceil(_SPARE * self._opening.size / self._crops.smallest_side)
        image = to_rgb_image(open_photo(photo, (smallest // 3 + 1,) * 2))
        factor = min(image.size) // smallest
        return image.reduce(factor) if factor > 1 else image


class Panoramas:
    """Equirectangular panoramas of a folder. A place is a panorama in one direction; its photos are views of a camera.

    The directions of a panorama have views that never overlap, so that they may be in the same batch.

    Args:
        folder: Folder of the panoramas, twice as wide as high.
        views: Range of the views.
        opening: Sizes that photos are opened for.

    Raises:
        FileNotFoundError: If the folder does not exist, or has no photo.
        NotADirectoryError: If it is a file.
        ValueError: If no photo is twice as wide as high.
    """

    must_not_mix = False

    def __init__(self, folder: str | Path, views: ViewRange, opening: Opening) -> None:
        self._folder = Path(folder)
        self._views, self._opening = views, opening
        self._photos = _find_panoramas(self._folder)
        self._held_out: frozenset[int] = frozenset()
        self._decoded = _RecentlyDecoded(opening.cache_bytes, self._decode, _bytes_of_levels)

    @functools.cached_property
    def cities(self) -> list[NDArray[np.int64]]:
        """All directions of all panoramas, as one city."""
        return [np.arange(len(self._photos) * self._views.num_directions, dtype=np.int64)]

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Keep directions of panoramas apart from the others. See [`PlacePhotos.hold_out`]."""
        self._held_out = frozenset(places.tolist())

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Return views of a place; the next panorama whose direction is of its part replaces one that cannot be read."""
        num_directions = self._views.num_directions
        panorama, direction = divmod(place, num_directions)
        is_held_out = place in self._held_out
        rows = (
            row
            for row in _rows_from(panorama, len(self._photos))
            if (row * num_directions + direction in self._held_out) == is_held_out
        )
        row, levels, skipped = _first_readable(self._photos, rows, self._decoded, self._folder)
        cutter = PanoramaCutter(levels, self._views)
        taken = row * num_directions + direction
        image = Image.fromarray(levels[-1])
        return [Shot(image, (row, direction, number), cutter=cutter, place=taken) for number in range(count)], skipped

    def _decode(self, photo: Path) -> list[Pixels]:
        """Open a panorama, reduced as far as its narrowest views have enough pixels; return it with its smaller levels."""
        widest = math.ceil(2 * _SPARE * self._opening.size * 360 / self._views.fields_of_view[0])
        image = to_rgb_image(open_photo(photo, (widest // 6 + 1,) * 2))
        factor = image.width // widest
        levels = [np.asarray(image.reduce(factor) if factor > 1 else image)]
        while levels[-1].shape[1] >= 2 * _FEWEST_COLUMNS:
            levels.append(np.asarray(Image.fromarray(levels[-1]).reduce(2)))
        return levels


class _RecentlyDecoded(Generic[Decoded]):
    """The photos that were decoded last, up to a number of bytes. Each loading process fills its own."""

    def __init__(self, limit: int, decode: Callable[[Path], Decoded], size_of: Callable[[Decoded], int]) -> None:
        self._limit = limit
        self._decode, self._size_of = decode, size_of
        self._photos: OrderedDict[Path, Decoded] = OrderedDict()
        self._bytes = 0

    def __call__(self, photo: Path) -> Decoded:
        """Return a decoded photo. Raises as `decode` does."""
        if photo in self._photos:
            self._photos.move_to_end(photo)
            return self._photos[photo]
        decoded = self._photos[photo] = self._decode(photo)
        self._bytes += self._size_of(decoded)
        while self._bytes > self._limit and len(self._photos) > 1:
            _, oldest = self._photos.popitem(last=False)
            self._bytes -= self._size_of(oldest)
        return decoded


def _bytes_of_image(image: Image.Image) -> int:
    return 3 * math.prod(image.size)


def _bytes_of_levels(levels: list[Pixels]) -> int:
    return sum(level.nbytes for level in levels)


def _rows_from(row: int, count: int) -> Iterator[int]:
    """Yield all rows, beginning at one; the first row follows the last."""
    return (number % count for number in range(row, row + count))


def _first_readable(
    photos: Sequence[Path], rows: Iterable[int], decode: Callable[[Path], Decoded], folder: Path
) -> tuple[int, Decoded, list[str]]:
    """Decode the first photo of some rows that can be read; return its row, and the names of the skipped ones."""
    skipped: list[str] = []
    for row in rows:
        photo = photos[row]
        try:
            return row, decode(photo), skipped
        except UnreadablePhotoError as error:
            skipped.append(f"{photo.relative_to(folder).as_posix()}: {error}")
    raise ValueError(
        f"None of the {len(skipped)} photos in {folder} can be read, such as {skipped[0]}. Restore them; photos that are "
        "held out, and those that are trained on, do not replace each other."
    )


def _find_panoramas(folder: Path) -> list[Path]:
    """Return the photos of a folder that are twice as wide as high, and count the others in a warning."""
    photos = find_photos(folder)
    reasons = {photo: reason for photo in photos if (reason := _why_no_panorama(photo))}
    if reasons:
        photo, reason = next(iter(reasons.items()))
        message = (
            f"{len(reasons)} of {len(photos)} photos of {folder} are not equirectangular panoramas, such as "
            f"{photo.relative_to(folder).as_posix()}: {reason}."
        )
        if len(reasons) == len(photos):
            raise ValueError(f"{message} Give the folder as `unlabelled` if its photos are ordinary ones.")
        logger.warning("Skipped: %s", message)
    return [photo for photo in photos if photo not in reasons]


def _why_no_panorama(photo: Path) -> str | None:
    """Return the reason why a photo cannot be used as a panorama; `None` if it can."""
    try:
        with open_header(photo) as image:
            width, height = image.size
    except UnreadablePhotoError as error:
        return str(error)
    if abs(width - 2 * height) <= _RATIO_TOLERANCE * width:
        return None
    return f"expected a width of twice the height, got {width} x {height} pixels"
