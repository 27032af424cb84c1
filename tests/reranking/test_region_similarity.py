"""Region similarities by hand, and the vectorised form against loops."""

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.model_info.region_boxes import own_region_boxes, pyramid_boxes
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig
from d2vpr_hf.modeling.grid_aggregation import cell_averaging
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.known_weights import with_known_weights
from d2vpr_hf.reranking.options import reranking_of
from d2vpr_hf.reranking.region_similarity import position_penalties, region_values, split_regions
from d2vpr_hf.reranking.region_weights import MIN_QUERIES, fit_region_weights
from d2vpr_hf.reranking.whitening import fit_whitening

HALVES = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]


def test_a_region_that_moved_to_the_other_half_is_found_less_its_penalty():
    """The query's regions are a and b, those of the candidate b and a: each is found at a distance of half a photo."""
    a, b = np.eye(2, dtype=np.float32)
    penalties = position_penalties(HALVES, 0.4)
    np.testing.assert_allclose(penalties, [[0, 0.2], [0.2, 0]], atol=1e-7)
    same, moved = np.stack([a, b]), np.stack([b, a])
    np.testing.assert_allclose(region_values(same, np.stack([same, moved]), penalties), [[1.0, 1.0], [0.8, 0.8]], atol=1e-6)


def test_a_region_that_only_one_photo_has_counts_in_its_direction_only():
    """Both of the candidate's regions are in the query, and only the first of the query's is in the candidate."""
    a, b = np.eye(2, dtype=np.float32)
    values = region_values(np.stack([a, b]), np.stack([a, a])[None], np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(values, [[1.0, 0.5]], atol=1e-6)


def test_all_candidates_at_once_have_the_values_of_loops():
    rng = np.random.default_rng(0)
    boxes = pyramid_boxes()
    query = split_regions(rng.normal(size=(1, 14 * 5)), 14)[0]
    candidates = split_regions(rng.normal(size=(7, 14 * 5)), 14)
    penalties = position_penalties(boxes)
    expected = []
    for candidate in candidates:
        values = np.array([[candidate[i] @ query[j] - penalties[i, j] for j in range(14)] for i in range(14)])
        expected.append([(max(values[r]) + max(values[:, r])) / 2 for r in range(14)])
    np.testing.assert_allclose(region_values(query, candidates, penalties), expected, atol=1e-5)


def test_regions_have_unit_length_and_zeros_stay():
    regions = split_regions(np.array([[3.0, 4.0, 0.0, 0.0]]), 2)
    np.testing.assert_allclose(regions, [[[0.6, 0.8], [0.0, 0.0]]], atol=1e-6)


def test_boxes_are_in_the_order_of_the_features():
    """A pyramid's boxes have the patches that the aggregator averages; those of a D²-VPR are in its table."""
    cells = cell_averaging([[1 / 2], [5 / 16, 11 / 16]], (16, 16)).reshape(13, 16, 16) > 0
    boxes = own_region_boxes(CricaVPRConfig())
    assert boxes == pyramid_boxes() and len(boxes) == 14
    for box, cell in zip(boxes[1:], cells, strict=True):
        rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
        edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        assert [round(16 * side) for side in box] == list(edges)
    config = D2VPRConfig()
    assert own_region_boxes(config)[1:] == [tuple(region["box"]) for region in config.regions]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "all"}, "`rerank` must be one of unsure, regions, got 'all'"),
        ({"top": 1}, "`rerank_top` must be at least 2, got 1"),
        ({"weight": 0.0}, "must be above 0, got 0.0"),
        ({"region_weights": (0.5, 0.4)}, "with a sum of 1"),
        ({"region_weights": (1.5, -0.5)}, "must be at least 0"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reranking(**arguments)


def test_the_number_of_candidates_alone_is_refused():
    assert reranking_of(None, None) is None and reranking_of("regions", 7) == Reranking("regions", 7)
    with pytest.raises(ValueError, match="`rerank_top` belongs to `rerank`"):
        reranking_of(None, 7)


def test_whitening_by_hand():
    """Variances of 16 and 1 along the axes become those of the power 1/2: axes are multiplied by 16 ** -1/4 and 1."""
    corners = np.array([[14.0, 21.0], [6.0, 21.0], [14.0, 19.0], [6.0, 19.0]], np.float32)
    regions = np.tile(corners, (50, 1))[:, None].astype(np.float32)  # 200 photos of one region
    whitening = fit_whitening(regions)
    np.testing.assert_allclose(whitening.mean, [[10.0, 20.0]], atol=1e-5)
    np.testing.assert_allclose(whitening.matrix, np.diag([0.5, 1.0]), atol=1e-5)
    np.testing.assert_allclose(whitening(regions[:1]), [[[2 / 5**0.5, 1 / 5**0.5]]], atol=1e-5)
    assert fit_whitening(regions[:199]) is None


def labelled(count, seed=0):
    """Queries with four candidates, the first correct: region 0 shows it, and region 1 and the similarity are noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 4, 2)).astype(np.float32)
    values[:, 0, 0] += 3
    correct = np.zeros((count, 4), bool)
    correct[:, 0] = True
    return values, rng.normal(size=(count, 4)).astype(np.float32), correct


def test_the_region_that_shows_the_place_gets_the_weight():
    weight, weights = fit_region_weights(*labelled(2000))
    assert weights[0] > 0.8 and sum(weights) == pytest.approx(1.0) and min(weights) >= 0
    assert weight > 2


def test_too_few_labelled_queries_fit_nothing_and_matches_that_were_not_compared_do_not_count():
    values, similarities, correct = labelled(MIN_QUERIES)
    assert fit_region_weights(values[:-1], similarities[:-1], correct[:-1]) is None
    weights = fit_region_weights(values, similarities, correct)
    more = np.full((MIN_QUERIES, 1, 2), np.nan, np.float32)
    padded = np.concatenate([values, more], 1), np.pad(similarities, ((0, 0), (0, 1))), np.pad(correct, ((0, 0), (0, 1)))
    np.testing.assert_allclose(np.hstack(fit_region_weights(*padded)), np.hstack(weights), rtol=1e-4)
    assert fit_region_weights(more, similarities[:, :1], correct[:, :1]) is None


def test_the_embedded_model_has_known_weights():
    """Another embedded model needs other weights: `python -m benchmarks.reranking` prints them."""
    fingerprint = PlaceEncoder("embedded").fingerprint
    options = with_known_weights(Reranking(), fingerprint)
    assert len(options.region_weights) == 14 and options.region_weights[-1] < min(options.region_weights[:7])
    assert with_known_weights(Reranking(region_weights=(1.0,)), fingerprint).region_weights == (1.0,)
    assert with_known_weights(Reranking(), "another").region_weights is None
    assert options.weight != 2.0 and with_known_weights(Reranking(weight=5.0), fingerprint).weight == 5.0
