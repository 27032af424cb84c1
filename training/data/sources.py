"""Open the sources of photos that a run's options name."""

from collections.abc import Sequence
from pathlib import Path

from d2vpr_hf.gridtown import Wildness
from d2vpr_hf.training.data.geometry import CropRange, ViewRange
from d2vpr_hf.training.data.place_photos import GridtownPhotos, PlacePhotos, read_labelled_photos, read_place_photos
from d2vpr_hf.training.data.unlabelled_photos import Opening, Panoramas, UnlabelledPhotos
from d2vpr_hf.training.options import PretrainOptions, TrainingOptions

_CACHE_BYTES = 512 * 2**20  # of decoded photos without labels, over all loading processes of a training process


def open_sources(options: TrainingOptions, teacher_size: tuple[int, int] | None) -> list[PlacePhotos]:
    """Open all sources, in the order of `options.sources`.

    Args:
        options: Options of the run.
        teacher_size: Height and width of the photos that a teacher sees; `None` if it sees the student's.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: If photos are missing or do not fit their option.
    """
    if isinstance(options, PretrainOptions):
        return [read_labelled_photos(options.labelled[0], options.cities, options.images_per_place)]
    size = tuple(max(sides) for sides in zip(options.size, teacher_size or options.size, strict=True))
    unlabelled, panoramas = options.unlabelled or [], options.panoramas or []
    caches = max(1, options.num_workers) * (len(unlabelled) + len(panoramas))
    opening = Opening(max(size), _CACHE_BYTES // max(1, caches))
    crops = crop_range(options)
    views = ViewRange(
        _pair(options.view_fov), _pair(options.view_pitch), options.view_turn, _pair(options.crop_ratio), options.flip
    )
    return [
        *(_open_labelled(photos, options, (size[0], size[1])) for photos in options.labelled),
        *(UnlabelledPhotos(folder, crops, opening) for folder in unlabelled),
        *(Panoramas(folder, views, opening) for folder in panoramas),
    ]


def crop_range(options: TrainingOptions) -> CropRange:
    """Return the range of random crops."""
    return CropRange(_pair(options.crop_scale), _pair(options.crop_ratio), options.flip)


def _open_labelled(photos: str, options: TrainingOptions, size: tuple[int, int]) -> PlacePhotos:
    if photos != "gridtown":
        return read_place_photos(photos, _cities_of(photos, options), options.images_per_place)
    wildness = Wildness(options.gridtown_wild, options.gridtown_textures)
    seeds, visits = options.gridtown_seeds, options.gridtown_visits
    return GridtownPhotos(seeds, options.gridtown_places, size, options.gridtown_tier, visits, wildness)


def _cities_of(photos: str, options: TrainingOptions) -> Sequence[str] | None:
    """Return the cities of a source to train on: with several sources, `cities` holds for folders of GSV-Cities only."""
    folders = [source for source in options.labelled if (Path(source) / "Dataframes").is_dir()]
    if not options.cities or len(options.sources) == 1 or not folders:
        return options.cities
    if photos not in folders:
        return None
    tables = {folder: {table.stem for table in (Path(folder) / "Dataframes").glob("*.csv")} for folder in folders}
    unknown = [city for city in options.cities if not any(city in names for names in tables.values())]
    cities = [city for city in options.cities if city in tables[photos]]
    if unknown or not cities:
        problem = f"{', '.join(unknown)} is in none of {', '.join(folders)}" if unknown else f"none of them is in {photos}"
        raise ValueError(f"cities: {problem}. Name cities of these folders, and at least one of each.")
    return cities


def _pair(values: Sequence[float]) -> tuple[float, float]:
    smallest, largest = values
    return smallest, largest
