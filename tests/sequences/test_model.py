"""Evidence, movements, densities and recalibration by hand."""

import numpy as np
import pytest

from d2vpr_hf.evaluation.indexed_photos import IndexColumns
from d2vpr_hf.places import Place
from d2vpr_hf.places.place_columns import PlaceColumns
from d2vpr_hf.sequences import Motion, SequenceAnswer, SequenceSettings, Step
from d2vpr_hf.sequences.evidence import frame_evidence, repeated_share
from d2vpr_hf.sequences.map_density import MapDensity
from d2vpr_hf.sequences.recalibration import fit_recalibration, plain_settings
from d2vpr_hf.sequences.states import States, bearings, state_distances
from tests.sequences.conftest import seen


def test_the_probabilities_of_a_frame_sum_to_one(road, calibration):
    """The share of a photo times its emission is its probability; unseen photos and "not in the map" have the rest."""
    matches = road.search(seen((7, 0.8)), 20)[0]
    evidence = frame_evidence(matches, calibration, 40, 0.3)
    photo = 0.7 / 40
    of_matches = photo * np.exp(evidence.log_emission)
    near = [abs(match.row - 7) <= 2 for match in matches]
    assert of_matches[near].sum() == pytest.approx(evidence.confidence)
    assert of_matches.sum() + 0.3 * np.exp(evidence.log_nowhere) == pytest.approx(1.0)
    assert evidence.confidence == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-3)  # similarity 0.8: 10 * 0.8 - 5
    assert frame_evidence(matches, None, 40, 0.3).log_nowhere == -np.inf


def test_evidence_repeats_as_far_as_matches_repeat(road):
    first, second = (road.search(seen((number, 0.9)), 3)[0] for number in (5, 30))
    assert repeated_share(first, first) == pytest.approx(1.0)
    assert repeated_share(first, second) < 0.2


def test_movements_within_reach_share_their_probability(road):
    """10 m a photo, 20 m/s and a second: 2 photos on both sides, 3 with the spacing, and the photo itself."""
    density = MapDensity(IndexColumns(road.places))
    assert (density.num_photos, density.spacing) == (40, 10.0)
    states = States.of_places([road.places[20], road.places[22], road.places[30]])
    fits, log_counts = Motion(max_speed=20.0).log_moves(states, states, Step(1.0), density)
    assert fits[0].tolist() == pytest.approx([0.0, 0.0, -0.5 * ((100 - 20) / 10) ** 2])
    assert np.exp(log_counts).tolist() == pytest.approx([7, 7, 7])
    fits, _ = Motion(scale_error=0.0).log_moves(states, states, Step(1.0, metres=20.0), density)
    assert fits[0].tolist() == pytest.approx([-0.5 * 2**2, 0.0, -0.5 * 8**2])


def test_turns_agree_with_headings():
    places = [Place("a", x=0.0, y=0.0, heading=350.0), Place("b", x=0.0, y=0.0, heading=80.0)]
    states = States.of_places(places)
    density = MapDensity(PlaceColumns(places))
    for turn, best in ((90.0, 1), (0.0, 0)):
        fits, _ = Motion().log_moves(states, states, Step(1.0, turn=turn), density)
        assert int(fits[0].argmax()) == best and fits[0].max() == pytest.approx(0.0)


@pytest.mark.parametrize(
    "places",
    [
        [Place("", x=0.0, y=0.0), Place("", x=100.0, y=0.0), Place("", x=0.0, y=100.0)],
        [
            Place("", latitude=60.0, longitude=5.0),
            Place("", latitude=60.0, longitude=5.0018),
            Place("", latitude=60.0009, longitude=5.0),
        ],
    ],
)
def test_bearings_are_clockwise_from_north(places):
    states = States.of_places(places)
    assert bearings(states, states)[0, 1:].tolist() == pytest.approx([90.0, 0.0], abs=0.1)
    assert state_distances(states, states)[0, 1:].tolist() == pytest.approx([100.0, 100.0], abs=0.2)


def test_states_move_in_the_direction_of_travel():
    """A camera that looks right moves north if it looks east; one without a heading stays and is less sure."""
    places = [Place("", latitude=60.0, longitude=5.0, heading=90.0), Place("", latitude=60.0, longitude=5.0)]
    moved = States.of_places(places).move(100.0, 0.0, 90.0)
    assert (moved.places[0].latitude - 60.0) * 111_195 == pytest.approx(100.0, abs=0.1)
    assert moved.places[0].longitude == pytest.approx(5.0)
    assert moved.spreads.tolist() == [0.0, 100.0] and moved.places[1] == places[1]


def test_two_frames_of_a_map_are_infinitely_far():
    places = [
        Place("", x=0.0, y=0.0, frame="one"),
        Place("", x=0.0, y=0.0, frame="two"),
        Place("", latitude=60.0, longitude=5.0),
    ]
    distances = state_distances(States.of_places(places), States.of_places(places))
    assert np.isinf(distances[~np.eye(3, dtype=bool)]).all() and (distances.diagonal() == 0).all()


def test_a_density_has_the_frames_of_states():
    """Columns of an index and places one by one must name their frames alike."""
    places = [
        Place("a", x=0.0, y=0.0, frame="one"),
        Place("b", x=5.0, y=0.0),
        Place("c", latitude=60.0, longitude=5.0),
        Place("d", utm_east=500_000.0, utm_north=4_000_000.0, utm_zone="32N"),
        Place("e", utm_east=1.0, utm_north=2.0),
        Place("f"),
    ]
    density = MapDensity(PlaceColumns(places))
    assert density.num_photos == 5
    states = States.of_places(places[:5])
    assert density.count(states, np.full(5, 1.0)).tolist() == [1.0] * 5
    twice = MapDensity(PlaceColumns([*places, *places]))
    assert twice.count(states, np.full(5, 1.0)).tolist() == [2.0] * 5


def test_a_recalibration_lowers_confidences_that_are_too_high():
    """Half of the answers of confidence 0.99 are correct; the frames alone tell nothing."""
    answers = [[SequenceAnswer("", confidence=0.99, confidence_alone=0.5, seconds=float(number)) for number in range(2)]] * 200
    answers += [[SequenceAnswer("", confidence=0.01, confidence_alone=0.5, seconds=0.0), SequenceAnswer("", error="bad")]] * 100
    marks = [[True, False]] * 200 + [[False, False]] * 100
    settings = fit_recalibration(answers, marks, SequenceSettings())
    odds = settings.slope * np.log(99) + settings.bias
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(0.5, abs=0.02)
    assert (plain_settings(settings).slope, plain_settings(settings).bias) == (1.0, 0.0)
    with pytest.raises(ValueError, match="needs correct and wrong answers, got 0 correct of 2"):
        fit_recalibration([answers[0]], [[False, False]], settings)
    with pytest.raises(ValueError, match="Calibrate the index first"):
        fit_recalibration([[SequenceAnswer("", seconds=0.0)]], [[True]], settings)
