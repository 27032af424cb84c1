"""The map that a Space shows by default: a simulated town, indexed and calibrated on the first start and cached.

The eastern third of the town is not in the map, so that there are photos without a correct match.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from scipy.spatial import cKDTree

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import calibrate
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.readers import PlaceTable, read_place, read_places
from d2vpr_hf.reranking.open_reranker import holds_regions
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.search_photos import SearchResult, search_photos
from d2vpr_hf.utils.atomic_files import store_files

_VERSION = 3  # version of the map's content; a map of another version is not used
_MAPPED_SHARE = 2 / 3  # share of the places that are in the map, from the west
_OUTSIDE = 2 * POSITIVE_DIST_THRESHOLD  # metres from the map's nearest photo beyond which a query is outside the map


@dataclass(frozen=True)
class TownPlan:
    """Options of the simulated town and its map.

    Attributes:
        places: Number of places in the town; each has four photos.
        seed: Seed of a town that no model was trained on.
        tier: Gridtown's tier, which sets the difference between queries and the map.
        image_size: Height and width of the photos in pixels.
        queries_per_place: Photos of each place that are not in the map.
        examples: Number of queries that are offered to visitors.
    """

    places: int = 90
    seed: int = 9003
    tier: str = "easy"
    image_size: int = 256
    queries_per_place: int = 3
    examples: int = 8


@dataclass(frozen=True)
class TownMap:
    """The map of a town on disk.

    Attributes:
        index: Folder of the index.
        examples: Photos that are not in the index: first some with a correct match, then two from outside the map.
        num_queries: Number of queries from the mapped part of the town that were searched.
        num_correct: Number of these whose best match is within 25 m.
    """

    index: Path
    examples: list[Path]
    num_queries: int
    num_correct: int


def open_town_map(encoder: Encoder, cache: Path, plan: TownPlan = TownPlan(), workers: int = 1) -> TownMap:
    """Open the map of a town. It is made first if it is not cached; the work of an interrupted start is continued.

    Args:
        encoder: Makes the descriptors; each model has its own map.
        cache: Folder that is kept between starts.
        plan: Options of the town.
        workers: Number of processes that render.
    """
    recipe = json.dumps([_VERSION, encoder.fingerprint, asdict(plan)], sort_keys=True)
    town = hashlib.sha256(json.dumps([_VERSION, asdict(plan)], sort_keys=True).encode()).hexdigest()[:12]
    index = cache / f"index-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    notes = index.with_suffix(".json")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if not notes.exists():
            photos = _render(cache / f"town-{town}", plan, workers)
            values = _make_map(photos, index, encoder, plan) | {"photos": str(photos.resolve())}
            store_files(cache, {notes.name: json.dumps(values, indent=2).encode()})
    values = json.loads(notes.read_text(encoding="utf-8"))
    return TownMap(index, [Path(photo) for photo in values["examples"]], values["queries"], values["found"])


def _render(town: Path, plan: TownPlan, workers: int) -> Path:
    """Render the photos unless they exist; return their folder, which has the folders `database` and `queries`."""
    photos = town / "images" / "test"
    if not photos.exists():
        simulate(
            town,
            plan.places,
            plan.seed,
            tier=plan.tier,
            photos_per_place=plan.queries_per_place,
            image_size=plan.image_size,
            workers=workers,
        )
    return photos


def _make_map(photos: Path, index_folder: Path, encoder: Encoder, plan: TownPlan) -> dict[str, Any]:
    """Index the western part, choose examples, and calibrate with the other queries; return the values to cache."""
    database = read_places(photos / "database")
    queries = read_places(photos / "queries")
    border = sorted(_east(place) for place in database.places)[int(_MAPPED_SHARE * len(database.places))]
    mapped_part = replace(database, places=[place for place in database.places if _east(place) < border])
    index, _ = index_photos(mapped_part, index_folder, encoder)
    distances = dict(zip(queries.places, _metres_to_nearest(queries.places, mapped_part.places), strict=True))
    inside = [queries.photo(place) for place, metres in distances.items() if metres <= POSITIVE_DIST_THRESHOLD]
    outside = [queries.photo(place) for place, metres in distances.items() if metres > _OUTSIDE]
    results = [result for result in search_photos(index, inside, encoder, top_k=1) if _is_correct(result)]
    results.sort(key=lambda result: result.matches[0].similarity, reverse=True)
    correct = [result.query for result in results]
    examples = _choose_examples(inside, correct, outside, plan.examples)
    _calibrate(index, queries, examples, encoder)
    return {"examples": [str(photo.resolve()) for photo in examples], "queries": len(inside), "found": len(correct)}


def _choose_examples(inside: list[Path], correct: list[Path], outside: list[Path], count: int) -> list[Path]:
    """Return example queries.

    Args:
        inside: All queries from the mapped part.
        correct: Those of them with a correct best match, the most similar first: examples are from their first quarter.
        outside: Queries from outside the map, of which two are taken.
        count: Number of examples. If too few are correct, other queries from the mapped part are taken.
    """
    examples = _spread(correct[: max(count - 2, len(correct) // 4)], count - 2)
    incorrect = [photo for photo in inside if photo not in set(correct)]
    return examples + _spread(incorrect, count - 2 - len(examples)) + _spread(outside, 2)


def _calibrate(index: PlaceIndex, queries: PlaceTable, examples: Sequence[Path], encoder: Encoder) -> None:
    """Calibrate with all queries except the examples; a model with too few correct answers gets no calibration."""
    example_names = {photo.name for photo in examples}
    labelled = replace(queries, places=[place for place in queries.places if Path(place.path).name not in example_names])
    try:
        calibration, _ = calibrate(index, labelled, encoder, reranking=Reranking() if holds_regions(encoder) else None)
    except ValueError:
        return
    index.store_calibration(calibration.to_dict())


def _east(place: Place) -> float:
    return place.utm_east or 0.0


def _metres_to_nearest(queries: Sequence[Place], places: Sequence[Place]) -> list[float]:
    """Return the distance in metres from each query to the nearest place; a town is in one UTM zone."""
    query_points = [(place.utm_east, place.utm_north) for place in queries]
    map_points = [(place.utm_east, place.utm_north) for place in places]
    distances: list[float] = cKDTree(map_points).query(query_points)[0].tolist()
    return distances


def _is_correct(result: SearchResult) -> bool:
    """Return whether the best match of a query is within 25 m of it."""
    distance = distance_in_metres(read_place(result.query), result.matches[0].place) if result.matches else None
    return distance is not None and distance <= POSITIVE_DIST_THRESHOLD


def _spread(photos: Sequence[Path], count: int) -> list[Path]:
    """Return some of the photos, evenly from first to last."""
    count = min(count, len(photos))
    return [photos[number * len(photos) // count] for number in range(count)]
