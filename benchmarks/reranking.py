"""Re-ranking by regions against the order of similarity: recall, cost and the error of confidences.

    d2vpr index DATABASE --out MAP; d2vpr index VALIDATION_DATABASE --out VALIDATION_MAP
    python -m benchmarks.reranking MAP QUERIES --validation-map VALIDATION_MAP --validation-queries VALIDATION_QUERIES

Both maps are of the embedded model. It prints the tables of docs/reranking.md; --choose prints that of the validation map, from
which penalty and gap were chosen.
"""

import argparse
import time
from dataclasses import dataclass, replace
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
from d2vpr_hf.evaluation.recall import mark_correct
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.search import rows_to_matches
from d2vpr_hf.localization import estimate_position, fit_calibration, judge_calibration
from d2vpr_hf.localization.calibrated_reranking import find_unsure
from d2vpr_hf.localization.consensus import NUM_MATCHES, PositionEstimate
from d2vpr_hf.localization.reliability import chessboard_halves
from d2vpr_hf.localization.reranked_fit import RerankedEstimate, estimate_reranked
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD
from d2vpr_hf.projection import ProjectionFit
from d2vpr_hf.readers import read_places
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.options import TOP
from d2vpr_hf.reranking.region_similarity import DISTANCE_PENALTY, position_penalties
from d2vpr_hf.reranking.region_sources import EncodedRegions, RegionSource, StoredRegions
from d2vpr_hf.reranking.region_weights import fit_region_weights
from d2vpr_hf.reranking.reranker import FindUnsure, Reranker, order_rows, reorder
from d2vpr_hf.stores.exact import exact_search, similarity

DEPTH = 100  # matches of a query
RECALLS = (1, 5, 10)
ENCODED_AGAIN = 300  # queries of the row that encodes photos again
PCA_DIM = 256
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


@dataclass(frozen=True)
class Compared:
    """Matches of a map whose regions were compared.

    Attributes:
        searched: The map.
        values: (Q, DEPTH, R) values of the regions; NaN for matches that were not compared.
        milliseconds: Time of the comparison for each query.
    """

    searched: Searched
    values: NDArray[np.float32]
    milliseconds: float

    def fit(self, chosen: NDArray[np.bool_] | None = None) -> Reranking:
        """Return options with the weights that the queries give, all of them or some (Q,)."""
        correct = _correct(self.searched)
        rows = slice(None) if chosen is None else chosen
        fitted = fit_region_weights(self.values[rows], self.searched.similarities[rows], correct[rows])
        return REGIONS if fitted is None else Reranking("regions", TOP, fitted[0], region_weights=fitted[1])

    def order(self, options: Reranking) -> NDArray[np.int64]:
        """Return the new order (Q, DEPTH) by the weights of some options."""
        return order_rows(self.searched.rows, self.searched.similarities, self.values, options).order


def compare(
    searched: Searched,
    boxes: Any,
    options: Reranking = REGIONS,
    *,
    source: RegionSource | None = None,
    distance_penalty: float = DISTANCE_PENALTY,
    find: FindUnsure | None = None,
) -> Compared:
    """Compare the regions of all queries and candidates."""
    source = source or StoredRegions(searched.index.descriptors, len(boxes))
    source.of_rows(searched.rows[:1, 0])  # the whitening is fitted once
    reranker = Reranker(source, position_penalties(boxes, distance_penalty), options, find)
    start = time.perf_counter()
    values = reranker.compare(searched.descriptors, searched.queries.files, searched.rows, searched.similarities)
    return Compared(searched, values, 1000 * (time.perf_counter() - start) / len(searched.rows))


def _correct(searched: Searched) -> NDArray[np.bool_]:
    """Return whether each match (Q, DEPTH) is correct."""
    positives = PositiveRule().find(searched.database.photos, searched.queries.photos)
    return mark_correct(searched.rows, positives)[0]


def choose(validation: Searched, boxes: Any) -> str:
    """Return R@1 on the validation map as a Markdown table: equal weights, and fitted ones cross-validated over places."""
    lines = ["| penalty | gap | equal weights: R@1, % | fitted weights: R@1, % |", "| --- " * 4 + "|"]
    places = PositiveRule().group(validation.queries.photos)
    fold = np.random.default_rng(0).permutation(places.max() + 1)[places] % 5
    for penalty, gap in product((0.0, 0.2, 0.4, 0.8), (0.05, 0.1, 0.2)):
        compared = compare(validation, boxes, Reranking("regions", TOP, max_gap=gap), distance_penalty=penalty)
        recall = 100 * _recall(validation.evaluate(compared.order(REGIONS)))
        fitted = 100 * _recall(validation.evaluate(_cross_fitted(compared, fold)))
        lines.append(f"| {penalty:g} | {gap:g} | {recall:.1f} | {fitted:.1f} |")
    return "\n".join(lines)


def _cross_fitted(compared: Compared, fold: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of each query by weights that the queries of other folds gave."""
    order = np.zeros_like(compared.searched.rows)
    for number in np.unique(fold).tolist():
        order[fold == number] = compared.order(compared.fit(fold != number))[fold == number]
    return order


def measure(test: Searched, validation: Searched, encoder: PlaceEncoder) -> list[str]:
    """Return the lines of the table of recalls."""
    boxes = encoder.region_boxes
    fitted = compare(validation, boxes).fit()
    calibration = fit_calibration(_estimates(validation), validation.queries.places)
    find: FindUnsure = partial(find_unsure, test.index, calibration)
    base = test.evaluate()
    lines = [
        "| row | R@1 | R@5 | R@10 | R@1, difference (95 % interval) | won, lost | re-ranked | compared, mean | ms a query |",
        "| --- " * 9 + "|",
        f"| similarity | {_recalls(base)} | | | | | |",
    ]
    compared = compare(test, boxes)
    places = PositiveRule().group(test.queries.photos)
    half = np.random.default_rng(0).permutation(places.max() + 1)[places] % 2
    rows = {
        "whitened regions, equal weights": (compared, compared.order(REGIONS)),
        "weights of the validation city": (compared, compared.order(fitted)),
        "weights of the other half of the places": (compared, _cross_fitted(compared, half)),
    }
    unsure = compare(test, boxes, Reranking("unsure"), find=find)
    rows["weights of the validation city, unsure answers"] = unsure, unsure.order(fitted)
    for top in (5, 10, 50):
        some = compare(test, boxes, Reranking("regions", top))
        rows[f"weights of the validation city, top {top}"] = some, some.order(fitted)
    lines += [_row(name, base, *row) for name, row in rows.items()]
    named = zip(("whole photo", *map(str, range(1, len(boxes or ())))), fitted.region_weights or (), strict=True)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in named)
    return [*lines, *_projected_rows(test, validation, encoder), "", f"Weight {fitted.weight:.2f}; regions: {weights}."]


def _projected_rows(test: Searched, validation: Searched, encoder: PlaceEncoder) -> list[str]:
    """Return the rows of a PCA, whose candidates are encoded again: some queries, for recall and cost."""
    fit = ProjectionFit(encoder.descriptor_dim)
    fit.add(np.asarray(validation.index.descriptors, np.float32))
    components = fit.components(PCA_DIM)
    sides = [
        _unit((np.asarray(side, np.float32) - components.mean) @ components.components.T)
        for side in (test.index.descriptors, test.descriptors)
    ]
    chosen = np.linspace(0, len(test.rows) - 1, min(ENCODED_AGAIN, len(test.rows))).astype(int)
    distances, rows = exact_search(sides[1][chosen], sides[0], DEPTH)
    some = Searched(
        test.index, test.database, test.queries.keep_rows(chosen, {}), rows, distances, np.asarray(test.descriptors[chosen])
    )
    paths = test.index.places.column("path")
    source = EncodedRegions(encoder, lambda row: test.index.settings.photo_folder / paths[row])
    base, compared = some.evaluate(), compare(some, encoder.region_boxes, source=source)
    return [
        f"| PCA to {PCA_DIM}, similarity, {len(chosen)} queries | {_recalls(base)} | | | | | |",
        _row(f"PCA to {PCA_DIM}, photos encoded again", base, compared, compared.order(REGIONS)),
    ]


def confidences(test: Searched, encoder: PlaceEncoder) -> list[str]:
    """Fit calibrations to one half of the places and judge them on the other; return the lines of a table."""
    estimates, truths = _estimates(test), test.queries.places
    places = PositiveRule().group(test.queries.photos)
    half = np.random.default_rng(0).permutation(places.max() + 1) % 2
    fitted, tested = (np.flatnonzero(half[places] == side) for side in (0, 1))
    compared = compare(test, encoder.region_boxes)
    reranked = {}
    # as `d2vpr calibrate` does: the estimates that confidences are fitted to have weights of other queries
    chessboard = chessboard_halves([truths[row] for row in fitted.tolist()], POSITIVE_DIST_THRESHOLD)
    for side in (0, 1):
        reranked |= _reranked(compared, fitted[chessboard == side], fitted[chessboard != side])
    reranked |= _reranked(compared, tested, fitted)
    lines = ["| run | correct | calibration error | Brier | answered at 0.95 (correct of them) |", "| --- " * 5 + "|"]
    for name, reranking in (("similarity", None), ("regions", REGIONS), ("unsure", Reranking("unsure"))):
        sides = [
            ([estimates[row] for row in rows], [truths[row] for row in rows], [reranked[row] for row in rows])
            for rows in (fitted.tolist(), tested.tolist())
        ]
        of_fitted, of_tested = (None if reranking is None else side[2] for side in sides)
        options = None if reranking is None else replace(reranking, region_weights=(1.0,))
        calibration = fit_calibration(*sides[0][:2], reranked=of_fitted, reranking=options)
        judged = judge_calibration(calibration, *sides[1][:2], of_tested)
        fit = calibration if reranking is None or calibration.reranked is None else calibration.reranked
        answered = judged.confidences >= fit.threshold(0.95)
        share = f"{100 * answered.mean():.1f} % ({100 * judged.correct[answered].mean():.1f} %)" if answered.any() else "none"
        lines.append(
            f"| {name} | {100 * judged.correct.mean():.1f} % | {judged.expected_calibration_error:.3f} | {judged.brier:.4f} "
            f"({judged.base_brier:.4f}) | {share} |"
        )
    return lines


def _estimates(searched: Searched) -> list[PositionEstimate]:
    index = searched.index
    rows, similarities = searched.rows[:, :NUM_MATCHES], searched.similarities[:, :NUM_MATCHES]
    matches = rows_to_matches(rows, similarities, index.places, index.settings.photo_folder)
    return [estimate for of_query in matches if (estimate := estimate_position(of_query)) is not None]


def _reranked(
    compared: Compared, chosen: NDArray[np.int64], fitted: NDArray[np.int64]
) -> dict[int, RerankedEstimate | PositionEstimate | None]:
    """Return the estimates of some queries after re-ranking by the weights that others give."""
    searched, index = compared.searched, compared.searched.index
    others = np.isin(np.arange(len(searched.rows)), fitted)
    depth = REGIONS.num_searched
    rows, similarities = searched.rows[chosen, :depth], searched.similarities[chosen, :depth]
    matches = rows_to_matches(rows, similarities, index.places, index.settings.photo_folder)
    reordered = reorder(matches, order_rows(rows, similarities, compared.values[chosen, :depth], compared.fit(others)))
    return {row: estimate_reranked(of_query, NUM_MATCHES) for row, of_query in zip(chosen.tolist(), reordered, strict=True)}


def _row(name: str, base: Evaluation, compared: Compared, order: NDArray[np.int64]) -> str:
    evaluation = compared.searched.evaluate(order)
    first = compare_evaluations(base, evaluation).differences[0]
    low, high = first.interval_95 or (np.nan, np.nan)
    difference = f"{100 * (first.second - first.first):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    is_compared = np.isfinite(compared.values[..., 0])
    is_reranked = is_compared.any(axis=1)
    return (
        f"| {name} | {_recalls(evaluation)} | {difference} | {first.won}, {first.lost} | {100 * is_reranked.mean():.1f} % "
        f"| {is_compared.sum() / max(1, is_reranked.sum()):.1f} | {compared.milliseconds:.2f} |"
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
