"""Check a map by its own photos: where it is ambiguous, sparse or inconsistent, and how reliable its areas are.

Each photo is a query to all other photos of the map (leave one out). Nothing else is needed: the map's positions are the
labels, and the model of similar photos is fitted to photos that are near each other and photos that are far apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Progress
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization.consensus import estimate_position
from d2vpr_hf.map_check.evidence import MIN_AGREEING, weigh_evidence
from d2vpr_hf.map_check.neighbours import Neighbours, find_neighbours
from d2vpr_hf.map_check.pair_model import MIN_PAIRS, LogisticModel, heading_feature, pair_features
from d2vpr_hf.map_check.positions import NO_FRAME, AreaGrid, MapPositions
from d2vpr_hf.map_check.report import AliasPair, Area, MapReport, MisplacedPhoto, SimilarityCounts
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.places.geometry import EARTH
from d2vpr_hf.stores.descriptors import SelectedDescriptors

NUM_NEIGHBOURS = 16
MAX_PHOTOS = 100_000  # of a map that is checked whole; two cores take about two minutes
MIN_CONFIDENCE = 0.8
_FAR = 4.0  # default of the distance of far photos, as a multiple of that of near ones
_SIMILAR = 0.5  # probability from which on two photos count as similar
_UNLIKE = 0.2  # probability below which no photo near the stated position of a photo resembles it
_MOST_PAIRS = 1000  # listed pairs
_BINS = 40


def check_map(
    index: PlaceIndex,
    *,
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    far: float | None = None,
    area: float | None = None,
    num_neighbours: int = NUM_NEIGHBOURS,
    min_confidence: float = MIN_CONFIDENCE,
    max_photos: int = MAX_PHOTOS,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapReport:
    """Check a map by its own photos, without labels and without any other photo.

    Args:
        index: The map; of any encoder.
        positive_dist_threshold: Metres within which two photos are near each other, so that they may show the same place.
        far: Metres from which on two photos are far apart, so that they should not look the same; `None` for four times
            `positive_dist_threshold`. Pairs between both distances are evidence of nothing.
        area: Side in metres of the squares that reliability is computed for; `None` for the value of `far`.
        num_neighbours: Number of the most similar other photos of each photo that are compared.
        min_confidence: Least probability that a photo was taken at the position of its neighbours, for the photo to be called
            misplaced.
        max_photos: Number of photos above which only some areas are checked, against each other: areas drawn at random until
            their photos are as many.
        seed: Seed of that choice.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If an argument is not in its range, or fewer than two photos have a position.
    """
    far = _FAR * positive_dist_threshold if far is None else far
    area = far if area is None else area
    _check_arguments(positive_dist_threshold, far, area, num_neighbours, min_confidence, max_photos)
    all_places = list(index.places)
    all_positions = MapPositions.of(all_places)
    located = np.flatnonzero(all_positions.codes != NO_FRAME)
    if len(located) < 2:
        raise ValueError(
            f"A check needs photos with positions, and {len(located)} of the {len(all_places)} photos of {index.folder} have "
            "one. Build the map from photos with positions: docs/formats.md lists their sources."
        )
    rows = _draw_areas(all_positions.take(located), located, area, max_photos, seed)
    positions, places = all_positions.take(rows), [all_places[row] for row in rows.tolist()]
    descriptors = index.descriptors if len(rows) == len(index) else SelectedDescriptors(index.descriptors, rows)
    neighbours = find_neighbours(descriptors, num_neighbours, progress)
    pairs = _Pairs.of(positions, neighbours, positive_dist_threshold, far)
    checked = _CheckedMap(rows, places, positions, neighbours, pairs, positive_dist_threshold, far)
    return checked.report(index, len(all_places) - len(located), area, min_confidence)


def _check_arguments(
    threshold: float, far: float, area: float, num_neighbours: int, min_confidence: float, max_photos: int
) -> None:
    if not 0 < threshold < math.inf:
        raise ValueError(f"`positive_dist_threshold` must be above 0 metres, got {threshold}.")
    if not threshold <= far < math.inf:
        raise ValueError(f"`far` must be at least `positive_dist_threshold`, {threshold:g} metres; got {far}.")
    if not 0 < area < math.inf:
        raise ValueError(f"`area` must be above 0 metres, got {area}.")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"`min_confidence` must be within 0 and 1, got {min_confidence}.")
    if num_neighbours < MIN_AGREEING or max_photos < 2:
        raise ValueError(
            f"`num_neighbours` must be at least {MIN_AGREEING} and `max_photos` at least 2, got {num_neighbours} and "
            f"{max_photos}."
        )


def _draw_areas(positions: MapPositions, rows: NDArray[np.int64], side: float, max_photos: int, seed: int) -> NDArray[np.int64]:
    """Return the rows to check, ascending: all, or those of areas drawn at random."""
    if len(rows) <= max_photos:
        return rows
    numbers = AreaGrid.of(positions, side).numbers
    order = np.random.default_rng(seed).permutation(numbers.max() + 1)
    total = np.cumsum(np.bincount(numbers)[order])
    drawn = order[: max(1, int(np.searchsorted(total, max_photos, side="right")))]
    return rows[np.isin(numbers, drawn)]


@dataclass(frozen=True)
class _Pairs:
    """Each photo with each of its neighbours, (N, K).

    Attributes:
        distances: Metres; infinite without a common frame.
        is_near, is_far: Whether they are near each other, or far apart.
        probabilities: Probability that both show one place, from similarities alone; NaN if the map has too few near or far
            pairs.
        same_view: The same probability from similarities and headings.
    """

    distances: NDArray[np.float64]
    is_near: NDArray[np.bool_]
    is_far: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    same_view: NDArray[np.float64]

    @classmethod
    def of(cls, positions: MapPositions, neighbours: Neighbours, threshold: float, far: float) -> _Pairs:
        distances = positions.distances(np.arange(len(neighbours.rows))[:, None], neighbours.rows)
        is_near, is_far = distances <= threshold, (distances > far) & np.isfinite(distances)
        features = pair_features(neighbours.rows, neighbours.similarities)
        with_headings = np.dstack([features, heading_feature(positions.headings, neighbours.rows)])
        columns = (_fitted_probabilities(values, is_near, is_far) for values in (features, with_headings))
        return cls(distances, is_near, is_far, *columns)

    @property
    def not_judged(self) -> str | None:
        """The reason why no probability is known, or `None`."""
        if np.isnan(self.probabilities).any():
            counts = f"{self.is_near.sum()} of the compared pairs are near each other and {self.is_far.sum()} are far apart"
            return f"{counts}; similarities mean something from {MIN_PAIRS} of either on"
        if not (self.is_near & (self.probabilities >= _SIMILAR)).any():
            return (
                "photos near each other are not more similar than photos far apart, as in a map with one photo of each view. "
                "Add the photos of a second visit"
            )
        return None


def _fitted_probabilities(
    features: NDArray[np.float64], is_near: NDArray[np.bool_], is_far: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the probabilities (N, K) of features (N, K, F), fitted to the near and far pairs; NaN if these are too few."""
    if min(is_near.sum(), is_far.sum()) < MIN_PAIRS:
        return np.full(is_near.shape, np.nan)
    is_known = is_near | is_far
    return LogisticModel.fit(features[is_known], is_near[is_known]).probabilities(features)


@dataclass(frozen=True)
class _CheckedMap:
    """The photos that are checked, their neighbours and their pairs."""

    rows: NDArray[np.int64]
    places: list[Place]
    positions: MapPositions
    neighbours: Neighbours
    pairs: _Pairs
    threshold: float
    far: float

    def report(self, index: PlaceIndex, unplaced: int, side: float, min_confidence: float) -> MapReport:
        """Make the report."""
        pairs, count = self.pairs, len(self.rows)
        is_judged = pairs.not_judged is None
        misplaced = self._find_misplaced(min_confidence) if is_judged else []
        is_misplaced = np.isin(self.rows, [photo.row for photo in misplaced])
        is_similar = (pairs.probabilities >= _SIMILAR) & is_judged
        is_alias = pairs.is_far & is_similar
        is_alias &= ~is_misplaced[:, None] & ~is_misplaced[self.neighbours.rows]
        is_alone = self.positions.to_nearest() > self.threshold
        most_similar = np.isfinite(pairs.distances).argmax(axis=1)  # of the photos in the same frame
        states: dict[str, NDArray[np.bool_]] = {
            "with_second": ~is_alone,
            "confirmed": np.asarray((pairs.is_near & is_similar).any(axis=1)),
            "correct": pairs.is_near[np.arange(count), most_similar],
            "ambiguous": np.asarray(is_alias.any(axis=1)),
            "misplaced": is_misplaced,
        }
        alias_pairs, num_pairs = self._list_pairs(is_alias)
        return MapReport(
            index=str(index.folder),
            photos=len(index),
            unplaced=unplaced,
            checked=count,
            positive_dist_threshold=self.threshold,
            far=self.far,
            area_side=side,
            min_confidence=min_confidence,
            alone=int(is_alone.sum()),
            **{name: int(states[name].sum()) for name in ("confirmed", "correct", "ambiguous")},
            misplaced=tuple(misplaced),
            pairs=alias_pairs,
            num_pairs=num_pairs,
            areas=_list_areas(self.places, self.positions, side, states),
            similarities=_count_similarities(self.neighbours.similarities, pairs),
            not_judged=pairs.not_judged,
        )

    def _find_misplaced(self, min_confidence: float) -> list[MisplacedPhoto]:
        """Return the photos whose neighbours agree on a far position, while no photo near the stated one resembles them.

        The confidence of the neighbours' position is fitted to all photos: their neighbours' position is correct if it is near
        the stated one, which holds for almost all photos.
        """
        pairs, photos = self.pairs, np.arange(len(self.rows))
        evidence = weigh_evidence(self.positions, self.neighbours.rows, pairs.same_view, self.threshold)
        distances = pairs.distances[photos, evidence.best]
        is_near, is_far = distances <= self.threshold, (distances > self.far) & np.isfinite(distances)
        if is_near.sum() < MIN_PAIRS:
            return []
        model = LogisticModel.fit(evidence.features[is_near | is_far], is_near[is_near | is_far])
        confidences = model.probabilities(evidence.features)
        likeness = np.where(pairs.is_near, pairs.same_view, 0.0).max(axis=1)
        is_misplaced = is_far & (confidences >= min_confidence)
        is_misplaced &= (evidence.members.sum(axis=1) >= MIN_AGREEING) & (likeness < _UNLIKE)
        photos = np.flatnonzero(is_misplaced)
        photos = photos[np.argsort(-confidences[photos], kind="stable")]
        return [self._misplaced(photo, evidence.members[photo], float(confidences[photo])) for photo in photos.tolist()]

    def _misplaced(self, photo: int, members: NDArray[np.bool_], confidence: float) -> MisplacedPhoto:
        """Return a misplaced photo with the position that its agreeing neighbours suggest."""
        rows = self.neighbours.rows[photo][members].tolist()
        similarities = self.neighbours.similarities[photo][members].tolist()
        agreeing = [self.places[row] for row in rows]
        votes = zip(rows, agreeing, similarities, strict=True)
        matches = [Match(rank, row, place, Path(place.path), value) for rank, (row, place, value) in enumerate(votes, 1)]
        estimate = estimate_position(matches, len(matches), self.threshold)
        assert estimate is not None  # all neighbours have positions
        place = self.places[photo]
        distance = distance_in_metres(place, estimate.place)
        return MisplacedPhoto(int(self.rows[photo]), place, estimate.place, distance or 0.0, confidence, tuple(agreeing))

    def _list_pairs(self, is_alias: NDArray[np.bool_]) -> tuple[tuple[AliasPair, ...], int]:
        """Return the most similar pairs, each once, and the number of all."""
        photos, columns = np.nonzero(is_alias)
        if not len(photos):
            return (), 0
        others = self.neighbours.rows[photos, columns]
        best_near = np.where(self.pairs.is_near, self.neighbours.similarities, -np.inf).max(axis=1)
        similarities = self.neighbours.similarities[photos, columns]
        confuses = similarities >= best_near[photos]
        numbers = np.minimum(photos, others) * len(self.rows) + np.maximum(photos, others)
        _, firsts, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        any_confuses = np.bincount(inverse.reshape(-1), weights=confuses) > 0
        probabilities = self.pairs.probabilities[photos, columns]
        order = np.argsort(-similarities[firsts], kind="stable")[:_MOST_PAIRS]
        pairs = tuple(
            AliasPair(
                self.places[min(photos[pair], others[pair])],
                self.places[max(photos[pair], others[pair])],
                float(similarities[pair]),
                float(probabilities[pair]),
                float(self.pairs.distances[photos[pair], columns[pair]]),
                bool(any_confuses[number]),
            )
            for number, pair in zip(order.tolist(), firsts[order].tolist(), strict=True)
        )
        return pairs, len(firsts)


def _list_areas(
    places: list[Place], positions: MapPositions, side: float, states: dict[str, NDArray[np.bool_]]
) -> tuple[Area, ...]:
    """Return all areas, those with the lowest reliability first, and those without any last."""
    grid = AreaGrid.of(positions, side)
    count = len(grid.cells)
    photos = np.bincount(grid.numbers, minlength=count)
    firsts = np.unique(grid.numbers, return_index=True)[1].tolist()
    counts = {name: np.bincount(grid.numbers, weights=state, minlength=count).astype(int) for name, state in states.items()}
    areas = []
    for number in range(count):
        frame = positions.frames[grid.cells[number, 0]]
        edges = grid.degrees(number) if frame == EARTH else grid.corners(number)
        values = {name: int(column[number]) for name, column in counts.items()}
        areas.append(Area(frame, *edges, places[firsts[number]], photos=int(photos[number]), **values))
    return tuple(sorted(areas, key=lambda area: (2.0 if area.reliability is None else area.reliability, -area.photos)))


def _count_similarities(similarities: NDArray[np.floating], pairs: _Pairs) -> SimilarityCounts:
    """Return the numbers of near and far pairs by similarity, in bins of equal width."""
    used = similarities[pairs.is_near | pairs.is_far]
    low, high = (float(used.min()), float(used.max())) if len(used) else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    near, far = (np.histogram(similarities[chosen], edges)[0] for chosen in (pairs.is_near, pairs.is_far))
    return SimilarityCounts(tuple(edges.tolist()), tuple(near.tolist()), tuple(far.tolist()))
