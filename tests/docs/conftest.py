"""A folder with all that the snippets of the pages name: photos, queries, models, and a Hub on localhost."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.hub.spaces import folder_files
from tests.hub_server import running_hub, use_hub
from tests.networks import save_folder, tiny_model
from tests.photos import at_name, save, save_row

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
    """The current folder: photos in PHOTOS, QUERIES and LABELLED, query.jpg, frames, a tiny model, and a Hub of `user`.

    LABELLED has as many photos of the places of PHOTOS as of places outside the map, so that calibrations have both.
    """
    save_row(tmp_path / "PHOTOS")
    save_row(tmp_path / "QUERIES")
    for i in range(60):
        save(tmp_path / "LABELLED" / at_name(544000 + 100 * (i % 9) + i / 10, 4172759), i % 9, quality=30 + i % 40)
        save(tmp_path / "LABELLED" / at_name(550000 + 100 * i, 4172758), 100 + i)
    save(tmp_path / "query.jpg", 3, quality=60)
    for i in range(3):
        save(tmp_path / "frames" / f"{i:06d}.jpg", i, quality=60)
    save(tmp_path / "more" / "good.jpg", 12)
    save(tmp_path / "more" / "bad.jpg", 13)
    save_folder(tiny_model(), tmp_path / "my-d2vpr")
    monkeypatch.chdir(tmp_path)
    with running_hub() as server:
        use_hub(server, tmp_path / "hub-cache", monkeypatch)
        server.put("facebook/dinov2-small", folder_files(small_dinov2))
        yield tmp_path
