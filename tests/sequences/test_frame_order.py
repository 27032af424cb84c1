"""The order of frames, their times, and odometry from a CSV file."""

import math
from pathlib import Path

import pytest
from PIL import Image

from d2vpr_hf.readers.photo_listing import natural_key
from d2vpr_hf.sequences.frame_order import Frame, FrameOrder, list_frames, order_frames, read_frames, with_odometry
from d2vpr_hf.sequences.frame_table import FrameRow, FrameTable, read_odometry

NAN = math.nan


def names(order):
    return [frame.photo.name for frame in order.frames]


@pytest.fixture
def photos(tmp_path):
    for number in (10, 9, 1):
        Image.new("RGB", (8, 8)).save(tmp_path / f"frame{number}.png")
    return tmp_path


def test_numbers_in_names_are_sorted_by_their_value():
    paths = [Path(name) for name in ("a/10.jpg", "a/9.jpg", "a/b.jpg", "a/9b.jpg", "a/09.jpg", "2.jpg")]
    assert [path.as_posix() for path in sorted(paths, key=natural_key)] == [
        "2.jpg",
        "a/9.jpg",
        "a/09.jpg",
        "a/9b.jpg",
        "a/10.jpg",
        "a/b.jpg",
    ]
    assert sorted(["f10.jpg", "f9.jpg", "f1.jpg"], key=lambda name: natural_key(Path(name))) == ["f1.jpg", "f9.jpg", "f10.jpg"]


@pytest.mark.parametrize(
    ("seconds", "is_listed", "expected", "kind", "warning"),
    [
        ([3.0, 1.0, 2.0], True, ["1.jpg", "10.jpg", "2.jpg"], "order of times", None),
        ([NAN, NAN, NAN], False, ["1.jpg", "2.jpg", "10.jpg"], "natural order of names", None),
        ([NAN, NAN, NAN], True, ["2.jpg", "1.jpg", "10.jpg"], "given order", None),
        ([3.0, NAN, 2.0], False, ["1.jpg", "2.jpg", "10.jpg"], "natural order of names", "1 of 3 frames have no time"),
        ([3.0, 3.0, 3.0], False, ["1.jpg", "2.jpg", "10.jpg"], "natural order of names", "All 3 frames have the same time"),
        ([3.5, 3.5, 2.0], False, ["10.jpg", "1.jpg", "2.jpg"], "order of times", None),
        ([3.0, 3.0, 2.0], False, ["10.jpg", "1.jpg", "2.jpg"], "order of times", "2 frames share the whole second"),
    ],
)
def test_frames_are_in_the_order_of_their_times(seconds, is_listed, expected, kind, warning, caplog):
    order = order_frames([Path("2.jpg"), Path("1.jpg"), Path("10.jpg")], seconds, is_listed=is_listed)
    assert (names(order), order.order) == (expected, kind)
    assert all((frame.seconds is not None) == (kind == "order of times") for frame in order.frames)
    assert (warning in caplog.text) if warning else not caplog.messages


def test_frames_of_one_second_are_spread_over_it():
    order = order_frames([Path(f"{number}.jpg") for number in range(5)], [7.0, 7.0, 7.0, 8.0, 9.5], is_listed=False)
    assert [frame.seconds for frame in order.frames] == pytest.approx([7.0, 7 + 1 / 3, 7 + 2 / 3, 8.0, 9.5])


def test_frames_of_one_second_are_before_the_next_time_in_it():
    order = order_frames([Path(f"{number}.jpg") for number in range(4)], [7.0, 7.0, 7.0, 7.3], is_listed=False)
    assert [frame.seconds for frame in order.frames] == pytest.approx([7.0, 7.1, 7.2, 7.3])


def test_lines_without_times_keep_their_order(photos):
    (photos / "frames.csv").write_text("path,metres\nframe10.png,0\nframe1.png,2\nframe9.png,3\n")
    order = read_frames(photos)
    assert names(order) == ["frame10.png", "frame1.png", "frame9.png"] and order.order == "given order"
    assert [frame.metres for frame in order.frames[1:]] == [2.0, 3.0]


def test_a_folder_is_read_by_its_table_or_by_names(photos):
    assert names(read_frames(photos)) == ["frame1.png", "frame9.png", "frame10.png"]
    (photos / "times.csv").write_text("path,timestamp\nframe1.png,2024-05-01T12:00:09Z\nframe9.png,2024-05-01T12:00:01Z\n")
    order = read_frames(photos)
    assert names(order) == ["frame9.png", "frame1.png"] and order.frames[1].seconds - order.frames[0].seconds == 8
    with pytest.raises(ValueError, match="frame10"):
        read_frames(photos, strict=True)
    (photos / "odometry.csv").write_text("path,metres\nframe1.png,3\n")
    with pytest.raises(ValueError, match="has several CSV files"):
        read_frames(photos)
    assert read_frames(photos, read_odometry(photos / "odometry.csv")).frames[1].metres == 3


def test_listed_photos_keep_their_order_and_folders_are_refused(photos):
    paths = [photos / "frame9.png", photos / "missing.png", photos / "frame1.png"]
    order = list_frames(paths)
    assert [frame.photo for frame in order.frames] == paths and order.order == "given order"
    with pytest.raises(ValueError, match="is a folder"):
        list_frames([photos])
    (photos / "inner").mkdir()
    (photos / "frames.csv").write_text("path\nframe9.png\ninner\n")
    with pytest.raises(ValueError, match="inner is a folder"):
        read_frames(photos)


def test_odometry_belongs_to_frames_by_their_paths(photos, tmp_path_factory, caplog):
    table = photos.parent / f"{photos.name}.csv"
    table.write_text(f"path,metres,turn\n{photos.name}/frame1.png,0,0\n{photos.name}/frame9.png,2.5,-10\n")
    order = read_frames(photos, read_odometry(table))
    assert order.frames[1] == Frame(photos / "frame9.png", None, 2.5, -10.0)
    assert order.frames[2].metres is None and "1 of 2 frames after the first have no metres" in caplog.text
    table.write_text("path,metres\nother/frame9.png,2.5\n")
    with pytest.raises(ValueError, match="has no metres of any frame after the first"):
        read_frames(photos, read_odometry(table))


@pytest.mark.parametrize(
    ("frames", "metres", "turns"),
    [
        ("abcd", [None, 2.0, 4.0, 8.0], [None, 10.0, 20.0, 40.0]),
        ("acd", [None, 6.0, 8.0], [None, 30.0, 40.0]),  # the line of b is a part of the movement from a to c
        ("ad", [None, 14.0], [None, 70.0]),
        ("xbcd", [None, None, 4.0, 8.0], [None, None, 20.0, 40.0]),  # from a to b, not from x
        ("axcd", [None, None, None, 8.0], [None, None, None, 40.0]),
        ("aef", [None, None, 32.0], [None, None, 160.0]),  # the metres of e are not known
    ],
)
def test_movements_are_those_between_the_frames(frames, metres, turns):
    """Lines a to f: 1, 2, 4, 8, unknown and 32 metres from the line before, and 5 degrees a metre."""
    values = [1.0, 2.0, 4.0, 8.0, None, 32.0]
    rows = [
        FrameRow(Path(name), None, value, None if value is None else 5 * value)
        for name, value in zip("abcdef", values, strict=True)
    ]
    order = FrameOrder([Frame(Path(name)) for name in frames], "given order")
    moved = with_odometry(order, FrameTable(Path("odometry.csv"), rows, frozenset({"path", "metres", "turn"})))
    assert [frame.metres for frame in moved.frames[1:]] == metres[1:]
    assert [frame.turn for frame in moved.frames[1:]] == turns[1:]


def test_the_first_line_may_be_that_of_the_second_frame():
    order = FrameOrder([Frame(Path(name)) for name in "xab"], "given order")
    table = FrameTable(Path("odometry.csv"), [FrameRow(Path("a"), metres=1.0), FrameRow(Path("b"), metres=2.0)], frozenset())
    assert [frame.metres for frame in with_odometry(order, table).frames] == [None, 1.0, 2.0]


def test_an_odometry_in_another_order_than_the_frames_is_refused(photos):
    (photos / "frames.csv").write_text(
        "path,timestamp,metres\nframe1.png,30,0\nframe9.png,20,2\nframe10.png,10,3\n"  # the times say 10, 9, 1
    )
    with pytest.raises(ValueError, match=r"frame9.png is before frame10.png there. The frames are in the order of times"):
        read_frames(photos)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,speed\na,1\n", "no column `metres`"),
        ("metres\n1\n", "no column `path`"),
        ("path,metres\na,1\na,2\n", "line 3: .*a is there twice"),
        ("path,metres\na,-1\n", "line 2: metres must be at least 0, got -1"),
        ("path,metres\na,fast\n", "line 2: metres must be a finite number, got 'fast'"),
        ("path,metres,turn\na,1,nan\n", "line 2: turn must be a finite number"),
    ],
)
def test_wrong_odometry_is_refused_with_its_line(tmp_path, text, message):
    table = tmp_path / "odometry.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_odometry(table)
