"""An index from elsewhere names a model of the Hub: it is downloaded only after the user gave its name, once."""

import pytest

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.cli.options import EncoderOptions
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.pretrained.unreachable_hub import needs_confirmation
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
