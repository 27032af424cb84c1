"""Turn images into the pixel values of a model, by Pillow and numpy. This module loads neither torch nor transformers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.model_info.model_options import MAX_SIDE, is_side

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

_CHOICES = {"resample": get_args(Resample), "resized_as": ("uint8", "float32"), "rounding": ("nearest", "down", "up")}
_MAX_FLOAT = float(np.finfo(np.float32).max)
_SMALLEST_DECODING = 224  # photos for smaller inputs are decoded as for this size: their pixels are few in any case
_SMALLEST_SCALE = 1e-5  # step of the scale at which the search for the largest size ends
_ROUNDINGS: dict[str, Callable[[float], int]] = {"nearest": round, "down": math.floor, "up": math.ceil}


class UnfitImageError(ValueError):
    """An image cannot be prepared because of its size or shape."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an upright image to pixel values: resize, crop at the centre, rescale, normalise and pad, in this order.

    Attributes:
        size: Height and width in pixels to resize to, whatever the shape of the image; `None` keeps its shape.
        shortest_edge: Length in pixels of the shorter side to resize to, with the shape of the image; `None` for another rule.
        longest_edge: Length in pixels that the longer side must not exceed, with the shape of the image; `None` for no bound.
        fit_size: Height and width in pixels of a frame; the image becomes the largest that fits, with its shape. `None` for
            another rule.
        max_patches: Number of squares of `multiple_of` pixels that the image may have; it becomes the largest that is whole in
            them, with nearly its shape. `None` for another rule.
        multiple_of: Sides are resized to multiples of this number; 1 for any length.
        rounding: The multiple to take: the `"nearest"` one, or the next one `"down"` or `"up"`.
        crop_size: Height and width in pixels to crop at the centre, after resizing; a smaller image is padded with zeros.
            `None` for no crop.
        pad_size: Height and width in pixels to pad to with zeros, below and to the right, after normalising; `None` for none.
        resample: Filter of resizing, as Pillow names it; all are antialiased but `"nearest"`.
        resized_as: Numbers of the resized image: `"uint8"` rounds them, as Pillow and transformers do, `"float32"` does not, as
            the image processor of this package.
        rescale_factor: Factor for pixels in 0..255; 1 to leave them.
        mean: Mean of each channel, which is subtracted after rescaling; zeros to leave them.
        std: Standard deviation of each channel, which the difference is divided by; ones to leave them.
    """

    size: tuple[int, int] | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    fit_size: tuple[int, int] | None = None
    max_patches: int | None = None
    multiple_of: int = 1
    rounding: Literal["nearest", "down", "up"] = "nearest"
    crop_size: tuple[int, int] | None = None
    pad_size: tuple[int, int] | None = None
    resample: Resample = "bilinear"
    resized_as: Literal["uint8", "float32"] = "uint8"
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("size", "fit_size", "crop_size", "pad_size"):
            _check_size(name, getattr(self, name))
        for name in ("shortest_edge", "longest_edge", "multiple_of", "max_patches"):
            length = getattr(self, name)
            largest = MAX_SIDE**2 // self.multiple_of**2 if name == "max_patches" else MAX_SIDE
            if length is not None and (type(length) is not int or not 1 <= length <= largest):
                raise ValueError(f"`{name}` must be a whole number from 1 to {largest}, got {length!r}.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != 3 or not all(map(_is_finite, values)):
                raise ValueError(f"`{name}` must be three numbers, one for each channel, got {values!r}.")
        if min(self.std) <= 0 or not _is_finite(self.rescale_factor) or self.rescale_factor <= 0:
            raise ValueError(f"`std` and `rescale_factor` must be greater than 0, got {self.std} and {self.rescale_factor}.")
        rules = [name for name in ("size", "shortest_edge", "fit_size", "max_patches") if getattr(self, name) is not None]
        if len(rules) > 1:
            raise ValueError(f"Give one rule for the size, got {' and '.join(f'`{name}`' for name in rules)}.")
        if self.longest_edge is not None and self.shortest_edge is not None and self.longest_edge < self.shortest_edge:
            raise ValueError(f"`longest_edge`, {self.longest_edge}, is less than `shortest_edge`, {self.shortest_edge}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the form of [`to_dict`].

        Raises:
            ValueError: If there is a value that this version does not have, or a value is wrong.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"This version of the package does not know {', '.join(unknown)} of a preprocessing. Update it.")
        attributes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**attributes)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that every image has after these steps; `None` if they depend on the image."""
        if self.pad_size is not None or self.crop_size is not None:
            return self.pad_size or self.crop_size
        return None if self.size is None else self.resized_size(*self.size)

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded images must cover; `None` if they depend on the image."""
        if self.shortest_edge is not None and self.crop_size is not None:
            return (max(self.shortest_edge, self.crop_size[0]), max(self.shortest_edge, self.crop_size[1]))
        return None if self.size is None else self.resized_size(*self.size)

    @property
    def enlarged_decoding_size(self) -> tuple[int, int] | None:
        """The decoding size, of at least 224 pixels a side, as photos for models of other libraries are decoded."""
        return _enlarge(self.decoding_size)

    def for_whole_images(self) -> Self:
        """Return steps that resize the whole image to the size that is cropped here, without keeping its shape."""
        return self if self.crop_size is None else self.for_size(self.crop_size)

    def for_size(self, size: tuple[int, int], *, crop: bool = False) -> Self:
        """Return steps that give images of a height and width.

        Args:
            size: Height and width in pixels.
            crop: Whether to crop the same share of the image as these steps do; `False` resizes the whole image.
        """
        if not crop or self.crop_size is None:
            return replace(
                self,
                size=size,
                shortest_edge=None,
                longest_edge=None,
                fit_size=None,
                max_patches=None,
                multiple_of=1,
                crop_size=None,
                pad_size=None,
            )
        scale = max(target / side for target, side in zip(size, self.crop_size, strict=True))
        larger = None if self.size is None else (round(self.size[0] * scale), round(self.size[1] * scale))
        shortest_edge = None if self.shortest_edge is None else round(self.shortest_edge * scale)
        return replace(self, size=larger, shortest_edge=shortest_edge, longest_edge=None, crop_size=size)

    def for_shorter_side(self, side: int, multiple_of: int = 1) -> Self:
        """Return steps that resize the whole image to a length of its shorter side, and keep its shape.

        The longer side is `int(side * longer / shorter)`, as torchvision resizes; then both become the nearest multiples, as
        VPR-methods-evaluation and MegaLoc round them for networks with patches.

        Args:
            side: Length in pixels.
            multiple_of: The sides become multiples of this number.
        """
        return replace(self.for_size((side, side)), size=None, shortest_edge=side, multiple_of=multiple_of, rounding="nearest")

    def __call__(self, image: Image.Image | NDArray[Any]) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an RGB image.

        Args:
            image: A PIL image in RGB, or an array (height, width, 3) in 0..255, which is rounded where `resized_as` is
                `"uint8"`.
        """
        pixels = self._resize(image)  # (height, width, 3)
        if self.crop_size is not None:
            pixels = _crop(pixels, self.crop_size)
        values = self._normalize(pixels)
        return values if self.pad_size is None else _pad(values, self.pad_size)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to."""
        if self.size is not None:
            height, width = self.size
        elif self.fit_size is not None:
            scale = min(self.fit_size[0] / height, self.fit_size[1] / width)
            height, width = int(height * scale), int(width * scale)
        elif self.max_patches is not None:
            return _by_patches(height, width, self.max_patches, self.multiple_of)
        elif self.shortest_edge is not None:
            height, width = _by_shortest_edge(height, width, self.shortest_edge, self.longest_edge)
        elif self.longest_edge is not None and max(height, width) > self.longest_edge:
            longest = max(height, width)
            height, width = int(self.longest_edge * height / longest), int(self.longest_edge * width / longest)
        round_number = _ROUNDINGS[self.rounding]
        step = self.multiple_of
        return max(step, round_number(height / step) * step), max(step, round_number(width / step) * step)

    def _resize(self, image: Image.Image | NDArray[Any]) -> NDArray[Any]:
        """Return the resized image (height, width, 3).

        Raises:
            UnfitImageError: If it would be too large, as that of a photo of one row of pixels.
        """
        pixels = np.asarray(image)
        if self.resized_as == "uint8" and pixels.dtype != np.uint8:
            pixels = pixels.clip(0, 255).round().astype(np.uint8)
        height, width = self.resized_size(*pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            return pixels
        if height * width > MAX_SIDE**2:
            raise UnfitImageError(
                f"{pixels.shape[1]}x{pixels.shape[0]} pixels would be resized to {width}x{height}, which is too large"
            )
        resample = Image.Resampling[self.resample.upper()]
        if pixels.dtype == np.uint8 and self.resized_as == "uint8":
            image = image if isinstance(image, Image.Image) else Image.fromarray(pixels)
            return np.asarray(image.resize((width, height), resample))
        channels = (Image.fromarray(pixels[:, :, channel].astype(np.float32)) for channel in range(pixels.shape[2]))
        return np.stack([np.asarray(channel.resize((width, height), resample)) for channel in channels], axis=-1)

    def _normalize(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of pixels (height, width, 3)."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        levels = np.arange(256) if pixels.dtype == np.uint8 else pixels.reshape(-1, 3)
        rescaled = (levels * self.rescale_factor).astype(np.float32).reshape(len(levels), -1)  # products in float64
        values = (rescaled - mean) / std  # (256, 3), or (height * width, 3)
        if pixels.dtype != np.uint8:
            return np.ascontiguousarray(values.reshape(pixels.shape).transpose(2, 0, 1))
        return np.stack([values[:, channel].take(pixels[:, :, channel]) for channel in range(3)])


def square_decoding_size(side: int | None) -> tuple[int, int] | None:
    """Return the decoding size for photos whose shorter side becomes `side`; `None` for `None`."""
    return None if side is None else _enlarge((side, side))


def _enlarge(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (max(size[0], _SMALLEST_DECODING), max(size[1], _SMALLEST_DECODING))


def _is_finite(value: object) -> bool:
    """Return whether a value is a number that float32 has, and not NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_FLOAT


def _check_size(name: str, size: object) -> None:
    """Raise ValueError unless a value is a height and width in pixels, or `None`."""
    if size is not None and not (isinstance(size, tuple) and len(size) == 2 and all(map(is_side, size))):
        raise ValueError(f"`{name}` must be a height and a width in pixels, from 1 to {MAX_SIDE}, got {size!r}.")


def _by_shortest_edge(height: int, width: int, shortest_edge: int, longest_edge: int | None) -> tuple[int, int]:
    """Return the size with a shorter side of `shortest_edge`, or less where the longer side would exceed `longest_edge`.

    Both are rounded as transformers does, so that the sizes are the same to a pixel.
    """
    shorter, longer = min(height, width), max(height, width)
    exact: float = shortest_edge
    if longest_edge is not None and longer / shorter * shortest_edge > longest_edge:
        exact = longest_edge * shorter / longer
    new_shorter, new_longer = max(1, round(exact)), int(exact * longer / shorter)
    return (new_longer, new_shorter) if width <= height else (new_shorter, new_longer)


def _by_patches(height: int, width: int, max_patches: int, patch_size: int) -> tuple[int, int]:
    """Return the largest size in whole patches that has no more of them, as transformers finds it for NaFlex models."""

    def scaled(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(scale * side / patch_size)) for side in (height, width))
        return rows * patch_size, columns * patch_size

    low, high = _SMALLEST_SCALE / 10, 100.0
    while high - low >= _SMALLEST_SCALE:
        middle = (low + high) / 2
        new_height, new_width = scaled(middle)
        if new_height * new_width <= max_patches * patch_size**2:
            low = middle
        else:
            high = middle
    return scaled(low)


def _crop(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Crop an image (height, width, 3) at its centre, and pad it with zeros where it is smaller."""
    missing = [max(0, target - side) for target, side in zip(size, pixels.shape[:2], strict=True)]
    if any(missing):
        pixels = np.pad(pixels, [*(((number + 1) // 2, number // 2) for number in missing), (0, 0)])
    top, left = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return pixels[top : top + size[0], left : left + size[1]]


def _pad(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Pad pixel values (3, height, width) with zeros below and to the right."""
    height, width = values.shape[1:]
    if height > size[0] or width > size[1]:
        raise UnfitImageError(f"{width}x{height} pixels do not fit into the `pad_size`, {size[1]}x{size[0]}")
    return np.pad(values, [(0, 0), (0, size[0] - height), (0, size[1] - width)])
