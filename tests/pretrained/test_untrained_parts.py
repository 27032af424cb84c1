"""Models with random parts say so: 162 random tensors gave similarities of 0.99 to wrong places, without a word."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.convert import convert_weights
from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import fingerprint, load_model
from d2vpr_hf.training.model_setup import add_cross_image_encoder
from tests.command_line import run
from tests.conftest import TINY, published_weights, tiny_model
from tests.photos import save_row

WARNING = "has parts that were drawn at random and never trained: adapters, aggregator, recovery. Places that are found with it"


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(dinov2_folder, tmp_path_factory):
    """The folder of a converted student, and the output of the command."""
    out = tmp_path_factory.mktemp("converted") / "student"
    status, text, _ = run("convert", dinov2_folder, out, "--as", "student")
    assert status == 0
    return out, text


def test_a_converted_student_names_its_random_parts(student):
    """Its ViT is DINOv2's: only the other parts are random."""
    folder, text = student
    assert json.loads((folder / "config.json").read_text())["untrained_parts"] == ["adapters", "aggregator", "recovery"]
    assert (
        f"Next: train it, as docs/training.md shows: accelerate launch -m d2vpr_hf.training.distill ... --model {folder}"
        in text
    )
    assert "adapters, aggregator, recovery were drawn at random" in text and "d2vpr index" not in text
    assert "**Not trained yet**: adapters, aggregator, recovery were drawn" in (folder / "README.md").read_text()


@pytest.mark.parametrize("command", ["index", "evaluate", "embed"])
def test_every_command_that_encodes_warns_once(student, tmp_path, command):
    folder, photos = student[0], save_row(tmp_path / "photos")
    words = {
        "index": ("index", photos, "--out", tmp_path / "out"),
        "embed": ("embed", photos, "--out", tmp_path / "out"),
        "evaluate": ("evaluate", "--database", photos, "--queries", photos),
    }
    caught = []
    handler = logging.Handler()
    handler.emit = caught.append
    logging.getLogger("d2vpr_hf").addHandler(handler)
    try:
        assert run(*words[command], "--model", folder, "--batch-size", 9)[0] == 0
    finally:
        logging.getLogger("d2vpr_hf").removeHandler(handler)
    assert [WARNING in record.getMessage() for record in caught].count(True) == 1


def test_trained_models_do_not_warn(tmp_path, caplog):
    """The embedded model, and published weights, which are converted or loaded into a model of the right shape."""
    weights = published_weights("d2vpr")
    torch.save({"model_state_dict": weights}, tmp_path / "published.pth")
    convert_weights(tmp_path / "published.pth", tmp_path / "converted")
    with caplog.at_level(logging.WARNING):
        for name in (None, tmp_path / "converted"):
            assert PlaceEncoder(name).config.untrained_parts == []
    assert caplog.text == "" and "untrained_parts" not in (tmp_path / "converted" / "config.json").read_text()


def test_a_model_without_weights_is_untrained_until_weights_are_loaded():
    model, trained = D2VPRModel(D2VPRConfig(**TINY)), D2VPRModel(D2VPRConfig(**TINY))
    assert model.config.untrained_parts == ["adapters", "aggregator", "embeddings", "encoder", "recovery"]
    state = trained.state_dict()
    model.load_state_dict({name: weight for name, weight in state.items() if "recovery.norm" not in name}, strict=False)
    assert model.config.untrained_parts == ["recovery"]
    model.load_state_dict(state)
    assert model.config.untrained_parts == []


def test_weights_that_a_folder_lacks_are_named(tiny_folder, tmp_path):
    """transformers draws them at random and only logs it; the saved copy then looks complete."""
    model = load_model(tiny_folder)
    model.config.untrained_parts = []
    model.save_pretrained(tmp_path / "whole")
    assert "untrained_parts" not in (tmp_path / "whole" / "config.json").read_text()
    part = next(part for part in ("recovery", "aggregator") if hasattr(model, part))
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    weights = {name: weight for name, weight in weights.items() if not name.startswith(part)}
    save_file(weights, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    filled = type(model).from_pretrained(tmp_path / "whole")
    assert filled.config.untrained_parts == [part]
    filled.save_pretrained(tmp_path / "filled")
    assert load_model(tmp_path / "filled").config.untrained_parts == [part]


def test_the_mark_does_not_change_the_fingerprint():
    """An index that was built before the model had the mark must still open with it."""
    model = tiny_model()
    marked = fingerprint(model, D2VPRImageProcessor())
    model.config.untrained_parts = []
    assert fingerprint(model, D2VPRImageProcessor()) == marked


def test_a_fresh_cross_image_encoder_is_one_untrained_part():
    model = tiny_model()
    model.config.untrained_parts = []
    larger = add_cross_image_encoder(model, seed=0)
    assert larger.config.untrained_parts == ["cross_image_encoder"] and model.config.untrained_parts == []
    larger.remove_cross_image_encoder()
    assert larger.config.untrained_parts == []


def test_an_untrained_teacher_warns(student, caplog):
    """A student that learns from random descriptors learns nothing."""
    with caplog.at_level(logging.WARNING):
        load_teacher(student[0])
    assert WARNING in caplog.text


def test_an_exported_graph_keeps_the_mark(student, tmp_path, caplog):
    (tmp_path / "export.json").write_text("{}")
    load_model(student[0]).config.save_pretrained(tmp_path)  # as `export_model` writes it
    assert ExportedModel(tmp_path, {"format": "onnx"}).config().untrained_parts == ["adapters", "aggregator", "recovery"]
