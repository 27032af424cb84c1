"""Turn images into the pixel values of a model, by Pillow and numpy. This module loads neither torch nor transformers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an upright image to pixel values: resize, crop at the centre, rescale and normalise, in this order.

    Attributes:
        size: Height and width in pixels to resize to, whatever the shape of the image; `None` keeps its shape.
        shortest_edge: Length in pixels of the shorter side to resize to, with the shape of the image; `None` for another rule.
        longest_edge: Length in pixels that the longer side must not exceed, with the shape of the image; `None` for no bound.
        multiple_of: Sides are resized to the nearest multiples of this number; 1 for any length.
        crop_size: Height and width in pixels to crop at the centre, after resizing; a smaller image is padded with zeros.
            `None` for no crop.
        resample: Filter of resizing, as Pillow names it; all are antialiased but `"nearest"`.
        resized_as: Numbers of the resized image: `"uint8"` rounds them, as Pillow and transformers do, `"float32"` does not, as
            the image processor of this package.
        rescale_factor: Factor for pixels in 0..255.
        mean: Mean of each channel, which is subtracted after rescaling.
        std: Standard deviation of each channel, which the difference is divided by.
    """

    size: tuple[int, int] | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    multiple_of: int = 1
    crop_size: tuple[int, int] | None = None
    resample: Resample = "bilinear"
    resized_as: Literal["uint8", "float32"] = "uint8"
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

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
        return self.crop_size or self.size

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an RGB image."""
        pixels = self._resize(image)  # (height, width, 3)
        if self.crop_size is not None:
            pixels = _crop(pixels, self.crop_size)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values = (pixels * np.float32(self.rescale_factor) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to."""
        if self.size is not None:
            height, width = self.size
        elif self.shortest_edge is not None:
            scale = self.shortest_edge / min(height, width)
            height, width = max(self.shortest_edge, int(height * scale)), max(self.shortest_edge, int(width * scale))
        if self.longest_edge is not None and max(height, width) > self.longest_edge:
            scale = self.longest_edge / max(height, width)
            height, width = max(1, int(height * scale)), max(1, int(width * scale))
        step = self.multiple_of
        return max(step, round(height / step) * step), max(step, round(width / step) * step)

    def _resize(self, image: Image.Image) -> NDArray[Any]:
        """Return the resized image (height, width, 3)."""
        height, width = self.resized_size(image.height, image.width)
        if (height, width) == (image.height, image.width):
            return np.asarray(image)
        resample = Image.Resampling[self.resample.upper()]
        if self.resized_as == "uint8":
            return np.asarray(image.resize((width, height), resample))
        channels = (np.asarray(band.convert("F").resize((width, height), resample)) for band in image.split())
        return np.stack(list(channels), axis=-1)


def _crop(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Crop an image (height, width, 3) at its centre, and pad it with zeros where it is smaller."""
    height, width = size
    padded = [
        (max(0, target - side) // 2, (max(0, target - side) + 1) // 2)
        for target, side in zip(size, pixels.shape[:2], strict=True)
    ]
    pixels = np.pad(pixels, [*padded, (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
