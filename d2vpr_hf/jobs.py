"""The main job: index a folder of photos, then search it with others. The command line calls these functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from d2vpr_hf.encoder import PlaceEncoder, Progress
from d2vpr_hf.index import Match, PlaceIndex, check_free
from d2vpr_hf.readers import PhotoSource, Place, PlaceTable, find_photos, iter_photos, read_places

if TYPE_CHECKING:
    from d2vpr_hf.readers.place_dataset import PlaceDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What was found for one query.

    Attributes:
        query: The photo, as it was given.
        matches: The places found, the nearest first; empty if the photo could not be read.
        error: Why it could not be read, or `None`.
    """

    query: Path
    matches: list[Match]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `d2vpr search --json` prints."""
        result: dict[str, Any] = {
            "query": str(self.query),
            "matches": [_match_to_dict(match) for match in self.matches],
        }
        return result if self.error is None else {**result, "error": self.error}


def index_photos(
    photos: str | Path | PlaceTable | PlaceDataset,
    out: str | Path,
    encoder: PlaceEncoder,
    *,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[PlaceIndex, dict[str, str]]:
    """Encode photos and write the index.

    Args:
        photos: A folder, a CSV file, what [`read_places`] made of one, or a data set as [`load_places`] gives it.
        out: The index folder.
        encoder: Gives the descriptors.
        strict: Whether a photo that is left out is an error.
        overwrite: Whether to replace an index at `out`.
        progress: Called with the number of photos just finished.

    Returns:
        The index, and the reason for each photo that was left out, by its path.

    Raises:
        ValueError: If no photo could be read, or with `strict` if one could not.
    """
    check_free(Path(out), overwrite)  # before the work, not after it
    source = read_places(photos) if isinstance(photos, str | Path) else photos
    seen: list[Place] = []
    encoded = encoder.encode(_NotingPlaces(source, seen), progress)
    folder, places = (source.folder.resolve(), seen) if isinstance(source, PlaceTable) else _common_folder(seen)
    left_out = source.skipped if isinstance(source, PlaceTable) else {}
    skipped = left_out | {places[row].path: reason for row, reason in encoded.skipped.items()}
    report_skipped(skipped, len(places) + len(left_out), strict)
    if not len(encoded.rows):
        raise ValueError(f"None of the {len(places)} photos in {folder} could be read.")
    kept = [places[row] for row in encoded.rows]
    index = PlaceIndex(folder, kept, encoded.descriptors, encoder.model_name, encoder.fingerprint)
    index.save(out, overwrite)
    return index, skipped


@dataclass(frozen=True)
class _NotingPlaces:
    """Photos one by one, whose places are kept as they pass: streamed data sets can be read once only."""

    source: PlaceTable | PlaceDataset
    places: list[Place]

    def __iter__(self) -> Iterator[PhotoSource]:
        for place, photo in iter_photos(self.source):
            self.places.append(place)
            yield photo

    def __length_hint__(self) -> int:
        if isinstance(self.source, PlaceTable):
            return len(self.source.places)
        return getattr(self.source, "num_rows", 0)


def _common_folder(places: list[Place]) -> tuple[Path, list[Place]]:
    """Find the folder that the photos of a data set have in common, and make their paths relative to it."""
    parents = {PurePosixPath(place.path).parent for place in places}
    if len({parent.is_absolute() for parent in parents}) != 1:  # none, or some in files of their own and some not
        return Path(), places
    folder = Path(os.path.commonpath(parents))
    return folder, [replace(place, path=Path(place.path).relative_to(folder).as_posix()) for place in places]


def search_photos(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: PlaceEncoder,
    *,
    top_k: int = 5,
    strict: bool = False,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Search an index with photos.

    Args:
        index: The index.
        queries: Photo files, or folders of them.
        encoder: Gives the descriptors; it must have the model the index was built with.
        top_k: Matches wanted for each query.
        strict: Whether a photo that cannot be read is an error.
        progress: Called with the number of photos just finished.

    Returns:
        One result a query photo, in order; those that could not be read have no matches and say why.

    Raises:
        ValueError: If the encoder's model or preprocessing is not the index's.
    """
    check_encoder(index, encoder)
    photos = [photo for query in queries for photo in _photos_of(Path(query))]
    encoded = encoder.encode(photos, progress)
    report_skipped({str(photos[row]): reason for row, reason in encoded.skipped.items()}, len(photos), strict)
    found = dict(zip(encoded.rows.tolist(), index.search(encoded.descriptors, top_k), strict=True))
    return [SearchResult(photo, found.get(row, []), encoded.skipped.get(row)) for row, photo in enumerate(photos)]


def check_encoder(index: PlaceIndex, encoder: PlaceEncoder) -> None:
    """Raise ValueError unless an encoder makes the descriptors that an index holds."""
    found = encoder.fingerprint
    if found != index.fingerprint:
        name = index.model or "the model that comes with this package, or one that was never saved"
        raise ValueError(
            f"The index was built with another model or other preprocessing: with {name} as it was then, fingerprint "
            f"{index.fingerprint[:12]}, while this one has {found[:12]}. Search with that model (`--model`), or build the "
            "index anew with `d2vpr index`."
        )


def report_skipped(skipped: dict[str, str], total: int, strict: bool) -> None:
    """Name and count the photos that were left out; with `strict`, as an error."""
    if not skipped:
        return
    lines = [
        f"{len(skipped)} of {total} photos were left out:",
        *(f"  {path}: {why}" for path, why in skipped.items()),
    ]
    if strict:
        raise ValueError("\n".join(lines))
    logger.warning("\n".join(lines))


def _photos_of(query: Path) -> list[Path]:
    try:
        return find_photos(query) if query.is_dir() else [query]
    except FileNotFoundError:
        return [query]  # an empty folder becomes a result that says so


def _match_to_dict(match: Match) -> dict[str, Any]:
    place = match.place
    result = {
        "rank": match.rank,
        "path": str(match.photo),
        "score": match.score,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "utm_east": place.utm_east,
        "utm_north": place.utm_north,
    }
    return result | {"x": place.x, "y": place.y, "z": place.z} if place.is_local else result


__all__ = ["SearchResult", "check_encoder", "index_photos", "report_skipped", "search_photos"]
