"""An index goes to the Hugging Face Hub and comes back; no network, a folder stands for the Hub."""

import pytest

from d2vpr_hf.index import PlaceIndex, hub
from tests.fake_hub import FakeHub
from tests.index.workers import begin, frame


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "cache")
    monkeypatch.setattr(hub, "HfApi", fake)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(fake.cache))
    return fake


def test_there_and_back(fake_hub, tmp_path):
    """Rows that wait go too; the lock, files that can be made anew and what is not of the index do not."""
    index = begin(tmp_path / "index")
    for number in range(7):
        index.add(*frame(number))
    index.store_calibration({"scale": 2.0})
    (index.folder / "notes.txt").write_text("mine")
    assert index.push_to_hub("user/map") == "https://hub/user/map"
    index.build_store("bits")
    assert index.push_to_hub("user/map") and list(index.folder.glob("derived-*.bits"))
    found = PlaceIndex.from_pretrained("user/map")
    own = {path.name for path in index.folder.iterdir() if path.is_file()} - {".lock", "notes.txt"}
    assert bytes_of(found.folder) == {name: (index.folder / name).read_bytes() for name in own} and found.verify() == []
    assert list(found.places) == list(index.places) and found.calibration == {"scale": 2.0}
    assert found.search(frame(3)[0], 1)[0][0].place.path == "/frames/3"


def test_a_second_push_leaves_nothing_of_the_first(fake_hub, tmp_path):
    index = begin(tmp_path / "index")
    for number in range(12):
        index.add(*frame(number))
    index.push_to_hub("user/map")
    index.remove([f"/frames/{number}" for number in range(8)])
    index.compact()
    index.push_to_hub("user/map")
    found = PlaceIndex.from_pretrained("user/map")
    assert len(list(found.folder.iterdir())) == 3 and [place.path for place in found.places] == [
        f"/frames/{number}" for number in range(8, 12)
    ]


def test_the_cache_is_not_changed(fake_hub, tmp_path):
    index = begin(tmp_path / "index")
    index.add(*frame(0))
    index.push_to_hub("user/map")
    found = PlaceIndex.from_pretrained("user/map")
    before = bytes_of(found.folder)
    for change in (lambda: found.add(*frame(1)), lambda: found.remove(["/frames/0"]), found.compact):
        with pytest.raises(ValueError, match=r"is in the Hub's cache\. Copy the folder"):
            change()
    assert bytes_of(found.folder) == before and found.push_to_hub("user/copy")


def test_from_pretrained_takes_folders_and_names_what_is_missing(fake_hub, tmp_path):
    begin(tmp_path / "index")
    assert len(PlaceIndex.from_pretrained(tmp_path / "index")) == 0
    for name in ("user/nothing", "no such: name"):
        with pytest.raises(FileNotFoundError, match=f"There is no index folder {name}, and the Hub gave no data set"):
            PlaceIndex.from_pretrained(name)
