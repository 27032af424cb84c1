"""Augmentation that changes colours, light and sharpness of a photo strongly, and moves nothing.

A teacher may therefore see the photo before this augmentation: each of its positions still belongs to the same position of
the augmented photo.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from d2vpr_hf.training.data.augmentation import NUM_MAGNITUDES

_USUAL = 15  # magnitude at which the ranges below count; they are proportional to the magnitude
_LEVELS = np.linspace(0, 1, 256)
_LUMA = np.array([0.299, 0.587, 0.114])
_GREY_AXIS = np.full((3, 3), 1 / 3)
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # cross product with the grey axis

# Probabilities, at any magnitude
_NIGHT = 0.12
_GREY = 0.08
_SOFT, _SHARP = 0.3, 0.15
_SHADE = 0.3
_GRAIN = 0.35
_JPEG = 0.2


@dataclass(frozen=True)
class Photometric:
    """Change brightness, contrast, gamma, tone curve, white balance, saturation, hue, light, sharpness, grain and compression.

    Some photos become grey, and some night-like: dark, bluish or orange, grainy.

    Args:
        magnitude: Strength from 0 (none) to 30; 15 is strong.

    Raises:
        ValueError: If the magnitude is out of range.
    """

    magnitude: int = 15

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude < NUM_MAGNITUDES:
            raise ValueError(f"`augment_magnitude` must be from 0 to {NUM_MAGNITUDES - 1}, got {self.magnitude}.")

    def __call__(self, image: Image.Image, rng: Generator) -> Image.Image:
        """Augment an RGB image. The same state of the generator gives the same pixels."""
        if not self.magnitude:
            return image
        strength = self.magnitude / _USUAL
        night = rng.random() < _NIGHT
        image = _mix_channels(image, strength, rng)
        image = image.point(_tone_table(image, strength, night, rng))
        image = _change_sharpness(image, strength, rng)
        image = _add_light_and_grain(image, strength, night, rng)
        return _compress(image, strength, rng) if rng.random() < _JPEG else image


def _mix_channels(image: Image.Image, strength: float, rng: Generator) -> Image.Image:
    """Change saturation and hue by one matrix."""
    saturation = 0.0 if rng.random() < _GREY else math.exp(rng.uniform(-0.7, 0.5) * strength)
    angle = rng.normal() * math.radians(6) * strength
    turned = math.cos(angle) * np.eye(3) + math.sin(angle) * _TURN + (1 - math.cos(angle)) * _GREY_AXIS
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))) @ turned
    rows = np.hstack((matrix, np.zeros((3, 1))))
    return image.convert("RGB", tuple(rows.ravel().tolist()))


def _tone_table(image: Image.Image, strength: float, night: bool, rng: Generator) -> list[int]:
    """Return a table of 256 values for each channel: white balance, exposure, contrast, gamma and a tone curve."""
    warmth, tint = rng.normal(size=2) * (0.12, 0.05) * strength  # natural logarithms of the gains
    exposure = rng.normal() * 0.22 * strength
    gamma = math.exp(rng.normal() * 0.25 * strength)
    if night:
        warmth = rng.choice((-1, 1)) * rng.uniform(0.15, 0.4) * strength  # moonlight or street lamps
        gamma *= 1 + rng.uniform(0.3, 1.0) * strength
        exposure -= rng.uniform(0.2, 0.8) * strength
    gains = np.exp(np.array([warmth, tint, -warmth]) + exposure)
    mean = min(0.9, float(np.dot(_LUMA, [_mean(image, channel) for channel in range(3)])) * math.exp(exposure))
    contrast = math.exp(rng.uniform(-0.6, 0.45) * strength)
    bend = float(np.clip(rng.normal() * 0.12 * strength, -0.3, 0.3))  # more would reverse the order of tones
    haze = max(0.0, rng.normal() * 0.06 * strength)
    table = np.clip(gains[:, None] * _LEVELS, 0, 1.5)
    table = np.clip((table - mean) * contrast + mean, 0, 1) ** gamma
    table = table + bend * np.sin(2 * math.pi * table) / 2  # darker shadows and lighter highlights, or the reverse
    table = haze + (1 - haze) * table
    return np.clip(np.rint(255 * table), 0, 255).astype(int).ravel().tolist()


def _mean(image: Image.Image, channel: int) -> float:
    """Return the mean of a channel from 0 to 1."""
    counts = np.array(image.histogram()[256 * channel : 256 * (channel + 1)])
    return float(counts @ _LEVELS / counts.sum())


def _change_sharpness(image: Image.Image, strength: float, rng: Generator) -> Image.Image:
    """Blur some photos, enlarge some from fewer pixels, sharpen others, and leave most unchanged."""
    choice = rng.random()
    if choice < _SOFT / 2:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2) * strength * max(image.size) / 224))
    if choice < _SOFT:
        factor = 1 + rng.uniform(0.2, 1.2) * strength
        small = tuple(max(8, round(side / factor)) for side in image.size)
        return image.resize((small[0], small[1]), Resampling.BILINEAR).resize(image.size, Resampling.BICUBIC)
    if choice < _SOFT + _SHARP:
        return image.filter(ImageFilter.UnsharpMask(1.0, round(rng.uniform(50, 200) * strength), 0))
    return image


def _add_light_and_grain(image: Image.Image, strength: float, night: bool, rng: Generator) -> Image.Image:
    """Make one side or the corners of the photo darker, and add noise: to all channels alike, and a little to each."""
    shaded, grainy = rng.random() < _SHADE, night or rng.random() < _GRAIN
    if not shaded and not grainy:
        return image
    pixels = np.asarray(image).astype(np.float32)
    if shaded:
        pixels *= _shade(pixels.shape[:2], strength, rng)[..., None]
    if grainy:
        amount = np.float32(255 * rng.uniform(0.01, 0.08 if night else 0.05) * strength)
        pixels += amount * rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32)
        pixels += amount / 2 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _shade(size: tuple[int, int], strength: float, rng: Generator) -> NDArray[np.float32]:
    """Return factors (height, width): light that falls off in a direction, and towards the corners."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    angle = rng.uniform(0, 2 * math.pi)
    slope, corner = rng.uniform(0, 0.5) * strength, rng.uniform(0, 0.35) * strength
    along = np.float32(math.sin(angle)) * rows[:, None] + np.float32(math.cos(angle)) * columns
    outwards = rows[:, None] ** 2 + columns**2
    return np.exp(np.float32(slope) * along - np.float32(corner) * outwards)


def _compress(image: Image.Image, strength: float, rng: Generator) -> Image.Image:
    """Write the photo as a JPEG of low quality, and read it back."""
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=max(8, round(80 - rng.uniform(5, 50) * strength)))
        return Image.open(file).convert("RGB")
