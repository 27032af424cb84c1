"""An index that follows a folder: new, changed, removed and unfinished photos, with a clock that the tests move."""

import shutil

import pytest

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval import watch_folder as module
from d2vpr_hf.retrieval.watch_folder import FolderWatch, RestingFiles, file_states, watch_folder
from tests.command_line import run
from tests.evaluation.colours import ColourEncoder
from tests.photos import jpeg, save


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(tmp_path, clock):
    (tmp_path / "photos").mkdir()
    return FolderWatch(tmp_path / "photos", tmp_path / "index", ColourEncoder(), settle_seconds=2, clock=clock)


def settle(watch, clock):
    """Look at once and two seconds later; return the counts of the update, or `None`."""
    assert watch.look() is None
    clock.now += 2
    updated = watch.look()
    return None if updated is None else (updated[1].added, updated[1].changed, updated[1].removed, updated[1].kept)


def indexed(tmp_path):
    return sorted(PlaceIndex.open(tmp_path / "index").places.column("path"))


def test_files_rest_when_they_stay_the_same():
    files = RestingFiles(2)
    assert files.update({"a": (1, 10)}, 0.0) == {}
    assert files.update({"a": (1, 10), "b": (1, 1)}, 2.0) == {"a": (1, 10)}
    assert files.update({"a": (2, 10), "b": (1, 1)}, 4.0) == {"b": (1, 1)}  # a has changed
    assert files.update({"b": (1, 1)}, 5.0) == {"b": (1, 1)}
    assert files.update({"a": (2, 10), "b": (1, 1)}, 6.5) == {"b": (1, 1)}  # a was away, and begins again


def test_new_changed_and_removed_photos(tmp_path, watch, clock):
    photos = tmp_path / "photos"
    assert settle(watch, clock) is None and not (tmp_path / "index").exists()
    for seed in range(3):
        save(photos / f"{seed}.jpg", seed)
    clock.now += 10  # after the warning of a folder without photos
    assert settle(watch, clock) == (3, 0, 0, 0)
    assert settle(watch, clock) is None  # nothing changed, so that nothing is encoded
    save(photos / "deep" / "3.jpg", 3)
    save(photos / "1.jpg", 9)
    (photos / "0.jpg").unlink()
    assert settle(watch, clock) == (1, 1, 1, 1)
    assert indexed(tmp_path) == ["1.jpg", "2.jpg", "deep/3.jpg"]


def test_the_row_of_a_photo_that_is_written_again_stays_meanwhile(tmp_path, watch, clock):
    """A webcam that writes one file all the time must not hold all others up for ever."""
    photos = tmp_path / "photos"
    for seed in range(2):
        save(photos / f"{seed}.jpg", seed)
    settle(watch, clock)
    save(photos / "2.jpg", 2)
    for second in range(40):
        (photos / "0.jpg").write_bytes(jpeg(second)[: 300 + second])
        updated = watch.look()
        if updated is not None:
            break
        assert len(PlaceIndex.open(tmp_path / "index")) == 2
        clock.now += 1
    assert second == 32 and indexed(tmp_path) == ["1.jpg", "2.jpg"]  # 2 s of rest, and half a minute
    save(photos / "0.jpg", 7)
    assert settle(watch, clock) == (1, 0, 0, 2)


def test_a_removal_alone_is_an_update(tmp_path, watch, clock):
    for seed in range(3):
        save(tmp_path / "photos" / f"{seed}.jpg", seed)
    settle(watch, clock)
    (tmp_path / "photos" / "0.jpg").unlink()
    updated = watch.look()
    assert updated is not None and updated[1].removed == 1  # the other files rest already


def test_a_photo_that_is_being_written_waits(tmp_path, watch, clock):
    """A camera writes while others rest: these must not wait for it, and the half of a photo must not be indexed."""
    photos, content = tmp_path / "photos", jpeg(5)
    save(photos / "a.jpg", 1)
    growing = photos / "growing.jpg"
    growing.write_bytes(content[:100])
    assert watch.look() is None
    clock.now += 1
    growing.write_bytes(content[:200])
    assert watch.look() is None
    clock.now += 1
    updated = watch.look()
    assert updated is not None and updated[1].skipped == {} and indexed(tmp_path) == ["a.jpg"]
    growing.write_bytes(content)
    assert settle(watch, clock) == (1, 0, 0, 1)
    assert indexed(tmp_path) == ["a.jpg", "growing.jpg"]


def test_a_table_that_is_being_written_holds_everything_up(tmp_path, watch, clock):
    """Half a table would give photos no positions, or remove them."""
    photos = tmp_path / "photos"
    save(photos / "a.jpg", 1)
    (photos / "places.csv").write_text("path,latitude,longitude\na.jpg,1")
    assert watch.look() is None
    clock.now += 1
    (photos / "places.csv").write_text("path,latitude,longitude\na.jpg,1.0,2.0\n")
    assert watch.look() is None
    clock.now += 1
    assert watch.look() is None  # the photo rests, the table does not
    clock.now += 1
    assert watch.look() is not None
    assert PlaceIndex.open(tmp_path / "index").places[0].latitude == 1.0


def test_a_log_that_is_written_all_the_time_is_named(tmp_path, watch, clock, caplog):
    """It holds everything up as a table does; without a warning the user could not see why no photo is indexed."""
    save(tmp_path / "photos" / "a.jpg", 1)
    for second in range(100):
        (tmp_path / "photos" / "camera.txt").write_text("line\n" * second)
        assert watch.look() is None
        assert caplog.text.count("while camera.txt is being written") == (second >= 32)
        clock.now += 1
    assert settle(watch, clock) == (1, 0, 0, 0)


def test_a_folder_that_vanishes_leaves_the_index(tmp_path, watch, clock, caplog):
    """A disk that is not mounted, or a folder that was emptied by mistake, must not remove all rows."""
    save(tmp_path / "photos" / "a.jpg", 1)
    settle(watch, clock)
    shutil.move(tmp_path / "photos", tmp_path / "away")
    for _ in range(3):
        assert watch.look() is None
        clock.now += 11
    assert caplog.text.count("until the folder is back") == 1 and indexed(tmp_path) == ["a.jpg"]
    shutil.move(tmp_path / "away", tmp_path / "photos")
    save(tmp_path / "photos" / "b.jpg", 2)
    assert settle(watch, clock) == (1, 0, 0, 1)
    (tmp_path / "photos" / "a.jpg").unlink()
    (tmp_path / "photos" / "b.jpg").unlink()
    assert watch.look() is None and indexed(tmp_path) == ["a.jpg", "b.jpg"] and "No photo in" in caplog.text


def test_an_index_inside_the_folder_is_not_watched(tmp_path, clock):
    """Otherwise each update would change the folder and cause the next one."""
    watch = FolderWatch(tmp_path, tmp_path / "index", ColourEncoder(), settle_seconds=2, clock=clock)
    save(tmp_path / "a.jpg", 1)
    assert settle(watch, clock) == (1, 0, 0, 0)
    assert settle(watch, clock) is None
    assert file_states(tmp_path, tmp_path / "index").keys() == {"a.jpg"}


def test_linked_folders_are_searched_once(tmp_path):
    save(tmp_path / "a" / "1.jpg", 1)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert file_states(tmp_path).keys() == {"a/1.jpg"}


def test_the_loop_reports_updates_until_it_is_interrupted(tmp_path, watch, clock):
    save(tmp_path / "photos" / "a.jpg", 1)
    reports, sleeps = [], []

    def sleep(seconds):
        sleeps.append(seconds)
        clock.now += 1
        if len(sleeps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_folder(watch, lambda index, report: reports.append((len(index), report.added)), poll_seconds=0.5, sleep=sleep)
    assert reports == [(1, 1)] and min(sleeps) >= 0.5


def test_the_command_ends_with_status_0_unless_it_interrupts_an_update(tmp_path, monkeypatch):
    """Ctrl-C is the usual end; in the middle of an update the line has the number of the stored photos."""
    (tmp_path / "photos").mkdir()
    interrupt = KeyboardInterrupt()

    def interrupted(watch, report, *, poll_seconds):
        raise interrupt

    monkeypatch.setattr(module, "watch_folder", interrupted)
    words = ("watch", tmp_path / "photos", "--out", tmp_path / "index")
    status, out, err = run(*words)
    assert (status, err) == (0, "") and out.splitlines()[-1].startswith("Ended. The same command continues")
    status, out, err = run(*words, "--json")
    assert (status, out) == (0, "") and "Ended. The same" in err  # programs read stdout
    interrupt.add_note("4 of 9 photos are stored in i. The same command encodes the others.")
    status, _, err = run(*words)
    assert (status, err) == (130, f"d2vpr: stopped by Ctrl-C. {interrupt.__notes__[0]}\n")
    assert run("watch", tmp_path / "nowhere", "--out", tmp_path / "index")[2].startswith("d2vpr: There is no folder")
