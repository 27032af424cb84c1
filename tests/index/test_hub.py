"""An index is uploaded to the Hugging Face Hub and downloaded again. A folder replaces the Hub, without a network."""

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


def test_an_uploaded_index_is_downloaded_unchanged(fake_hub, tmp_path):
    """Pending rows are uploaded too; the lock, vector stores and files that do not belong to the index are not."""
    index = begin(tmp_path / "index")
    for number in range(7):
        index.add(*frame(number))
    index.store_calibration({"scale": 2.0})
    (index.folder / "notes.txt").write_text("mine")
    assert index.push_to_hub("user/map") == "https://hub/user/map"
    index.build_store("bits")
    assert index.push_to_hub("user/map") and list(index.folder.glob("derived-*.bits"))
    fetched = PlaceIndex.from_pretrained("user/map")
    names = {path.name for path in index.folder.iterdir() if path.is_file()} - {".lock", "notes.txt"}
    assert bytes_of(fetched.folder) == {name: (index.folder / name).read_bytes() for name in names} and fetched.verify() == []
    assert list(fetched.places) == list(index.places) and fetched.calibration == {"scale": 2.0}
    assert fetched.search(frame(3)[0], 1)[0][0].place.path == "/frames/3"


def test_a_second_upload_removes_the_files_of_the_first(fake_hub, tmp_path):
    index = begin(tmp_path / "index")
    for number in range(12):
        index.add(*frame(number))
    index.push_to_hub("user/map")
    index.remove([f"/frames/{number}" for number in range(8)])
    index.compact()
    index.push_to_hub("user/map")
    fetched = PlaceIndex.from_pretrained("user/map")
    assert len(list(fetched.folder.iterdir())) == 3 and [place.path for place in fetched.places] == [
        f"/frames/{number}" for number in range(8, 12)
    ]


def test_an_index_in_the_cache_cannot_be_changed(fake_hub, tmp_path):
    index = begin(tmp_path / "index")
    index.add(*frame(0))
    index.push_to_hub("user/map")
    fetched = PlaceIndex.from_pretrained("user/map")
    before = bytes_of(fetched.folder)
    for change in (lambda: fetched.add(*frame(1)), lambda: fetched.remove(["/frames/0"]), fetched.compact):
        with pytest.raises(ValueError, match=r"is in the Hub's cache\. Copy the folder"):
            change()
    assert bytes_of(fetched.folder) == before and fetched.push_to_hub("user/copy")


def test_from_pretrained_opens_folders_and_names_a_missing_index(fake_hub, tmp_path):
    begin(tmp_path / "index")
    assert len(PlaceIndex.from_pretrained(tmp_path / "index")) == 0
    for name in ("user/nothing", "no such: name"):
        with pytest.raises(FileNotFoundError, match=f"There is no index folder {name}, and the Hub gave no data set"):
            PlaceIndex.from_pretrained(name)
