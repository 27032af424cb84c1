"""A Space that is ready to answer: one model and one index, loaded, with a first forward pass done."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.maps import TileSource
from d2vpr_hf.pretrained.loading import EMBEDDED_NAME
from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from d2vpr_hf.space.photo_map import PhotoMap, Question
from d2vpr_hf.space.settings import Settings
from d2vpr_hf.space.town_map import TownMap, TownPlan, open_town_map

_NUM_EXAMPLES = 8  # photos of a given index that are offered as queries


@dataclass(frozen=True)
class OpenedSpace:
    """The map of a Space and the examples to try on it.

    Attributes:
        photo_map: The map.
        examples: Photos that visitors may try.
        town: The simulated town that the map shows; `None` for an index that the settings name.
        tiles: Source of the tiles below maps, or `None`.
    """

    photo_map: PhotoMap
    examples: list[Path]
    town: TownMap | None
    tiles: TileSource | None

    @property
    def model_name(self) -> str:
        """The model's name as the page shows it."""
        name = self.photo_map.encoder.model_name
        return "the small embedded model" if name in (None, EMBEDDED_NAME) else Path(str(name)).name

    @property
    def index_name(self) -> str:
        """The map's name as the page shows it."""
        return "a simulated town" if self.town is not None else self.photo_map.index.folder.name


def open_space(settings: Settings, plan: TownPlan = TownPlan()) -> OpenedSpace:  # noqa: B008 - the default is immutable
    """Open the index that the settings name, or make a town's, and load the model.

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] and [`PlaceIndex.from_pretrained`] raise them, or if the index was not
            built with the model.
    """
    workers = os.cpu_count() or 1
    if settings.index is None:
        encoder = PlaceEncoder(settings.model)
        town = open_town_map(encoder, settings.cache, plan, workers=workers)
        index, examples = PlaceIndex.open(town.index), town.examples
    else:
        index, town = PlaceIndex.from_pretrained(settings.index), None
        encoder = PlaceEncoder.for_index(index, settings.model)
        examples = _choose_examples(index)
    opened = OpenedSpace(PhotoMap(index, encoder, settings.tiles), examples, town, settings.tiles)
    opened.photo_map.answer([Question(photo) for photo in examples[:1]])  # the first forward pass is slow
    return opened


def _choose_examples(index: PlaceIndex) -> list[Path]:
    """Return readable photos, evenly from first to last; none for an index from the Hub, which comes without photos."""
    step = max(1, len(index) // (2 * _NUM_EXAMPLES))
    examples = []
    for row in range(0, len(index), step):
        photo = index.settings.photo_folder / index.places[row].path
        with contextlib.suppress(UnreadablePhotoError, OSError):
            open_photo(photo)
            examples.append(photo)
    return examples[:_NUM_EXAMPLES]
