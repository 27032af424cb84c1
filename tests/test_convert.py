"""The converter: every published form is recognised, everything else is refused with a list of what is off."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig, ViTModel
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.convert import ConversionError, Target, convert_to_published, convert_weights, load_converted
from d2vpr_hf.convert.weights_file import read_weights
from d2vpr_hf.modeling import CricaVPRModel, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from tests.conftest import drawn_weights, hub_cache, perturb, recipe, relative, save_folder, tiny_cricavpr, tiny_model


@pytest.fixture(scope="module")
def weights():
    return drawn_weights("d2vpr")


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
    assert card.data.license == "unknown"
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
    loaded = read_weights(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_the_encoder_is_recognised(tmp_path):
    done = convert_weights(save(tmp_path / "e.pth", drawn_weights("d2vpr_encoder")), tmp_path / "out")
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


@pytest.mark.parametrize("name", ["backbone.norm.weight", "aggregation.1.p", "encoder.layers.1.linear2.bias"])
def test_a_broken_cricavpr_is_recognised_as_one(tmp_path, name):
    """Without its last norm it shares every name with a D²-VPR with encoder, which would list the wrong things as missing."""
    broken = {
        key: torch.zeros(shape)
        for key, shape in recipe.shapes("cricavpr").items()
        if not key.startswith(name.split(".weight")[0])
    }
    with pytest.raises(
        ConversionError, match=rf"looks like published CricaVPR(?s:.*)missing \(\d\): {name.split('.weight')[0]}"
    ):
        load_converted(save(tmp_path / "a.pth", broken))


def test_weights_that_are_there_twice(tmp_path):
    path = save(tmp_path / "a.pth", {"x": torch.zeros(1), "module.x": torch.ones(1)})
    with pytest.raises(ConversionError, match="holds some weights twice"):
        read_weights(path)


def test_another_model_is_of_no_known_kind(tmp_path):
    path = save(tmp_path / "a.pth", {"layer1.weight": torch.zeros(2)})
    with pytest.raises(ConversionError, match=r"not of a supported kind .*Its weights are: layer1\.weight"):
        convert_weights(path, tmp_path / "out")


class Call:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Bomb(Call):
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        super().__init__(Path.touch, path)


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
    with pytest.raises(ConversionError, match="entries that are not weights: epoch"):
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
    convert_weights(save(tmp_path / "e.pth", drawn_weights("d2vpr_encoder")), out, overwrite=True)
    assert "38.2 M" in (out / "README.md").read_text()


def test_a_checkpoint_of_the_published_training_scripts(weights, tmp_path):
    """They store recalls next to the weights, as numpy's numbers and arrays, and the optimizer's state."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    extras = {"epoch_num": 3, "best_r5": np.float64(96.8), "recalls": np.array([91.7, 95.8]), "not_improved_num": np.int64(0)}
    extras |= {"optimizer_state_dict": optimizer.state_dict()}
    path = tmp_path / "a.pth"
    torch.save({"model_state_dict": {"a": torch.ones(2)}} | extras, path, _use_new_zipfile_serialization=False)
    assert read_weights(path)["a"].tolist() == [1, 1]
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))  # as numpy 1 wrote it
    assert read_weights(path)["a"].tolist() == [1, 1]
    assert read_weights(save(path, {"model_state_dict": weights} | extras)).keys() == weights.keys()


def test_numpy_builds_nothing_that_a_file_describes(tmp_path):
    """numpy uses an address that a file contains: the file `address` would kill the process, `memory` would take 4 GB."""
    recalls = {"memory": ((500_000_000,), "O"), "address": ((1,), "O", b"AAAAAAAA")}
    paths = [
        save(tmp_path / f"{name}.pth", {"a": torch.ones(1), "recalls": Call(np.ndarray, *arguments)})
        for name, arguments in recalls.items()
    ]
    run = subprocess.run([sys.executable, "-c", READ_EACH, *map(str, paths)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for path in paths:
        assert f"{path.name} holds entries that are not weights: recalls" in run.stdout


READ_EACH = """
import sys
from pathlib import Path
from d2vpr_hf.convert.weights_file import read_weights
for path in sys.argv[1:]:
    try:
        read_weights(Path(path))
    except ValueError as error:
        print(error, flush=True)
"""


def test_reading_leaves_the_process_as_it_was(tmp_path):
    """Classes that the process allows torch to unpickle are not used here, and are allowed again afterwards."""
    path = save(tmp_path / "a.pth", {"a": torch.ones(1), "b": Bomb(tmp_path / "executed")})
    torch.serialization.add_safe_globals([Path.touch, type(tmp_path)])
    try:
        before = torch.serialization.get_safe_globals()
        with pytest.raises(ConversionError, match="nothing in it was executed"):
            read_weights(path)
        assert set(torch.serialization.get_safe_globals()) == set(before)
        assert not (tmp_path / "executed").exists()
    finally:
        torch.serialization.clear_safe_globals()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(4).to_sparse(),
        torch.empty(1).expand(10**6, 10**6),
        torch.empty(3, device="meta"),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "more than its memory", "meta", "8-bit float"],
)
def test_tensors_that_are_no_plain_numbers(tmp_path, tensor):
    with pytest.raises(ConversionError, match=r"not plain numbers .*: odd\."):
        read_weights(save(tmp_path / "a.pth", {"odd": tensor, "fine": torch.ones(1)}))


def test_names_cannot_command_a_terminal(tmp_path):
    path = save(tmp_path / "a.pth", {"\x1b[2J\nd2vpr: all fine": torch.ones(1)})
    with pytest.raises(ConversionError, match=r"Its weights are: '\\x1b\[2J\\nd2vpr: all fine'"):
        load_converted(path)


@pytest.mark.parametrize(
    ("manifest", "prefix"), [("d2vpr", ""), ("d2vpr_encoder", ""), ("cricavpr", "module.")], ids=lambda value: value
)
def test_round_trip_to_the_published_form(tmp_path, manifest, prefix):
    """Bit-equal, under the names that each published code loads: CricaVPR's hub entry wraps its model, D²-VPR's does not."""
    published = drawn_weights(manifest)
    published = {name: w + 7 if name.endswith("num_batches_tracked") else w for name, w in published.items()}
    convert_weights(save(tmp_path / "a.pth", published), tmp_path / "ours")
    convert_to_published(tmp_path / "ours", tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth", weights_only=True)["model_state_dict"]
    assert content.keys() == {prefix + name for name in published}
    for name, weight in published.items():
        assert content[prefix + name].dtype == weight.dtype
        assert torch.equal(content[prefix + name], weight), name


def test_a_model_that_the_published_code_cannot_compute(tmp_path):
    folder = save_folder(tiny_model(), tmp_path / "tiny")
    with pytest.raises(ConversionError, match=r"cannot compute .*: .*hidden_size 32, published 384; .*recovery_size 48, publ"):
        convert_to_published(folder, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_a_switch_that_the_published_code_does_not_have(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"position_embedding_offset": 0, "fusion_dropout": 0.5}))
    with pytest.raises(ConversionError, match=r"differs in: position_embedding_offset 0, published 0\.1\.$"):
        convert_to_published(folder, tmp_path / "a.pth")


def test_publishing_overwrites_nothing_unasked(converted, tmp_path):
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        convert_to_published(converted, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_text() == "mine"
    convert_to_published(converted, tmp_path / "a.pth", overwrite=True)
    assert read_weights(tmp_path / "a.pth").keys() == recipe.shapes("d2vpr").keys()
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(FileExistsError):
        convert_to_published(converted, tmp_path / "folder.pth", overwrite=True)


TINY_DINOV2 = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 518}


def dinov2(kind=Dinov2Model, config=Dinov2Config, **changes):
    torch.manual_seed(0)
    return perturb(kind(config(**(TINY_DINOV2 | {"patch_size": 14} | changes)))).eval()


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    dinov2().save_pretrained(folder)
    return folder


ORIGINAL = {  # a part of the names, as DINOv2's own files have them, and where transformers has them
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w3": "mlp.down_proj",
    "ls2.gamma": "layer_scale2.lambda1",
}


def original_names(model):
    """The weights of a transformers model as DINOv2's own files have them, written out by hand."""
    state, original = model.state_dict(), {}
    stacks = {
        "attn.qkv": ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
        "mlp.w12": ["mlp.gate_proj", "mlp.up_proj"],
    }
    for theirs, ours in ORIGINAL.items():
        for name in [name for name in state if f".{ours}" in f".{name}" and not name.startswith("layernorm")]:
            original[name.replace(ours, theirs).replace("encoder.layer.", "blocks.")] = state[name]
    for theirs, parts in stacks.items():
        for name in [name for name in state if f".{parts[0]}." in name]:
            rows = [state[name.replace(parts[0], part)] for part in parts]
            original[name.replace(parts[0], theirs).replace("encoder.layer.", "blocks.")] = torch.cat(rows)
    return original | {f"norm.{kind}": state[f"layernorm.{kind}"] for kind in ("weight", "bias")}


def assert_same_states(model, reference, size, tolerance=0.0):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = reference(images, output_hidden_states=True)
        output = model(images, output_hidden_states=True)
    assert len(output.hidden_states) == len(expected.hidden_states) == 4
    assert max(map(relative, output.hidden_states, expected.hidden_states)) <= tolerance
    return output, expected


def test_names_of_dinov2_are_those_of_the_published_backbones(tmp_path):
    """The published CricaVPR keeps its DINOv2 under `backbone.`: names and shapes from another source than our table."""
    published = drawn_weights("cricavpr")
    vit = {name.removeprefix("backbone."): w for name, w in published.items() if name.startswith("backbone.")}
    vit = {name: weight for name, weight in vit.items() if ".adapter." not in name}
    done = load_converted(save(tmp_path / "dinov2_vitb14_pretrain.pth", vit), target="cricavpr")
    state = done.model.state_dict()
    assert (done.source.name, done.dropped) == ("DINOv2", [])
    assert torch.equal(state["encoder.layers.11.attention.qkv.weight"], vit["blocks.11.attn.qkv.weight"])
    assert torch.equal(state["norm.bias"], vit["norm.bias"])
    drawn = {name for name in state if ".adapter." in name or name.startswith(("cross_image_encoder", "aggregator"))}
    assert set(done.drawn) == {name for name in drawn if not name.endswith("num_batches_tracked")}
    assert done.model.config.num_attention_heads == 12


@pytest.mark.parametrize("size", [(518, 518), (224, 224), (98, 294)], ids=str)
def test_a_student_starts_as_dinov2(dinov2_folder, size):
    """Below the recovery module; to the last bit on the stored grid, as positions are resampled by matrices here."""
    done = load_converted(dinov2_folder, target=Target.STUDENT, changes={"position_embedding_offset": 0})
    assert isinstance(done.model, D2VPRModel)
    assert done.dropped == ["layernorm.bias", "layernorm.weight"]
    assert not any(name.startswith(("embeddings.", "encoder.")) and ".adapter." not in name for name in done.drawn)
    assert_same_states(done.model, dinov2(), size, 0.0 if size == (518, 518) else 5e-6)


def test_the_two_rules_for_positions_differ_except_on_the_stored_grid(dinov2_folder):
    model = load_converted(dinov2_folder, target="student").model
    assert model.config.position_embedding_offset == 0.1
    assert_same_states(model, dinov2(), (518, 518))
    with pytest.raises(AssertionError):
        assert_same_states(model, dinov2(), (224, 224))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("form", ["folder", "sharded", "original.pth", "file.safetensors", "memory.safetensors"])
def test_every_form_of_dinov2_gives_the_same_teacher(tmp_path, form, gated):
    """ViT-g's gated MLPs included; tokens after the final norm are DINOv2's own."""
    reference = dinov2(use_swiglu_ffn=gated)
    source = tmp_path / form
    if form in ("folder", "sharded"):
        reference.save_pretrained(source, max_shard_size="300KB" if form == "sharded" else "1GB")
    elif form == "original.pth":
        torch.save(original_names(reference), source)
    elif form == "memory.safetensors":
        save_file(reference.state_dict(), source)
    else:
        reference.save_pretrained(tmp_path / "folder")
        shutil.copy(tmp_path / "folder" / "model.safetensors", source)
        assert any("attention.attention.query" in name for name in load_file(source))  # as every transformers 5 writes it
    changes = {"position_embedding_offset": 0, "cross_image_num_heads": 8}
    done = load_converted(source, target="cricavpr", changes=changes)
    assert isinstance(done.model, CricaVPRModel) and done.dropped == []
    assert done.model.config.use_swiglu_ffn == gated
    tolerance = 5e-6  # positions are resampled by matrices here
    found, expected = assert_same_states(done.model, reference, (98, 70), tolerance)
    assert relative(found.last_hidden_state, expected.last_hidden_state) <= tolerance


def test_a_hub_id(dinov2_folder, tmp_path, monkeypatch):
    cache = hub_cache(tmp_path, "facebook/dinov2-small", dinov2_folder)
    for name in ("transformers.utils.hub.constants.HF_HUB_CACHE", "huggingface_hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(name, str(cache), raising=False)
    result = CliRunner().invoke(app, ["convert", "facebook/dinov2-small", str(tmp_path / "out"), "--as", "student"])
    assert result.exit_code == 0, result.exception
    assert "tensors that facebook/dinov2-small does not have, with seed 0" in result.output
    assert "Skipped tensors that the model does not use: layernorm.bias, layernorm.weight" in result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| made from | facebook/dinov2-small |" in card and "license: apache-2.0" in card
    assert load_model(tmp_path / "out").config.hidden_size == 128


def test_the_seed_decides_what_is_drawn(dinov2_folder):
    states = [load_converted(dinov2_folder, target="student", seed=seed).model.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["recovery.projection.weight"], states[2]["recovery.projection.weight"])
    before = torch.random.get_rng_state()
    load_converted(dinov2_folder, target="student")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fields_of_the_configuration_can_be_set(dinov2_folder, tmp_path):
    command = ["convert", str(dinov2_folder), str(tmp_path / "out"), "--as", "student", "--set", "recovery_size=128"]
    command += ["--set", "tap_layers=[1, 3]", "--set", "hidden_act=gelu", "--set", "use_offsets=False", "--seed", "5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    config = load_model(tmp_path / "out").config
    assert (config.recovery_size, config.tap_layers, config.hidden_act, config.use_offsets) == (128, [1, 3], "gelu", False)


def test_assumed_heads_are_told(dinov2_folder, tmp_path):
    command = ["convert", str(dinov2_folder / "model.safetensors"), str(tmp_path / "out"), "--as", "student"]
    assert "Assumed 2 attention heads, of 64 channels each" in CliRunner().invoke(app, command).output
    assert load_converted(dinov2_folder, target="student").assumed_heads is None
    changes = {"num_attention_heads": 4}
    assert load_converted(dinov2_folder / "model.safetensors", target="student", changes=changes).assumed_heads is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "student", "changes": {"dtype": "bfloat16"}}, "has no field dtype to set. It has: hidden_size, "),
        ({"target": "student", "changes": {"hidden_act": "nope"}}, "`hidden_act` must be an activation of transformers"),
        (
            {"target": "student", "changes": {"mlp_ratio": 1e9}},
            r"The weights of .* determine mlp_ratio \(4\), which cannot be set",
        ),
        ({}, 'choose the model that it becomes, `target="student"` or `target="cricavpr"`'),
        ({"target": "teacher"}, "`target` must be one of student, cricavpr, got 'teacher'"),
        ({"target": "student", "changes": {"recovery_sise": 3}}, "D2VPRConfig has no field recovery_sise"),
        ({"target": "student", "changes": {"recovery_size": "big"}}, "`recovery_size` must be a whole number"),
        ({"target": "student", "changes": {"hidden_size": 64}}, r"determine hidden_size \(128\), which cannot be set"),
    ],
)
def test_options_that_do_not_go_with_the_source(dinov2_folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_converted(dinov2_folder, **options)


def test_a_whole_model_becomes_nothing_else(weights, tmp_path):
    path = save(tmp_path / "a.pth", weights)
    with pytest.raises(ValueError, match="is published D²-VPR, a whole student; it cannot become cricavpr"):
        load_converted(path, target="cricavpr")
    with pytest.raises(ValueError, match="a complete model; projection_dim cannot be set"):
        load_converted(path, changes={"projection_dim": 4096})
    assert load_converted(path, target="student").drawn == []


def test_registers_have_no_place_in_a_student(tmp_path):
    dinov2(Dinov2WithRegistersModel, Dinov2WithRegistersConfig).save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match=r"(?s)left over \(1\): embeddings\.register_tokens.*`load_teacher` takes it"):
        load_converted(tmp_path, target="student")


def test_a_mask_token_may_be_missing(tmp_path):
    dinov2(use_mask_token=False).save_pretrained(tmp_path)
    done = load_converted(tmp_path, target="student")
    assert "embeddings.mask_token" not in done.drawn
    assert (done.model.embeddings.mask_token == 0).all()


def test_a_final_norm_may_not_be_missing_in_a_teacher(tmp_path):
    broken = original_names(dinov2())
    del broken["norm.weight"]
    path = save(tmp_path / "a.pth", broken)
    with pytest.raises(ConversionError, match=r"missing \(1\): norm\.weight"):
        load_converted(path, target="cricavpr", changes={"cross_image_num_heads": 8})


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("encoder.layer.1.attention.attention.key.bias"),
            r"encoder\.layer\.1\.attention\..*key\.bias|k_proj\.bias",
        ),
        (lambda w: w.update({"stranger.weight": torch.zeros(3)}), r"stranger\.weight"),
        (lambda w: w.update({"layernorm.bias": torch.zeros(5)}), r"layernorm\.bias.*5"),
    ],
)
def test_a_dinov2_with_a_tensor_too_few_too_many_or_wrong(dinov2_folder, tmp_path, form, change, message):
    folder = shutil.copytree(dinov2_folder, tmp_path / "folder")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    source = folder if form == "folder" else folder / "model.safetensors"
    with pytest.raises(ValueError, match=f"(?s)do not fit.*({message})"):
        convert_weights(source, tmp_path / "out", target="cricavpr", changes={"cross_image_num_heads": 8})
    assert not (tmp_path / "out").exists()


def test_another_architecture(tmp_path):
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="is a model of type 'vit'; expected 'dinov2'"):
        convert_weights(tmp_path / "vit", tmp_path / "out", target="student")
    with pytest.raises(ConversionError, match=r"(?s)do not fit.*left over \(10\).*missing \(10\)"):
        convert_weights(tmp_path / "vit" / "model.safetensors", tmp_path / "out", target="student")


def test_a_model_of_this_package_is_no_source(tmp_path):
    folder = save_folder(tiny_cricavpr(), tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"is a model of this package already\. .*`d2vpr convert --to published`\) writes it"):
        convert_weights(folder, tmp_path / "out", target="student")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embeddings": torch.zeros(1, 0, 128)}, r"mis-shaped \(1\): embeddings\.position_embeddings"),
        ({"patch_embeddings.projection.weight": torch.zeros(0, 3, 14, 14)}, "mis-shaped"),
        ({"patch_embeddings.projection.weight": torch.zeros(4)}, "mis-shaped"),
        ({"mask_token": torch.full((1, 128), 1e39, dtype=torch.float64)}, r"not finite \(1\): embeddings\.mask_token"),
    ],
)
def test_odd_tensors_are_named(dinov2_folder, tmp_path, change, message):
    """Shapes that tell nothing, and numbers too large for float32."""
    weights = load_file(dinov2_folder / "model.safetensors")
    save_file(weights | {f"embeddings.{name}": tensor for name, tensor in change.items()}, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=message):
        load_converted(tmp_path / "a.safetensors", target="student")


def test_a_dropped_norm_is_checked_too(dinov2_folder, tmp_path):
    weights = load_file(dinov2_folder / "model.safetensors")
    save_file(weights | {"layernorm.weight": torch.full((5,), torch.nan)}, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=r"mis-shaped \(1\): layernorm\.weight \(5,\), expected \(128,\)"):
        load_converted(tmp_path / "a.safetensors", target="student")


@pytest.mark.parametrize("config", ["null", '{"model_type": ["dinov2"]}', '{"model_type": "dinov2", "hidden_size": "x"}'])
def test_configurations_that_cannot_be(dinov2_folder, tmp_path, config):
    folder = shutil.copytree(dinov2_folder, tmp_path / "folder")
    (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match="configuration of"):
        load_converted(folder, target="student")


def test_folder_and_file_of_a_dinov2_make_one_model(dinov2_folder):
    """The same weights and numbers must have one fingerprint, or an index would refuse the other."""
    sources = (dinov2_folder, dinov2_folder / "model.safetensors")
    models = [load_converted(source, target="student").model for source in sources]
    assert fingerprint(models[0], D2VPRImageProcessor()) == fingerprint(models[1], D2VPRImageProcessor())


def test_a_folder_named_like_a_file(dinov2_folder, tmp_path):
    folder = shutil.copytree(dinov2_folder, tmp_path / "dinov2.pt")
    assert load_converted(folder, target="student").source.name == "transformers' DINOv2"


def test_what_cannot_be_written_leaves_no_trace(converted, dinov2_folder, tmp_path, monkeypatch):
    """A full disk halfway, over a model that was there."""
    out = shutil.copytree(converted, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full_disk(*arguments, **options):
        raise SafetensorError("no space left")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full_disk)
    with pytest.raises(OSError, match=r"could not be written \(no space left\); nothing was changed"):
        convert_weights(dinov2_folder, out, target="student", overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_of_another_model_do_not_stay(dinov2_folder, tmp_path):
    out = tmp_path / "out"
    tiny_model().save_pretrained(out, max_shard_size="40KB")
    (out / "notes.txt").write_text("mine")
    convert_weights(dinov2_folder, out, target="student", overwrite=True)
    assert sorted(path.name for path in out.glob("*.safetensors*")) == ["model.safetensors"]
    assert (out / "notes.txt").read_text() == "mine"
    convert_weights(dinov2_folder, out, target="cricavpr", changes={"cross_image_num_heads": 8}, overwrite=True)
    assert not (out / "modeling_d2vpr.py").exists() and (out / "modeling_cricavpr.py").is_file()
    assert load_model(out).config.hidden_size == 128


def test_a_card_claims_no_more_than_is_known(dinov2_folder, tmp_path):
    convert_weights(dinov2_folder, tmp_path / "out", target="student")
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None and card.data.license == "unknown"
    assert "Apache-2.0 if it is one of Meta's" in card.text


def test_published_files_are_pickles_outside_the_model(converted, tmp_path):
    with pytest.raises(ValueError, match=r"`out` must end in \.pth"):
        convert_to_published(converted, converted / "model.safetensors", overwrite=True)
    assert load_model(converted)


def test_what_is_switched_off_does_not_count(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"cross_image_num_heads": 8}))
    assert convert_to_published(folder, tmp_path / "a.pth").name == "published D²-VPR"


def test_a_source_that_is_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.pth"):
        convert_weights("nowhere.pth", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="There is no model someone/nothing"):
        convert_weights("someone/nothing", tmp_path / "out", target="student")


def test_the_folder_of_the_source_is_not_overwritten(dinov2_folder, tmp_path):
    folder = shutil.copytree(dinov2_folder, tmp_path / "folder")
    with pytest.raises(FileExistsError, match="might be overwritten"):
        convert_weights(folder, folder, target="student", overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "published", "--as", "student"], "omit `--as` and `--set`"),
        (["--as", "student", "--set", "recovery_size"], "Expected `--set FIELD=VALUE`, got 'recovery_size'"),
    ],
)
def test_command_lines_that_make_no_sense(dinov2_folder, tmp_path, options, message):
    result = CliRunner().invoke(app, ["convert", str(dinov2_folder), str(tmp_path / "out"), *options])
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


def test_publishing_from_the_command_line(converted, tmp_path):
    result = CliRunner().invoke(app, ["convert", str(converted), str(tmp_path / "a.pth"), "--to", "published"])
    assert result.exit_code == 0, result.exception
    assert "as published D²-VPR:" in result.output and (tmp_path / "a.pth").is_file()
