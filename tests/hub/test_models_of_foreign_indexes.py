"""An index from elsewhere names a model of the Hub: it is downloaded only after the user gave its name, once."""

import threading

import pytest
from huggingface_hub import constants

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.cli.options import EncoderOptions
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.pretrained.unreachable_hub import cached_if_unconfirmed, needs_confirmation
from d2vpr_hf.utils import confirmed_names
from tests.hub.test_push_index import folder_files
from tests.index.workers import begin


@pytest.fixture
def foreign(hub, tiny_folder, tmp_path, monkeypatch):
    """Return an index that names a model on the Hub, on the machine of a user who never gave this name."""
    commit = hub.put("user/model", folder_files(tiny_folder))
    encoder = PlaceEncoder(tiny_folder)
    begin(
        tmp_path / "index",
        model_name="user/model",
        model_revision=commit,
        fingerprint=encoder.fingerprint,
        descriptor_dim=encoder.descriptor_dim,
    ).close()
    monkeypatch.setenv(confirmed_names.FOLDER_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setattr(confirmed_names, "_given", {"models": set(), "addresses": set()})
    return PlaceIndex.open(tmp_path / "index")


def test_it_is_not_downloaded_unasked(foreign):
    with pytest.raises(ValueError, match=r'is not downloaded\. Give `model="user/model"`'):
        PlaceEncoder.for_index(foreign)
    assert needs_confirmation("user/model")


def test_it_is_downloaded_once_its_name_was_given_at_the_recorded_commit(foreign, monkeypatch):
    encoder = PlaceEncoder.for_index(foreign, "user/model")
    assert encoder.model_revision == foreign.settings.model_revision
    assert "user/model" in confirmed_names.confirmed_file().read_text()
    monkeypatch.setattr(confirmed_names, "_given", {"models": set(), "addresses": set()})  # another process
    assert not needs_confirmation("user/model") and needs_confirmation("user/other")
    assert PlaceEncoder.for_index(foreign).fingerprint == encoder.fingerprint


def test_a_model_in_the_cache_needs_no_download(foreign, monkeypatch, tmp_path):
    PlaceEncoder("user/model", revision=foreign.settings.model_revision)
    assert needs_confirmation("user/model")
    assert PlaceEncoder.for_index(foreign).fingerprint == foreign.settings.fingerprint


def test_an_environment_may_name_models(foreign, monkeypatch):
    monkeypatch.setenv("D2VPR_MODELS", "user/other,user/model@main")
    assert PlaceEncoder.for_index(foreign).model_revision == foreign.settings.model_revision


def test_other_errors_of_a_model_in_the_cache_are_not_hidden(foreign):
    """A file that may not be read was reported as one that is not in the cache."""
    commit = foreign.settings.model_revision
    PlaceEncoder("user/model", revision=commit)
    with pytest.raises(PermissionError, match="weights"), cached_if_unconfirmed("user/model", commit):
        raise PermissionError("weights")
    with pytest.raises(ValueError, match="not in the cache"), cached_if_unconfirmed("user/model", commit):
        raise FileNotFoundError("weights")


def test_a_model_that_another_thread_opened_does_not_end_the_check(foreign):
    """The client has one switch for all threads, which the first thread that was ready turned back."""
    started, left = threading.Event(), threading.Event()
    switches = []

    def open_other():
        started.set()
        with cached_if_unconfirmed("user/other"):
            left.wait(10)
            switches.append(constants.HF_HUB_OFFLINE)

    thread = threading.Thread(target=open_other)
    with cached_if_unconfirmed("user/model"):
        thread.start()
        assert started.wait(10)
    left.set()
    thread.join(10)
    assert switches == [True] and not constants.HF_HUB_OFFLINE


def test_a_model_that_a_command_line_named_is_recorded(foreign):
    """As `d2vpr index PHOTOS --model user/model` names it, so that the new index needs no other confirmation."""
    assert EncoderOptions().load("user/model").model_name == "user/model"
    assert "user/model" in confirmed_names.confirmed_file().read_text() and not needs_confirmation("user/model")


def test_names_are_confirmed_where_there_is_no_home_folder(foreign, monkeypatch):
    """Looking for it ended commands, even those that named the model."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    for variable in (confirmed_names.FOLDER_VARIABLE, "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(confirmed_names.Path, "home", home)
    assert needs_confirmation("user/model")
    confirmed_names.confirm("models", "user/model")
    assert not needs_confirmation("user/model")


def test_the_index_itself_confirms_nothing(foreign):
    """A file in the folder of an index is not the user's encoder."""
    (foreign.folder / "confirmed.json").write_text('{"models": ["user/model"]}')
    with pytest.raises(ValueError, match="is not downloaded"):
        PlaceEncoder.for_index(foreign)
