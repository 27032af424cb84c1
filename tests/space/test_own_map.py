"""Visitors' own maps: their photos, skipped files, and their deletion."""

import time
import zipfile

import pillow_heif
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.space import own_map
from d2vpr_hf.space.own_map import NO_POSITION, OwnMaps, build_own_map, pack_index
from d2vpr_hf.space.pages import own_summary
from d2vpr_hf.space.photo_map import PhotoMap, Question
from d2vpr_hf.space.uploads import Limits, UploadError
from tests.photos import draw, gps_exif, save
from tests.readers.exif_blocks import RATIONAL, gps_entries, save_photo


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, num_workers=1)


def phone(path, number, suffix=".jpg"):
    pillow_heif.register_heif_opener()
    path = path / f"IMG_{number}{suffix}"
    draw(number).save(path, exif=gps_exif(46.0 + 0.001 * number, 11.0, heading=90.0))
    return path


def test_photos_with_gps_become_a_map(encoder, tmp_path):
    files = [phone(tmp_path, 1), phone(tmp_path, 2, ".heic"), phone(tmp_path, 3), save(tmp_path / "plain.jpg", 4)]
    seen = []
    own_map = build_own_map(files, tmp_path / "own", encoder, progress=lambda done, total: seen.append((done, total)))
    assert own_map.skipped == {"plain.jpg": NO_POSITION} and len(own_map.index) == 3 and seen[-1] == (3, 3)
    assert [place.latitude for place in own_map.index.places] == pytest.approx([46.001, 46.002, 46.003], abs=1e-6)
    answer = PhotoMap(own_map.index, encoder).answer([Question(files[1], top_k=1)])[0]
    assert answer.matches[0].place.path == "0001/IMG_2.heic" and answer.distance(answer.matches[0]) == pytest.approx(0, abs=0.2)


def test_the_map_names_unusable_positions_and_what_it_assumed(encoder, tmp_path):
    """A position that is there and cannot be used is another problem than a missing one."""
    gps = {
        name: gps_entries((RATIONAL, [(46, 1), (0, 1), (0, 1)]), *rest)
        for name, rest in {
            "a.jpg": ("N", (RATIONAL, [(11, 1), (0, 1), (60, 1)]), "E"),
            "b.jpg": (None, (RATIONAL, [(11, 1), (0, 1), (0, 1)]), None),
            "c.jpg": ("N", (RATIONAL, [(511, 1), (0, 1), (0, 1)]), "E"),
        }.items()
    }
    files = [save_photo(tmp_path / name, entries) for name, entries in gps.items()]
    files += [save(tmp_path / "plain.jpg", 4), save(tmp_path / "@home.jpg", 5)]
    own_map = build_own_map(files, tmp_path / "own", encoder)
    assert own_map.skipped == {
        "b.jpg": "no usable GPS position: EXIF positions without a hemisphere (N or S, E or W)",
        "c.jpg": "no usable GPS position: EXIF positions beyond 90 degrees of latitude or 180 degrees of longitude",
        "plain.jpg": NO_POSITION,
        "@home.jpg": "its name begins with @ and is not an @ name",
    }
    assert [(remark.kind, remark.count, remark.example) for remark in own_map.remarks] == [("corrected", 1, "a.jpg")]
    assert "Corrected: 1 EXIF positions with 60 seconds" in own_summary(1, own_map.skipped, own_map.remarks)
    with pytest.raises(UploadError, match=r"no map can be made\. b\.jpg: no usable GPS position: EXIF positions without"):
        build_own_map(files[1:2], tmp_path / "other", encoder)


def test_a_table_in_a_zip_cannot_name_other_files(encoder, tmp_path):
    """A table of photos, as `d2vpr index` reads them, could name any file of the server."""
    secret = phone(tmp_path, 9)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("positions.csv", f"path,latitude,longitude\n{secret},46.0,11.0\n")
        archive.write(phone(tmp_path, 1), "in/IMG_1.jpg")
    own_map = build_own_map([tmp_path / "all.zip"], tmp_path / "own", encoder)
    assert [place.path for place in own_map.index.places] == ["0000/IMG_1.jpg"] and "positions.csv" in own_map.skipped


@pytest.mark.parametrize(("count", "begins"), [(1, "The photo has no GPS"), (2, "None of the 2 photos has a GPS")])
def test_photos_without_positions_leave_no_files(encoder, tmp_path, count, begins):
    files = [save(tmp_path / f"{number}.jpg", number) for number in range(count)]
    with pytest.raises(UploadError, match=begins):
        build_own_map(files, tmp_path / "own", encoder)
    assert not (tmp_path / "own").exists()


def test_too_many_photos_leave_no_files(encoder, tmp_path):
    files = [phone(tmp_path, number) for number in range(3)]
    with pytest.raises(UploadError, match="more than 2 photos"):
        build_own_map(files, tmp_path / "own", encoder, limits=Limits(photos=2))
    assert not (tmp_path / "own").exists()


def test_the_packed_index_can_be_searched_and_has_no_photo(encoder, tmp_path):
    own_map = build_own_map([phone(tmp_path, number) for number in range(3)], tmp_path / "own", encoder)
    packed = pack_index(own_map, tmp_path / "out" / "my-index.zip")
    with zipfile.ZipFile(packed) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".jpg", ".lock"))]
        archive.extractall(tmp_path / "unpacked")
    index = PlaceIndex.open(tmp_path / "unpacked" / "my-index")
    assert search_photos(index, [phone(tmp_path, 2)], encoder, top_k=1)[0].matches[0].row == 2


class Built:
    """Stands for an [`OwnMap`]: only its folder matters here."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True)


def keep_map(maps, session):
    folder = maps.begin(session)
    return maps.keep(session, Built(folder), f"map of {session}") and folder


def test_each_session_has_its_own_map(tmp_path):
    maps = OwnMaps(tmp_path)
    alice, bob = keep_map(maps, "alice"), keep_map(maps, "bob")
    assert maps.get("alice") == "map of alice" and maps.get("eve") is None and alice != bob and len(alice.name) == 32
    maps.remove("alice")
    assert maps.get("alice") is None and not alice.exists() and bob.exists()
    bobs_second = keep_map(maps, "bob")
    assert not bob.exists() and bobs_second.exists() and len(maps) == 1


def test_a_map_that_is_finished_after_its_visitor_left_is_deleted(tmp_path):
    """It would stay until the Space is stopped: its visitor does not come back."""
    maps = OwnMaps(tmp_path)
    folder = maps.begin("alice")
    maps.remove("alice")
    assert maps.keep("alice", Built(folder), "map") is None and not folder.exists() and len(maps) == 0
    first, second = maps.begin("bob"), maps.begin("bob")  # two builds at a time: the later one counts
    assert maps.keep("bob", Built(second), "second") == "second"
    assert maps.keep("bob", Built(first), "first") is None
    assert maps.get("bob") == "second" and not first.exists()


def test_a_map_does_not_outlive_its_photos(tmp_path, monkeypatch):
    """Photos are deleted an hour after they were written; the hour of a map began when it was finished."""
    now = [0.0]
    monkeypatch.setattr(own_map.time, "monotonic", lambda: now[0])
    maps = OwnMaps(tmp_path, seconds=100)
    folder = maps.begin("alice")
    now[0] = 40.0  # the photos are indexed
    assert maps.keep("alice", Built(folder), "map") == "map" and maps._maps["alice"].timer.interval == 60
    now[0] = 101.0
    assert maps.get("alice") is None and not folder.exists()


def test_a_timer_deletes_maps(tmp_path):
    """Maps were deleted when another one was made, so that the last one stayed until the Space was stopped."""
    maps = OwnMaps(tmp_path, seconds=0.05)
    folder = keep_map(maps, "alice")
    until = time.monotonic() + 60
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not folder.exists() and len(maps) == 0


def test_only_the_visitor_with_the_session_has_the_map(tmp_path):
    """A stranger who knows the name of a session could search its map or delete it."""
    maps = OwnMaps(tmp_path)
    folder = keep_map(maps, ("alice", "session"))
    maps.remove(("eve", "session"))
    assert maps.get(("eve", "session")) is None and maps.get(("alice", "other")) is None
    assert maps.get(("alice", "session")) and folder.exists()


def test_old_maps_and_the_oldest_of_too_many_are_deleted(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(own_map.time, "monotonic", lambda: now[0])
    maps = OwnMaps(tmp_path, seconds=100, max_maps=2)
    folders = []
    for session in "abc":
        folders.append(keep_map(maps, session))
        now[0] += 10
    assert [folder.exists() for folder in folders] == [False, True, True]
    now[0] = 111.0
    assert maps.get("b") is None and maps.get("c") == "map of c"
    assert [folder.exists() for folder in folders] == [False, False, True]
