"""Write a town's photos to disk in the field's formats, by as many processes as wanted."""

import csv
import io
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import utm
from PIL import Image
from PIL.ExifTags import GPS, IFD

from d2vpr_hf.gridtown.city import UTM_ZONE, City
from d2vpr_hf.gridtown.city_layout import make_city
from d2vpr_hf.gridtown.labels import Labels, label_photos, write_labels
from d2vpr_hf.gridtown.photo_spec import NUM_HEADINGS, Photo, draw_photo, parse_weathers
from d2vpr_hf.gridtown.tiers import TIERS, Tier, TierName
from d2vpr_hf.gridtown.town import make_town
from d2vpr_hf.utils.atomic_files import scratch_folder

_CHUNK = 16  # photos that a process takes at once

Progress = Callable[[int], None]  # called with the number of photos that were just written


class Layout(StrEnum):
    """How photos lie on disk."""

    AT_NAMES = "at-names"
    GSV_CITIES = "gsv-cities"


@dataclass(frozen=True)
class _Order:
    """What every process must know to take the same photos of a city."""

    seed: int
    num_places: int
    layout: Layout
    tier: Tier
    photos_per_place: int
    size: tuple[int, int]
    label_cells: int | None


@dataclass(frozen=True)
class _Task:
    """A photo to take, and where it goes, relative to the folder."""

    photo: Photo
    path: str


def simulate(
    out: str | Path,
    num_places: int,
    seed: int,
    *,
    num_cities: int = 1,
    layout: Layout | str = Layout.AT_NAMES,
    tier: TierName | str = TierName.STANDARD,
    conditions: Sequence[str] | None = None,
    photos_per_place: int = 5,
    image_size: int = 224,
    label_cells: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Write the photos of a city, or of several.

    Args:
        out: Folder to write; missing or empty.
        num_places: Places of a city.
        seed: Which city. See [`tiers`] for the seeds that are kept for testing.
        num_cities: How many cities, of this seed and those after it. None overlap, so they may share a map.
        layout: `"at-names"` writes `images/test/database`, four views of every place, and `images/test/queries`, named by the
            `@` convention with EXIF positions. `"gsv-cities"` writes `Dataframes` and `Images` as GSV-Cities has them, where
            two opposite views of a place are places of their own.
        tier: How photos of a place differ, and how much of the city repeats.
        conditions: What queries may see, in place of the tier's weathers.
        photos_per_place: Queries of a place, each of one of its views; with `"gsv-cities"`, photos of each view.
        image_size: Height and width in pixels.
        label_cells: With `"gsv-cities"`: also write `Labels/<City>.safetensors`, what each of so many by so many cells of
            every photo shows. See [`Labels`].
        workers: Processes. The files do not depend on their number. With more than one, a script that calls this must do so
            under `if __name__ == "__main__":`, as Python's multiprocessing asks.
        progress: Called now and then with the number of photos that were just written.

    Returns:
        The number of photos.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        ValueError: If a number, layout, tier or condition is none.
    """
    out, layout, chosen = Path(out).resolve(), Layout(layout), _tier(TierName(tier), conditions)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one.")
    if min(num_cities, photos_per_place, image_size, workers) < 1:
        raise ValueError(f"Expected at least 1, got {num_cities=}, {photos_per_place=}, {image_size=}, {workers=}.")
    if label_cells is not None and (label_cells < 1 or layout != Layout.GSV_CITIES):
        raise ValueError(f"Labels of at least 1 cell a side go with the layout gsv-cities, got {label_cells=}, {layout}.")
    size = (image_size, image_size)
    seeds = range(seed, seed + num_cities)
    orders = [_Order(each, num_places, layout, chosen, photos_per_place, size, label_cells) for each in seeds]
    with scratch_folder(out) as folder:
        count = sum(_write_city(order, folder, workers, progress or _ignore) for order in orders)
        out.mkdir(exist_ok=True)
        for part in folder.iterdir():
            part.rename(out / part.name)
    return count


def _ignore(count: int) -> None:
    """Take no notice of progress."""


def _write_city(order: _Order, folder: Path, workers: int, progress: Progress) -> int:
    """Write a city's photos, their table and their labels; return how many photos."""
    city = make_city(order.seed, order.num_places, order.tier.copy_share)
    list_tasks = {Layout.AT_NAMES: _at_name_tasks, Layout.GSV_CITIES: _gsv_tasks}[order.layout]
    tasks = list(list_tasks(city, order.tier, order.photos_per_place))
    for parent in {(folder / task.path).parent for task in tasks}:
        parent.mkdir(parents=True, exist_ok=True)
    if order.layout == Layout.GSV_CITIES:
        _write_dataframe(folder, city, tasks)
    labels = []
    for written, found in _take_all(order, folder, tasks, workers):
        labels += found
        progress(written)
    if labels:
        write_labels(folder / "Labels" / f"{city_name(city)}.safetensors", labels, [task.path for task in tasks])
    return len(tasks)


def _tier(name: TierName, conditions: Sequence[str] | None) -> Tier:
    tier = TIERS[name]
    return tier if conditions is None else replace(tier, queries=replace(tier.queries, weathers=parse_weathers(conditions)))


def _at_name_tasks(city: City, tier: Tier, photos_per_place: int) -> Iterator[_Task]:
    """List the database, four views of a place, and the queries, of one view after the other."""
    for place in range(len(city.places)):
        for heading in range(NUM_HEADINGS):
            photo = draw_photo(city, place, heading, 0, tier.variation(0))
            yield _Task(photo, f"images/test/database/{at_name(city, photo)}")
        for visit in range(1, photos_per_place + 1):
            photo = draw_photo(city, place, (place + visit) % NUM_HEADINGS, visit, tier.variation(visit))
            yield _Task(photo, f"images/test/queries/{at_name(city, photo)}")


def _gsv_tasks(city: City, tier: Tier, photos_per_place: int) -> Iterator[_Task]:
    """List the photos of every view that is trained on, one view after the other."""
    name = city_name(city)
    for place, heading in training_views(len(city.places)):
        for visit in range(1, photos_per_place + 1):
            photo = draw_photo(city, place, heading, visit, tier.variation(visit))
            yield _Task(photo, f"Images/{name}/{_gsv_name(city, photo)}")


def training_views(num_places: int) -> Iterator[tuple[int, int]]:
    """List what counts as a place in training: (place, heading) of two opposite views of every place of a city.

    Neighbouring views would share much of what they see.
    """
    for place in range(num_places):
        for heading in range(place % 2, NUM_HEADINGS, 2):
            yield place, heading


def city_name(city: City) -> str:
    """Name a city as GSV-Cities names its own."""
    return f"Gridtown{city.seed}"


def position(city: City, photo: Photo) -> tuple[float, float, float, float]:
    """Return where a photo was taken: UTM east and north in metres, latitude and longitude in degrees."""
    east, north = (float(part) for part in city.to_utm(photo.camera.x, photo.camera.y))
    latitude, longitude = utm.to_latlon(east, north, *UTM_ZONE)
    return east, north, float(latitude), float(longitude)


def at_name(city: City, photo: Photo) -> str:
    """Name a photo by the `@` convention; the note is its weather."""
    east, north, latitude, longitude = position(city, photo)
    number, letter = UTM_ZONE
    pano = f"{city.seed}-{photo.place}-{photo.heading}-{photo.visit}"
    heading = f"{round(float(city.heading(photo.camera.yaw)), 2) % 360:.2f}"
    parts = [f"{east:.2f}", f"{north:.2f}", number, letter, f"{latitude:.6f}", f"{longitude:.6f}", pano, "", heading]
    return "@".join(["", *map(str, parts), "", "", f"{photo.camera.height:.2f}", "", photo.conditions.weather, ".jpg"])


def _gsv_row(city: City, photo: Photo) -> dict[str, Any]:
    """Return a photo's row in the city's table: each view is a place."""
    _, _, latitude, longitude = position(city, photo)
    return {
        "place_id": photo.place * NUM_HEADINGS + photo.heading,
        "year": 2000 + photo.visit % 100,
        "month": 1 + photo.visit % 12,
        "northdeg": int(city.heading(photo.camera.yaw)) % 360,
        "city_id": city_name(city),
        "lat": round(latitude, 7),
        "lon": round(longitude, 7),
        "panoid": f"{photo.place}-{photo.heading}-{photo.visit}",
    }


def _gsv_name(city: City, photo: Photo) -> str:
    row = _gsv_row(city, photo)
    when = f"{row['year']:04d}_{row['month']:02d}_{row['northdeg']:03d}"
    return f"{row['city_id']}_{row['place_id']:07d}_{when}_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"


def _write_dataframe(folder: Path, city: City, tasks: list[_Task]) -> None:
    rows = [_gsv_row(city, task.photo) for task in tasks]
    path = folder / "Dataframes" / f"{city_name(city)}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


_Taken = tuple[int, list[Labels]]  # how many photos were written, and their labels if they are wanted


def _take_all(order: _Order, folder: Path, tasks: list[_Task], workers: int) -> Iterator[_Taken]:
    """Take photos and write them; yield each time some are done."""
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    if workers == 1:
        photographer = _Photographer(order, folder)
        yield from map(photographer.take, chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (order, folder)) as pool:
        yield from pool.map(_take_chunk, chunks)


class _Photographer:
    """A town, and where its photos go."""

    def __init__(self, order: _Order, folder: Path) -> None:
        self.town = make_town(order.seed, order.num_places, order.tier.copy_share)
        self.order, self.folder = order, folder

    def take(self, tasks: list[_Task]) -> _Taken:
        """Take photos and write them."""
        pixels = self.town.take([task.photo for task in tasks], self.order.size)
        for task, photo in zip(tasks, pixels, strict=True):
            (self.folder / task.path).write_bytes(_jpeg(photo, task.photo, self.town.city))
        return len(tasks), self._label(tasks)

    def _label(self, tasks: list[_Task]) -> list[Labels]:
        cells = self.order.label_cells
        if cells is None:
            return []
        return [label_photos(self.town.city, self.town.paintbox, [task.photo], (cells, cells)) for task in tasks]


_photographer: _Photographer  # of a worker process


def _begin(order: _Order, folder: Path) -> None:
    """Build the town in a process of its own, which uses one thread and leaves interruptions to its parent."""
    global _photographer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _photographer = _Photographer(order, folder)


def _take_chunk(tasks: list[_Task]) -> _Taken:
    return _photographer.take(tasks)


def _jpeg(pixels: torch.Tensor, photo: Photo, city: City) -> bytes:
    """Compress (3, height, width) uint8 as the photo's camera does, with its position."""
    file = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(file, "JPEG", quality=photo.conditions.jpeg_quality, exif=_exif(city, photo))
    return file.getvalue()


def _exif(city: City, photo: Photo) -> Image.Exif:
    _, _, latitude, longitude = position(city, photo)
    exif = Image.Exif()
    exif[IFD.GPSInfo] = {
        GPS.GPSLatitudeRef: "N",  # where the towns lie
        GPS.GPSLatitude: _sexagesimal(latitude),
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: _sexagesimal(longitude),
        GPS.GPSImgDirectionRef: "T",
        GPS.GPSImgDirection: float(city.heading(photo.camera.yaw)),
    }
    return exif


def _sexagesimal(degrees: float) -> tuple[float, float, float]:
    minutes, seconds = divmod(degrees * 3600, 60)
    whole, minutes = divmod(minutes, 60)
    return whole, minutes, seconds
