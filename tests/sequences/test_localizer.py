"""Answers for sequences on a road that can be followed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import localize
from d2vpr_hf.places import Place
from d2vpr_hf.sequences import Motion, SequenceLocalizer, SequenceSettings
from tests.sequences.conftest import make_index, seen


def number_of(answer):
    return None if answer.place is None else round(answer.place.x / 10)


def drive(localizer, frames, interval=1.0):
    return [localizer.add(frame, interval * number) for number, frame in enumerate(frames)]


def test_one_frame_gives_the_answer_of_the_frame_alone(road, calibration):
    """Without a second frame there is nothing to change; prior and calibration have the same share outside the map."""
    localizer = SequenceLocalizer(road, calibration, precision=0.0)
    descriptor = seen((7, 0.8))
    answer = localizer.add(descriptor)
    alone = localize(road.search(descriptor, 20)[0], calibration, precision=0.0)
    assert answer.confidence == pytest.approx(alone.confidence, abs=0.02)
    assert number_of(answer) == 7 and answer.changed is False
    assert localizer.smooth()[0].confidence == pytest.approx(answer.confidence)


def test_a_wrong_frame_between_right_ones_is_corrected(road, calibration):
    """Frame 2 looks like photo 30, 180 m further, and less like photo 12: no car is there a second later."""
    frames = [seen((10, 0.9)), seen((11, 0.9)), seen((30, 0.7), (12, 0.6)), seen((13, 0.9)), seen((14, 0.9))]
    localizer = SequenceLocalizer(road, calibration)
    online = drive(localizer, frames)
    assert number_of(online[1]) == 11
    smoothed = localizer.smooth()
    assert [number_of(answer) for answer in smoothed] == [10, 11, 12, 13, 14]
    assert [answer.changed for answer in smoothed] == [False, False, True, False, False]
    assert smoothed[2].confidence > smoothed[2].confidence_alone
    assert [match.row for match in localizer.best_path()] == [10, 11, 12, 13, 14]
    assert smoothed[2].to_dict()["changed"] is True
    assert set(smoothed[2].to_rows()[0]) == set(smoothed[2].columns)


def test_frames_outside_the_map_have_no_match(road, calibration):
    """Frames with low confidences in places far from each other are outside; a single frame alone might be accepted."""
    inside = [seen((number, 0.9)) for number in (3, 4, 5)]
    outside = [seen((number, 0.45)) for number in (35, 12, 27, 18, 38, 9)]
    localizer = SequenceLocalizer(road, calibration)
    drive(localizer, [*inside, *outside])
    smoothed = localizer.smooth()
    assert [answer.no_match for answer in smoothed[:3]] == [False] * 3
    assert all(answer.no_match for answer in smoothed[4:])
    assert localizer.best_path()[-1] is None


def test_speed_and_time_bound_the_movement(road, calibration):
    """Photo 25 is 200 m from photo 5: too far for a second, near enough for a minute."""
    weights = {}
    for interval in (1.0, 60.0):
        localizer = SequenceLocalizer(road, calibration)
        drive(localizer, [seen((5, 0.9)), seen((25, 0.62), (7, 0.6))], interval)
        weights[interval] = number_of(localizer.add(seen((25, 0.62), (7, 0.6)), 2 * interval)), localizer.smooth()[1]
    assert weights[1.0][0] in (7, None)
    near = [number_of(answer) for _, answer in weights.values()]
    assert near[0] != 25


def test_odometry_decides_between_equal_matches(road, calibration):
    """Both photos are within the largest speed; the distance travelled is that of one of them."""
    for metres, expected in ((20.0, 12), (70.0, 17)):
        localizer = SequenceLocalizer(road, calibration, SequenceSettings(Motion(max_speed=30.0)), precision=0.0)
        localizer.add(seen((10, 0.95)), 0.0)
        answer = localizer.add(seen((12, 0.66), (17, 0.66)), 4.0, metres=metres)
        assert abs(number_of(answer) - expected) <= 1


def test_the_direction_of_the_camera_decides_between_equal_matches(road, calibration):
    """Cameras of the road look towards growing x: one that looks forward moves there, one that looks back moves away."""
    for direction, expected in ((0.0, 24), (180.0, 16)):
        motion = Motion(camera_direction=direction)
        localizer = SequenceLocalizer(road, calibration, SequenceSettings(motion), precision=0.0)
        localizer.add(seen((20, 0.95)), 0.0)
        assert number_of(localizer.add(seen((24, 0.66), (16, 0.66)), 3.0)) == expected


def test_frames_without_a_photo_do_not_break_time_and_odometry(road, calibration):
    """Two unreadable frames: the third step is as long as all three, in seconds and metres."""
    answers = {}
    for skipped in (False, True):
        localizer = SequenceLocalizer(road, calibration, precision=0.0)
        localizer.add(seen((10, 0.95)), 0.0, metres=0.0)
        if skipped:
            assert localizer.skip("not an image", 1.0, metres=20.0, query="a.jpg").error == "not an image"
            localizer.skip("not an image", 2.0, metres=20.0)
            localizer.add(seen((16, 0.66), (11, 0.66)), 3.0, metres=20.0)
        else:
            localizer.add(seen((16, 0.66), (11, 0.66)), 3.0, metres=60.0)
        answers[skipped] = localizer.smooth()
    assert len(answers[True]) == 4 and answers[True][1].query == "a.jpg" and answers[True][1].changed is None
    assert number_of(answers[True][3]) == number_of(answers[False][1]) and answers[True][3].place.x > 145
    assert answers[True][3].confidence == pytest.approx(answers[False][1].confidence)


def test_a_position_without_matches_is_followed_for_a_while(road, calibration):
    """With odometry and a known direction, the position moves on while the photos show nothing."""
    localizer = SequenceLocalizer(road, calibration, SequenceSettings(Motion(camera_direction=0.0)), precision=0.0)
    localizer.add(seen((10, 0.97)), 0.0)
    localizer.add(seen((11, 0.97)), 1.0, metres=10.0)
    blind = replace(localizer.settings, num_matches=1)
    localizer.settings = blind
    answer = localizer.add(seen((38, 0.3)), 2.0, metres=10.0)
    assert answer.place.x == pytest.approx(120.0, abs=5.0)


def test_degrees_and_local_metres_give_the_same_answers(road, calibration, tmp_path):
    """The same road at 60 degrees north, where a degree of longitude is half as long."""
    places = [Place(f"{number:02d}", latitude=60.0, longitude=5 + 10.0 * number / 55_597, heading=90.0) for number in range(40)]
    globe = make_index(tmp_path / "globe", places)
    frames = [seen((10, 0.9)), seen((11, 0.9)), seen((30, 0.7), (12, 0.6)), seen((13, 0.9))]
    answers = []
    for index in (road, globe):
        localizer = SequenceLocalizer(index, calibration, SequenceSettings(Motion(camera_direction=0.0)))
        for number, frame in enumerate(frames):
            localizer.add(frame, float(number), metres=10.0 if number else None, turn=0.0)
        answers.append(localizer.smooth())
    for local, degrees in zip(*answers, strict=True):
        assert degrees.confidence == pytest.approx(local.confidence, abs=0.03)  # another number of photos within a radius
        assert (degrees.place.longitude - 5) * 55_597 == pytest.approx(local.place.x, abs=2.0)


def test_without_a_calibration_answers_have_a_position_and_a_note(road):
    localizer = SequenceLocalizer(road)
    drive(localizer, [seen((10, 0.9)), seen((30, 0.7), (11, 0.6)), seen((12, 0.9))])
    smoothed = localizer.smooth()
    assert [answer.place.x for answer in smoothed] == pytest.approx([100, 110, 120], abs=10)
    assert all(answer.confidence is None and "not calibrated" in answer.note for answer in smoothed)


def test_a_map_without_positions_and_an_empty_sequence_are_answered(tmp_path, calibration):
    index = make_index(tmp_path / "index", [Place(f"{number:02d}") for number in range(40)])
    localizer = SequenceLocalizer(index, calibration)
    assert localizer.smooth() == [] and localizer.best_path() == []
    assert "no positions" in localizer.add(seen((1, 0.9))).note
    assert "no positions" in localizer.smooth()[0].note


def test_wrong_times_and_settings_are_refused(road, calibration):
    localizer = SequenceLocalizer(road, calibration)
    localizer.add(seen((1, 0.9)), 5.0)
    with pytest.raises(ValueError, match="seconds before the last"):
        localizer.add(seen((1, 0.9)), 4.0)
    with pytest.raises(ValueError, match="`metres` of a step as a finite number"):
        localizer.add(seen((1, 0.9)), 6.0, metres=np.nan)
    with pytest.raises(ValueError, match="`max_speed` above 0"):
        Motion(max_speed=0)
    with pytest.raises(ValueError, match="`outside_share` between 0 and 1"):
        SequenceSettings(outside_share=1.0)


def test_the_index_is_not_changed(road, calibration):
    before = PlaceIndex.open(road.folder).info()
    drive(SequenceLocalizer(road, calibration), [seen((1, 0.9)), seen((2, 0.9))])
    assert PlaceIndex.open(road.folder).info() == before


def test_fewer_states_leave_the_estimate_of_the_frame_alone(road, calibration):
    """The calibration was fitted to estimates of ten matches, however many of them are states."""
    by_support = replace(calibration, weights=[0.0, 0.0, 3.0, 0.0, 0.0], bias=0.0)
    descriptor = seen((7, 0.8), (30, 0.79), (20, 0.78))
    expected = localize(road.search(descriptor, 20)[0], by_support, precision=0.0).confidence
    answer = SequenceLocalizer(road, by_support, SequenceSettings(num_matches=1), precision=0.0).add(descriptor)
    assert answer.confidence_alone == pytest.approx(expected)


def test_the_path_has_no_matches_beyond_the_states(road):
    localizer = SequenceLocalizer(road, None, SequenceSettings(num_matches=2))
    for number in range(3):
        localizer.add_matches(road.search(seen((10 + number, 0.9)), 20)[0], float(number), metres=10.0 * (number > 0))
    assert all(match is None or match.rank <= 2 for match in localizer.best_path())


def test_confidences_of_far_frames_do_not_count(road, calibration):
    """A long stretch outside the map must not lower the confidence of frames long before it."""
    inside = [seen((number % 40, 0.9)) for number in range(30)]
    outside = [seen(((7 * number) % 40, 0.4)) for number in range(60)]
    confidences = []
    for frames in (inside, [*inside, *outside]):
        localizer = SequenceLocalizer(road, calibration)
        for number, frame in enumerate(frames):
            localizer.add(frame, float(number))
        confidences.append([answer.confidence for answer in localizer.smooth()])
    assert confidences[1][5] == pytest.approx(confidences[0][5], abs=0.01)
    assert confidences[1][29] < confidences[0][29]


def test_a_robot_forgets_old_frames_and_answers_alike(road, calibration):
    """Only the latest frames count for the next online answer."""
    frames = [seen((number % 40, 0.8)) for number in range(45)]
    answers = []
    for forgets in (False, True):
        localizer = SequenceLocalizer(road, calibration)
        for number, frame in enumerate(frames):
            answer = localizer.add(frame, float(number))
            if forgets:
                localizer.forget()
        answers.append(answer)
    assert answers[0].confidence == pytest.approx(answers[1].confidence) and len(localizer.smooth()) == 20
