"""The demonstration: some two dozen drawn street scenes with positions, indexed and searched offline."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import utm
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from d2vpr_hf.encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.jobs import SearchResult, index_photos, search_photos
from d2vpr_hf.plots import plot_search, save_figure
from d2vpr_hf.readers import POSITIVE_DIST_THRESHOLD, distance_in_metres, read_place

NUM_PLACES = 24
NUM_QUERIES = 6
_WIDTH, _HEIGHT = 480, 360  # pixels of a photo
_MARGIN = 16  # pixels that a later view may shift to either side: no more than an untrained network follows
_ORIGIN = (43.7711, 11.2486)  # latitude and longitude of the first place
_SPACING = 80.0  # metres between neighbouring places, well beyond the threshold
_WALLS = ("#b5654a", "#d8c3a0", "#8f9aa3", "#c98f5a", "#e3dccf", "#7d6b5d", "#a8b39a", "#cfa7a0")
_TREES = ("#4f7a3a", "#6b8f3f", "#3f6b4a")


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found: the search results, and a line that says what was done."""

    results: list[SearchResult]
    summary: str


def run_demo(out: str | Path) -> DemoResult:
    """Draw scenes under `out`, index and search them with the embedded model, and plot the matches there."""
    out = Path(out)
    draw_photos(out / "database", range(NUM_PLACES), visit=0)
    draw_photos(out / "queries", range(0, NUM_PLACES, NUM_PLACES // NUM_QUERIES), visit=1)
    encoder = PlaceEncoder()
    index_photos(out / "database", out / "index", encoder, overwrite=True)
    results = search_photos(PlaceIndex.open(out / "index"), [out / "queries"], encoder, top_k=4)
    save_figure(plot_search(results), out / "matches.png")
    found = sum(_found(result) for result in results)
    summary = (
        f"Demo: {NUM_PLACES} drawn scenes indexed and {len(results)} new views of them searched with a tiny seeded model "
        f"that was never trained; {found} of {len(results)} best matches lie within {POSITIVE_DIST_THRESHOLD:.0f} m. "
        f"Picture: {out / 'matches.png'}"
    )
    return DemoResult(results, summary)


def draw_photos(folder: Path, numbers: Iterable[int], visit: int) -> list[Path]:
    """Write one photo of each place, named by the `@` convention. Visit 0 is the map, others see the place anew."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number in numbers:
        photo = folder / at_name(number, visit)
        draw_view(number, visit).save(photo, quality=90)
        photos.append(photo)
    return photos


def at_name(number: int, visit: int) -> str:
    """Name a photo of place `number` on a grid of streets; later visits stand up to 6 m beside the first."""
    east, north, zone, letter = utm.from_latlon(*_ORIGIN)
    chance = random.Random(f"position {number} {visit}")
    east += _SPACING * (number % 6) + (visit > 0) * chance.uniform(-4, 4)
    north += _SPACING * (number // 6) + (visit > 0) * chance.uniform(-4, 4)
    latitude, longitude = utm.to_latlon(east, north, zone, letter)
    place = f"@{east:.2f}@{north:.2f}@{zone}@{letter}@{latitude:.6f}@{longitude:.6f}@demo{number:02d}"
    return f"{place}@@0@@@@{20260100 + visit + 1}@@.jpg"


def draw_view(number: int, visit: int) -> Image.Image:
    """Draw a photo of a place: the same buildings each visit, in another light and seen from a little aside."""
    scene = draw_scene(number)
    chance = random.Random(f"visit {number} {visit}")
    shift = chance.randint(-_MARGIN, _MARGIN) if visit else 0
    left = _MARGIN + shift
    view = scene.crop((left, 0, left + _WIDTH, _HEIGHT))
    if not visit:
        return view
    view = ImageEnhance.Brightness(view).enhance(chance.uniform(0.9, 1.1))
    view = ImageEnhance.Color(view).enhance(chance.uniform(0.9, 1.1))
    return view.filter(ImageFilter.GaussianBlur(chance.uniform(0.2, 0.6)))


def draw_scene(number: int) -> Image.Image:
    """Draw a place wider than a photo: sky, a row of buildings, trees, the street."""
    chance = random.Random(f"scene {number}")
    scene = Image.new("RGB", (_WIDTH + 2 * _MARGIN, _HEIGHT), chance.choice(("#bcd4ea", "#d6dde3", "#a9c9ec")))
    pen = ImageDraw.Draw(scene)
    ground = int(_HEIGHT * 0.78)
    left = 0
    while left < scene.width:
        width = chance.randint(70, 150)
        _draw_building(pen, chance, (left, chance.randint(30, 150), left + width, ground))
        left += width + chance.choice((0, 0, 12, 30))
    pen.rectangle((0, ground, scene.width, _HEIGHT), fill="#8b8b88")
    pen.rectangle((0, ground, scene.width, ground + 14), fill="#b9b4aa")
    for _ in range(chance.randint(0, 3)):
        _draw_tree(pen, chance, chance.randint(0, scene.width), ground)
    return scene


def _draw_building(pen: ImageDraw.ImageDraw, chance: random.Random, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    pen.rectangle(box, fill=chance.choice(_WALLS), outline="#4a4642")
    pen.rectangle((left - 3, top - 6, right + 3, top), fill="#5b4f49")
    columns, storey = chance.randint(2, 4), chance.randint(34, 48)
    glass, step = chance.choice(("#3d4a57", "#5f7384", "#2f3338")), (right - left) / columns
    for y in range(top + 12, bottom - 50, storey):
        for column in range(columns):
            x = left + step * (column + 0.25)
            pen.rectangle((x, y, x + step * 0.5, y + storey * 0.6), fill=glass, outline="#ece7df")
    pen.rectangle((left + 6, bottom - 44, right - 6, bottom), fill=chance.choice(("#6d3b32", "#33475b", "#4d5a3c")))


def _draw_tree(pen: ImageDraw.ImageDraw, chance: random.Random, x: int, ground: int) -> None:
    radius, height = chance.randint(22, 40), chance.randint(70, 110)
    pen.rectangle((x - 4, ground - height, x + 4, ground + 8), fill="#5a4331")
    pen.ellipse((x - radius, ground - height - radius, x + radius, ground - height + radius), fill=chance.choice(_TREES))


def _found(result: SearchResult) -> bool:
    """Tell whether the best match lies within the field's threshold."""
    distance = distance_in_metres(read_place(result.query), result.matches[0].place)
    return distance is not None and distance <= POSITIVE_DIST_THRESHOLD


__all__ = ["DemoResult", "draw_photos", "draw_view", "run_demo"]
