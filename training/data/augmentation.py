"""RandAugment (arXiv 1909.13719) with torchvision's operations and magnitudes, on PIL images.

The published training augments with torchvision's `RandAugment(num_ops=3)`, after resizing. These are the same 14 operations as
torchvision applies to PIL images. In contrast to torchvision, each image has its own random generator, so that the draws do not
depend on worker, process or batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform

NUM_MAGNITUDES = 31  # from 0 to 30
_LARGEST_SHIFT = 150 / 331  # as a fraction of the image's side
_Strength = Callable[[float, Image.Image], float]  # from a magnitude in [0, 1] and the image


class Augmentation(Protocol):
    """A random change of a photo."""

    def __call__(self, image: Image.Image, rng: Generator) -> Image.Image:
        """Augment an RGB image. The same state of the generator gives the same pixels."""


class Operation(NamedTuple):
    """One operation.

    Attributes:
        apply: Applies the operation to an image with a strength.
        strength: Computes the strength from a magnitude in [0, 1] and the image.
        signed: Whether the sign of the strength is drawn.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    strength: _Strength
    signed: bool


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Sample the image at `matrix` (2 x 3, row by row) times each pixel's (x, y, 1); black outside."""
    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR)


def _up_to(largest: float) -> _Strength:
    return lambda magnitude, image: largest * magnitude


def _shift_of(axis: int) -> _Strength:
    return lambda magnitude, image: _LARGEST_SHIFT * image.size[axis] * magnitude


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return Operation(lambda image, strength: enhancer(image).enhance(1 + strength), _up_to(0.9), True)


def _fixed(apply: Callable[[Image.Image], Image.Image]) -> Operation:
    return Operation(lambda image, strength: apply(image), _up_to(0.0), False)


def _solarize(image: Image.Image, threshold: float) -> Image.Image:
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type] # Pillow only compares it, so it may be a float


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
    "posterize": Operation(
        lambda image, bits: ImageOps.posterize(image, int(bits)), lambda magnitude, image: 8 - round(4 * magnitude), False
    ),
    "solarize": Operation(_solarize, lambda magnitude, image: 255 * (1 - magnitude), False),
    "autocontrast": _fixed(ImageOps.autocontrast),
    "equalize": _fixed(ImageOps.equalize),
}
_ALL = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class RandAugment:
    """Apply a few randomly drawn operations, all with the same magnitude.

    Args:
        num_operations: Number of operations for each image, drawn with repetition; 0 leaves the image unchanged.
        magnitude: Strength from 0 (none) to 30.

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
        """Augment an RGB image. The same state of the generator gives the same pixels."""
        for _ in range(self.num_operations):
            operation = _ALL[rng.integers(len(_ALL))]
            strength = operation.strength(self.magnitude / (NUM_MAGNITUDES - 1), image)
            flipped = operation.signed and rng.integers(2) == 1
            image = operation.apply(image, -strength if flipped else strength)
        return image
