"""A Space that is ready to answer: one model and one index, loaded, with a first forward pass done."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import has_patches, reason_against
from d2vpr_hf.hub.model_cards import METHODS
from d2vpr_hf.hub.thumbnails import read_thumbnails
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.maps import TileSource
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from d2vpr_hf.space.photo_map import PhotoMap, Question
from d2vpr_hf.space.pictures import jpeg_uri, map_picture_uri
from d2vpr_hf.space.settings import Settings
from d2vpr_hf.space.space_encoder import space_encoder_class
from d2vpr_hf.space.town_map import TownMap, TownPlan, open_town_map
from d2vpr_hf.space.zero_gpu import is_zero_gpu
from d2vpr_hf.utils.atomic_files import store_files
from d2vpr_hf.utils.hub_ids import split_revision

_NUM_EXAMPLES = 8  # photos of a given index that are offered as queries


@dataclass(frozen=True)
class OpenedSpace:
    """The map of a Space and the examples to try on it.

    Attributes:
        photo_map: The map.
        examples: Files that visitors may try: photos, or thumbnails if the photos of the map are not here.
        town: The simulated town that the map shows; `None` for an index that the settings name.
        tiles: Source of the tiles below maps, or `None`.
        has_photos: Whether the photos of the map are on this machine; an index from the Hub comes without them.
        thumbnails: Small JPEGs of photos that are not here, by their paths in the index.
        hub_name: Name of the index on the Hub; `None` for an index in a folder.
    """

    photo_map: PhotoMap
    examples: list[Path]
    town: TownMap | None
    tiles: TileSource | None
    has_photos: bool = True
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    hub_name: str | None = None

    def picture(self, match: Match) -> str | None:
        """Return the photo of a match as a data URI, or its thumbnail if the photo is not here; `None` without either."""
        if self.has_photos:
            return map_picture_uri(match.photo)
        thumbnail = self.thumbnails.get(match.place.path)
        return jpeg_uri(thumbnail) if thumbnail else None

    @property
    def model_name(self) -> str:
        """The model's name as the page shows it."""
        name = self.photo_map.encoder.model_name
        return "the small embedded model" if name in (None, EMBEDDED_NAME) else Path(str(name)).name

    @property
    def method(self) -> str:
        """The name of the model's method."""
        encoder = self.photo_map.encoder
        return METHODS["d2vpr"].title if self.is_d2vpr else encoder.facts.title

    @property
    def is_d2vpr(self) -> bool:
        """Whether the model is a D²-VPR, or a graph of one."""
        return self.photo_map.encoder.facts.title.startswith(METHODS["d2vpr"].title)

    @property
    def reason_against(self) -> str | None:
        """The reason why matches cannot be explained; `None` if they can be."""
        return reason_against(self.photo_map.encoder)

    @property
    def by_patches(self) -> bool:
        """Whether matches are explained by patches."""
        return has_patches(self.photo_map.encoder)

    @property
    def index_name(self) -> str:
        """The map's name as the page shows it."""
        if self.town is not None:
            return "a simulated town"
        return self.hub_name or self.photo_map.index.folder.name


def open_space(settings: Settings, plan: TownPlan = TownPlan()) -> OpenedSpace:  # noqa: B008 - the default is immutable
    """Open the index that the settings name, or make a town's, and load the model.

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] and [`PlaceIndex.from_pretrained`] raise them, or if the index was not
            built with the model.
    """
    encoder_class = space_encoder_class()
    model, revision = _split_revision(settings.model)
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    if settings.index is None:
        encoder = encoder_class(model, **options)
        # before the launch ZeroGPU has no GPU
        maker = PlaceEncoder(model, device="cpu", **options) if is_zero_gpu() else encoder
        town = open_town_map(maker, settings.cache, plan, workers=os.cpu_count() or 1)
        opened = OpenedSpace(
            PhotoMap(PlaceIndex.open(town.index), encoder, settings.tiles), town.examples, town, settings.tiles
        )
    else:
        index = PlaceIndex.from_pretrained(settings.index, thumbnails=True)
        photo_map = PhotoMap(index, encoder_class.for_index(index, model, **options), settings.tiles)
        photos = _choose_photos(index)
        thumbnails = {} if photos else read_thumbnails(index.folder)
        opened = OpenedSpace(
            photo_map,
            photos or _write_thumbnails(thumbnails, settings.cache / "examples"),
            None,
            settings.tiles,
            has_photos=bool(photos),
            thumbnails=thumbnails,
            hub_name=None if Path(settings.index).is_dir() else split_revision(settings.index)[0],
        )
    if not is_zero_gpu():
        opened.photo_map.answer([Question(photo) for photo in opened.examples[:1]])  # the first forward pass is slow
    return opened


def _split_revision(model: str | None) -> tuple[str | None, str | None]:
    """Split a Hub id and its revision, as in `user/name@revision`; a folder has none."""
    if model is None or Path(model).exists():
        return model, None
    return split_revision(model)


def _choose_photos(index: PlaceIndex) -> list[Path]:
    """Return readable photos of the map, evenly from first to last; an index from the Hub comes without photos."""
    step = max(1, len(index) // (2 * _NUM_EXAMPLES))
    photos = []
    for row in range(0, len(index), step):
        photo = index.settings.photo_folder / index.places[row].path
        with contextlib.suppress(UnreadablePhotoError, OSError):
            if photo.is_absolute():  # an index without a folder of photos has relative paths, of files on another machine
                open_photo(photo)
                photos.append(photo)
    return photos[:_NUM_EXAMPLES]


def _write_thumbnails(thumbnails: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write some thumbnails as files, evenly from first to last, and return these; their names do not tell positions."""
    step = max(1, len(thumbnails) // _NUM_EXAMPLES)
    paths = list(itertools.islice(thumbnails, 0, None, step))[:_NUM_EXAMPLES]
    files = {f"{hashlib.sha256(thumbnails[path]).hexdigest()[:16]}.jpg": thumbnails[path] for path in paths}
    if files:
        folder.mkdir(parents=True, exist_ok=True)
        store_files(folder, files)
    return [folder / name for name in files]
