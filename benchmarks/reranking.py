"""Re-ranking by regions against the order of similarity: recall, cost and the error of confidences.

    d2vpr index DATABASE --out MAP; d2vpr index VALIDATION_DATABASE --out VALIDATION_MAP
    python -m benchmarks.reranking MAP QUERIES --validation-map VALIDATION_MAP --validation-queries VALIDATION_QUERIES

Both maps are of the embedded model. It prints the tables of docs/reranking.md; --choose prints that of the validation map, from
which the weight and the penalty were chosen.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, PositiveRule, compare_evaluations
from d2vpr_hf.evaluation.indexed_photos import IndexedPhotos
from d2vpr_hf.evaluation.part_evaluation import Choices, evaluate_selections
from d2vpr_hf.evaluation.photo_selection import PhotoSelection, select_photos
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.search import rows_to_matches
from d2vpr_hf.localization import estimate_position, fit_calibration, judge_calibration
from d2vpr_hf.localization.consensus import NUM_MATCHES, PositionEstimate
from d2vpr_hf.localization.reranked_fit import RerankedEstimate, estimate_reranked
from d2vpr_hf.localization.unsure_answers import find_unsure
from d2vpr_hf.projection import ProjectionFit
from d2vpr_hf.readers import read_places
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.region_similarity import position_penalties
from d2vpr_hf.reranking.region_sources import EncodedRegions, RegionSource, StoredRegions
from d2vpr_hf.reranking.reranker import FindUnsure, Reranker
from d2vpr_hf.stores.exact import exact_search, similarity

DEPTH = 100  # matches of a query
RECALLS = (1, 5, 10)
ENCODED_AGAIN = 200  # queries of the row that encodes photos again, for its cost
PCA_DIM = 256
ONLY_EQUAL = 9.0  # a penalty that no cosine outweighs
REGIONS = Reranking("regions")


@dataclass(frozen=True)
class Searched:
    """A map that was searched with all its queries.

    Attributes:
        index: The map.
        database, queries: The photos.
        rows: (Q, DEPTH) rows of the nearest descriptors.
        distances: (Q, DEPTH) squared distances of these.
        descriptors: (Q, D) descriptors of the queries.
    """

    index: PlaceIndex
    database: PhotoSelection
    queries: PhotoSelection
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    descriptors: NDArray[np.float32]

    @property
    def similarities(self) -> NDArray[np.float32]:
        """(Q, DEPTH) cosine similarities."""
        return similarity(self.distances)

    def evaluate(self, order: NDArray[np.int64] | None = None) -> Evaluation:
        """Evaluate the matches in a new order (Q, DEPTH); `None` for that of similarity."""
        matches = self.distances, self.rows
        if order is not None:
            matches = np.take_along_axis(self.distances, order, 1), np.take_along_axis(self.rows, order, 1)
        choices = Choices(PositiveRule(), True, "", RECALLS)
        sides = (self.database, self.index.descriptors), (self.queries, self.descriptors)
        return evaluate_selections(*sides, None, choices, matches)


def search(index: PlaceIndex, photos: Path, encoder: PlaceEncoder) -> Searched:
    """Search a map with all photos of a folder."""
    database, queries = select_photos(IndexedPhotos(index), read_places(photos), PositiveRule())
    encoded = encoder.encode(queries.files)
    queries = queries.keep_rows(encoded.rows, {})
    distances, rows = exact_search(encoded.descriptors, index.descriptors, DEPTH)
    return Searched(index, database, queries, rows, distances, encoded.descriptors)


def rerank(
    searched: Searched,
    boxes: Any,
    options: Reranking = REGIONS,
    *,
    source: RegionSource | None = None,
    distance_penalty: float | None = None,
    find: FindUnsure | None = None,
) -> tuple[NDArray[np.int64], float, Reranker]:
    """Return the new order (Q, DEPTH), the milliseconds for each query, and the reranker."""
    penalties = position_penalties(boxes) if distance_penalty is None else position_penalties(boxes, distance_penalty)
    source = source or StoredRegions(searched.index.descriptors, len(boxes))
    reranker = Reranker(source, penalties, options, find)
    start = time.perf_counter()
    reranked = reranker.rerank(searched.descriptors, searched.queries.files, searched.rows, searched.similarities)
    return reranked.order, 1000 * (time.perf_counter() - start) / len(searched.rows), reranker


def choose(validation: Searched, boxes: Any) -> str:
    """Return R@1 on the validation map for all weights, penalties and gaps, as a Markdown table of the best of each gap."""
    lines = ["| penalty | weight | gap | R@1, % |", "| --- | --- | --- | --- |"]
    grid = product((0.0, 0.1, 0.2, 0.4, 0.8, ONLY_EQUAL), (0.25, 0.5, 1.0, 2.0, 4.0), (0.02, 0.05, 0.1, 0.2, 2.0))
    results = []
    for penalty, weight, gap in grid:
        order, _, _ = rerank(validation, boxes, Reranking("regions", 20, weight, gap), distance_penalty=penalty)
        results.append((100 * _recall(validation.evaluate(order)), penalty, weight, gap))
    results.sort(key=lambda result: -result[0])
    lines += [f"| {penalty:g} | {weight:g} | {gap:g} | {recall:.2f} |" for recall, penalty, weight, gap in results[:20]]
    return "\n".join(lines)


def measure(test: Searched, validation: Searched, encoder: PlaceEncoder) -> list[str]:
    """Return the lines of the table of recalls."""
    boxes = encoder.region_boxes
    calibration = fit_calibration(_estimates(validation), validation.queries.places)
    find: FindUnsure = partial(find_unsure, test.index, calibration)
    base = test.evaluate()
    only_equal = ONLY_EQUAL
    rows: dict[str, Callable[[], tuple[NDArray[np.int64], float, Reranker]]] = {
        "all answers, top 20": lambda: rerank(test, boxes),
        "unsure answers, top 20": lambda: rerank(test, boxes, Reranking("unsure"), find=find),
        **{f"all, top {top}": partial(rerank, test, boxes, Reranking("regions", top)) for top in (5, 10, 50, 100)},
        "equal regions only": lambda: rerank(test, boxes, distance_penalty=only_equal),
        "no position prior": lambda: rerank(test, boxes, distance_penalty=0.0),
    }
    lines = [
        "| row | R@1 | R@5 | R@10 | R@1, difference (95 % interval) | won, lost | re-ranked | compared, mean | ms a query |",
        "| --- " * 9 + "|",
        f"| similarity | {_recalls(base)} | | | | | |",
    ]
    for name, run in rows.items():
        order, milliseconds, reranker = run()
        lines.append(_row(name, base, test.evaluate(order), milliseconds, reranker))
    return [*lines, *_projected_rows(test, validation, encoder)]


def _projected_rows(test: Searched, validation: Searched, encoder: PlaceEncoder) -> list[str]:
    """Return the rows of a PCA, whose candidates are encoded again.

    The features of regions are those of the stored rows, up to rounding, because the network is the same: recall is measured
    with these, and the cost with photos that are encoded again for some queries.
    """
    fit = ProjectionFit(encoder.descriptor_dim)
    fit.add(np.asarray(validation.index.descriptors, np.float32))
    components = fit.components(PCA_DIM)
    sides = [
        _unit((np.asarray(side, np.float32) - components.mean) @ components.components.T)
        for side in (test.index.descriptors, test.descriptors)
    ]
    distances, rows = exact_search(sides[1], sides[0], DEPTH)
    projected = Searched(test.index, test.database, test.queries, rows, distances, test.descriptors)
    base = projected.evaluate()
    order, _, reranker = rerank(projected, encoder.region_boxes)
    paths = test.index.places.column("path")
    source = EncodedRegions(encoder, lambda row: test.index.settings.photo_folder / paths[row])
    chosen = np.linspace(0, len(rows) - 1, ENCODED_AGAIN).astype(int)
    some = Searched(
        test.index,
        test.database,
        test.queries.keep_rows(chosen, {}),
        rows[chosen],
        distances[chosen],
        test.descriptors[chosen],
    )
    encoded_order, milliseconds, _ = rerank(some, encoder.region_boxes, source=source)
    equal = (encoded_order[:, 0] == order[chosen, 0]).mean()
    return [
        f"| PCA to {PCA_DIM}, similarity | {_recalls(base)} | | | | | |",
        _row(f"PCA to {PCA_DIM}, photos encoded again", base, projected.evaluate(order), milliseconds, reranker),
        "",
        f"Of {ENCODED_AGAIN} queries whose candidates were encoded again, {100 * equal:.1f} % have the same best match as with "
        "the stored rows of the model without PCA.",
    ]


def confidences(test: Searched, encoder: PlaceEncoder) -> list[str]:
    """Fit calibrations to one half of the places and judge them on the other; return the lines of a table."""
    estimates, truths = _estimates(test), test.queries.places
    places = PositiveRule().group(test.queries.photos)
    half = np.random.default_rng(0).permutation(places.max() + 1) % 2
    fitted, tested = (np.flatnonzero(half[places] == side).tolist() for side in (0, 1))
    reranked = _reranked(test, encoder)
    lines = ["| run | correct | calibration error | Brier | answered at 0.95 (correct of them) |", "| --- " * 5 + "|"]
    for name, reranking in (("similarity", None), ("regions", REGIONS), ("unsure", Reranking("unsure"))):
        sides = [
            ([estimates[row] for row in rows], [truths[row] for row in rows], [reranked[row] for row in rows])
            for rows in (fitted, tested)
        ]
        of_fitted, of_tested = (None if reranking is None else side[2] for side in sides)
        calibration = fit_calibration(*sides[0][:2], reranked=of_fitted, reranking=reranking)
        judged = judge_calibration(calibration, *sides[1][:2], of_tested)
        fit = calibration if reranking is None or calibration.reranked is None else calibration.reranked
        answered = judged.confidences >= fit.threshold(0.95)
        share = f"{100 * answered.mean():.1f} % ({100 * judged.correct[answered].mean():.1f} %)" if answered.any() else "none"
        lines.append(
            f"| {name} | {100 * judged.correct.mean():.1f} % | {judged.expected_calibration_error:.3f} | {judged.brier:.4f} "
            f"| {share} |"
        )
    return lines


def _estimates(searched: Searched) -> list[PositionEstimate]:
    index = searched.index
    rows, similarities = searched.rows[:, :NUM_MATCHES], searched.similarities[:, :NUM_MATCHES]
    matches = rows_to_matches(rows, similarities, index.places, index.settings.photo_folder)
    return [estimate for of_query in matches if (estimate := estimate_position(of_query)) is not None]


def _reranked(searched: Searched, encoder: PlaceEncoder) -> list[RerankedEstimate]:
    boxes, index = encoder.region_boxes or [], searched.index
    reranker = Reranker(StoredRegions(index.descriptors, len(boxes)), position_penalties(boxes), REGIONS)
    rows, similarities = searched.rows[:, : REGIONS.num_searched], searched.similarities[:, : REGIONS.num_searched]
    matches = rows_to_matches(rows, similarities, index.places, index.settings.photo_folder)
    results = reranker.rerank_matches(searched.descriptors, searched.queries.files, matches)
    estimates = [estimate_reranked(of_query, NUM_MATCHES) for of_query in results]
    return [estimate for estimate in estimates if isinstance(estimate, RerankedEstimate)]


def _row(name: str, base: Evaluation, evaluation: Evaluation, milliseconds: float, reranker: Reranker) -> str:
    first = compare_evaluations(base, evaluation).differences[0]
    low, high = first.interval_95 or (np.nan, np.nan)
    share = reranker.num_reranked / reranker.num_queries
    difference = f"{100 * (first.second - first.first):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return (
        f"| {name} | {_recalls(evaluation)} | {difference} | {first.won}, {first.lost} | {100 * share:.1f} % "
        f"| {reranker.num_compared / max(1, reranker.num_reranked):.1f} | {milliseconds:.2f} |"
    )


def _recall(evaluation: Evaluation) -> float:
    return float(evaluation.recall()["recall@1"]["recall"])


def _recalls(evaluation: Evaluation) -> str:
    return " | ".join(f"{100 * entry['recall']:.1f}" for entry in evaluation.recall().values())


def _unit(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Encode the queries once, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--validation-map", type=Path, required=True)
    parser.add_argument("--validation-queries", type=Path, required=True)
    parser.add_argument("--choose", action="store_true", help="Print the table of the validation map, and search no other.")
    arguments = parser.parse_args()
    encoder = PlaceEncoder("embedded")
    validation = search(PlaceIndex.open(arguments.validation_map), arguments.validation_queries, encoder)
    if arguments.choose:
        print(choose(validation, encoder.region_boxes))
        return
    test = search(PlaceIndex.open(arguments.map), arguments.queries, encoder)
    print(f"{len(test.rows):,} queries, {len(test.index):,} database photos\n")
    print("\n".join(measure(test, validation, encoder)), flush=True)
    print("\n" + "\n".join(confidences(test, encoder)))


if __name__ == "__main__":
    main()
