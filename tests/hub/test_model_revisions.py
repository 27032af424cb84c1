"""An index of a model from the Hub records its commit, and opens that one later, whatever the main branch holds then."""

import json

import pytest
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.cli import app
from d2vpr_hf.index.manifest import Manifest
from d2vpr_hf.space.opened_space import open_space
from d2vpr_hf.space.settings import read_settings
from tests.conftest import save_folder, tiny_model
from tests.hub.spaces import folder_files
from tests.photos import save_row


@pytest.fixture
def model_files(tiny_folder, tmp_path):
    """The files of two models of one architecture, which are committed to one repository one after the other."""
    return folder_files(tiny_folder), folder_files(save_folder(tiny_model(1), tmp_path / "later"))


def test_the_encoder_names_the_commit(hub, model_files):
    first, second = (hub.put("user/model", files) for files in model_files)
    encoder = PlaceEncoder("user/model")
    assert (encoder.model_name, encoder.model_revision) == ("user/model", second)
    earlier = PlaceEncoder("user/model", revision=first)
    assert earlier.model_revision == first and earlier.fingerprint != encoder.fingerprint
    assert PlaceEncoder("user/model", revision=first[:8]).model_revision == first
    assert PlaceEncoder().model_revision is None


def test_all_files_of_a_model_are_of_one_commit(hub, model_files, monkeypatch):
    """A push between the download of the configuration and that of the weights must not mix two models."""
    import d2vpr_hf.encoders.own_models as module

    first = hub.put("user/model", model_files[0])
    load_model = module.load_model

    def load_late(name, **options):
        hub.put("user/model", model_files[1])
        return load_model(name, **options)

    monkeypatch.setattr(module, "load_model", load_late)
    encoder = PlaceEncoder("user/model")
    assert encoder.model_revision == first
    assert encoder.fingerprint == PlaceEncoder("user/model", revision=first).fingerprint


def test_a_revision_belongs_to_a_model_of_the_hub(tiny_folder):
    for model in (None, "embedded", tiny_folder):
        with pytest.raises(ValueError, match="is not on the Hub and has no `revision`"):
            PlaceEncoder(model, revision="main")
    encoder = PlaceEncoder(tiny_folder)
    with pytest.raises(ValueError, match="Leave `revision` out"):
        PlaceEncoder(encoder.model, encoder.processor, revision="main")


def test_an_index_opens_its_model_at_the_recorded_commit(hub, model_files, tmp_path, monkeypatch):
    first = hub.put("user/model", model_files[0])
    photos = save_row(tmp_path / "photos")
    index, _ = index_photos(photos, tmp_path / "index", PlaceEncoder("user/model", batch_size=3))
    hub.put("user/model", model_files[1])  # the main branch moves on

    assert json.loads((index.folder / "manifest.json").read_text())["model_revision"] == first
    index = PlaceIndex.open(index.folder)
    assert index.settings.model_revision == index.info()["model_revision"] == first and index.verify() == []
    encoder = PlaceEncoder.for_index(index)
    assert (encoder.model_revision, encoder.batch_size, encoder.fingerprint) == (first, 3, index.settings.fingerprint)
    assert PlaceEncoder.for_index(index, "user/model").model_revision == first
    assert PlaceEncoder.for_index(index, "embedded", batch_size=2).batch_size == 2

    query = str(sorted(photos.glob("*.jpg"))[0])
    for model in ([], ["--model", "user/model"]):
        done = CliRunner().invoke(app, ["search", str(index.folder), query, *model])
        assert done.exit_code == 0, done.exception
    assert f"model_revision: {first}" in CliRunner().invoke(app, ["info", str(index.folder)]).output
    settings = read_settings({"D2VPR_INDEX": str(index.folder), "D2VPR_CACHE": str(tmp_path)})
    assert open_space(settings).photo_map.encoder.model_revision == first


def test_indexes_without_a_revision_keep_their_text(tmp_path):
    """Files of earlier versions lack the key, and their checksums must still match."""
    from tests.index.workers import begin

    index = begin(tmp_path / "index")
    assert "model_revision" not in (index.folder / "manifest.json").read_text()
    assert index.info()["model_revision"] is None
    assert "model_revision" not in Manifest(index.settings).to_text()


def test_the_facts_are_those_of_the_card_at_the_commit(hub, model_files):
    first = hub.put("user/model", model_files[0] | {"README.md": b"---\nlicense: mit\n---\n"})
    hub.put("user/model", model_files[1])
    assert PlaceEncoder("user/model", revision=first).facts.license == "mit"
    assert PlaceEncoder("user/model").facts.license is None
