"""The new order of matches, of which ones, and the counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.encoders import EncodedPhotos
from d2vpr_hf.index import IndexSettings, Match, PlaceIndex
from d2vpr_hf.localization.reranked_fit import first_order
from d2vpr_hf.places import Place
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.region_similarity import region_values, split_regions
from d2vpr_hf.reranking.region_sources import EncodedRegions, StoredRegions, indexed_regions
from d2vpr_hf.reranking.reranker import Reranker
from d2vpr_hf.reranking.whitening import MIN_ROWS, fit_whitening
from tests.stores.drawn_rows import draw

NO_PENALTY = np.zeros((2, 2), np.float32)
A, B, C = np.eye(3)
DATABASE = np.array([[*C, *C], [*B, *A], [*A, *C]]) / np.sqrt(2)  # two regions of three numbers each
QUERY = np.array([[*A, *B]]) / np.sqrt(2)
ROWS, SIMILARITIES = np.array([[0, 1, 2]]), np.array([[0.50, 0.49, 0.48]], np.float32)
REGION_SIMILARITIES = [0.0, 1.0, 0.5]  # of the rows, by hand: none, both and one of two regions are in the other photo


def make(options=Reranking("regions"), find_unsure=None, source=None):  # noqa: B008 - the default is immutable
    return Reranker(source or StoredRegions(DATABASE, 2), NO_PENALTY, options, find_unsure)


def test_the_order_is_that_of_the_weighted_mean():
    """With a weight of 2, the fused similarities are (0.50 + 0) / 3, (0.49 + 2) / 3 and (0.48 + 1) / 3."""
    reranker = make()
    result = reranker.rerank(QUERY, [None], ROWS, SIMILARITIES)
    assert result.rows.tolist() == [[1, 2, 0]] and result.order.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(result.region_similarities, [[1.0, 0.5, 0.0]], atol=1e-6)
    np.testing.assert_allclose(result.fused_similarities, [[0.83, 1.48 / 3, 0.5 / 3]], atol=1e-6)
    np.testing.assert_allclose(result.similarities, [[0.49, 0.48, 0.50]])
    assert (reranker.num_queries, reranker.num_reranked, reranker.num_compared) == (1, 1, 3)


def test_weights_of_regions_count():
    """The first region of row 2 is in the query, and the second is not: with all weight on the first, it has 1."""
    result = make(Reranking("regions", region_weights=(1.0, 0.0))).rerank(QUERY, [None], ROWS, SIMILARITIES)
    assert dict(zip(result.rows[0].tolist(), result.region_similarities[0].tolist(), strict=True)) == pytest.approx(
        {0: 0.0, 1: 1.0, 2: 1.0}
    )
    with pytest.raises(ValueError, match="weights of 2 regions, got 3"):
        make(Reranking("regions", region_weights=(0.5, 0.3, 0.2))).rerank(QUERY, [None], ROWS, SIMILARITIES)


def test_matches_behind_a_gap_are_not_compared_and_stay_behind():
    """The third match is 0.02 behind the best one: it counts with the smallest region similarity of the others, 0."""
    reranker = make(Reranking("regions", max_gap=0.015))
    result = reranker.rerank(QUERY, [None], ROWS, SIMILARITIES)
    assert result.rows.tolist() == [[1, 0, 2]] and reranker.num_compared == 2
    assert np.isnan(result.region_similarities[0, 2]) and result.fused_similarities[0, 2] == pytest.approx(0.16)


def test_only_the_first_matches_are_compared():
    reranker = make(Reranking("regions", top=2))
    assert reranker.rerank(QUERY, [None], ROWS, SIMILARITIES).rows.tolist() == [[1, 0, 2]]
    assert reranker.num_compared == 2


def test_missing_matches_are_never_compared():
    rows = np.array([[0, 1, -1]])
    result = make().rerank(QUERY, [None], rows, np.array([[0.5, 0.49, 0.48]], np.float32))
    assert result.rows.tolist() == [[1, 0, -1]] and np.isnan(result.region_similarities[0, 2])


def test_only_unsure_queries_are_re_ranked():
    seen = []

    def find_unsure(rows, similarities):
        seen.append((rows.shape, similarities.shape))
        return np.array([False, True])

    reranker = make(find_unsure=find_unsure)
    two = [np.repeat(values, 2, axis=0) for values in (QUERY, ROWS, SIMILARITIES)]
    result = reranker.rerank(two[0], [None, None], two[1], two[2])
    assert result.rows.tolist() == [[0, 1, 2], [1, 2, 0]] and result.is_reranked.tolist() == [False, True]
    assert np.isnan(result.fused_similarities[0]).all() and seen == [((2, 3), (2, 3))]
    assert (reranker.num_queries, reranker.num_reranked) == (2, 1)


def test_many_queries_at_once_have_the_order_of_one_by_one():
    rng = np.random.default_rng(0)
    database, queries = rng.normal(size=(30, 12)), rng.normal(size=(9, 12))
    rows = np.stack([rng.permutation(30)[:8] for _ in range(9)])
    similarities = np.sort(rng.uniform(0.4, 0.47, (9, 8)).astype(np.float32))[:, ::-1]
    source = StoredRegions(database, 3)
    penalties = np.zeros((3, 3), np.float32)
    options = Reranking("regions", weight=0.1, max_gap=0.04)
    together = Reranker(source, penalties, options).rerank(queries, [None] * 9, rows, similarities)
    for query in range(9):
        near = similarities[query] >= similarities[query, 0] - 0.04
        regions = split_regions(database[rows[query, near]], 3)
        values = region_values(split_regions(queries[query : query + 1], 3)[0], regions, penalties)
        fused = similarities[query, near] + 0.1 * values.mean(axis=1)
        expected = [*rows[query, near][np.argsort(-fused, kind="stable")], *rows[query, ~near]]
        assert together.rows[query].tolist() == expected


def test_matches_keep_their_places_and_get_new_ranks():
    matches = [
        Match(rank, row, Place(f"{row}.jpg"), Path(f"{row}.jpg"), float(similarity))
        for rank, (row, similarity) in enumerate(zip(ROWS[0].tolist(), SIMILARITIES[0], strict=True), 1)
    ]
    (result,) = make().rerank_matches(QUERY, [None], [matches])
    assert [(match.rank, match.row, match.place.path) for match in result] == [
        (1, 1, "1.jpg"),
        (2, 2, "2.jpg"),
        (3, 0, "0.jpg"),
    ]
    first = result[0].to_dict()
    assert first["reranked"] is True and first["similarity"] == pytest.approx(0.49)
    assert first["region_similarity"] == pytest.approx(1.0) and first["fused_similarity"] == pytest.approx(0.83)
    before = matches[0].to_dict()
    assert (before["reranked"], before["region_similarity"], before["fused_similarity"]) == (False, None, None)
    assert make().rerank_matches(QUERY, [None], [[]]) == [[]]


def test_queries_with_several_descriptors_are_refused():
    with pytest.raises(ValueError, match=r"gives several\. Leave it out"):
        make().rerank(np.zeros((1, 5, 6)), [None], ROWS, SIMILARITIES)


def test_the_whitening_of_an_index_is_fitted_once_and_again_when_its_rows_change(tmp_path, monkeypatch):
    """Rows that are not stored yet may change with each frame, so that the whitening is fitted at each call."""
    fits = []

    def fit(regions):
        fits.append(regions)
        return fit_whitening(regions)

    monkeypatch.setattr("d2vpr_hf.reranking.region_sources.fit_whitening", fit)
    descriptors, places = draw(MIN_ROWS + 2, 6), [Place(f"{row}.jpg") for row in range(MIN_ROWS + 2)]
    index = PlaceIndex.create(tmp_path / "index", IndexSettings("model", "fingerprint", 6))
    index.add(descriptors[:-1], places[:-1])
    index.flush()
    counts = []
    for change in (
        lambda: None,
        lambda: index.remove([places[0].path]),
        lambda: index.update(descriptors[:1], places[1:2]),
        lambda: index.add(descriptors[-1:], places[-1:]),
        index.flush,
        index.compact,
    ):
        change()
        fits.clear()
        regions = [indexed_regions(index, 2).of_rows(np.arange(200)) for _ in range(2)]
        counts.append(len(fits))
        np.testing.assert_array_equal(regions, [StoredRegions(index.descriptors, 2).of_rows(np.arange(200))] * 2)
    assert counts == [1, 1, 1, 2, 1, 1]


class RegionEncoder:
    """An encoder whose photos are row numbers; those of 100 and more are queries."""

    region_shape = (2, 3)

    def __init__(self, unreadable=()):
        self.seen, self.unreadable = [], unreadable

    def encode_regions(self, photos):
        numbers = [int(photo.name) for photo in photos]
        self.seen += numbers
        rows = [row for row, number in enumerate(numbers) if number not in self.unreadable]
        descriptors = [QUERY[0] if numbers[row] >= 100 else DATABASE[numbers[row]] for row in rows]
        skipped = {row: "not an image" for row in range(len(numbers)) if row not in rows}
        return EncodedPhotos(np.reshape(descriptors, (-1, 2, 3)).astype(np.float32), np.array(rows, np.int64), skipped)


def test_photos_that_are_encoded_again_give_the_order_of_stored_rows_and_are_encoded_once(caplog):
    encoder = RegionEncoder()
    reranker = make(source=EncodedRegions(encoder, lambda row: Path(str(row))))
    for number in (100, 101):
        result = reranker.rerank(QUERY, [Path(str(number))], ROWS, SIMILARITIES)
        assert result.rows.tolist() == [[1, 2, 0]]
        np.testing.assert_allclose(result.region_similarities, [[1.0, 0.5, 0.0]], atol=1e-3)
    assert sorted(encoder.seen) == [0, 1, 2, 100, 101]
    reranker.report()
    assert "3 photos of the index and 2 queries were encoded again" in caplog.text


def test_photos_that_cannot_be_read_are_counted_and_not_compared(caplog):
    encoder = RegionEncoder(unreadable=(0,))
    reranker = make(source=EncodedRegions(encoder, lambda row: Path(str(row))))
    result = reranker.rerank(QUERY, [Path("100")], ROWS, SIMILARITIES)
    assert result.rows.tolist() == [[1, 0, 2]] and np.isnan(result.region_similarities[0, 1])
    reranker.report()
    assert "1 photos of the index could not be read" in caplog.text and "0 first: not an image" in caplog.text
    unreadable = make(source=EncodedRegions(RegionEncoder(unreadable=(100,)), lambda row: Path(str(row))))
    assert unreadable.rerank(QUERY, [Path("100")], ROWS, SIMILARITIES).is_reranked.tolist() == [False]
    unread = make(source=EncodedRegions(RegionEncoder(unreadable=(0, 1, 2)), lambda row: Path(str(row))))
    caplog.clear()
    assert unread.rerank(QUERY, [Path("100")], ROWS, SIMILARITIES).is_reranked.tolist() == [False]
    unread.report()
    assert "3 photos of the index could not be read" in caplog.text


def test_the_first_order_is_that_of_the_search_for_equal_photos_too():
    matches = [Match(rank, rank - 1, Place(""), Path(), similarity) for rank, similarity in enumerate((0.9, 0.9, 0.8), 1)]
    assert first_order([replace(matches[row], fused_similarity=0.5) for row in (2, 1, 0)]) == matches
