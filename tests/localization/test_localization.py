"""Positions and confidences by hand, and calibration on random answers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.index import IndexSettings, Match, PlaceIndex
from d2vpr_hf.localization import (
    Calibration,
    Localization,
    cross_judge,
    estimate_position,
    fit_calibration,
    judge_calibration,
    load_calibration,
    localize,
)
from d2vpr_hf.localization.localize import NO_MATCHES, NO_POSITIONS, NOT_CALIBRATED
from d2vpr_hf.localization.plots import save_plots
from d2vpr_hf.places import Place


def match(rank, similarity, east, north=0.0, zone="32T", **fields):
    return Match(rank, rank, Place(f"{rank}.jpg", utm_east=east, utm_north=north, utm_zone=zone, **fields), Path(), similarity)


def test_a_majority_outvotes_the_top_match():
    """Three matches are at one corner, and a better match is elsewhere: the position of the top match would be 1 km off."""
    matches = [match(1, 0.9, 500_000.0), *(match(rank, 0.89, 501_000.0 + rank, heading=90.0) for rank in (2, 3, 4))]
    estimate = estimate_position([*matches, match(5, 0.5, 509_000.0)])
    assert abs(estimate.position[0] - 501_003) < 1e-6
    assert estimate.place.heading == 90.0
    assert estimate.place.utm_zone == "32T" and estimate.place.latitude == pytest.approx(0.0, abs=1e-6)


def test_features_by_hand():
    """Two matches of one place and one 100 m away, with similarities 1, 1 and 0, have weights 1, 1 and exp(-3)."""
    estimate = estimate_position([match(1, 1.0, 500_000.0), match(2, 1.0, 500_000.0), match(3, 0.0, 500_100.0)])
    far = math.exp(-3) / (2 + math.exp(-3))
    spread = 100 * math.sqrt(far * (1 - far))  # standard deviation of two values with these probabilities
    assert estimate.features == pytest.approx([1.0, 1.0, 1 - far, math.log1p(spread), 1.0])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 500)), min_size=1, max_size=12), st.floats(-1, 1), st.floats(0.01, 10))
def test_estimates_do_not_depend_on_the_scale_of_similarities(pairs, shift, scale):
    """Models differ in the range of their similarities; positions must not depend on it."""
    similarities = sorted((round(similarity, 3) for similarity, _ in pairs), reverse=True)
    plain, moved = (
        estimate_position([match(1, factor * s + add, 500_000 + x) for s, (_, x) in zip(similarities, pairs, strict=True)])
        for factor, add in ((1.0, 0.0), (scale, shift))
    )
    assert len(set(similarities)) == 1 or moved.features[2] == pytest.approx(plain.features[2], abs=1e-5)
    assert np.isfinite(moved.features).all() and 0 < moved.features[2] <= 1 + 1e-9


def test_local_frames_keep_their_height_and_name():
    matches = [Match(1, 1, Place("a", x=1.0, y=2.0, z=3.0, yaw=30.0, frame="hall"), Path(), 0.5)]
    place = estimate_position(matches).place
    assert (place.x, place.y, place.z, place.yaw, place.frame, place.latitude) == (1.0, 2.0, 3.0, 30.0, "hall", None)


def test_matches_in_other_frames_have_no_vote():
    matches = [match(1, 0.9, 500_000.0), match(2, 0.9, 100_000.0, zone="33T"), Match(3, 3, Place("nowhere"), Path(), 0.9)]
    assert estimate_position(matches).position == (500_000.0, 0.0)


def draw_answers(count, seed=0, outside=0.0):
    """Draw estimates that are correct with a probability given by their similarity, or 100 to 900 m off."""
    rng = np.random.default_rng(seed)
    estimates, truths = [], []
    for query in range(count):
        clarity = rng.uniform(0, 1)
        is_correct = rng.uniform() < 1 / (1 + np.exp(8 - 16 * clarity)) and rng.uniform() >= outside
        east = 500_000.0 + 60 * query
        matched_east = east + (rng.normal(0, 3) if is_correct else rng.uniform(100, 900))
        matches = [match(rank, clarity - 0.01 * rank, matched_east) for rank in range(1, 4)]
        estimates.append(estimate_position(matches))
        truths.append(Place(f"q{query}", utm_east=east, utm_north=0.0, utm_zone="32T"))
    return estimates, truths


def test_confidences_are_probabilities_of_being_correct():
    calibration = fit_calibration(*draw_answers(3000))
    reliability = judge_calibration(calibration, *draw_answers(3000, seed=1))
    assert reliability.expected_calibration_error < 0.03
    assert reliability.brier < 0.8 * reliability.base_brier
    assert 0.87 < reliability.radius_coverage < 0.93
    answered = reliability.confidences >= calibration.threshold(0.9)
    assert answered.mean() > 0.05 and reliability.correct[answered].mean() > 0.87
    assert 0.87 < (reliability.errors <= reliability.radii)[answered].mean() < 0.96


def off_by(errors):
    """Return estimates with the given errors in metres; similarity falls with the error."""
    truth = Place("q", utm_east=500_000.0, utm_north=0.0, utm_zone="32T")
    estimates = [estimate_position([match(1, 0.9 - 0.001 * error, 500_000.0 + error)]) for error in errors]
    return estimates, [truth] * len(errors)


def test_radii_by_hand():
    """99 correct estimates, 0.1 to 9.9 m off, and 99 wrong ones, 101 to 199 m off: quantiles are ranks of 100."""
    correct, wrong = (0.1 * np.arange(1, 100), 100.0 + np.arange(1, 100))
    calibration = fit_calibration(*off_by([*correct, *wrong]))
    expected = {
        1.0: 9.0,  # 0.9 / 1: the 90th of the correct errors
        0.95: 9.5,  # 0.9 / 0.95 = 0.947: the 95th of the correct errors
        0.9: 25.0,  # all correct errors: the threshold
        0.8: 150.0,  # 0.8 of the 0.9 are correct; the rest is 0.1 / 0.2 of the wrong errors: the 50th
        0.5: 180.0,
        0.0: 190.0,
    }
    assert {confidence: calibration.radius_90(confidence) for confidence in expected} == pytest.approx(expected, abs=1e-6)


def test_few_labelled_queries_give_confident_answers_a_small_radius():
    """Quantiles over a hundred similar confidences would give confident answers a radius of hundreds of metres."""
    calibration = fit_calibration(*draw_answers(120))
    reliability = judge_calibration(calibration, *draw_answers(3000, seed=1))
    sure = reliability.confidences >= 0.95
    assert sure.mean() > 0.2 and reliability.radii[sure].max() < 10
    assert 0.87 < (reliability.errors <= reliability.radii)[sure].mean() < 0.97
    assert 0.85 < reliability.radius_coverage < 0.95


def test_reliability_by_hand():
    """Two bins: 10 queries of confidence 0.9, 8 of them correct, and 30 of confidence 0.1, 6 of them correct."""
    from d2vpr_hf.localization import Reliability

    correct = np.array([True] * 8 + [False] * 2 + [True] * 6 + [False] * 24)
    confidences = np.array([0.9] * 10 + [0.1] * 30)
    reliability = Reliability(confidences, confidences, correct, np.where(correct, 1.0, 9.0), np.full(40, 5.0))
    assert reliability.expected_calibration_error == pytest.approx((0.1 * 10 + 0.1 * 30) / 40)
    assert reliability.brier == pytest.approx((8 * 0.01 + 2 * 0.81 + 6 * 0.81 + 24 * 0.01) / 40)
    assert reliability.base_brier == pytest.approx(0.35 * 0.65)
    assert reliability.radius_coverage == 14 / 40


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_a_calibration_survives_json_bit_for_bit(seed):
    calibration = fit_calibration(*draw_answers(120, seed))
    loaded = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert loaded == calibration
    steps = np.diff([loaded.radius_90(confidence) for confidence in np.linspace(0, 1, 50)])
    assert (steps <= 1e-9).all()  # the radius does not rise with the confidence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format 2, this package reads format 1"),
        ({"weights": [1.0]}, "do not fit each other"),
        ({"features": ["similarity"] * 5}, "do not fit each other"),
        ({"nonsense": 1}, "damaged"),
    ],
)
def test_calibrations_with_other_formats_or_columns_are_refused(change, message):
    values = fit_calibration(*draw_answers(100)).to_dict() | change
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(values)


@pytest.mark.parametrize("values", [[], {}, None, {"format_version": 1}])
def test_damaged_calibrations_are_refused(values):
    with pytest.raises(ValueError, match="damaged"):
        Calibration.from_dict(values)


def test_too_few_queries_are_refused_with_advice():
    """The message has the numbers of queries, and advice that depends on them."""
    with pytest.raises(ValueError, match=r"at least 50 labelled queries.*got 20 queries.*Add queries with positions"):
        fit_calibration(*draw_answers(20))
    with pytest.raises(ValueError, match=r"got 200 queries, 0 correct, median error \d+ m\. Are they from this map's area"):
        fit_calibration(*draw_answers(200, outside=1.0))
    with pytest.raises(ValueError, match=r"200 correct, median error .* Remove queries that are in the index themselves"):
        fit_calibration(*draw_answers(200), positive_dist_threshold=1000.0)


def test_a_half_with_too_few_queries_is_named():
    """There are enough queries, but most are in one square, so the error must say that a half has too few."""
    estimates, truths = draw_answers(90)
    crowded = [replace(truth, utm_east=500_000.0) if number < 80 else truth for number, truth in enumerate(truths)]
    with pytest.raises(ValueError, match=r"halves of the queries, those in every other square of 100 m, .*got \d+ queries"):
        cross_judge(estimates, crowded)


def test_queries_with_positions_in_another_frame_are_named():
    estimates, truths = draw_answers(100)
    truths[7] = replace(truths[7], utm_zone=None)
    with pytest.raises(ValueError, match=r"q7 has no position in UTM zone 32 north.*Give queries with positions of the map's"):
        fit_calibration(estimates, truths)


def test_incomplete_answers_have_a_note():
    """Without a position or a calibration, an answer has a note instead of guesses."""
    assert localize([], None).note == NO_MATCHES
    assert localize([Match(1, 1, Place("a"), Path(), 0.9)], None).note == NO_POSITIONS
    answer = localize([match(1, 0.9, 500_000.0)], None)
    assert (answer.note, answer.confidence, answer.radius_90, answer.no_match) == (NOT_CALIBRATED, None, None, None)
    assert answer.place.utm_east == 500_000.0


def test_answers_below_the_threshold_are_no_match():
    calibration = fit_calibration(*draw_answers(3000))
    sure = [match(rank, 0.99 - 0.01 * rank, 500_000.0) for rank in (1, 2, 3)]
    unsure = [match(rank, 0.2 - 0.01 * rank, 500_000.0 + 300 * rank) for rank in (1, 2, 3)]
    accepted, rejected = (localize(matches, calibration, "q.jpg", precision=0.9) for matches in (sure, unsure))
    assert accepted.no_match is False and accepted.radius_90 < 25 and accepted.confidence > 0.9
    assert rejected.no_match is True and rejected.place is None and rejected.radius_90 is None and rejected.confidence < 0.3
    assert localize(sure, calibration, precision=1.0).confidence == accepted.confidence
    assert localize(unsure, calibration, precision=0.0).no_match is False
    with pytest.raises(ValueError, match="within 0 and 1"):
        localize(sure, calibration, precision=95)


def test_an_answer_is_converted_to_json_values():
    answer = Localization("q.jpg", Place("", latitude=1.0, longitude=2.0, heading=90.0), 3.5, 0.75, False).to_dict()
    assert answer == {
        "query": "q.jpg",
        "latitude": 1.0,
        "longitude": 2.0,
        "utm_east": None,
        "utm_north": None,
        "utm_zone": None,
        "heading": 90.0,
        "radius_90": 3.5,
        "confidence": 0.75,
        "no_match": False,
    }
    assert Localization("q.jpg", error="broken").to_dict()["error"] == "broken"


def test_a_calibration_of_another_model_is_refused(tmp_path):
    index = PlaceIndex.create(tmp_path / "index", IndexSettings(None, "one", 2))
    assert load_calibration(index) is None
    for fingerprint in ("one", None):
        calibration = fit_calibration(*draw_answers(100), fingerprint=fingerprint)
        index.store_calibration(calibration.to_dict())
        assert load_calibration(PlaceIndex.open(index.folder)) == calibration
    index.store_calibration(fit_calibration(*draw_answers(100), fingerprint="two").to_dict())
    with pytest.raises(ValueError, match="another model"):
        load_calibration(index)


def test_plots_of_the_reliability_are_written(tmp_path):
    reliability = cross_judge(*draw_answers(300))
    assert len(reliability.correct) == 300
    assert all(path.stat().st_size > 5000 for path in save_plots(reliability, tmp_path))
