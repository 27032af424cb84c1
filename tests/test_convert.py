"""The converter: every published form is recognised, everything else is refused with a list of what is off."""

import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from d2vpr_hf.convert import ConversionError, convert_weights
from d2vpr_hf.convert.weights_file import read_weights
from d2vpr_hf.loading import load_image_processor, load_model
from tests.conftest import published_weights


@pytest.fixture(scope="module")
def weights():
    return published_weights("d2vpr", salt="convert")


def save(path, content):
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def converted(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert_weights(save(folder / "published.pth", weights), folder / "out")
    return folder / "out"


def test_the_folder_is_complete(converted):
    names = {path.name for path in converted.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "modeling_d2vpr.py"} <= names
    config = json.loads((converted / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_d2vpr.D2VPRModel"
    assert config["architectures"] == ["D2VPRModel"]
    assert dict(load_image_processor(converted).size) == {"height": 224, "width": 224}


def test_the_card(converted):
    card = huggingface_hub.ModelCard.load(converted / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.base_model == "facebook/dinov2-small"
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert "visual-place-recognition" in card.data.tags
    assert "27.2 M" in card.text and "10752 numbers" in card.text and "{{" not in card.text


def test_weights_keep_their_bits(weights, converted):
    """Every published number must be in the folder, in the place it belongs to; a few are followed by hand."""
    state = load_model(converted).state_dict()
    pairs = {
        "backbone.mask_token": "embeddings.mask_token",
        "backbone.blocks.11.attn.qkv.weight": "encoder.layers.11.attention.qkv.weight",
        "backbone.blocks.3.adapter.branch3.1.bn.running_var": "encoder.layers.3.adapter.branches.2.1.norm.running_var",
        "backbone.up_norm.bias": "recovery.norm.bias",
        "aggregation.1.p": "aggregator.gem.p",
        "topdown_fusion.medium_to_global.4.bias": "aggregator.fusion.medium_to_global.up.bias",
    }
    for theirs, ours in pairs.items():
        assert torch.equal(state[ours], weights[theirs]), theirs
    assert sum(w.numel() for w in state.values()) == sum(w.numel() for w in weights.values())
    checksum = sum(w.double().sum() for w in weights.values())
    assert sum(w.double().sum() for w in state.values()).item() == pytest.approx(checksum.item(), rel=1e-12)


@pytest.mark.parametrize("wrap", ["bare", "module", "model_state_dict", "both", "safetensors"])
def test_every_published_form_gives_the_same_weights(weights, tmp_path, wrap):
    prefixed = {f"module.{name}": weight for name, weight in weights.items()}
    if wrap == "safetensors":
        path = tmp_path / "a.safetensors"
        save_file(weights, path)
    else:
        content = prefixed if wrap in ("module", "both") else weights
        content = {"model_state_dict": content, "epoch": 3} if wrap in ("model_state_dict", "both") else content
        path = save(tmp_path / "a.pth", content)
    found = read_weights(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_the_encoder_is_recognised(tmp_path):
    done = convert_weights(save(tmp_path / "e.pth", published_weights("d2vpr_encoder")), tmp_path / "out")
    assert done.source.name == "published D²-VPR with cross-image encoder"
    assert load_model(tmp_path / "out").config.use_cross_image_encoder


def test_missing_left_over_and_mis_shaped_weights_are_listed(weights, tmp_path):
    broken = {name: weight for name, weight in weights.items() if name != "pos_encoder.fc.2.bias"}
    broken["head.weight"] = torch.zeros(3)
    broken["backbone.lin.bias"] = torch.zeros(5)
    with pytest.raises(ConversionError) as raised:
        convert_weights(save(tmp_path / "a.pth", broken), tmp_path / "out")
    message = str(raised.value)
    assert "left over (1): head.weight" in message
    assert "missing (1): pos_encoder.fc.2.bias" in message
    assert "mis-shaped (1): backbone.lin.bias (5,), expected (768,)" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pos_encoder.fc.0.weight", None, r"missing \(1\): pos_encoder\.fc\.0\.weight"),
        ("offset_generator.0.weight", lambda w: w[:, 0, 0, 0], r"mis-shaped \(1\): offset_generator\.0\.weight \(512,\)"),
        ("offset_generator.2.weight", lambda w: w.expand(-1, -1, 2, 2), r"mis-shaped \(1\): offset_generator\.2\.weight"),
        ("backbone.lin.bias", lambda w: w * torch.nan, r"not finite \(1\): backbone\.lin\.bias"),
        ("backbone.lin.bias", lambda w: w.long(), r"of another type \(1\): backbone\.lin\.bias"),
        ("backbone.lin.bias", lambda w: w.to(torch.complex64), r"of another type \(1\): backbone\.lin\.bias"),
    ],
)
def test_one_bad_weight_is_named(weights, tmp_path, name, change, message):
    """Also where it is one that a kind of file could be recognised by."""
    broken = {key: weight for key, weight in weights.items() if key != name}
    if change is not None:
        broken[name] = change(weights[name]).contiguous()
    with pytest.raises(ConversionError, match=message):
        convert_weights(save(tmp_path / "a.pth", broken), tmp_path / "out")


def test_weights_that_are_there_twice(tmp_path):
    path = save(tmp_path / "a.pth", {"x": torch.zeros(1), "module.x": torch.ones(1)})
    with pytest.raises(ConversionError, match="holds some weights twice"):
        read_weights(path)


def test_another_model_is_of_no_known_kind(tmp_path):
    path = save(tmp_path / "a.pth", {"layer1.weight": torch.zeros(2)})
    with pytest.raises(ConversionError, match=r"of no known kind .*Its weights are: layer1\.weight"):
        convert_weights(path, tmp_path / "out")


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_is_not_executed(tmp_path):
    for name, writer in {"zip.pth": torch.save, "plain.pth": lambda o, p: Path(p).write_bytes(pickle.dumps(o))}.items():
        writer({"model_state_dict": Bomb(tmp_path / "executed")}, tmp_path / name)
        with pytest.raises(ConversionError, match="nothing in it was executed"):
            convert_weights(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "executed").exists()


def test_damaged_files(weights, tmp_path):
    whole = save(tmp_path / "whole.pth", weights).read_bytes()
    damaged = {"half.pth": whole[: len(whole) // 2], "empty.pth": b"", "text.pth": b"hello", "a.safetensors": b"x" * 99}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConversionError, match=name):
            convert_weights(tmp_path / name, tmp_path / "out")
    with pytest.raises(ConversionError, match="holds no weights"):
        convert_weights(save(tmp_path / "list.pth", [1, 2]), tmp_path / "out")
    with pytest.raises(ConversionError, match="entries that are no weights: epoch"):
        convert_weights(save(tmp_path / "mixed.pth", {"a": torch.zeros(1), "epoch": 3}), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        convert_weights(tmp_path / "nowhere.pth", tmp_path / "out")


def test_what_is_there_is_kept(weights, tmp_path):
    source = save(tmp_path / "a.pth", weights)
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("my own words")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_weights(source, out)
    convert_weights(source, out, overwrite=True)
    assert (out / "README.md").read_text() == "my own words"
    assert (out / "model.safetensors").is_file()


def test_the_source_is_not_overwritten(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="might be overwritten"):
        convert_weights(tmp_path / "model.safetensors", tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_card_that_this_package_wrote_is_renewed(weights, tmp_path):
    out = tmp_path / "out"
    convert_weights(save(tmp_path / "plain.pth", weights), out)
    convert_weights(save(tmp_path / "e.pth", published_weights("d2vpr_encoder")), out, overwrite=True)
    assert "38.2 M" in (out / "README.md").read_text()
