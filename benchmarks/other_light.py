"""A part of a photo as under another light."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Photo = NDArray[np.uint8]  # (height, width, 3)
_Values = NDArray[Any]  # (height, width, 3) floating-point numbers from 0 to 1
_GREY = np.array([0.299, 0.587, 0.114])
_COOL, _WARM = np.array([0.8, 0.95, 1.2]), np.array([1.25, 1.0, 0.7])


def crop(photo: Photo, rng: np.random.Generator) -> Photo:
    """Cut a random part of 45 to 80 % of a photo."""
    height, width = photo.shape[:2]
    area, shape = rng.uniform(0.45, 0.8), np.exp(rng.uniform(-0.15, 0.15))
    rows = min(height, round(height * np.sqrt(area * shape)))
    columns = min(width, round(width * np.sqrt(area / shape)))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    return photo[top : top + rows, left : left + columns]


def change_light(photo: Photo, light: str, rng: np.random.Generator) -> Photo:
    """Return a photo as under another light, one of [`LIGHTS`], lit from one side."""
    values = LIGHTS[light](photo / 255, rng)
    noise = rng.normal(0, 0.03 if light == "night" else 0.01, values.shape)
    return ((_side_light(values, rng) + noise) * 255).clip(0, 255).round().astype(np.uint8)


def _night(values: _Values, rng: np.random.Generator) -> _Values:
    cast = _COOL if rng.random() < 0.5 else _WARM
    return values ** rng.uniform(1.4, 2.0) * rng.uniform(0.35, 0.6) * cast


def _evening(values: _Values, rng: np.random.Generator) -> _Values:
    return (values * rng.uniform(0.7, 1.0) * _WARM) ** rng.uniform(0.9, 1.4)


def _overcast(values: _Values, rng: np.random.Generator) -> _Values:
    mean = values.mean()
    return (_desaturate(values, rng.uniform(0.3, 0.7)) - mean) * rng.uniform(0.4, 0.65) + mean * np.array([0.95, 1.0, 1.05])


def _glare(values: _Values, rng: np.random.Generator) -> _Values:
    return _desaturate(values, rng.uniform(0.5, 0.9)) ** rng.uniform(0.6, 0.8) * rng.uniform(1.1, 1.4)


LIGHTS: dict[str, Callable[[_Values, np.random.Generator], _Values]] = {
    "night": _night,
    "evening": _evening,
    "overcast": _overcast,
    "glare": _glare,
}


def _desaturate(values: _Values, saturation: float) -> _Values:
    grey = (values @ _GREY)[..., None]
    return grey + (values - grey) * saturation


def _side_light(values: _Values, rng: np.random.Generator) -> _Values:
    """Darken a photo towards a random side, to 60 % at least."""
    height, width = values.shape[:2]
    turn = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(turn) * np.linspace(-1, 1, width)[None, :] + np.sin(turn) * np.linspace(-1, 1, height)[:, None]
    return values * (1 - rng.uniform(0, 0.4) * (ramp / np.abs(ramp).max() + 1) / 2)[..., None]
