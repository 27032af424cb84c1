"""Write the photos of cities to disk in the formats of the field, with several processes."""

import csv
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path

import torch

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.city_layout import make_city
from d2vpr_hf.gridtown.labels import Labels, label_photos, write_labels
from d2vpr_hf.gridtown.painting.photo_textures import Textures, cut_textures
from d2vpr_hf.gridtown.photo_files import at_name, city_name, encode_jpeg, gsv_name, gsv_row
from d2vpr_hf.gridtown.photo_spec import NUM_HEADINGS, Photo, draw_photo, parse_weathers
from d2vpr_hf.gridtown.tiers import TIERS, Tier, TierName
from d2vpr_hf.gridtown.town import make_town
from d2vpr_hf.gridtown.wildness import Wildness, make_wild
from d2vpr_hf.utils.atomic_files import check_free, create_text, scratch_folder, write_file
from d2vpr_hf.utils.interrupts import blocked_signals

_CHUNK = 16  # photos that a process renders between two calls of `progress`

Progress = Callable[[int], None]  # called with the number of photos that were just written


class Layout(StrEnum):
    """Layouts of the photos on disk."""

    AT_NAMES = "at-names"
    GSV_CITIES = "gsv-cities"


@dataclass(frozen=True)
class _CityJob:
    """The settings that every process needs to render photos of one city."""

    seed: int
    num_places: int
    layout: Layout
    tier: Tier
    photos_per_place: int
    size: tuple[int, int]
    label_cells: int | None
    wildness: Wildness

    def draw(self, city: City, place: int, heading: int, visit: int) -> Photo:
        """Draw the specification of a photo of the city."""
        return make_wild(city, draw_photo(city, place, heading, visit, self.tier.variation(visit)), self.wildness)


@dataclass(frozen=True)
class _PhotoFile:
    """A photo and the path of its file, relative to the output folder."""

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
    wildness: Wildness | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> int:
    """Write the photos of one or several cities.

    Args:
        out: Output folder; it must be empty or not exist.
        num_places: Number of places in each city.
        seed: Seed of the first city. The seeds that are reserved for testing are listed in [`tiers`].
        num_cities: Number of cities, with this seed and the following ones. Cities do not overlap, so they can share a map.
        layout: `"at-names"` writes `images/test/database`, four views of every place, and `images/test/queries`, with names by
            the `@` convention and EXIF positions. `"gsv-cities"` writes `Dataframes` and `Images` in the layout of GSV-Cities,
            where two opposite views of a place count as two places.
        tier: Variation of a place's photos, and share of the city that is repeated.
        conditions: Weathers of the queries, instead of those of the tier.
        photos_per_place: Queries of a place, each of one of its views; with `"gsv-cities"`, photos of each view.
        image_size: Height and width in pixels.
        label_cells: With `"gsv-cities"`: also write `Labels/<City>.safetensors`, which labels the cells of every photo, divided
            into `label_cells` rows and columns. See [`Labels`].
        wildness: Share of places whose photos are wild, and the folder of their textures; `None` for no wild place. The
            condition of a wild photo begins with `wild-`: the note of its `@` name, or the column `condition` of the table.
        workers: Number of processes; the files do not depend on it. With more than one, a script must call this function under
            `if __name__ == "__main__":`, because Python's multiprocessing requires it.
        progress: Called repeatedly with the number of photos that were just written.

    Returns:
        The number of photos.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        ValueError: If a number is out of its range, a layout, tier or condition is unknown, or no texture can be cut.
        FileNotFoundError, NotADirectoryError: If there is no folder of textures, or no photo in it.
    """
    out = Path(out).resolve()
    layout = Layout(layout)
    used_tier = TIERS[TierName(tier)]
    if conditions is not None:
        used_tier = replace(used_tier, queries=replace(used_tier.queries, weathers=parse_weathers(conditions)))
    check_free(out)
    if min(num_cities, photos_per_place, image_size, workers) < 1:
        raise ValueError(f"Expected at least 1, got `{num_cities=}`, `{photos_per_place=}`, `{image_size=}`, `{workers=}`.")
    if label_cells is not None and (label_cells < 1 or layout != Layout.GSV_CITIES):
        raise ValueError(
            f'Labels need `layout="gsv-cities"` and `label_cells` of at least 1, got `{label_cells=}` and layout {layout}.'
        )
    size = (image_size, image_size)
    jobs = [
        _CityJob(city_seed, num_places, layout, used_tier, photos_per_place, size, label_cells, wildness or Wildness())
        for city_seed in range(seed, seed + num_cities)
    ]
    with scratch_folder(out) as folder:
        count = sum(_write_city(job, folder, workers, progress) for job in jobs)
        out.mkdir(exist_ok=True)
        for entry in folder.iterdir():
            entry.rename(out / entry.name)
    return count


def _write_city(job: _CityJob, folder: Path, workers: int, progress: Progress | None) -> int:
    """Write a city's photos, table and labels, and return the number of photos."""
    city = make_city(job.seed, job.num_places, job.tier.copy_share)
    list_files = {Layout.AT_NAMES: _at_name_files, Layout.GSV_CITIES: _gsv_files}[job.layout]
    files = list(list_files(city, job))
    for parent in {(folder / file.path).parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    if job.layout == Layout.GSV_CITIES:
        _write_dataframe(folder, city, files, has_conditions=job.wildness.share > 0)
    textures = None if job.wildness.textures is None else cut_textures(job.wildness.textures, job.seed)
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    labels = []
    for chunk, labels_of_chunk in zip(chunks, _write_photos(job, folder, textures, chunks, workers), strict=True):
        labels += labels_of_chunk
        if progress is not None:
            progress(len(chunk))
    if labels:
        write_labels(folder / "Labels" / f"{city_name(city)}.safetensors", labels, [file.path for file in files])
    return len(files)


def _at_name_files(city: City, job: _CityJob) -> Iterator[_PhotoFile]:
    """Yield four database photos of each place, one of each view, and its queries, with views in turn."""
    for place in range(len(city.places)):
        for heading in range(NUM_HEADINGS):
            photo = job.draw(city, place, heading, 0)
            yield _PhotoFile(photo, f"images/test/database/{at_name(city, photo)}")
        for visit in range(1, job.photos_per_place + 1):
            photo = job.draw(city, place, (place + visit) % NUM_HEADINGS, visit)
            yield _PhotoFile(photo, f"images/test/queries/{at_name(city, photo)}")


def _gsv_files(city: City, job: _CityJob) -> Iterator[_PhotoFile]:
    """Yield the photos of all views for training, view by view."""
    for place, heading in training_views(len(city.places)):
        for visit in range(1, job.photos_per_place + 1):
            photo = job.draw(city, place, heading, visit)
            yield _PhotoFile(photo, f"Images/{city_name(city)}/{gsv_name(city, photo)}")


def training_views(num_places: int) -> Iterator[tuple[int, int]]:
    """Yield (place, heading) of the views that count as places in training: two opposite views of every place of a city.

    Neighbouring views of a place would show much of the same surroundings.
    """
    for place in range(num_places):
        for heading in range(place % 2, NUM_HEADINGS, 2):
            yield place, heading


def _write_dataframe(folder: Path, city: City, files: list[_PhotoFile], has_conditions: bool) -> None:
    """Write a city's table in the format of GSV-Cities, with the column `condition` if `has_conditions`."""
    rows = [gsv_row(city, file.photo) | ({"condition": file.photo.condition} if has_conditions else {}) for file in files]
    path = folder / "Dataframes" / f"{city_name(city)}.csv"
    path.parent.mkdir(exist_ok=True)
    with create_text(path) as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _write_photos(
    job: _CityJob, folder: Path, textures: Textures | None, chunks: list[list[_PhotoFile]], workers: int
) -> Iterator[list[Labels]]:
    """Render and write photos, and yield the labels of each chunk, which are empty if the job has no `label_cells`."""
    if workers == 1:
        photographer = _Photographer(job, folder, textures)
        yield from map(photographer.write, chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (job, folder, textures)) as pool:
        with blocked_signals():  # a terminal signals workers too, which would print tracebacks while they start
            labels = pool.map(_write_chunk, chunks)
        yield from labels


class _Photographer:
    """Renderer of a city's photos into a folder."""

    def __init__(self, job: _CityJob, folder: Path, textures: Textures | None) -> None:
        self.town = make_town(job.seed, job.num_places, job.tier.copy_share, textures)
        self.job, self.folder = job, folder

    def write(self, files: list[_PhotoFile]) -> list[Labels]:
        """Render photos, write them, and return their labels if the job has `label_cells`."""
        pixels = self.town.take([file.photo for file in files], self.job.size)
        for file, photo_pixels in zip(files, pixels, strict=True):
            write_file(self.folder / file.path, encode_jpeg(photo_pixels, file.photo, self.town.city))
        cells = self.job.label_cells
        if cells is None:
            return []
        return [label_photos(self.town.city, self.town.paintbox, [file.photo], (cells, cells)) for file in files]


_photographer: _Photographer  # exists in worker processes only


def _start_worker(job: _CityJob, folder: Path, textures: Textures | None) -> None:
    """Make the town in a worker process, which uses one thread and leaves the handling of interrupts to its parent."""
    global _photographer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _photographer = _Photographer(job, folder, textures)


def _write_chunk(files: list[_PhotoFile]) -> list[Labels]:
    """Write photos in a worker process, to which a method of the photographer cannot be sent."""
    return _photographer.write(files)
