"""Region similarities by hand, and the vectorised form against loops."""

import numpy as np
import pytest

from d2vpr_hf.model_info.region_boxes import own_region_boxes, pyramid_boxes
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig
from d2vpr_hf.modeling.grid_aggregation import cell_averaging
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.options import reranking_of
from d2vpr_hf.reranking.region_similarity import position_penalties, region_similarities, split_regions

HALVES = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]


def test_a_region_that_moved_to_the_other_half_is_found_less_its_penalty():
    """The query's regions are a and b, those of the candidate b and a: each is found at a distance of half a photo."""
    a, b = np.eye(2, dtype=np.float32)
    penalties = position_penalties(HALVES, 0.4)
    np.testing.assert_allclose(penalties, [[0, 0.2], [0.2, 0]], atol=1e-7)
    same, moved = np.stack([a, b]), np.stack([b, a])
    np.testing.assert_allclose(region_similarities(same, np.stack([same, moved]), penalties), [1.0, 0.8], atol=1e-6)


def test_a_region_that_only_one_photo_has_counts_in_its_direction_only():
    """Both of the candidate's regions are in the query, and only one of the query's in the candidate: (1 + 0.5) / 2."""
    a, b = np.eye(2, dtype=np.float32)
    value = region_similarities(np.stack([a, b]), np.stack([a, a])[None], np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(value, [0.75], atol=1e-6)


def test_all_candidates_at_once_have_the_values_of_loops():
    rng = np.random.default_rng(0)
    boxes = pyramid_boxes()
    query = split_regions(rng.normal(size=(1, 14 * 5)), 14)[0]
    candidates = split_regions(rng.normal(size=(7, 14 * 5)), 14)
    penalties = position_penalties(boxes)
    expected = []
    for candidate in candidates:
        values = np.array([[candidate[i] @ query[j] - penalties[i, j] for j in range(14)] for i in range(14)])
        expected.append((np.mean([max(row) for row in values]) + np.mean([max(row) for row in values.T])) / 2)
    np.testing.assert_allclose(region_similarities(query, candidates, penalties), expected, atol=1e-5)


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
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reranking(**arguments)


def test_the_number_of_candidates_alone_is_refused():
    assert reranking_of(None, None) is None and reranking_of("regions", 7) == Reranking("regions", 7)
    with pytest.raises(ValueError, match="`rerank_top` belongs to `rerank`"):
        reranking_of(None, 7)
