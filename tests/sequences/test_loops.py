"""Loops of a robot that drives two laps of a square."""

from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.index import Match
from d2vpr_hf.places import Place
from d2vpr_hf.sequences import LoopDetector, SequenceAnswer
from d2vpr_hf.sequences.loops import _Trajectory
from d2vpr_hf.sequences.states import States

LAP = 40  # frames of a lap, 5 m and 1 s apart


def lap_pose(number):
    """Return the position on a square of 50 m."""
    side, along = divmod(5.0 * (number % LAP), 50.0)
    x, y = [(along, 0.0), (50.0, along), (50.0 - along, 50.0), (0.0, 50.0 - along)][int(side)]
    return Place("", x=x, y=y)


def descriptors_of_laps(count, noise=0.25):
    rng = np.random.default_rng(0)
    spots = rng.normal(size=(LAP, 32))
    frames = np.array([spots[number % LAP] for number in range(count)]) + noise * rng.normal(size=(count, 32))
    return (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)


def find_loops(detector, count=2 * LAP):
    return [
        detector.add(descriptor, lap_pose(number), float(number), metres=5.0)
        for number, descriptor in enumerate(descriptors_of_laps(count))
    ]


@pytest.mark.parametrize("with_calibration", [True, False])
def test_the_second_lap_closes_loops_with_the_first(with_calibration, calibration):
    detector = LoopDetector(calibration=calibration) if with_calibration else LoopDetector(min_similarity=0.7)
    loops = find_loops(detector)
    assert not any(loops[:LAP])
    closed = [loop for loop in loops[LAP:] if loop is not None]
    assert len(closed) >= 0.9 * LAP
    assert all(loop.frame - loop.earlier_frame == LAP for loop in closed)
    assert all(loop.seconds - loop.earlier_seconds == LAP for loop in closed)
    assert [loop.verified for loop in closed[:3]] == [False, False, True] and closed[-1].verified
    assert all((loop.confidence is not None) == with_calibration for loop in closed)


def test_recent_frames_are_excluded_by_seconds_and_by_frames(calibration):
    """A robot that stands still sees its last frame again and again, which is not a loop."""
    descriptor = descriptors_of_laps(1)[0]
    for options in ({"exclude_last_seconds": 30.0}, {"exclude_last_seconds": 0.0, "exclude_last_frames": 30}):
        detector = LoopDetector(calibration=calibration, **options)
        loops = [detector.add(descriptor, Place("", x=0.0, y=0.0), float(number)) for number in range(35)]
        assert not any(loops[:30]) and all(loops[31:])
        assert loops[-1].frame - loops[-1].earlier_frame >= 30


def test_a_jump_between_stretches_verifies_nothing(calibration):
    """Single frames that look like places far from each other are loops that nothing supports."""
    rows = descriptors_of_laps(LAP)
    detector = LoopDetector(calibration=calibration, exclude_last_seconds=5.0)
    for number in range(LAP):
        detector.add(rows[number], lap_pose(number), float(number), metres=5.0)
    loops = [
        detector.add(rows[number], Place("", x=500.0 + 5 * step, y=0.0), 100.0 + step, metres=5.0)
        for step, number in enumerate((3, 24, 10, 33, 5))
    ]
    assert not any(loop is not None and loop.verified for loop in loops)


def test_a_loop_is_not_with_a_frame_of_another_floor():
    """The most similar frame is on another floor than the position of the answer."""
    detector = LoopDetector(min_similarity=0.7)
    floors = [Place("", x=0.0, y=0.0, frame=floor) for floor in ("one", "two")]
    for number, floor in enumerate(floors):
        detector.add(descriptors_of_laps(1)[0], floor, float(number))
    matches = [Match(rank, rank - 1, floor, Path(), 0.9) for rank, floor in enumerate(floors, 1)]
    assert detector._loop(SequenceAnswer("", floors[1]), matches, 100.0).earlier_frame == 1
    assert detector._loop(SequenceAnswer("", floors[1]), matches[:1], 100.0) is None


@pytest.mark.parametrize("in_degrees", [False, True])
def test_frames_are_counted_within_a_radius(in_degrees):
    """Frames 10 m apart from south to north, near the equator: 5 within 20 m of the middle one."""
    places = [
        Place("", latitude=number * 10 / 111_195, longitude=0.0) if in_degrees else Place("", x=0.0, y=10.0 * number)
        for number in range(21)
    ]
    trajectory = _Trajectory()
    for number, place in enumerate(places):
        trajectory.append(np.ones(2, np.float32), place, float(number))
    trajectory.num_photos = len(places)
    assert trajectory.count(States.of_places([places[10]]), np.array([20.5])).tolist() == [5.0]


def test_wrong_arguments_are_refused(calibration):
    with pytest.raises(ValueError, match="either `calibration`, for confidences, or `min_similarity`"):
        LoopDetector()
    with pytest.raises(ValueError, match="`exclude_last_seconds` and `exclude_last_frames` of at least 0"):
        LoopDetector(calibration=calibration, exclude_last_frames=-1)
    with pytest.raises(ValueError, match="Frame 0 has no position"):
        LoopDetector(calibration=calibration).add(descriptors_of_laps(1)[0], Place(""), 0.0)
    with pytest.raises(ValueError, match="finite number of seconds, got nan"):
        LoopDetector(calibration=calibration).add(descriptors_of_laps(1)[0], Place("", x=0.0, y=0.0), np.nan)
