"""Parts of a photo that training sees: random crops, and views into a panorama. Each part can be resized to several sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transpose
from torch import nn

from d2vpr_hf.training.random_streams import Purpose, make_rng

Pixels = NDArray[np.uint8]

_VIEW_RATIO = 4 / 3  # width to height of a view into a panorama, before `ratio` changes it
_DENSEST = 1.5  # largest number of a panorama's pixels for one pixel of a view, in each direction


@dataclass(frozen=True)
class GeometryDraws:
    """Random generators for crops and views, which depend only on seed, epoch and photo.

    Attributes:
        seed: Seed of the run.
        epoch: Number that all draws depend on: the epoch, or its remainder if crops repeat.
    """

    seed: int
    epoch: int

    def for_place(self, *numbers: int) -> Generator:
        """Return a generator for draws that the photos of a place have in common."""
        return make_rng(Purpose.PLACE_GEOMETRY, self.seed, self.epoch, *numbers)

    def for_start(self, *panorama: int) -> Generator:
        """Return a generator for the angle at which the directions of a panorama begin."""
        return make_rng(Purpose.START_DIRECTION, self.seed, self.epoch, *panorama)

    def for_photo(self, *key: int) -> Generator:
        """Return a generator for the draws of one photo."""
        return make_rng(Purpose.PHOTO_GEOMETRY, self.seed, self.epoch, *key)


class Part(Protocol):
    """A part of a photo."""

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """Return the part as an RGB image of a size (height, width)."""


class Cutter(Protocol):
    """A rule that draws a part of a photo."""

    def cut(self, place: int, key: tuple[int, ...], draws: GeometryDraws) -> Part:
        """Draw a part.

        Args:
            place: Id of the place that the photo shows.
            key: Numbers that identify the photo in its data set.
            draws: Random generators.
        """


@dataclass(frozen=True)
class PhotoPart:
    """A box of a photo, possibly mirrored.

    Attributes:
        image: RGB image.
        box: Left, upper, right and lower edge in pixels; `None` for the whole photo.
        mirrored: Whether left and right are exchanged.
    """

    image: Image.Image
    box: tuple[float, float, float, float] | None = None
    mirrored: bool = False

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """Return the box as an image; see [`Part.resize`]."""
        height, width = size
        image = self.image
        if self.box is not None or image.size != (width, height):
            image = image.resize((width, height), resample, self.box)
        return image.transpose(Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image


@dataclass(frozen=True)
class CropRange:
    """The range of random crops.

    A crop is stretched relative to the photo's own sides, so that a crop that is resized to a square looks like the whole photo
    resized to a square, which is how photos are encoded later.

    Attributes:
        scale: Smallest and largest share of the photo's area.
        ratio: Smallest and largest stretch: width to height of the crop, as a multiple of the photo's width to height. Large
            crops are stretched less, as far as the photo reaches.
        mirrored: Probability that the photos of a place are mirrored, all of them or none.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    mirrored: float = 0.5

    @property
    def smallest_side(self) -> float:
        """The smallest side of a crop as a share of the photo's side."""
        return math.sqrt(self.scale[0] / max(self.ratio[1], 1 / self.ratio[0]))


@dataclass(frozen=True)
class PhotoCutter:
    """Draw a crop of a photo.

    Attributes:
        image: RGB image.
        crops: Range of the crops.
    """

    image: Image.Image
    crops: CropRange

    def cut(self, place: int, key: tuple[int, ...], draws: GeometryDraws) -> PhotoPart:
        """Draw a crop; see [`Cutter.cut`]."""
        rng = draws.for_photo(*key)
        area = rng.uniform(*self.crops.scale)
        stretch = min(max(_draw_ratio(self.crops.ratio, rng), area), 1 / area)  # no side is longer than the photo's
        width, height = self.image.size
        crop_width, crop_height = width * math.sqrt(area * stretch), height * math.sqrt(area / stretch)
        left, upper = rng.random() * (width - crop_width), rng.random() * (height - crop_height)
        box = (left, upper, min(left + crop_width, width), min(upper + crop_height, height))
        return PhotoPart(self.image, box, _draw_mirrored(self.crops.mirrored, place, draws))


@dataclass(frozen=True)
class ViewRange:
    """The range of random views of a place in a panorama. All angles are in degrees.

    Attributes:
        fields_of_view: Smallest and largest horizontal field of view, below 180.
        pitches: Lowest and highest direction above the horizon.
        turn: Largest angle between a view's direction and that of its place.
        ratio: Smallest and largest stretch: width to height of the view, as a multiple of 4 : 3.
        mirrored: Probability that the views of a place are mirrored, all of them or none.
    """

    fields_of_view: tuple[float, float] = (55.0, 85.0)
    pitches: tuple[float, float] = (-10.0, 10.0)
    turn: float = 12.0
    ratio: tuple[float, float] = (0.75, 4 / 3)
    mirrored: float = 0.5

    @property
    def num_directions(self) -> int:
        """The number of directions of a panorama whose views never overlap: 3 for the default range."""
        half_width = math.tan(math.radians(self.fields_of_view[1]) / 2)
        half_height = half_width / (_VIEW_RATIO * self.ratio[0])
        pitch = math.radians(max(map(abs, self.pitches)))
        forward = math.cos(pitch) - math.sin(pitch) * half_height  # of a corner, where a view is widest
        if forward <= 0:  # the view contains the zenith, and therefore all directions
            return 1
        return max(1, int(180 // (math.degrees(math.atan2(half_width, forward)) + self.turn)))


@dataclass(frozen=True)
class PanoramaCutter:
    """Draw a view of a place in a panorama. A key is the panorama's number, the direction's and the view's.

    The directions of a panorama are equally spaced, and begin at an angle that each epoch draws for the panorama.

    Attributes:
        levels: The panorama, its half size, its quarter and so on.
        views: Range of the views.
    """

    levels: Sequence[Pixels]
    views: ViewRange

    def cut(self, place: int, key: tuple[int, ...], draws: GeometryDraws) -> "PanoramaPart":
        """Draw a view; see [`Cutter.cut`]."""
        *panorama, direction, _ = key
        views, rng = self.views, draws.for_photo(*key)
        yaw = (draws.for_start(*panorama).random() + direction) * 360 / views.num_directions
        return PanoramaPart(
            self.levels,
            yaw=yaw + rng.uniform(-views.turn, views.turn),
            pitch=rng.uniform(*views.pitches),
            field_of_view=rng.uniform(*views.fields_of_view),
            ratio=_VIEW_RATIO * _draw_ratio(views.ratio, rng),
            mirrored=_draw_mirrored(views.mirrored, place, draws),
        )


@dataclass(frozen=True)
class PanoramaPart:
    """A view into an equirectangular panorama: the picture of a pinhole camera. All angles are in degrees.

    Attributes:
        levels: The panorama (H, W, 3) with W = 2 H, its half size, its quarter and so on.
        yaw: Direction to the right of the panorama's centre.
        pitch: Direction above the horizon.
        field_of_view: Horizontal field of view.
        ratio: Width to height of the camera's picture, which is stretched to the size that `resize` takes.
        mirrored: Whether left and right are exchanged.
    """

    levels: Sequence[Pixels]
    yaw: float
    pitch: float
    field_of_view: float
    ratio: float = _VIEW_RATIO
    mirrored: bool = False

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """Render the view, with bilinear interpolation; see [`Part.resize`]."""
        view = _look_up(self._level(size[1]), *self._angles(size))
        return view.transpose(Transpose.FLIP_LEFT_RIGHT) if self.mirrored else view

    def _angles(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the longitude and the latitude (height, width) that each pixel shows."""
        height, width = size
        half_width = math.tan(math.radians(self.field_of_view) / 2)
        half_height = half_width / self.ratio
        right = half_width * _centres(width)
        up = -half_height * _centres(height)[:, None]
        sine, cosine = math.sin(math.radians(self.pitch)), math.cos(math.radians(self.pitch))
        forward, upward = cosine - sine * up, sine + cosine * up  # the camera is turned up by its pitch
        longitudes = np.degrees(np.arctan2(right, forward)) + np.float32(self.yaw)
        latitudes = np.degrees(np.arctan2(upward, np.hypot(right, forward)))
        return longitudes.astype(np.float32), latitudes.astype(np.float32)

    def _level(self, width: int) -> Pixels:
        """Return the largest level that is not so dense that pixels between the samples are lost."""
        widest = _DENSEST * width * 360 / self.field_of_view
        return next((level for level in self.levels if level.shape[1] <= widest), self.levels[-1])


def _centres(count: int) -> NDArray[np.float32]:
    """Return the centres of pixels between -1 and 1."""
    return ((2 * np.arange(count, dtype=np.float32) + 1) / count - 1).astype(np.float32)


def _look_up(panorama: Pixels, longitudes: NDArray[np.float32], latitudes: NDArray[np.float32]) -> Image.Image:
    """Sample a panorama (H, W, 3) between its pixels at angles (height, width) in degrees."""
    width = panorama.shape[1]
    around = torch.from_numpy(np.pad(panorama, ((0, 0), (1, 1), (0, 0)), "wrap"))  # the left edge continues at the right one
    columns = (longitudes / 360 + 0.5) % 1 * width + 1
    grid = np.stack((2 * columns / (width + 2) - 1, -latitudes / 90), axis=-1)
    channels = around.permute(2, 0, 1)[None].float()  # (H, W + 2, 3) -> (1, 3, H, W + 2)
    sampled = nn.functional.grid_sample(channels, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False)
    return Image.fromarray((sampled[0] + 0.5).byte().permute(1, 2, 0).numpy())  # (3, height, width) -> (height, width, 3)


def _draw_ratio(ratio: tuple[float, float], rng: Generator) -> float:
    """Draw a stretch such that a number and its inverse are equally probable."""
    return math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))


def _draw_mirrored(probability: float, place: int, draws: GeometryDraws) -> bool:
    return bool(draws.for_place(place).random() < probability)
