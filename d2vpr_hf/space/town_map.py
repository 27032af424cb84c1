"""The map that the Space opens with: a Gridtown, indexed and calibrated on the first start and kept for the next ones.

A third of the town is left out of the map, so that there are photos which must not be found.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import calibrate
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.readers import PlaceTable, read_place, read_places
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.search_photos import SearchResult, search_photos
from d2vpr_hf.utils.atomic_files import store_files

_VERSION = 2  # of what is made; another one is made anew
_INSIDE = 2 / 3  # of the places, from the west, are in the map
_OUTSIDE = 2 * POSITIVE_DIST_THRESHOLD  # metres from the nearest photo of the map: surely not in it


@dataclass(frozen=True)
class TownPlan:
    """Which town.

    Attributes:
        places: Of the town; four photos of each.
        seed: Of a town that nothing is trained on.
        tier: How far queries differ from the map.
        image_size: Pixels to either side.
        queries_per_place: Photos of each place that are not in the map.
        examples: Queries that are offered to visitors.
    """

    places: int = 90
    seed: int = 9003
    tier: str = "easy"
    image_size: int = 256
    queries_per_place: int = 3
    examples: int = 8


@dataclass(frozen=True)
class TownMap:
    """A map on disk.

    Attributes:
        index: Its folder.
        examples: Photos that are not in it: first some that are found, then some from outside the map.
        queries: Other photos of the mapped part that were looked for.
        found: How many of them had a photo within 25 m as best match.
    """

    index: Path
    examples: list[Path]
    queries: int
    found: int


def open_town_map(encoder: Encoder, cache: Path, plan: TownPlan = TownPlan(), workers: int = 1) -> TownMap:
    """Open the town's map, and make it first if it is not there; a start that was interrupted is gone on with.

    Args:
        encoder: Of the model; each model has a map of its own.
        cache: Folder that is kept between starts.
        plan: Which town.
        workers: Processes that render.
    """
    recipe = json.dumps([_VERSION, encoder.fingerprint, asdict(plan)], sort_keys=True)
    town = hashlib.sha256(json.dumps([_VERSION, asdict(plan)], sort_keys=True).encode()).hexdigest()[:12]
    index = cache / f"index-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    notes = index.with_suffix(".json")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if not notes.exists():
            photos = _render(cache / f"town-{town}", plan, workers)
            found = _make(photos, index, encoder, plan)
            store_files(cache, {notes.name: json.dumps(found | {"photos": str(photos.resolve())}, indent=2).encode()})
    return _read(notes, index)


def _render(town: Path, plan: TownPlan, workers: int) -> Path:
    """Render the photos unless they are there; return their folder, with `database` and `queries` in it."""
    photos = town / "images" / "test"
    if not photos.exists():
        sizes: dict[str, Any] = {"photos_per_place": plan.queries_per_place, "image_size": plan.image_size}
        simulate(town, plan.places, plan.seed, tier=plan.tier, workers=workers, **sizes)
    return photos


def _make(photos: Path, index: Path, encoder: Encoder, plan: TownPlan) -> dict[str, object]:
    """Index the western part, choose examples, and calibrate with the other queries."""
    database, queries = read_places(photos / "database"), read_places(photos / "queries")
    border = sorted(_east(place) for place in database.places)[int(_INSIDE * len(database.places))]
    inside = replace(database, places=[place for place in database.places if _east(place) < border])
    opened, _ = index_photos(inside, index, encoder)
    away = _metres_to_nearest(queries.places, inside.places)
    mapped = [queries.photo(place) for place, far in zip(queries.places, away, strict=True) if far <= POSITIVE_DIST_THRESHOLD]
    outside = [queries.photo(place) for place, far in zip(queries.places, away, strict=True) if far > _OUTSIDE]
    results = search_photos(opened, mapped, encoder, top_k=1)
    found = [result.query for result in sorted(results, key=_best_score, reverse=True) if _is_found(result)]
    examples = _choose_examples(mapped, found, outside, plan.examples)
    _calibrate(opened, queries, examples, encoder)
    return {"examples": [str(photo.resolve()) for photo in examples], "queries": len(mapped), "found": len(found)}


def _choose_examples(mapped: list[Path], found: list[Path], outside: list[Path], count: int) -> list[Path]:
    """Take photos of the most similar quarter of those found, others where these are too few, and two from outside the map."""
    inside = _spread(found[: max(count - 2, len(found) // 4)], count - 2)
    others = [photo for photo in mapped if photo not in set(found)]
    return inside + _spread(others, count - 2 - len(inside)) + _spread(outside, 2)


def _calibrate(index: PlaceIndex, queries: PlaceTable, examples: Sequence[Path], encoder: Encoder) -> None:
    """Calibrate with all queries but the examples; a model that is right too seldom gets none, and answers say so."""
    chosen = {photo.name for photo in examples}
    labelled = replace(queries, places=[place for place in queries.places if Path(place.path).name not in chosen])
    try:
        calibration, _ = calibrate(index, labelled, encoder)
    except ValueError:
        return
    index.store_calibration(calibration.to_dict())


def _east(place: Place) -> float:
    return place.utm_east or 0.0


def _metres_to_nearest(places: Sequence[Place], others: Sequence[Place]) -> NDArray[np.float64]:
    """Return how far each place is from the nearest of others; a town lies in one UTM zone."""
    points, known = (np.array([(place.utm_east, place.utm_north) for place in side]) for side in (places, others))
    return np.asarray(cKDTree(known).query(points)[0])


def _is_found(result: SearchResult) -> bool:
    distance = distance_in_metres(read_place(result.query), result.matches[0].place) if result.matches else None
    return distance is not None and distance <= POSITIVE_DIST_THRESHOLD


def _best_score(result: SearchResult) -> float:
    return result.matches[0].similarity if result.matches else -1.0


def _spread(photos: Sequence[Path], count: int) -> list[Path]:
    """Take some photos, evenly from first to last."""
    count = min(count, len(photos))
    return [photos[number * len(photos) // count] for number in range(count)]


def _read(notes: Path, index: Path) -> TownMap:
    values = json.loads(notes.read_text(encoding="utf-8"))
    return TownMap(index, [Path(photo) for photo in values["examples"]], values["queries"], values["found"])
