"""The specification of one photo: camera position, light, weather, season and the camera's imperfections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator

from d2vpr_hf.gridtown.city import City

Weather = Literal["day", "dusk", "night", "fog", "rain", "snow"]
WEATHERS: tuple[Weather, ...] = ("day", "dusk", "night", "fog", "rain", "snow")
Colour = tuple[float, float, float]
NUM_HEADINGS = 4  # views of a place: two along the street, two across the street


@dataclass(frozen=True)
class Camera:
    """Position of the camera in the city, in metres, and its direction, in radians.

    Attributes:
        x, y, height: Position; the ground has height 0.
        yaw: Viewing direction, from x towards y.
        pitch: Angle upwards.
        field_of_view: Horizontal angle of view.
    """

    x: float
    y: float
    height: float
    yaw: float
    pitch: float
    field_of_view: float


@dataclass(frozen=True)
class Conditions:
    """Light, weather and camera settings of one photo. Colours are linear light; 1 is a white wall in full sun.

    Attributes:
        weather: Name of the weather.
        sun: Unit vector to the sun: x, y and up.
        sunlight: Light on a wall that faces the sun.
        skylight: Light of the sky, which falls on everything.
        zenith, horizon: Colours of the sky.
        fog: Colour that distant surfaces fade to.
        visibility: Metres at which 63 % of a surface's colour is fog.
        lit_windows: Share of windows with a light on.
        lamplight: Light of nearby street lamps.
        season: 0 summer, 1 autumn, 2 winter.
        rain, snow: Strength of the rain or snowfall, from 0 to 1; snow also covers the ground.
        exposure: Factor on the light.
        white_balance: Factors on red, green and blue.
        noise: Standard deviation of the sensor's noise, as a share of the full range.
        jpeg_quality: Quality for Pillow.
    """

    weather: Weather
    sun: tuple[float, float, float]
    sunlight: Colour
    skylight: Colour
    zenith: Colour
    horizon: Colour
    fog: Colour
    visibility: float
    lit_windows: float
    lamplight: Colour
    season: int
    rain: float
    snow: float
    exposure: float
    white_balance: Colour
    noise: float
    jpeg_quality: int


@dataclass(frozen=True)
class Variation:
    """Limits of the differences between photos of one place.

    Attributes:
        weathers: Possible weathers, all equally likely.
        shift: Metres that the camera moves across the street, to either side of the place.
        advance: Metres that it moves along the street, forwards or backwards.
        turn: Degrees that it turns to the left or right.
        tilt: Degrees that it tilts up or down.
        zoom: Degrees by which the field of view is wider or narrower.
        traffic: Factor on the numbers of vehicles and people.
    """

    weathers: tuple[Weather, ...] = WEATHERS
    shift: float = 3.0
    advance: float = 4.0
    turn: float = 25.0
    tilt: float = 4.0
    zoom: float = 12.0
    traffic: float = 1.0


NO_VARIATION = Variation(weathers=("day",), shift=0.0, advance=0.0, turn=0.0, tilt=0.0, zoom=0.0)


@dataclass(frozen=True)
class Photo:
    """The specification of one photo.

    Attributes:
        place: Number of the place in the city.
        heading: Number of the view, from 0 to 3, counterclockwise from x.
        visit: Number of the visit; conditions are drawn for each photo, also within a visit.
        key: Seed of the photo's vehicles, people, lit windows, clouds, rain, snow and noise.
        camera: Position and direction of the camera.
        conditions: Light, weather and camera settings.
        traffic: Factor on the numbers of vehicles and people.
    """

    place: int
    heading: int
    visit: int
    key: int
    camera: Camera
    conditions: Conditions
    traffic: float

    @property
    def condition(self) -> str:
        """The photo's condition in file names and tables: its weather."""
        return self.conditions.weather


def parse_weathers(names: Sequence[str]) -> tuple[Weather, ...]:
    """Return the weathers with these names, in the order of `WEATHERS`.

    Raises:
        ValueError: If `names` is empty or has an unknown name; the message lists the weathers.
    """
    unknown = [name for name in names if name not in WEATHERS]
    if unknown or not names:
        raise ValueError(f"Expected weathers among {', '.join(WEATHERS)}, got {', '.join(unknown) or 'none'}.")
    return tuple(weather for weather in WEATHERS if weather in names)


def draw_photo(city: City, place: int, heading: int, visit: int, variation: Variation) -> Photo:
    """Draw the specification of a photo of a place. It depends on the arguments only, not on earlier draws.

    Raises:
        IndexError: If the city has no such place, or `heading` is not a view from 0 to 3.
        ValueError: If the variation has no weather.
    """
    if not 0 <= heading < NUM_HEADINGS:
        raise IndexError(f"A place has the views 0 to {NUM_HEADINGS - 1}, got {heading}.")
    if not variation.weathers:
        raise ValueError(f"Expected at least one weather among {', '.join(WEATHERS)}, got none.")
    if not 0 <= place < len(city.places):
        raise IndexError(f"The city has the places 0 to {len(city.places) - 1}, got {place}.")
    rng = np.random.default_rng([city.seed, 30, place, heading, visit])
    camera = _draw_camera(city, place, heading, variation, rng)
    weather = variation.weathers[rng.integers(len(variation.weathers))]
    key = int(rng.integers(1 << 40))
    return Photo(place, heading, visit, key, camera, draw_conditions(weather, rng), variation.traffic)


def _draw_camera(city: City, place: int, heading: int, variation: Variation, rng: Generator) -> Camera:
    shift, advance, turn, tilt, zoom = rng.uniform(-1, 1, 5)
    along = int(city.places.along[place])
    across = shift * min(variation.shift, city.places.street_width[place] / 2 - 3.2)
    forward = advance * variation.advance
    x, y = (forward, across) if along == 0 else (across, forward)
    return Camera(
        x=float(city.places.x[place] + x),
        y=float(city.places.y[place] + y),
        height=float(rng.uniform(1.9, 2.6)),
        yaw=float(along * np.pi / 2 + heading * np.pi / 2 + np.radians(turn * variation.turn)),
        pitch=float(np.radians(5.0 + tilt * variation.tilt)),
        field_of_view=float(np.radians(80.0 + zoom * variation.zoom)),
    )


def draw_conditions(weather: Weather, rng: Generator) -> Conditions:
    """Draw light and camera settings for a weather."""
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(18, 60))
    sun = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    cloud = float(rng.uniform(0, 1))
    day = Conditions(
        weather=weather,
        sun=tuple(float(part) for part in sun),  # type: ignore[arg-type]
        sunlight=_scaled((1.0, 0.94, 0.84), 0.95 * (1 - 0.85 * cloud)),
        skylight=_scaled((0.86, 0.93, 1.0), 0.34 + 0.2 * cloud),
        zenith=_mix((0.16, 0.34, 0.72), (0.6, 0.63, 0.68), cloud),
        horizon=_mix((0.62, 0.74, 0.9), (0.78, 0.79, 0.8), cloud),
        fog=(0.7, 0.76, 0.84),
        visibility=float(rng.uniform(500, 900)),
        lit_windows=0.03,
        lamplight=(0.0, 0.0, 0.0),
        season=int(rng.integers(3)),
        rain=0.0,
        snow=0.0,
        exposure=float(rng.uniform(0.75, 1.3)),
        white_balance=(float(rng.uniform(0.92, 1.08)), 1.0, float(rng.uniform(0.92, 1.08))),
        noise=float(rng.uniform(0.003, 0.012)),
        jpeg_quality=int(rng.integers(70, 96)),
    )
    return _apply_weather(weather, day, rng)


def _apply_weather(weather: Weather, day: Conditions, rng: Generator) -> Conditions:
    """Return the conditions of a day changed to another weather or time of day."""
    grey = float(rng.uniform(0.6, 0.8))
    overcast = replace(
        day,
        sunlight=_scaled(day.sunlight, 0.12),
        skylight=_scaled((0.94, 0.97, 1.0), 0.46),
        zenith=(0.8 * grey,) * 3,
        horizon=(grey,) * 3,
        fog=(0.95 * grey, 0.97 * grey, grey),
    )
    if weather == "dusk":
        glow = _scaled((1.0, 0.52, 0.26), 0.5)
        return replace(
            day,
            sunlight=glow,
            skylight=(0.16, 0.17, 0.24),
            zenith=(0.1, 0.13, 0.3),
            horizon=(0.72, 0.4, 0.28),
            fog=(0.3, 0.24, 0.26),
            lit_windows=0.3,
            lamplight=(0.12, 0.09, 0.05),
            exposure=1.3 * day.exposure,
        )
    if weather == "night":
        return replace(
            day,
            sunlight=(0.0, 0.0, 0.0),
            skylight=(0.018, 0.02, 0.032),
            zenith=(0.008, 0.01, 0.022),
            horizon=(0.05, 0.045, 0.05),
            fog=(0.03, 0.028, 0.032),
            lit_windows=float(rng.uniform(0.2, 0.6)),
            lamplight=_scaled((1.0, 0.72, 0.4), float(rng.uniform(0.12, 0.26))),
            exposure=1.6 * day.exposure,
            noise=day.noise + 0.02,
        )
    if weather == "fog":
        return replace(overcast, visibility=float(rng.uniform(22, 60)))
    if weather == "rain":
        return replace(overcast, visibility=float(rng.uniform(120, 260)), rain=float(rng.uniform(0.4, 1.0)), lit_windows=0.12)
    if weather == "snow":
        return replace(overcast, visibility=float(rng.uniform(90, 240)), snow=float(rng.uniform(0.5, 1.0)), season=2)
    return day


def _scaled(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))  # type: ignore[return-value]
