"""An index is uploaded so that others can use it: its model, its places, its card; nothing of the machine that made it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi

from d2vpr_hf import PlaceEncoder, PlaceIndex, add_photos, index_photos, search_photos
from d2vpr_hf.hub.cards import CARD_MARK
from d2vpr_hf.hub.push_index import push_index
from d2vpr_hf.hub.thumbnails import make_thumbnail, read_thumbnails
from d2vpr_hf.index import UnfinishedPortion
from d2vpr_hf.places import Place
from tests.conftest import save_folder, tiny_model
from tests.hub.spaces import folder_files
from tests.hub_server import TOKEN, use_hub
from tests.index.workers import begin, frame
from tests.photos import at_name, save, save_row


@pytest.fixture(scope="module")
def embedded():
    return PlaceEncoder()


@pytest.fixture
def frames(embedded, tmp_path):
    """An index of the embedded model whose seven rows are frames; the last two are pending."""
    index = begin(tmp_path / "frames", model_name="embedded", fingerprint=embedded.fingerprint)
    for number in range(7):
        index.add(*frame(number))
    return index


@pytest.fixture
def local(tiny_folder, tmp_path):
    """An index of nine photos that was built with a model folder."""
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", PlaceEncoder(tiny_folder))
    return index


def load_table(name: str, hub, home: Path, *, streaming: bool = False) -> dict[str, list]:
    """Load a data set by `datasets` in another process, and return its columns; images as their sizes."""
    code = (
        "import json, sys; from datasets import load_dataset\n"
        f"rows = list(load_dataset({name!r}, split='train', streaming={streaming}))\n"
        "table = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}\n"
        "print(json.dumps(table, default=lambda image: image.size))"
    )
    environment = {"PATH": "/usr/bin:/bin"} | hub.environment(home)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the files of the index


def test_an_uploaded_index_is_downloaded_and_searched(hub, frames):
    """Pending rows are uploaded too; the lock, vector stores and files that do not belong to the index are not."""
    frames.store_calibration({"scale": 2.0})
    (frames.folder / "notes.txt").write_text("mine")
    frames.build_store("bits")
    before = folder_files(frames.folder)
    url = frames.push_to_hub("user/map")
    assert url.startswith(f"{hub.endpoint}/datasets/user/map/commit/") and not hub.unknown_requests
    assert folder_files(frames.folder) == before
    fetched = PlaceIndex.from_pretrained("user/map")
    names = {name for name in before if "/" not in name} - {".lock", "notes.txt"}
    files = folder_files(fetched.folder)
    assert set(files) == names and fetched.verify() == []
    assert all(files[name] == before[name] for name in names - {"manifest.json"})
    assert list(fetched.places) == list(frames.places) and fetched.calibration == {"scale": 2.0}
    assert fetched.compression == "bits" and fetched.search(frame(3)[0], 1)[0][0].place.path == "/frames/3"
    assert len(hub.repositories["datasets", "user/map"].commits) == 2  # the repository's first one, and the upload


def test_a_second_upload_removes_the_files_of_the_first(hub, embedded, tmp_path):
    """An index that lost rows, and thumbnails that are no longer wanted; files of a person stay."""
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", embedded, shard_size=3)
    index.push_to_hub("user/map", thumbnails=True)
    hub.put("user/map", hub.files("user/map", "datasets") | {"notes.txt": b"mine"}, "datasets")
    index.remove([place.path for place in index.places][:6])
    index.compact()
    index.push_to_hub("user/map")
    names = {file.name for file in index.folder.iterdir() if file.is_file()} - {".lock"}
    table = "data/train-00000-of-00001.parquet"
    assert set(hub.files("user/map", "datasets")) == names | {".gitattributes", "README.md", "notes.txt", table}
    fetched = PlaceIndex.from_pretrained("user/map", thumbnails=True)
    assert list(fetched.places) == list(index.places) and len(read_thumbnails(fetched.folder)) == 0


def test_a_revision_is_opened(hub, frames):
    frames.push_to_hub("user/map")
    first = HfApi().dataset_info("user/map").sha
    frames.remove(["/frames/0"])
    frames.push_to_hub("user/map", commit_message="Without the first")
    assert hub.repositories["datasets", "user/map"].commits[-1][1] == "Without the first"
    assert len(PlaceIndex.from_pretrained("user/map")) == 6
    assert len(PlaceIndex.from_pretrained("user/map", revision=first)) == 7
    assert len(PlaceIndex.from_pretrained(f"user/map@{first}")) == 7
    with pytest.raises(ValueError, match="Give one of them"):
        PlaceIndex.from_pretrained(f"user/map@{first}", revision="main")


def test_an_index_in_the_cache_cannot_be_changed(hub, frames):
    frames.push_to_hub("user/map")
    fetched = PlaceIndex.from_pretrained("user/map")
    before = folder_files(fetched.folder)
    for change in (lambda: fetched.add(*frame(8)), lambda: fetched.remove(["/frames/0"]), fetched.compact):
        with pytest.raises(ValueError, match=r"is in the Hub's cache\. Copy the folder"):
            change()
    assert folder_files(fetched.folder) == before and fetched.push_to_hub("user/copy")
    assert list(PlaceIndex.from_pretrained("user/copy").places) == list(frames.places)


def test_from_pretrained_opens_folders_and_names_a_missing_index(hub, tmp_path):
    begin(tmp_path / "index")
    assert len(PlaceIndex.from_pretrained(tmp_path / "index")) == 0
    for name in ("user/nothing", "no such: name"):
        with pytest.raises(FileNotFoundError, match=f"There is no index folder {name}, and the Hub gave no data set"):
            PlaceIndex.from_pretrained(name)
    hub.put("user/photos", {"a.jpg": b"photo"}, "datasets")
    with pytest.raises(FileNotFoundError, match="user/photos on the Hub is not an index"):
        PlaceIndex.from_pretrained("user/photos")


def test_nothing_of_this_machine_is_uploaded(hub, local, tiny_folder, tmp_path):
    """Folders, skipped photos with their reasons, and the address of a service are private."""
    secret = tmp_path / "photos" / at_name(545000, 4172758).replace("pano", "secret")
    secret.write_bytes(b"no photo")
    index_photos(tmp_path / "photos", local.folder, PlaceEncoder(tiny_folder))
    manifest_file = local.folder / "manifest.json"
    manifest = PlaceIndex.open(local.folder)._state.manifest
    assert manifest.skipped and str(tmp_path) in manifest_file.read_text()
    served = dataclasses.replace(manifest, store_uri=str(tmp_path / "store.db"), service="milvus")
    manifest_file.write_text(served.to_text())
    hub.put("user/model", folder_files(tiny_folder))
    push_index(local.folder, "user/map", model="user/model")
    for name, content in hub.files("user/map", "datasets").items():
        for private in (str(tmp_path), str(tiny_folder), "secret", "milvus"):
            assert private.encode() not in content, name
    pushed, built = (
        json.loads(text) for text in (hub.files("user/map", "datasets")["manifest.json"], manifest_file.read_text())
    )
    different = {key for key in built.keys() | pushed.keys() if built.get(key) != pushed.get(key)}
    assert different == {"model", "model_revision", "photos", "left_out", "store_uri", "store_service", "checksum"} - (
        {"store_service"} if "store_service" not in built else set()
    )
    assert PlaceIndex.from_pretrained("user/map").verify() == []


def test_photos_from_elsewhere_are_counted(hub, embedded, tmp_path, caplog):
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", embedded)
    added = save(tmp_path / "elsewhere" / "a.jpg", 30)
    index, _ = add_photos(index.folder, [added], embedded)
    index.push_to_hub("user/map")
    assert f"1 of 10 photos are outside the photo folder, and their whole paths become public, such as {added}" in caplog.text


def test_an_upload_that_fails_leaves_the_earlier_index(hub, frames, monkeypatch):
    frames.push_to_hub("user/map")
    before = hub.files("user/map", "datasets")
    frames.remove(["/frames/0"])
    monkeypatch.setattr(HfApi, "create_commit", lambda *arguments, **options: (_ for _ in ()).throw(ConnectionError("cut")))
    with pytest.raises(ConnectionError, match="cut"):
        frames.push_to_hub("user/map")
    assert hub.files("user/map", "datasets") == before


def test_a_data_set_that_is_no_index_is_not_replaced(hub, frames):
    """Tables of photos have the same names as the table of places."""
    photos = {"data/train-00000-of-00009.parquet": b"photos", "README.md": b"# Photos\n"}
    hub.put("user/photos", photos, "datasets")
    with pytest.raises(ValueError, match=r"user/photos on the Hub is not an index, and has data/train-00000-of-00009\.parquet"):
        frames.push_to_hub("user/photos")
    assert hub.files("user/photos", "datasets") == photos


def test_the_model_is_not_uploaded_if_the_index_has_another_visibility(hub, local):
    hub.put("user/map", {}, "datasets", private=True)
    with pytest.raises(ValueError, match="user/map is private on the Hub already"):
        local.push_to_hub("user/map", push_model="user/model", private=False)
    assert ("models", "user/model") not in hub.repositories


def test_a_damaged_index_is_not_uploaded(hub, frames):
    frames.flush()
    file = next(frames.folder.glob("descriptors-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"is damaged; nothing was uploaded:\n{file.name}: its checksum"):
        frames.push_to_hub("user/map")
    assert not hub.repositories


# ---- the model


def test_a_model_folder_is_refused_with_remedies(hub, local, tiny_folder):
    with pytest.raises(
        ValueError, match=r"is a folder on this machine.*`model=\"user/model\"`.*`push_model=\"user/model\"`"
    ) as error:
        local.push_to_hub("user/map")
    assert str(tiny_folder) in str(error.value) and not hub.repositories
    with pytest.raises(ValueError, match="Expected `model` to be a Hub id"):
        local.push_to_hub("user/map", model=str(tiny_folder))
    with pytest.raises(ValueError, match="There is no model user/none on the Hub"):
        local.push_to_hub("user/map", model="user/none")
    with pytest.raises(ValueError, match="Give either `model` or `push_model`"):
        local.push_to_hub("user/map", model="user/model", push_model="user/model")
    assert not hub.repositories


def test_a_model_on_the_hub_is_named_and_pinned(hub, local, tiny_folder, tmp_path):
    commit = hub.put("user/model", folder_files(tiny_folder))
    local.push_to_hub("user/map", model="user/model")
    hub.put("user/model", folder_files(save_folder(tiny_model(1), tmp_path / "later")))  # its main branch moves on
    fetched = PlaceIndex.from_pretrained("user/map")
    assert (fetched.settings.model_name, fetched.settings.model_revision) == ("user/model", commit)
    query = sorted((tmp_path / "photos").iterdir())[4]
    [result] = search_photos(fetched, [query], PlaceEncoder.for_index(fetched), top_k=1)
    assert result.matches[0].place.path == query.name
    with pytest.raises(ValueError, match=rf"with user/model at commit {commit[:12]}, fingerprint"):
        search_photos(fetched, [query], PlaceEncoder("user/model"))
    with pytest.raises(ValueError, match=r"user/model at its commit [0-9a-f]{12} does not make the descriptors of this index"):
        local.push_to_hub("user/other", model="user/model")
    assert ("datasets", "user/other") not in hub.repositories
    local.push_to_hub("user/other", model=f"user/model@{commit[:10]}")
    assert PlaceIndex.from_pretrained("user/other").settings.model_revision == commit


def test_the_model_is_uploaded_too(hub, local, tmp_path):
    local.push_to_hub("user/map", push_model="user/model", private=True)
    assert all(hub.repositories[kind, name].private for kind, name in (("models", "user/model"), ("datasets", "user/map")))
    fetched = PlaceIndex.from_pretrained("user/map")
    assert fetched.settings.model_name == "user/model"
    assert fetched.settings.model_revision == hub.repositories["models", "user/model"].commits[-1][0]
    assert PlaceEncoder.for_index(fetched).fingerprint == local.settings.fingerprint


def test_an_exported_graph_is_uploaded_too(hub, embedded, embedded_graph, tmp_path):
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", PlaceEncoder(embedded_graph))
    index.push_to_hub("user/map", push_model="user/graph")
    index.push_to_hub("user/other", model="user/graph")
    for name in ("user/map", "user/other"):
        fetched = PlaceIndex.from_pretrained(name)
        encoder = PlaceEncoder.for_index(fetched)
        assert encoder.model_name == "user/graph" and encoder.model_revision == fetched.settings.model_revision
        assert encoder.fingerprint == embedded.fingerprint


def test_a_model_that_changed_is_not_uploaded(hub, tmp_path):
    folder = save_folder(tiny_model(0), tmp_path / "model")
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", PlaceEncoder(folder))
    save_folder(tiny_model(1), folder)
    with pytest.raises(ValueError, match="has changed since the index was built"):
        index.push_to_hub("user/map", push_model="user/model")
    assert not hub.repositories


def test_an_index_of_a_hub_model_keeps_its_commit(hub, tiny_folder, tmp_path):
    first = hub.put("user/model", folder_files(tiny_folder))
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", PlaceEncoder("user/model"))
    hub.put("user/model", folder_files(save_folder(tiny_model(1), tmp_path / "later")))
    index.push_to_hub("user/map")
    assert PlaceIndex.from_pretrained("user/map").settings.model_revision == first
    del hub.repositories["models", "user/model"].commits[0]
    with pytest.raises(ValueError, match=f"has no revision {first}"):
        index.push_to_hub("user/map")
    del hub.repositories["models", "user/model"]
    with pytest.raises(ValueError, match="There is no model user/model on the Hub"):
        index.push_to_hub("user/map")


def test_an_older_index_of_a_hub_model_gets_the_commit_that_fits(hub, tiny_folder, tmp_path):
    """Indexes of earlier versions name no commit; the main branch is taken if it makes the same descriptors."""
    commit = hub.put("user/model", folder_files(tiny_folder))
    fingerprint = PlaceEncoder(tiny_folder).fingerprint
    index = begin(tmp_path / "index", model_name="user/model", fingerprint=fingerprint)
    index.push_to_hub("user/map")
    assert PlaceIndex.from_pretrained("user/map").settings.model_revision == commit
    hub.put("user/model", folder_files(save_folder(tiny_model(1), tmp_path / "later")))
    with pytest.raises(ValueError, match="does not make the descriptors"):
        index.push_to_hub("user/map")


def test_the_embedded_model_is_checked(hub, frames, tmp_path):
    frames.push_to_hub("user/map")
    assert PlaceIndex.from_pretrained("user/map").settings.model_name == "embedded"
    earlier = begin(tmp_path / "earlier", model_name="embedded", fingerprint="of an earlier version")
    with pytest.raises(ValueError, match="embedded of this version of the package does not make the descriptors"):
        earlier.push_to_hub("user/earlier")
    unnamed = begin(tmp_path / "unnamed", fingerprint=frames.settings.fingerprint)  # as earlier versions named it
    unnamed.push_to_hub("user/unnamed")
    assert PlaceIndex.from_pretrained("user/unnamed").settings.model_name == "embedded"
    with pytest.raises(ValueError, match="was never saved"):
        begin(tmp_path / "unsaved").push_to_hub("user/unsaved")
    with pytest.raises(ValueError, match="was never saved"):
        begin(tmp_path / "unsaved too").push_to_hub("user/unsaved", push_model="user/model")


def test_a_public_index_of_a_private_model_warns(hub, local, tiny_folder, caplog):
    hub.put("user/model", folder_files(tiny_folder), private=True)
    local.push_to_hub("user/hidden", model="user/model", private=True)
    assert "is private" not in caplog.text
    local.push_to_hub("user/map", model="user/model")
    assert "The model user/model is private" in caplog.text


def test_without_a_token_nothing_is_uploaded(hub, frames, tmp_path, monkeypatch):
    use_hub(hub, tmp_path / "cache", monkeypatch, token=None)
    with pytest.raises(PermissionError, match="hf auth login"):
        frames.push_to_hub("user/map")
    assert frames.push_to_hub("user/map", token=TOKEN, private=True)
    assert len(PlaceIndex.from_pretrained("user/map", token=TOKEN)) == 7


# ---- the table of places, and the card


@pytest.fixture
def changed(embedded, tmp_path):
    """An index with removed, pending and interim rows, and a file that it no longer names."""
    index = begin(
        tmp_path / "changed", model_name="embedded", fingerprint=embedded.fingerprint, photo_folder=tmp_path / "photos"
    )
    places = [Place(f"{number}.jpg", 48.0 + number / 100, 11.0, timestamp=str(number)) for number in range(9)]
    rows = [frame(number)[0] for number in range(9)]
    index.add(rows[:5], places[:5])
    index.remove(["1.jpg", "4.jpg"])
    index.upsert(rows[5:7], places[5:7], [dataclasses.replace(file) for _, file in index.places.with_files()][:2])
    index.upsert(rows[7:8], places[7:8], [file for _, file in index.places.with_files()][:1], unfinished=UnfinishedPortion(1))
    (index.folder / "places-000099.parquet").write_bytes(b"a leftover")
    return index


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_the_places_of_the_index(hub, changed, tmp_path, streaming):
    changed.push_to_hub("user/map")
    table = load_table("user/map", hub, tmp_path / "home", streaming=streaming)
    assert table["path"] == ["0.jpg", "2.jpg", "3.jpg", "5.jpg", "6.jpg", "7.jpg"] == changed.places.column("path")
    assert table["latitude"] == changed.places.column("latitude") and "image" not in table
    assert "content_hash" not in table and set(hub.unknown_requests) <= {"GET /api/agent-harnesses"}  # by the client itself


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_thumbnails(hub, embedded, tmp_path, streaming, caplog):
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", embedded)
    lost = [place.path for place in index.places][2]
    (tmp_path / "photos" / lost).unlink()
    counts = []
    push_index(index, "user/map", thumbnails=True, thumbnail_size=45, progress=counts.append)
    assert sum(counts) == 9 and f"Thumbnails: 1 of 9 photos were skipped:\n  {lost}: no such file" in caplog.text
    table = load_table("user/map", hub, tmp_path / "home", streaming=streaming)
    assert table["path"] == index.places.column("path")
    assert table["image"] == [None if path == lost else [45, 30] for path in table["path"]]
    fetched = PlaceIndex.from_pretrained("user/map", thumbnails=True)
    thumbnails = read_thumbnails(fetched.folder)
    assert len(thumbnails) == 8 and lost not in thumbnails
    first = table["path"][0]
    assert thumbnails[first] == make_thumbnail(tmp_path / "photos" / first, 45)
    assert "thumbnails of 8 of them" in hub.files("user/map", "datasets")["README.md"].decode()


def test_thumbnails_are_downloaded_only_when_wanted(hub, embedded, tmp_path):
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", embedded)
    index.push_to_hub("user/map", thumbnails=True)
    fetched = PlaceIndex.from_pretrained("user/map")
    assert not (fetched.folder / "data").exists() and len(read_thumbnails(fetched.folder)) == 0


def test_thumbnails_need_photos(hub, changed, frames):
    with pytest.raises(ValueError, match=r"None of the 6 photos can be read for thumbnails, such as .*0\.jpg: no such file"):
        changed.push_to_hub("user/map", thumbnails=True)
    with pytest.raises(ValueError, match="None of the 6 photos can be read"):
        changed.push_to_hub("user/map", thumbnails=True, push_model="user/model")
    with pytest.raises(ValueError, match="`thumbnail_size` of at least 1 pixel, got 0"):
        changed.push_to_hub("user/map", thumbnails=True, thumbnail_size=0)
    assert not hub.repositories


def test_an_empty_index_has_an_empty_table(hub, embedded, tmp_path):
    begin(tmp_path / "index", model_name="embedded", fingerprint=embedded.fingerprint).push_to_hub("user/map", thumbnails=True)
    assert load_table("user/map", hub, tmp_path / "home", streaming=True) == {}  # without streaming `datasets` refuses
    assert "not known in degrees" in hub.files("user/map", "datasets")["README.md"].decode()


def test_the_card_describes_the_index(hub, changed):
    changed.push_to_hub("user/map", license="cc-by-4.0")
    text = hub.files("user/map", "datasets")["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-4.0" and head["pretty_name"] == "map" and head["size_categories"] == ["n<1K"]
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}]
    assert head["task_categories"] == ["image-feature-extraction"] and "visual-place-recognition" in head["tags"]
    for line in (
        "6 places, each with",
        "| places | 6, 6 with a position |",
        "| area | latitude 48.00 to 48.07, longitude 11.00 to 11.00 |",
        f"`{changed.settings.fingerprint}`",
        "d2vpr search user/map photo.jpg",
        'PlaceIndex.from_pretrained("user/map")',
        'load_dataset("user/map", split="train")',
        "The positions of all places are public here",
        "The photos are not here.",
    ):
        assert line in text.replace("\n", " ") or line in text
    changed.push_to_hub("user/map")
    assert hub.files("user/map", "datasets")["README.md"].decode() == text  # with the licence of before
    assert "POST /api/validate-yaml" in hub.requests and DatasetCard(text).data.pretty_name == "map"


def test_the_card_names_the_commit_of_the_model(hub, local, tiny_folder):
    commit = hub.put("user/model", folder_files(tiny_folder))
    local.push_to_hub("user/map", model="user/model")
    text = hub.files("user/map", "datasets")["README.md"].decode()
    assert f"[user/model](https://huggingface.co/user/model), commit `{commit}`" in text
    assert "license" not in yaml.safe_load(text.split("---")[1])


def test_a_card_of_a_person_stays(hub, frames, tmp_path):
    frames.push_to_hub("user/map")
    card = hub.files("user/map", "datasets")["README.md"].replace(CARD_MARK.encode(), b"My own words.")
    hub.put("user/map", hub.files("user/map", "datasets") | {"README.md": card}, "datasets")
    frames.push_to_hub("user/map")
    assert hub.files("user/map", "datasets")["README.md"] == card
    with pytest.raises(ValueError, match=r"README\.md was written by a person and has the licence None"):
        frames.push_to_hub("user/map", license="mit")
    hub.put("user/map", hub.files("user/map", "datasets") | {"README.md": b"# Mine\n"}, "datasets")
    assert load_table("user/map", hub, tmp_path / "home")["path"] == [f"/frames/{number}" for number in range(7)]
    (frames.folder / "README.md").write_text("# Written here\n")
    frames.push_to_hub("user/map")
    assert hub.files("user/map", "datasets")["README.md"] == b"# Written here\n"


@pytest.mark.parametrize(("count", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M"), (10**9, "n>100M")])
def test_size_categories(count, name):
    from d2vpr_hf.hub.index_cards import _size_category

    assert _size_category(count) == name
