"""Positions and confidences by hand, and calibration on random answers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
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
    localize_photos,
)
from d2vpr_hf.localization.calibration import position_errors
from d2vpr_hf.localization.consensus import NOT_COMPARABLE
from d2vpr_hf.localization.localize import NO_MATCHES, NO_POSITIONS, NOT_CALIBRATED
from d2vpr_hf.localization.plots import save_plots
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.places.geometry import distances_in_frames, earth_degrees, earth_vectors, frame_points
from d2vpr_hf.places.place import EARTH_RADIUS, with_degrees, with_utm
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.index.workers import BytesEncoder, write_photos


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
    far = math.exp(-3) / (2 + math.exp(-3))
    spread = 100 * math.sqrt(far * (1 - far))  # standard deviation of two values with these probabilities
    rows = list(zip((1, 2, 3), (1.0, 1.0, 0.0), (0.0, 0.0, 100.0), strict=True))
    local = estimate_position([Match(rank, rank, Place("", x=x, y=0.0), Path(), similarity) for rank, similarity, x in rows])
    assert local.features == pytest.approx([1.0, 1.0, 1 - far, math.log1p(spread), 1.0])
    # positions with degrees are compared on a sphere, whose metres differ from those of UTM by up to 0.5 %
    on_earth = estimate_position([match(rank, similarity, 500_000.0 + x) for rank, similarity, x in rows])
    assert on_earth.features == pytest.approx([1.0, 1.0, 1 - far, math.log1p(spread), 1.0], rel=1e-3)


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


# ---- zones, hemispheres and frames


def at(latitude, longitude, **fields):
    return with_utm(Place("", latitude=latitude, longitude=longitude, **fields))


def ranked(places, similarities):
    pairs = enumerate(zip(places, similarities, strict=True), 1)
    return [Match(rank, rank, place, Path(), similarity) for rank, (place, similarity) in pairs]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (at(37.77, -122.42), at(40.7128, -74.006)),  # San Francisco and New York
        (at(51.4779, -0.3), at(51.4779, 0.00001)),  # Greenwich: zones 30 and 31
        (at(-0.45, 10.0), at(0.00001, 10.0)),  # the equator
        (at(-16.8, -179.9), at(-16.8, 179.9999)),  # the date line
        (at(59.33, 17.9), at(59.33, 18.00001)),  # Stockholm: zones 33 and 34
        (at(60.4, 2.9), at(60.4, 3.00001)),  # Bergen's wide zone
        (at(78.0, 8.9), at(78.0, 9.00001)),  # Svalbard
        (at(89.9, 0.0), at(89.9, 180.0)),  # both sides of the pole, without UTM
        (at(55.68, 12.57), replace(at(37.77, -122.42), latitude=None, longitude=None)),  # degrees, and metres with a zone
        (Place("", x=1.0, y=0.0, frame="floor 1"), Place("", x=50.0, y=0.0, frame="floor 2")),
        (Place("", x=1.0, y=0.0), at(1.0, 2.0)),  # a local frame, and degrees
        (Place("", utm_east=1.0, utm_north=2.0), at(1.0, 2.0)),  # metres without a zone, and degrees
    ],
)
def test_nine_matches_that_agree_beat_a_wrong_first_one(wrong, right):
    """The last of them has 5 % of the first one's weight, so the nine have about 0.9 of the weights."""
    similarities = [0.9] + [0.899] * 8 + [0.5]
    estimate = estimate_position(ranked([wrong] + [right] * 9, similarities))
    assert distance_in_metres(estimate.place, right) == pytest.approx(0.0, abs=1e-6)
    similarity, margin, support, log_spread, _ = estimate.features
    assert similarity == 0.899 and margin == pytest.approx(-0.001)
    assert 0.87 < support < 0.91 and log_spread > math.log(500)
    assert np.isfinite(estimate.features).all()


def test_matches_on_both_sides_of_a_border_agree():
    """Their mean is on the border, in the zone of the best one, while the mean of longitudes may be behind the Earth."""
    for border, zones in ((0.0, {"30U", "31U"}), (180.0, {"60U", "1U"}), (18.0, {"33U", "34U"})):
        sides = [at(51.4779, (border + step + 180) % 360 - 180) for step in (0.0001, -0.0001)]
        assert {place.utm_zone for place in sides} == zones
        estimate = estimate_position(ranked(sides, [0.9, 0.9]))
        assert estimate.features[2] == pytest.approx(1.0) and estimate.features[3] == pytest.approx(math.log1p(6.93), abs=0.01)
        assert abs((estimate.place.longitude - border + 180) % 360 - 180) < 1e-9
        assert estimate.place.utm_zone == sides[0].utm_zone
        from_metres = replace(estimate.place, latitude=None, longitude=None)
        assert distance_in_metres(with_degrees(from_metres), estimate.place) < 1e-3


def test_a_mean_at_the_pole_has_no_utm_metres():
    places = [at(89.9999, longitude) for longitude in (0.0, 90.0, 180.0, -90.0)]  # 11 m from the pole
    estimate = estimate_position(ranked(places, [0.9] * 4))
    assert estimate.place.latitude == pytest.approx(90.0, abs=1e-6) and estimate.place.utm_east is None
    assert estimate.frame == "the Earth" and estimate.features[1:3].tolist() == [1.0, pytest.approx(1.0)]


def test_matches_with_local_coordinates_and_degrees_give_both():
    both = [Place("", 46.0, 11.0 + x / 77_000, x=x, y=0.0, z=z, frame="hall") for x, z in ((0.0, 3.0), (2.0, None))]
    place = estimate_position(ranked([*both, Place("nowhere")], [0.9, 0.9, 0.9])).place
    assert (place.x, place.z, place.frame) == (1.0, 3.0, "hall")
    assert (place.latitude, place.longitude) == pytest.approx((46.0, 11.0 + 1 / 77_000), abs=1e-9)
    assert place.utm_zone == "32T"
    mixed = estimate_position(ranked([*both, at(46.0, 11.0), at(46.0, 11.0)], [0.9] * 4))  # degrees have more weight
    assert mixed.place.x is None and mixed.features[2] == pytest.approx(1.0)


def test_matches_without_finite_positions_have_no_vote():
    nowhere = [Place(""), Place("", latitude=math.nan, longitude=0.0), Place("", x=math.inf, y=0.0)]
    assert estimate_position(ranked(nowhere, [0.9, 0.8, 0.7])) is None
    estimate = estimate_position(ranked([*nowhere, at(1.0, 2.0)], [0.9, 0.8, 0.7, 0.6]))
    assert estimate.features[0] == 0.6 and estimate.place.latitude == pytest.approx(1.0)


def rotations():
    """Rotations of the sphere as orthogonal matrices, from unit quaternions."""

    def matrix(numbers):
        w, x, y, z = np.array(numbers) / np.linalg.norm(numbers)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )

    return st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda numbers: np.linalg.norm(numbers) > 0.1).map(matrix)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(-40, 40), st.floats(-40, 40), st.sampled_from([0.0, 3.0])), min_size=1, max_size=12
    ),
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    rotations(),
)
def test_the_consensus_rotates_with_the_photos(rows, centre, rotation):
    """Zones, hemispheres, the date line and the poles are marks on a map; a sphere has none of them."""
    rows = sorted(((round(similarity, 3), *rest) for similarity, *rest in rows), reverse=True)
    origin = earth_vectors(*centre)
    side = np.cross(origin, [0.0, 1.0, 0.0] if abs(origin[1]) < 0.9 * EARTH_RADIUS else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    up = np.cross(side, origin / EARTH_RADIUS)
    vectors = np.array([origin + x * side + (y + far * 1e5) * up for _, x, y, far in rows])
    places = [at(*earth_degrees(vector)) for vector in vectors]
    distances = distances_in_frames(frame_points(places), len(places))
    assume(not (np.abs(distances - 25.0) < 1e-3).any())
    plain = estimate_position(ranked(places, [row[0] for row in rows]))
    turned = estimate_position(ranked([at(*earth_degrees(rotation @ vector)) for vector in vectors], [row[0] for row in rows]))
    assert turned.features == pytest.approx(plain.features, rel=1e-6, abs=1e-6)
    moved = rotation @ earth_vectors(plain.place.latitude, plain.place.longitude)
    assert np.linalg.norm(moved - earth_vectors(turned.place.latitude, turned.place.longitude)) < 1e-3


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


@settings(max_examples=20)
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


def test_queries_are_judged_across_zones_and_frames():
    """An estimate on another floor is wrong; a query that no photo of the map can be compared with is an error."""
    floors = [Place("", x=10.0 * number, y=0.0, frame=f"floor {number % 2}") for number in range(60)]
    estimates = [estimate_position(ranked([place], [0.9])) for place in [*floors, at(51.4779, 0.00001)]]
    truths = [replace(place, path="q", frame="floor 0", x=place.x + 1) for place in floors]
    errors = position_errors(estimates, [*truths, at(51.4779, -0.00001)])
    assert errors.tolist() == [1.0, NOT_COMPARABLE] * 30 + [pytest.approx(1.39, abs=0.01)]
    with pytest.raises(ValueError, match="q has no position in the local frame floor 0, the frame of the map"):
        position_errors(estimates, [replace(truths[0], frame="Floor 0"), *truths[1:], at(0, 0)])


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
        "yaw": None,
        "frame": None,
        "timestamp": None,
        "condition": None,
        "radius_90": 3.5,
        "confidence": 0.75,
        "no_match": False,
        "reranked": False,
        "matches": [],
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


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=10),
    st.sampled_from([(51.4779, 0.0), (0.0, 6.0), (-16.8, 180.0), (89.9999, 30.0)]),
    st.randoms(use_true_random=False),
)
def test_the_order_of_equal_similarities_matters_for_equal_votes_only(rows, centre, random):
    """Sums of the same weights in another order differ by rounding, which must not decide between sets of matches."""
    origin = earth_vectors(*centre)
    side = np.cross(origin, [0.0, 1.0, 0.0]) / np.linalg.norm(np.cross(origin, [0.0, 1.0, 0.0]))
    up = np.cross(side, origin / EARTH_RADIUS)
    places = [at(*earth_degrees(origin + x * side + y * up)) for _, x, y in rows]
    pairs = sorted(zip([0.9 - 0.1 * rank for rank, _, _ in rows], range(len(rows)), strict=True), reverse=True)
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    shuffled.sort(key=lambda pair: -pair[0])
    plain, turned = (
        estimate_position(ranked([places[row] for _, row in order], [similarity for similarity, _ in order]))
        for order in (pairs, shuffled)
    )
    assert turned.features[2:] == pytest.approx(plain.features[2:], abs=1e-9)
    distances = distances_in_frames(frame_points(places), len(places))
    similarities = np.array([0.9 - 0.1 * rank for rank, _, _ in rows])
    weights = np.exp(-3 * (similarities.max() - similarities) / max(np.ptp(similarities), 1e-9))
    votes = (distances <= 25) @ weights
    winners = {tuple((distances <= 25)[row]) for row in np.flatnonzero(votes >= votes.max() * (1 - 1e-9))}
    if len(winners) == 1:
        assert distance_in_metres(plain.place, turned.place) < 1e-3
        assert turned.features == pytest.approx(plain.features, abs=1e-9)


def test_of_equal_votes_the_tightest_wins():
    """Four matches in a line, 20 m, 10 m and 20 m apart: the second and the third have three votes each; so has the fifth."""
    line = [Place("", x=x, y=0.0) for x in (0.0, 20.0, 30.0, 50.0)]
    tight = [Place("", x=x, y=500.0) for x in (0.0, 1.0, 2.0)]
    for order in ([*line, *tight], [*tight, *line]):
        place = estimate_position(ranked(order, [0.9] * 7)).place
        assert (place.x, place.y) == pytest.approx((1.0, 500.0))


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc"), st.floats(0, 60)), min_size=1, max_size=10))
def test_names_of_local_frames_do_not_matter(rows):
    rows = sorted(((round(similarity, 3), *rest) for similarity, *rest in rows), reverse=True)
    names = {"a": None, "b": "hall", "c": "the attic"}
    plain, renamed = (
        estimate_position(ranked([Place("", x=x, y=0.0, frame=name(f)) for _, f, x in rows], [row[0] for row in rows]))
        for name in (str, names.get)
    )
    assert renamed.features == pytest.approx(plain.features) and renamed.place.x == plain.place.x
    assert renamed.place.frame == names[plain.place.frame]


def test_another_form_of_queries_is_warned_of(tmp_path, caplog):
    """Similarities of crops differ from those of whole photos, with which calibrations of earlier versions were made."""
    usual, crops = (fit_calibration(*draw_answers(100), test_time=form) for form in ("resize", "five-crops"))
    assert "test_time" not in usual.to_dict() and Calibration.from_dict(usual.to_dict()) == usual
    assert Calibration.from_dict(crops.to_dict()).test_time == "five-crops"
    table, encoder = write_photos(tmp_path / "photos", 3), BytesEncoder()
    index, _ = index_photos(table, tmp_path / "index", encoder)
    for form, calibration, count in (
        ("resize", usual, 0),
        ("five-crops", crops, 0),
        ("resize", crops, 1),
        ("five-crops", usual, 2),
    ):
        encoder.test_time = form
        localize_photos(index, [table.photo(table.places[0])], encoder, calibration)
        assert caplog.text.count("The calibration was made with queries of the form") == count
    assert 'form `test_time="resize"`, and these have `test_time="five-crops"`' in caplog.text
