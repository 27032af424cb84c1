"""The user's token is sent to the Hub for names that the user gave, and for none that an index, a card or a list brings."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.hub.benchmarks import _read_tasks
from d2vpr_hf.hub.index_models import find_public_model
from d2vpr_hf.hub.space_sources import check_sources
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.readers.hub_dataset import load_places
from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo
from d2vpr_hf.utils import confirmed_names
from tests.hub.test_models_of_foreign_indexes import foreign  # noqa: F401 - a fixture
from tests.hub_server import TOKEN


def names_with_token(hub):
    """Return the names of repositories for which the token of the user came."""
    return {name for kind, name in hub.repositories for path in hub.requests_with_token if name in path}


def png():
    import io

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def nothing_confirmed(monkeypatch, tmp_path):
    monkeypatch.setenv(confirmed_names.FOLDER_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setattr(confirmed_names, "_given", {kind: set() for kind in confirmed_names.VARIABLES})


def test_opening_a_foreign_index_asks_the_hub_nothing(hub, foreign):  # noqa: F811
    hub.requests.clear()
    with pytest.raises(ValueError, match="is not downloaded"):
        PlaceEncoder.for_index(foreign)
    assert not hub.requests


def test_a_model_that_only_an_index_names_is_looked_up_without_the_token(hub, foreign):  # noqa: F811
    settings = foreign.settings
    assert find_public_model(settings, None, TOKEN).name == "user/model"
    assert not hub.requests_with_token
    confirmed_names.confirm("models", "user/model")
    assert find_public_model(settings, None, TOKEN).name == "user/model"
    assert names_with_token(hub) == {"user/model"}


def test_a_private_model_that_only_an_index_names_is_not_read(hub, foreign):  # noqa: F811
    hub.repositories["models", "user/model"].private = True
    with pytest.raises(ValueError, match=r'token was not sent: give `model="user/model"`'):
        find_public_model(foreign.settings, None, TOKEN)
    assert not hub.requests_with_token


def test_a_space_looks_the_model_of_its_index_up_without_the_token(hub, foreign):  # noqa: F811
    hub.put("user/map", {path.name: path.read_bytes() for path in foreign.folder.glob("[!.]*")}, "datasets")
    assert check_sources(None, "user/map", TOKEN).model.name == "user/model"
    assert names_with_token(hub) == {"user/map"}
    assert check_sources("user/model", "user/map", TOKEN).model.name == "user/model"
    assert names_with_token(hub) == {"user/map", "user/model"}


def test_the_data_set_of_an_evaluation_from_elsewhere_is_read_without_the_token(hub):
    hub.put("other/streets", {"eval.yaml": b"tasks: [{id: recall@1}]"}, "datasets")
    assert _read_tasks("other/streets", None, TOKEN) == ["recall@1"]
    assert not hub.requests_with_token


def test_a_list_of_photos_names_no_repository(hub, monkeypatch):
    """A column of a data set may hold the addresses of the reader's own private photos."""
    fsspec = pytest.importorskip("fsspec")
    hub.put("user/private", {"a.png": png()}, "datasets", private=True)
    sent = []

    def opened(url, mode, **arguments):
        sent.append(arguments)
        raise FileNotFoundError(url)

    monkeypatch.setattr(fsspec, "open", opened)
    urls = ("hf://datasets/user/private/a.png", "hf://user/private@main/a.png", "zip://a.png::hf://datasets/user/private/b.zip")
    for url in urls:
        with pytest.raises(UnreadablePhotoError, match="no such file; your token was not sent: D2VPR_DATASETS=USER/NAME"):
            open_photo(url)
    with pytest.raises(UnreadablePhotoError, match=r"no such file$"):
        open_photo("https://example.org/a.png")
    assert sent == [{"token": False}, {"token": False}, {"hf": {"token": False}}, {}]
    confirmed_names.confirm("datasets", "user/private")
    sent.clear()
    for url in urls:
        with pytest.raises(UnreadablePhotoError):
            open_photo(url)
    assert sent == [{"token": None}, {"token": False}, {"hf": {"token": None}}]  # a model of the same name is another one
    sent.clear()
    with pytest.raises(UnreadablePhotoError, match="your token was not sent"):
        open_photo("hf://datasets/user/private/../../../../other/private/resolve/main/a.png")
    assert sent == [{"token": False}]


def test_a_data_set_that_the_user_names_may_use_the_token(hub):
    pytest.importorskip("datasets")
    with pytest.raises(Exception, match="user/missing"):
        load_places("user/missing")
    assert confirmed_names.is_confirmed("datasets", "user/missing")


def test_an_adapter_in_a_folder_names_no_other_model(hub, tiny_folder, tmp_path):
    """PEFT's file in a folder made transformers download the model that it names, with the token of the user."""
    pytest.importorskip("peft")
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "other/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ValueError, match="names another model to load"):
        load_model(folder)
    assert not hub.requests
