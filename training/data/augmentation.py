"""RandAugment (arXiv 1909.13719), with the operations and magnitudes that torchvision gives it, on PIL images.

Published training augments with torchvision's `RandAugment(num_ops=3)`, after resizing. These are its 14 operations as it runs
them on PIL images; here each image's draws come from a generator of its own, so that they do not depend on worker, process or
batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform

NUM_MAGNITUDES = 31  # magnitudes count from 0 to 30
_LARGEST_SHIFT = 150 / 331  # part of the image's side
_Strength = Callable[[float, Image.Image], float]  # of a magnitude in [0, 1] and the image


class Operation(NamedTuple):
    """One operation: what it does with a strength, how strong a magnitude in [0, 1] makes it, and if its sign is drawn."""

    apply: Callable[[Image.Image, float], Image.Image]
    strength: _Strength
    signed: bool


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Read the image at `matrix` (2 x 3, row by row) times each pixel's (x, y, 1); black outside."""
    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR)


def _up_to(largest: float) -> _Strength:
    return lambda magnitude, image: largest * magnitude


def _shift_of(axis: int) -> _Strength:
    return lambda magnitude, image: _LARGEST_SHIFT * image.size[axis] * magnitude


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return Operation(lambda image, strength: enhancer(image).enhance(1 + strength), _up_to(0.9), True)


def _fixed(apply: Callable[[Image.Image], Image.Image]) -> Operation:
    return Operation(lambda image, strength: apply(image), _up_to(0.0), False)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    return ImageOps.posterize(image, int(bits))


def _solarize(image: Image.Image, threshold: float) -> Image.Image:
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type] # it is compared only


OPERATIONS: dict[str, Operation] = {
    "identity": _fixed(lambda image: image),
    "shear_x": Operation(lambda image, slope: _affine(image, (1, slope, 0, 0, 1, 0)), _up_to(0.3), True),
    "shear_y": Operation(lambda image, slope: _affine(image, (1, 0, 0, slope, 1, 0)), _up_to(0.3), True),
    "translate_x": Operation(lambda image, shift: _affine(image, (1, 0, -int(shift), 0, 1, 0)), _shift_of(0), True),
    "translate_y": Operation(lambda image, shift: _affine(image, (1, 0, 0, 0, 1, -int(shift))), _shift_of(1), True),
    "rotate": Operation(lambda image, degrees: image.rotate(degrees, Resampling.BILINEAR), _up_to(30.0), True),
    "brightness": _enhance(ImageEnhance.Brightness),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": Operation(_posterize, lambda magnitude, image: 8 - round(4 * magnitude), False),
    "solarize": Operation(_solarize, lambda magnitude, image: 255 * (1 - magnitude), False),
    "autocontrast": _fixed(ImageOps.autocontrast),
    "equalize": _fixed(ImageOps.equalize),
}
_ALL = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class RandAugment:
    """Apply a few randomly drawn operations, all of one magnitude.

    Args:
        num_operations: Operations an image goes through, drawn with repetition; 0 leaves it as it is.
        magnitude: From 0 (nothing) to 30.

    Raises:
        ValueError: If a number is out of range.
    """

    num_operations: int = 3
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.num_operations < 0 or not 0 <= self.magnitude < NUM_MAGNITUDES:
            raise ValueError(
                f"RandAugment takes at least 0 operations and a magnitude from 0 to {NUM_MAGNITUDES - 1}, got "
                f"{self.num_operations} and {self.magnitude}."
            )

    def __call__(self, image: Image.Image, rng: Generator) -> Image.Image:
        """Augment an RGB image; the same generator state gives the same pixels."""
        for _ in range(self.num_operations):
            operation = _ALL[rng.integers(len(_ALL))]
            strength = operation.strength(self.magnitude / (NUM_MAGNITUDES - 1), image)
            flipped = operation.signed and rng.integers(2) == 1
            image = operation.apply(image, -strength if flipped else strength)
        return image
