"""Vision models of transformers on the Hub: one commit for all files, and nothing but safetensors is opened."""

import json

import pytest

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from tests.encoders.vision_models import save_published
from tests.hub.spaces import folder_files
from tests.photos import save_row


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """The files of two DINOv2, the first with a card."""
    files = [folder_files(save_published("dinov2", tmp_path_factory.mktemp("dinov2"), seed)) for seed in (0, 1)]
    return files[0] | {"README.md": b"---\nlicense: apache-2.0\n---\n"}, files[1]


def test_an_index_records_commit_and_options(hub, model_files, tmp_path):
    first = hub.put("somebody/dinov2", model_files[0])
    encoder = PlaceEncoder("somebody/dinov2", pool="cls+gem", image_size=84)
    assert (encoder.model_revision, encoder.facts.license) == (first, "apache-2.0")
    index, _ = index_photos(save_row(tmp_path / "photos"), tmp_path / "index", encoder)
    hub.put("somebody/dinov2", model_files[1])
    settings = PlaceIndex.open(index.folder).settings
    assert settings.model_options == {"pool": "cls+gem", "image_size": [84, 84]} and settings.model_revision == first
    reopened = PlaceEncoder.for_index(PlaceIndex.open(index.folder))
    assert reopened.fingerprint == encoder.fingerprint and reopened.model_revision == first
    latest = PlaceEncoder("somebody/dinov2", pool="cls+gem", image_size=84)
    assert latest.model_revision != first and latest.fingerprint != encoder.fingerprint
    assert PlaceEncoder("somebody/dinov2", revision=first, pool="cls+gem", image_size=84).fingerprint == encoder.fingerprint


def test_only_safetensors_are_downloaded(hub, model_files):
    files = {name: content for name, content in model_files[0].items() if name != "model.safetensors"}
    hub.put("somebody/pickles", files | {"pytorch_model.bin": b"a pickle"})
    with pytest.raises(FileNotFoundError, match=r"no weights in safetensors"):
        PlaceEncoder("somebody/pickles")
    assert not any(request.startswith("GET") and "pytorch_model" in request for request in hub.requests)


def test_code_on_the_hub_is_not_downloaded(hub, model_files):
    config = json.loads(model_files[0]["config.json"]) | {"model_type": "strange", "auto_map": {"AutoModel": "strange.M"}}
    hub.put("somebody/code", model_files[0] | {"config.json": json.dumps(config).encode(), "strange.py": b"raise SystemExit"})
    with pytest.raises(ValueError, match="which this package does not execute"):
        PlaceEncoder("somebody/code")
    assert not any("strange.py" in request for request in hub.requests)
