"""`--rerank` from photos to answers, reports and calibrations, and the errors of what cannot be re-ranked."""

import json
import re
import shutil

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import Calibration, load_calibration, localize_photos
from d2vpr_hf.localization.labelled_reranking import _fitted
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.reranking.known_weights import KNOWN_WEIGHTS
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from tests.command_line import run
from tests.conftest import save_folder, tiny_model
from tests.photos import save_town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A map of 12 spots with labelled queries, and two tiny models."""
    folder = save_town(tmp_path_factory.mktemp("town"), noise=25)
    save_folder(tiny_model(), folder / "model")
    save_folder(tiny_model(projection_dim=8, normalize_projection=True), folder / "projected")
    index_photos(folder / "database", folder / "index", PlaceEncoder(folder / "model"))
    return folder


@pytest.fixture(scope="module")
def encoder(town):
    return PlaceEncoder(town / "model", batch_size=8)


@pytest.fixture(scope="module")
def calibrated(town):
    """The index with a calibration that was fitted with re-ranking of unsure answers."""
    index = shutil.copytree(town / "index", town / "calibrated")
    code, output, errors = run("calibrate", index, "--queries", town / "queries", "--rerank", "unsure", "--json")
    assert code == 0, errors
    assert json.loads(output)["count"] == 120
    return index


def some_queries(town, count=12):
    return sorted((town / "queries").iterdir())[:count]


def test_a_search_shows_similarities_of_regions_and_sorts_by_the_fused_ones(town, encoder):
    index = PlaceIndex.open(town / "index")
    results = search_photos(index, some_queries(town), encoder, top_k=12, reranking=Reranking("regions", max_gap=2.0))
    plain = search_photos(index, some_queries(town), encoder, top_k=12)
    orders = [[[match.row for match in result.matches] for result in side] for side in (results, plain)]
    assert orders[0] != orders[1] and [sorted(rows) for rows in orders[0]] == [list(range(12))] * 12
    for result in results:
        fused = [match.fused_similarity for match in result.matches]
        assert fused == sorted(fused, reverse=True)
        for match in result.matches:
            assert match.fused_similarity == pytest.approx((match.similarity + 2 * match.region_similarity) / 3, abs=1e-6)
    code, output, _ = run("search", town / "index", some_queries(town)[0], "--rerank", "regions", "--json")
    match = json.loads(output)[0]["matches"][0]
    assert code == 0 and match["reranked"] is True and -1 <= match["region_similarity"] <= 1
    table = run("search", town / "index", some_queries(town)[0], "--rerank", "regions")[1]
    assert "  regions " in table


def test_a_calibration_with_re_ranking_answers_both_kinds_of_runs(town, calibrated, encoder):
    index = PlaceIndex.open(calibrated)
    calibration = load_calibration(index, encoder)
    fit = calibration.reranked
    assert (fit.rerank, fit.rerank_top, len(fit.region_weights)) == ("unsure", 20, 14)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    queries = sorted((town / "queries").iterdir())
    plain = localize_photos(index, queries, encoder, calibration, precision=0.0)
    without = localize_photos(PlaceIndex.open(town / "index"), queries, encoder, None)
    reranked = localize_photos(index, queries, encoder, calibration, precision=0.0, reranking=Reranking())
    assert not any(answer.reranked for answer in (*plain, *without))
    is_unsure = [answer.confidence < (fit.unsure_below or 1.1) for answer in plain]
    assert [answer.reranked for answer in reranked] == is_unsure and any(is_unsure)
    for first, second in zip(plain, reranked, strict=True):
        assert 0 <= second.confidence <= 1 and len(second.matches) == 10
        if not second.reranked:
            assert second.confidence == first.confidence and second.place == first.place
    code, output, _ = run("localize", calibrated, *queries[:3], "--rerank", "unsure", "--precision", 0, "--json")
    answers = json.loads(output)
    assert code == 0 and [answer["reranked"] for answer in answers] == [answer.reranked for answer in reranked[:3]]
    assert [answer["confidence"] for answer in answers] == pytest.approx(
        [answer.confidence for answer in reranked[:3]], abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localize", "INDEX", "QUERY", "--rerank", "unsure"), r"has none for these queries\. Fit one with `d2vpr calibrate"),
        (("search", "INDEX", "QUERY", "--rerank", "unsure"), "or give `--rerank regions` to re-rank all"),
        (("search", "INDEX", "QUERY", "--rerank-top", "5"), "`--rerank-top` belongs to `--rerank`"),
        (("localize", "CALIBRATED", "QUERY", "--rerank", "regions"), "`--rerank unsure --rerank-top 20`, and this run has"),
        (("localize", "CALIBRATED", "QUERY", "--rerank", "unsure", "--rerank-top", "5"), "--rerank-top 5"),
        (("search", "INDEX", "QUERY", "--rerank", "regions", "--test-time", "five-crops"), "regions of whole photos"),
        (
            ("evaluate", "--database", "PHOTOS", "--queries", "QUERIES", "--rerank", "unsure"),
            "needs the calibration of an index",
        ),
        (("search", "INDEX", "--descriptors", "FILE", "--rerank", "regions"), "`--rerank` needs the regions of a model"),
    ],
)
def test_options_that_do_not_fit_are_refused(town, calibrated, arguments, message):
    names = {
        "INDEX": town / "index",
        "CALIBRATED": calibrated,
        "QUERY": some_queries(town)[0],
        "PHOTOS": town / "database",
        "QUERIES": town / "queries",
        "FILE": town / "rows.npy",
    }
    code, output, errors = run(*(names.get(argument, argument) for argument in arguments))
    assert code != 0
    assert re.search(message, errors + output), errors + output


def test_a_calibration_without_re_ranking_is_refused(town, tmp_path, encoder):
    index = shutil.copytree(town / "index", tmp_path / "index")
    assert run("calibrate", index, "--queries", town / "queries")[0] == 0
    code, _, errors = run("localize", index, some_queries(town)[0], "--rerank", "unsure")
    assert code != 0 and "fitted without re-ranking" in errors and "d2vpr calibrate --rerank" in errors
    # a search states no confidence, so that any calibration tells unsure answers from others
    assert run("search", index, some_queries(town)[0], "--rerank", "unsure")[0] == 0


def test_a_damaged_fit_of_re_ranking_is_refused(calibrated):
    values = PlaceIndex.open(calibrated).calibration
    for change in ({"weights": [1.0]}, {"region_weights": [2.0, -1.0]}, {"rerank": "all"}, {"weight": "2"}):
        with pytest.raises(ValueError, match="damaged"):
            Calibration.from_dict(values | {"reranked": values["reranked"] | change})


def test_an_evaluation_records_re_ranking_and_equals_the_search(town, tmp_path, encoder):
    report = tmp_path / "report.json"
    arguments = ("--queries", town / "queries", "--model", town / "model", "--rerank", "regions", "--rerank-top", 5)
    code, output, errors = run("evaluate", "--database", town / "database", *arguments, "--json", report)
    assert code == 0, errors
    evaluation = Evaluation.load(report)
    assert evaluation.reranking["reranked"] == 120 and evaluation.reranking["rerank_top"] == 5
    assert 120 <= evaluation.reranking["comparisons"] <= 600 and "re-ranked: 120 of 120 queries" in output
    results = search_photos(
        PlaceIndex.open(town / "index"), [town / "queries"], encoder, top_k=1, reranking=Reranking("regions", 5)
    )
    tops = {result.query.name: result.matches[0].place.path for result in results}
    assert {query.path: query.top_match for query in evaluation.queries} == tops
    from_index = run("evaluate", "--database", town / "index", *arguments, "--json", tmp_path / "index.json")
    assert from_index[0] == 0
    assert Evaluation.load(tmp_path / "index.json").ranks.tolist() == evaluation.ranks.tolist()
    compared = run("evaluate", "--database", town / "index", *arguments[:4], "--json", tmp_path / "plain.json")
    assert compared[0] == 0 and "reranking" not in json.loads((tmp_path / "plain.json").read_text())
    assert "re-ranked differently: none and regions, top 5" in run("compare", tmp_path / "plain.json", report)[1]


def test_a_report_has_the_weights_that_were_used(town, tmp_path, encoder, monkeypatch):
    weights = (0.5, 0.5, *[0.0] * 12)
    monkeypatch.setitem(KNOWN_WEIGHTS, encoder.fingerprint, (3.0, weights))
    arguments = ("--database", town / "index", "--queries", town / "queries", "--rerank", "regions")
    assert run("evaluate", *arguments, "--json", tmp_path / "report.json")[0] == 0
    reranking = Evaluation.load(tmp_path / "report.json").reranking
    assert (reranking["weight"], reranking["region_weights"]) == (3.0, list(weights))


def test_too_few_labelled_queries_keep_the_weights_of_the_model():
    """With two queries nothing is fitted: the weights are those before, or equal ones."""
    values, similarities = np.ones((2, 3, 2), np.float32), np.ones((2, 3), np.float32)
    of_model = Reranking("regions", weight=3.0, region_weights=(0.9, 0.1))
    for options, weights in ((of_model, (0.9, 0.1)), (Reranking("regions"), (0.5, 0.5))):
        fitted = _fitted(options, values, similarities, np.eye(2, 3, dtype=bool), np.ones(2, bool))
        assert (fitted.weight, fitted.region_weights) == (options.weight, weights)


def test_a_calibrated_index_evaluates_its_unsure_answers(town, calibrated, encoder):
    code, output, errors = run("evaluate", "--database", calibrated, "--queries", town / "queries", "--rerank", "unsure")
    assert code == 0, errors
    calibration = load_calibration(PlaceIndex.open(calibrated), encoder)
    plain = localize_photos(PlaceIndex.open(calibrated), [town / "queries"], encoder, calibration)
    unsure = sum(answer.confidence < calibration.threshold(0.95) for answer in plain)
    assert f"re-ranked: {unsure} of 120 queries" in output


def test_photos_of_a_projected_model_are_encoded_again_and_counted(town, tmp_path, caplog):
    """The projection mixes regions. The order is that of the regions that the model computes before it."""
    encoder = PlaceEncoder(town / "projected", batch_size=8)
    index, _ = index_photos(town / "database", tmp_path / "index", encoder)
    queries = some_queries(town, 4)
    results = search_photos(index, queries, encoder, top_k=12, reranking=Reranking("regions", max_gap=2.0))
    assert all(match.region_similarity is not None for result in results for match in result.matches)
    assert "12 photos of the index and 4 queries were encoded again" in caplog.text
    shutil.move(town / "database", tmp_path / "moved")
    try:
        with pytest.raises(ValueError, match="hold no regions, and its photos are not in"):
            search_photos(index, queries, encoder, reranking=Reranking("regions"))
    finally:
        shutil.move(tmp_path / "moved", town / "database")


def test_query_sets_share_the_photos_that_are_encoded_again(town, tmp_path, caplog):
    for name, start in (("first", 0), ("second", 3)):
        (tmp_path / name).mkdir()
        for photo in some_queries(town, 12)[start : start + 3]:
            shutil.copy(photo, tmp_path / name)
    arguments = ("--queries", tmp_path / "first", "--queries", tmp_path / "second", "--model", town / "projected")
    code, _, errors = run("evaluate", "--database", town / "database", *arguments, "--rerank", "regions")
    assert code == 0, errors
    counts = re.findall(r"(\d+) photos of the index and (\d+) queries were encoded again", caplog.text + errors)
    assert len(set(counts)) == 1 and counts[0][1] == "6" and 1 <= int(counts[0][0]) <= 12
