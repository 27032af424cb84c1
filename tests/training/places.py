"""Draw a small training set in the layout of GSV-Cities; the photos of a place resemble each other."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
CITIES = ("Athens", "Berlin")


def write_places(root: Path, places_per_city: int = 8, photos: int = 5, size: int = 28, cities=CITIES) -> Path:
    """Write tables and photos of `size` x `size` pixels, `photos` of each place; return the folder."""
    for number, city in enumerate(cities):
        rows = [
            (place, 2010 + photo, 1 + photo % 12, 0, city, 50.5 + number, 10.25 + place / 1024, f"p{photo}")
            for place in range(places_per_city)
            for photo in range(photos)
        ]
        (root / "Dataframes").mkdir(parents=True, exist_ok=True)
        with (root / "Dataframes" / f"{city}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])
        for row in rows:
            path = root / photo_path(*row)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(number * places_per_city + row[0], row[1] - 2010, size).save(path, quality=95)
    return root


def photo_path(place_id, year, month, northdeg, city, lat, lon, panoid) -> str:
    name = f"{city}_{place_id:07d}_{year:04d}_{month:02d}_{northdeg:03d}_{float(lat)!r}_{float(lon)!r}_{panoid}.jpg"
    return f"Images/{city}/{name}"


def draw(place: int, photo: int, size: int) -> Image.Image:
    """Draw a photo: blocks of colour of its place, mixed with some blocks of the photo itself."""
    blocks = np.random.default_rng(place).integers(0, 256, (4, 4, 3))
    noise = np.random.default_rng([place, photo]).integers(0, 256, (4, 4, 3))
    mixed = (0.7 * blocks + 0.3 * noise).astype(np.uint8)
    return Image.fromarray(mixed).resize((size, size), Image.Resampling.BICUBIC)
