"""A folder with all that the snippets of the pages name: photos, queries, models, and a Hub on localhost."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.hub.spaces import folder_files
from tests.hub_server import running_hub, use_hub
from tests.networks import save_folder, tiny_model
from tests.photos import save, save_row

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
STEPS = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
}


@pytest.fixture(scope="session")
def small_dinov2(tmp_path_factory) -> Path:
    """Folder of a tiny DINOv2 with random weights: the model that `auto` finds on the Hub of these tests."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**SHAPE)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS))
    return folder


@pytest.fixture
def workshop(tmp_path, monkeypatch, small_dinov2) -> Path:
    """The current folder: nine photos in PHOTOS, query.jpg, two more photos, a tiny model, the recipes, and a Hub of `user`."""
    save_row(tmp_path / "PHOTOS")
    save_row(tmp_path / "QUERIES")
    save(tmp_path / "query.jpg", 3)
    save(tmp_path / "more" / "good.jpg", 12)
    save(tmp_path / "more" / "bad.jpg", 13)
    save_folder(tiny_model(), tmp_path / "my-d2vpr")
    monkeypatch.chdir(tmp_path)
    with running_hub() as server:
        use_hub(server, tmp_path / "hub-cache", monkeypatch)
        server.put("facebook/dinov2-small", folder_files(small_dinov2))
        yield tmp_path
