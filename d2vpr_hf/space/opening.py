"""Open a Space: load the model once, open the index or make the town's, warm both up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.maps import TileSource
from d2vpr_hf.pretrained.loading import EMBEDDED_MODEL
from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from d2vpr_hf.space.photo_map import PhotoMap, Question
from d2vpr_hf.space.settings import Settings
from d2vpr_hf.space.town_map import TownMap, TownPlan, open_town_map

_EXAMPLES = 8  # photos of an index of somebody's own that are offered as queries


@dataclass(frozen=True)
class OpenedSpace:
    """What a Space answers with.

    Attributes:
        photo_map: The map.
        examples: Photos that visitors may try.
        town: Where the map is a town's, what it is; `None` for an index of somebody's own.
        tiles: Tiles below maps, or `None`.
    """

    photo_map: PhotoMap
    examples: list[Path]
    town: TownMap | None
    tiles: TileSource | None

    @property
    def model_name(self) -> str:
        """The model's name for people."""
        name = self.photo_map.encoder.model_name
        return "the small embedded model" if name in (None, str(EMBEDDED_MODEL)) else Path(str(name)).name

    @property
    def index_name(self) -> str:
        """The map's name for people."""
        return "a simulated town" if self.town is not None else self.photo_map.index.folder.name


def open_space(settings: Settings, plan: TownPlan = TownPlan()) -> OpenedSpace:  # noqa: B008 - it is frozen
    """Open the map that the settings name.

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] and [`PlaceIndex.from_pretrained`] do, or if they do not fit.
    """
    workers = os.cpu_count() or 1
    if settings.index is None:
        encoder = PlaceEncoder(settings.model)
        town = open_town_map(encoder, settings.cache, plan, workers=workers)
        index, examples = PlaceIndex.open(town.index), town.examples
    else:
        index, town = PlaceIndex.from_pretrained(settings.index), None
        encoder = PlaceEncoder(settings.model or index.settings.model_name)
        examples = _some_photos(index)
    opened = OpenedSpace(PhotoMap(index, encoder, settings.tiles), examples, town, settings.tiles)
    opened.photo_map.answer([Question(photo) for photo in examples[:1]])  # the first forward of a model is slow
    return opened


def _some_photos(index: PlaceIndex) -> list[Path]:
    """Take photos of an index, evenly, that are there and can be read: an index from the Hub has none."""
    step = max(1, len(index) // (2 * _EXAMPLES))
    photos = [index.settings.photo_folder / index.places[row].path for row in range(0, len(index), step)]
    return [photo for photo in photos if _is_readable(photo)][:_EXAMPLES]


def _is_readable(photo: Path) -> bool:
    try:
        open_photo(photo)
    except (UnreadablePhotoError, OSError):
        return False
    return True
