"""Wild photos: domain randomisation of the photos of some places, so that a network does not learn the drawings' look.

Textures cut from photos cover walls and ground, and every photo has a random tone, grain, lens and season. A building keeps its
texture in all photos of a city, and a street its ground, because they make the place; all else is drawn for each photo.
Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World, arXiv 1703.06907.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.painting.textures import Ground
from d2vpr_hf.gridtown.photo_spec import Colour, Photo

TONE_KNOTS = 9  # evenly spaced brightnesses from 0 to 1 at which a tone curve is given
_FOLIAGE: tuple[tuple[Colour, Colour], ...] = (  # limits of the factors on green: summer, autumn, winter
    ((0.7, 0.8, 0.5), (1.3, 1.25, 1.2)),
    ((0.9, 0.6, 0.4), (1.9, 1.2, 1.0)),
    ((0.7, 0.6, 0.6), (1.3, 1.1, 1.3)),
)


@dataclass(frozen=True)
class Wildness:
    """Options of wild photos.

    Attributes:
        share: Share of the places of a city whose photos are wild, from 0 to 1; a larger share adds places to those of a
            smaller one.
        textures: Folder of photos from which textures for walls and ground are cut; `None` keeps the drawn ones.

    Raises:
        ValueError: If the share is out of its range, or is 0 although there is a folder of textures.
    """

    share: float = 0.0
    textures: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"The share of wild places must be from 0 to 1, got {self.share}.")
        if self.textures is not None and self.share == 0:
            raise ValueError(
                f"The textures in {self.textures} are for wild places, but their share is 0. Raise it, or omit `textures`."
            )

    def covers(self, city: City, place: int) -> bool:
        """Return whether the photos of a place are wild."""
        return self.share > 0 and bool(np.random.default_rng([city.seed, 31, place]).random() < self.share)


@dataclass(frozen=True)
class Look:
    """The random look of one photo.

    Attributes:
        tone: For red, green and blue, the brightness in the photo at `TONE_KNOTS` brightnesses of the drawing.
        saturation: Factor on colourfulness; 0 is grey.
        vignette: Strength by which the lens darkens what is far from its centre.
        lens_centre: The lens's centre right of and below the middle of the image, as tangents of angles.
        grain: Amplitude of grey grain, as a share of the full range.
        grain_size: Pixels of a grain in an image 224 pixels wide.
        foliage: Factors on red, green and blue of trees and grass.
        snow_cover: Share of the ground's light that is covered by old snow.
        ground: For each [`Ground`] a number from 0 to 1 that selects its texture; the same for all photos of a street's places.
    """

    tone: tuple[tuple[float, ...], ...]
    saturation: float
    vignette: float
    lens_centre: tuple[float, float]
    grain: float
    grain_size: float
    foliage: Colour
    snow_cover: float
    ground: tuple[float, ...]


@dataclass(frozen=True)
class WildPhoto(Photo):
    """The specification of a wild photo."""

    look: Look

    @property
    def condition(self) -> str:
        """The weather after `wild-`, so that results of wild photos are counted separately."""
        return f"wild-{super().condition}"


def make_wild(city: City, photo: Photo, wildness: Wildness) -> Photo:
    """Return a photo with a random look and a worse camera if its place is wild, otherwise the photo itself.

    The result depends on the city's seed and the photo's place, heading and visit only.
    """
    if not wildness.covers(city, photo.place):
        return photo
    rng = np.random.default_rng([city.seed, 32, photo.place, photo.heading, photo.visit])
    look = _draw_look(photo.conditions.season, _street_ground(city, photo.place), rng)
    noise = photo.conditions.noise + float(0.03 * rng.uniform() ** 4)
    conditions = replace(photo.conditions, noise=noise, jpeg_quality=int(rng.integers(40, 96)))
    return WildPhoto(**vars(photo) | {"conditions": conditions, "look": look})


def _draw_look(season: int, ground: tuple[float, ...], rng: Generator) -> Look:
    strength = rng.uniform(0.2, 1.0)  # so that some photos differ little from the drawing
    low, high = np.array(_FOLIAGE[season])
    return Look(
        tone=_draw_tone(strength, rng),
        saturation=0.0 if rng.uniform() < 0.05 else float(1 + strength * rng.uniform(-0.8, 0.6)),
        vignette=float(strength * rng.uniform(0, 0.6)),
        lens_centre=(float(rng.uniform(-0.25, 0.25)), float(rng.uniform(-0.25, 0.25))),
        grain=float(0.06 * strength * rng.uniform()) if rng.uniform() < 0.3 else 0.0,
        grain_size=float(rng.uniform(1, 3)),
        foliage=tuple(rng.uniform(low, high).tolist()),
        snow_cover=float(rng.uniform(0.3, 1)) if season == 2 and rng.uniform() < 0.4 else 0.0,
        ground=ground,
    )


def _draw_tone(strength: float, rng: Generator) -> tuple[tuple[float, ...], ...]:
    """Draw a rising curve for each colour: gamma, contrast, brightness and unevenness for all colours, and a white balance."""
    knots = np.linspace(0, 1, TONE_KNOTS)
    curve = knots ** (2 ** (strength * rng.uniform(0, 2)))  # drawings are brighter than most photos
    curve = 0.5 + (curve - 0.5) * (1 + strength * rng.uniform(-0.3, 0.8)) + strength * rng.uniform(-0.15, 0.05)
    curve = np.maximum.accumulate(curve + 0.05 * strength * rng.uniform(-1, 1, TONE_KNOTS))
    balance = np.exp(strength * rng.uniform(-0.15, 0.15, (3, 1)))
    return tuple(tuple(channel.tolist()) for channel in (curve * balance / balance.mean()).clip(0, 1))


def _street_ground(city: City, place: int) -> tuple[float, ...]:
    """Return the numbers that select the ground's textures in the street of a place."""
    along = int(city.places.along[place])
    lines, where = (city.street_y, city.places.y[place]) if along == 0 else (city.street_x, city.places.x[place])
    street = int(np.argmin(np.abs(lines - where)))
    numbers: NDArray[np.float64] = np.random.default_rng([city.seed, 33, along, street]).random(len(Ground))
    return tuple(numbers.tolist())
