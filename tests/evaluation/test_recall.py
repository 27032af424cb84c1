"""Recall, positives and confidence, compared with brute force and with values computed by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.evaluation import (
    NearbyPositives,
    PhotoSet,
    PositiveRule,
    bootstrap_interval,
    evaluate_descriptors,
    precision_curve,
    recall_at,
)
from d2vpr_hf.evaluation.recall import check_recall_values, first_positive_ranks, mark_correct, recall_with_positives


def brute_force_recall(predictions, positives, n):
    pairs = zip(predictions, positives, strict=True)
    return np.mean([any(row in query_positives for row in rows[:n]) for rows, query_positives in pairs])


@settings(max_examples=100)
@given(st.integers(1, 12), st.integers(1, 30), st.permutations([1, 2, 5, 10, 40]), st.integers(0, 9999))
def test_recall_agrees_with_brute_force_for_any_order_of_n(num_queries, num_rows, recall_values, seed):
    """Descriptors of small integers make ties common; an N beyond the database's size means the whole database."""
    rng = np.random.default_rng(seed)
    database, queries = (rng.integers(0, 3, (count, 3)).astype(np.float32) for count in (num_rows, num_queries))
    database_points, query_points = (rng.integers(0, 200, (count, 2)).astype(float) for count in (num_rows, num_queries))
    evaluation = evaluate_descriptors(
        database, queries, PhotoSet(database_points), PhotoSet(query_points), recall_values=recall_values
    )
    near = [np.flatnonzero(np.hypot(*(database_points - point).T) <= 25) for point in query_points]
    order = [np.argsort(((database - query) ** 2).sum(axis=1), kind="stable") for query in queries]
    expected = {f"recall@{n}": brute_force_recall(order, near, n) for n in recall_values}
    assert {name: entry["recall"] for name, entry in evaluation.recall().items()} == pytest.approx(expected)
    assert list(evaluation.recall()) == list(expected)
    assert [query.num_positives for query in evaluation.queries] == [len(rows) for rows in near]


def test_recall_by_hand():
    """Queries found at rank 1, at rank 3, not within 3, and one without a positive, which counts as a miss."""
    predictions = np.array([[4, 0, 1], [0, 1, 5], [0, 1, 2], [0, 1, 2]])
    correct, counts = mark_correct(predictions, [np.array([4]), np.array([5, 6]), np.array([9]), np.array([], int)])
    ranks = first_positive_ranks(correct)
    assert ranks.tolist() == [1, 3, 0, 0] and counts.tolist() == [1, 2, 1, 0]
    assert recall_at(ranks, [3, 1, 2]).tolist() == [0.5, 0.25, 0.25]
    assert recall_with_positives(ranks, counts, [3, 1]).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_minus_one_is_never_correct():
    """FAISS returns -1 where the database has fewer than k rows; Python would read it as the last row."""
    correct, _ = mark_correct(np.array([[0, -1], [-1, -1]]), [np.array([9]), np.array([-1, 9])])
    assert not correct.any()


def test_ranks_are_zero_without_predictions_and_recall_is_nan_without_queries():
    assert first_positive_ranks(np.zeros((2, 0), bool)).tolist() == [0, 0]
    assert np.isnan(recall_at(np.zeros(0, np.int64), [1])).all()
    assert np.isnan(recall_with_positives(np.zeros(2, np.int64), np.zeros(2, np.int64), [1])).all()


@pytest.mark.parametrize("values", [[], [5, 0], [-1]])
def test_recall_values_below_one_are_refused_and_duplicates_removed(values):
    with pytest.raises(ValueError, match="N of at least 1"):
        check_recall_values(values)
    assert check_recall_values([10, 1, 10]) == (10, 1)


# ---- positives


def test_the_threshold_is_inclusive():
    positives = NearbyPositives(np.array([[0.0, 0], [25, 0], [25.001, 0], [15, 20]]), np.array([[0.0, 0]]), 25)[0]
    assert sorted(positives.tolist()) == [0, 1, 3]


def test_headings_wrap_around():
    sides = [PhotoSet(np.zeros((len(degrees), 2)), np.array(degrees)) for degrees in ([350.0, 30, 180, -10], [10.0])]
    assert PositiveRule(heading_tolerance=20).find(*sides)[0].tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="need headings of the query photos"):
        PositiveRule(heading_tolerance=20).find(sides[0], PhotoSet(np.zeros((1, 2))))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 12), st.booleans(), st.integers(0, 999))
def test_positives_equal_brute_force(count, tolerance, by_frames, seed):
    rng = np.random.default_rng(seed)
    if by_frames:
        sides, rule = [PhotoSet(frames=rng.permutation(count)) for _ in range(2)], PositiveRule(frame_tolerance=tolerance)
        near = np.abs(sides[1].frames[:, None] - sides[0].frames[None]) <= tolerance
    else:
        sides = [PhotoSet(rng.uniform(0, 50, (count, 3)), rng.uniform(0, 360, count)) for _ in range(2)]
        rule = PositiveRule(10.0 + tolerance, heading_tolerance=90)
        metres = np.linalg.norm(sides[1].positions[:, None] - sides[0].positions[None], axis=2)
        angles = np.abs((sides[1].headings[:, None] - sides[0].headings[None] + 180) % 360 - 180)
        near = (metres <= 10 + tolerance) & (angles <= 90)
    positives = rule.find(*sides)
    assert [sorted(positives[query].tolist()) for query in range(count)] == [np.flatnonzero(row).tolist() for row in near]


def test_places_are_cells_of_a_grid():
    """A drive with queries every 20 m is many places, not one; two floors of a building are two places."""
    drive = PhotoSet(np.column_stack([np.arange(0, 200, 20.0), np.zeros(10)]))
    assert PositiveRule().group(drive).tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert PositiveRule().group(PhotoSet(np.array([[0, 0, 0.0], [0, 0, 30.0], [1, 1, 1.0]]))).tolist() == [0, 1, 0]
    frames = PhotoSet(frames=np.arange(5))
    assert PositiveRule(frame_tolerance=2).group(frames).tolist() == [0, 0, 1, 1, 2]
    assert PositiveRule(frame_tolerance=0).group(frames).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive_dist_threshold": 0}, "above 0 metres, got 0"),
        ({"positive_dist_threshold": None}, "above 0 metres, got None"),
        ({"positive_dist_threshold": math.nan}, "above 0 metres, got nan"),
        ({"heading_tolerance": 181}, "within 0 and 180 degrees, got 181"),
        ({"frame_tolerance": -1}, "at least 0 frames, got -1"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PositiveRule(**options)


# ---- bootstrap


def test_places_are_resampled_not_photos():
    """Two places with a hundred photos each: all queries of the first are correct, all of the second wrong.

    A draw can take one of the places twice, so the interval is from 0 to 1. If single photos were drawn, 95 % of the recalls
    would be between 0.43 and 0.57.
    """
    hits, places = np.repeat([[True], [False]], 100, axis=0), np.repeat([7, 3], 100)
    assert bootstrap_interval(hits, places)[:, 0].tolist() == [0.0, 1.0]
    alone = bootstrap_interval(hits, np.arange(200))[:, 0]
    assert 0.42 < alone[0] < 0.45 and 0.55 < alone[1] < 0.58


def test_the_interval_of_few_places_is_all_their_draws():
    """Three places with 1, 2 and 3 photos have 27 equally likely draws, whose percentiles are the interval."""
    hits, places = np.array([[1], [0], [1], [0], [0], [1]]), np.array([0, 1, 1, 2, 2, 2])
    sums, sizes = np.array([1, 1, 1]), np.array([1, 2, 3])
    draws = [sums[list(draw)].sum() / sizes[list(draw)].sum() for draw in itertools.product(range(3), repeat=3)]
    interval = bootstrap_interval(hits, places, num_resamples=20_000)[:, 0]
    assert interval == pytest.approx(np.percentile(draws, [2.5, 97.5], method="inverted_cdf"), abs=1e-12)


def test_the_interval_is_seeded_and_needs_two_places():
    hits, places = np.random.default_rng(0).random((50, 2)) < 0.5, np.arange(50) // 3
    assert np.array_equal(bootstrap_interval(hits, places), bootstrap_interval(hits, places))
    assert not np.array_equal(bootstrap_interval(hits, places), bootstrap_interval(hits, places, seed=1))
    assert bootstrap_interval(hits, np.zeros(50, int)) is None


# ---- confidence


def test_precision_by_hand():
    """Five queries, four with a positive. By falling similarity: correct; a tie of correct and wrong; wrong; correct."""
    curve = precision_curve(np.float32([0.5, 0.9, 0.7, 0.7, 0.6]), np.array([True, True, True, False, False]), 4)
    assert curve.thresholds.tolist() == np.float32([0.9, 0.7, 0.6, 0.5]).tolist()
    assert curve.precision.tolist() == [1, 2 / 3, 2 / 4, 3 / 5]
    assert curve.coverage.tolist() == [0.2, 0.6, 0.8, 1.0]
    assert curve.recall.tolist() == [0.25, 0.5, 0.5, 0.75]
    assert curve.auc_pr == pytest.approx(0.25 * 1 + 0.25 * 2 / 3 + 0 + 0.25 * 3 / 5)
    assert curve.recall_at_100_precision == 0.25


def test_a_tie_of_a_correct_and_a_wrong_match_has_no_full_precision():
    """No threshold accepts only one of two queries of equal similarity, in either order of the two."""
    for correct in ([True, False], [False, True]):
        curve = precision_curve(np.float32([0.8, 0.8]), np.array(correct), 2)
        assert (curve.recall_at_100_precision, curve.auc_pr) == (0.0, 0.25)


def test_precision_is_perfect_without_wrong_matches_and_undefined_without_positives():
    perfect = precision_curve(np.float32([0.1, 0.2]), np.array([True, True]), 2)
    assert (perfect.auc_pr, perfect.recall_at_100_precision) == (1.0, 1.0)
    nothing = precision_curve(np.float32([0.1, 0.2]), np.array([False, False]), 0)
    assert math.isnan(nothing.auc_pr) and math.isnan(nothing.recall_at_100_precision)
