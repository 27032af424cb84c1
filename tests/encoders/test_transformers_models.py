"""Vision models of transformers as encoders: they agree with a plain script, and no wrong model is opened without a word."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.conftest import hub_cache
from tests.encoders.vision_models import PUBLISHED, SIGLIP2, TEXT, VIT, make_model, save_published

RESAMPLE = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}


def noise(height: int, width: int, seed: int) -> Image.Image:
    """Return an image with coarse and fine structure."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    fine = generator.integers(-40, 40, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + fine).clip(0, 255).astype(np.uint8))


IMAGES = [noise(60, 180, 0), noise(101, 77, 1), noise(90, 120, 2), noise(64, 64, 3), noise(150, 50, 4)]
POOLERS = ("siglip", "clip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: save_published(family, root / family) for family in PUBLISHED}


@pytest.fixture(scope="module")
def dinov2(folders):
    return folders["dinov2"]


def plain_pixels(family: str, images) -> torch.Tensor:
    """Resize, rescale and normalise whole photos, as a script would do it with Pillow and numpy."""
    processor, (height, width) = PUBLISHED[family].processor, PUBLISHED[family].size
    resized = [image.convert("RGB").resize((width, height), RESAMPLE[processor["resample"]]) for image in images]
    pixels = np.stack([np.asarray(image, np.float32) for image in resized]) / 255
    if family.startswith("dinov3"):  # its processor does not round resized numbers
        bands = [[np.asarray(band.convert("F").resize((width, height), 2)) for band in image.split()] for image in images]
        pixels = np.stack(bands).transpose(0, 2, 3, 1) / 255
    pixels = (pixels - processor["image_mean"]) / processor["image_std"]
    return torch.from_numpy(pixels).float().permute(0, 3, 1, 2)


def plain_descriptors(family: str, folder, images) -> np.ndarray:
    """Compute the descriptors of a family's default pooling in a few lines."""
    model = AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", model)
    with torch.no_grad():
        output = model(plain_pixels(family, images))
    state = output.last_hidden_state
    tokens = state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
    num_prefix = {"dinov2": 1, "dinov2_with_registers": 5, "dinov3_vit": 5, "dinov3_convnext": 1, "beit": 1}.get(family, 0)
    descriptors = tokens[:, num_prefix:].clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
    if family in POOLERS:
        descriptors = output.pooler_output
    elif family == "vit":
        descriptors = state[:, 0]
    return torch.nn.functional.normalize(descriptors, dim=1).numpy()


@pytest.mark.parametrize("family", PUBLISHED)
def test_descriptors_equal_those_of_a_plain_script(family, folders):
    encoder = PlaceEncoder(folders[family], batch_size=3, device="cpu")
    descriptors = encoder.encode(IMAGES).descriptors
    np.testing.assert_allclose(descriptors, plain_descriptors(family, folders[family], IMAGES), atol=1e-5)
    assert descriptors.dtype == np.float32 and encoder.descriptor_dim == descriptors.shape[1]
    assert encoder.input_size == PUBLISHED[family].size and not encoder.depends_on_batch
    assert np.abs(descriptors @ descriptors.T - np.eye(5))[0, 1:].max() > 1e-3, "images must differ for this test"
    assert np.ptp(descriptors @ descriptors.T) > 1e-5
    reopened = PlaceEncoder(folders[family], batch_size=1, device="cpu")
    np.testing.assert_allclose(reopened.encode(IMAGES).descriptors, descriptors, atol=1e-5)
    assert reopened.fingerprint == encoder.fingerprint


@pytest.mark.parametrize("family", ["dinov2", "dinov3_vit", "siglip", "clip", "vit", "ijepa", "beit", "swin", "resnet"])
def test_other_sizes_interpolate_position_embeddings(family, folders):
    size = {"dinov2": (56, 84), "swin": (96, 192)}.get(family, (64, 96))
    encoder = PlaceEncoder(folders[family], image_size=size, device="cpu", pool="mean")
    assert encoder.input_size == size and encoder.model_options == {"pool": "mean", "image_size": list(size)}
    model = getattr(model := AutoModel.from_pretrained(folders[family]).eval(), "vision_model", model)
    pixels = torch.from_numpy(encoder.descriptor_model.prepare(IMAGES[0]))[None]
    assert pixels.shape[2:] == size
    takes_argument = family in ("siglip", "clip", "vit", "ijepa", "beit", "swin")
    with torch.no_grad():
        state = model(pixels, **({"interpolate_pos_encoding": True} if takes_argument else {})).last_hidden_state
    tokens = state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
    prefix = {"dinov2": 1, "dinov3_vit": 5, "clip": 1, "vit": 1, "beit": 1}.get(family, 0)
    expected = torch.nn.functional.normalize(tokens[:, prefix:].mean(1), dim=1)
    np.testing.assert_allclose(encoder.encode(IMAGES[:1]).descriptors, expected, atol=1e-5)


def test_naflex_models_keep_the_shape_of_photos(tmp_path):
    """The processor of transformers pads to a number of patches and masks the rest; without padding the result is the same."""
    torch.manual_seed(0)
    config = transformers.Siglip2Config(
        text_config=TEXT, vision_config={**VIT, "num_patches": 16, "patch_size": 16, "num_channels": 3}
    )
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SIGLIP2))
    processor = transformers.models.siglip2.image_processing_pil_siglip2.Siglip2ImageProcessorPil(
        max_num_patches=16, patch_size=16
    )
    model = AutoModel.from_pretrained(tmp_path).vision_model.eval()
    with torch.no_grad():
        inputs = processor(IMAGES, return_tensors="pt")
        expected = torch.nn.functional.normalize(model(**inputs).pooler_output, dim=1)
    encoder = PlaceEncoder(tmp_path, device="cpu")
    np.testing.assert_allclose(encoder.encode(IMAGES).descriptors, expected, atol=1e-5)
    assert encoder.input_size is None and encoder.facts.title.startswith("SigLIP 2")


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2])
def test_layers_get_the_last_norm(layer, dinov2):
    """As the backbone classes of transformers apply it; the last layer is the model's output."""
    model = AutoModel.from_pretrained(dinov2).eval()
    with torch.no_grad():
        states = model(plain_pixels("dinov2", IMAGES), output_hidden_states=True).hidden_states
        tokens = model.layernorm(states[layer])
    expected = torch.nn.functional.normalize(tokens[:, 1:].mean(1), dim=1)
    encoder = PlaceEncoder(dinov2, pool="mean", layer=layer, device="cpu")
    np.testing.assert_allclose(encoder.encode(IMAGES * 3).descriptors[:5], expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.005)])
def test_half_precision_is_close(precision, tolerance, dinov2):
    exact = PlaceEncoder(dinov2, device="cpu").encode(IMAGES).descriptors
    encoder = PlaceEncoder(dinov2, device="cpu", precision=precision)
    assert str(encoder.runtime) == f"torch {precision}"
    assert np.abs(encoder.encode(IMAGES).descriptors - exact).max() < tolerance
    assert encoder.fingerprint == PlaceEncoder(dinov2, device="cpu").fingerprint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("family", ["dinov2", "siglip", "convnext", "swinv2"])
def test_descriptors_on_a_gpu_are_those_on_the_cpu(family, folders):
    on_cpu = PlaceEncoder(folders[family], device="cpu").encode(IMAGES).descriptors
    np.testing.assert_allclose(PlaceEncoder(folders[family], device="cuda").encode(IMAGES).descriptors, on_cpu, atol=1e-3)


def test_photos_of_any_form(dinov2):
    encoder = PlaceEncoder(dinov2, device="cpu")
    array = np.asarray(IMAGES[1])
    forms = [IMAGES[1], array, torch.from_numpy(array.copy()).permute(2, 0, 1), array.astype(np.float32) / 255]
    grey = IMAGES[1].convert("L")
    greys = [grey, np.asarray(grey), grey.convert("RGB"), grey.convert("LA")]
    for group in (forms, greys):
        descriptors = encoder.encode(group).descriptors
        np.testing.assert_allclose(descriptors, descriptors[:1].repeat(len(group), 0), atol=1e-6)


# ---- fingerprints


def test_every_option_changes_the_fingerprint(dinov2):
    options = [
        *({}, {"pool": "mean"}, {"pool": "cls"}, {"layer": 2}, {"layer": 1}),
        *({"image_size": (70, 84)}, {"image_size": (84, 70)}, {"image_size": 84}, {"center_crop": True}),
    ]
    fingerprints = [PlaceEncoder(dinov2, device="cpu", **chosen).fingerprint for chosen in options]
    assert len(set(fingerprints)) == len(options)
    default = PlaceEncoder(dinov2, device="cpu", pool="gem", image_size=(70, 70))
    assert default.fingerprint == fingerprints[0]  # the defaults, written out


def test_clip_with_and_without_a_crop_differ(folders):
    encoders = [PlaceEncoder(folders["clip"], center_crop=crop, device="cpu") for crop in (False, True)]
    assert encoders[0].fingerprint != encoders[1].fingerprint
    whole, crop = (encoder.encode(IMAGES[:1]).descriptors for encoder in encoders)
    assert np.abs(whole - crop).max() > 1e-3
    processor = transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil.from_pretrained(folders["clip"])
    model = AutoModel.from_pretrained(folders["clip"]).vision_model.eval()
    with torch.no_grad():
        expected = model(**processor(IMAGES[:1], return_tensors="pt")).pooler_output
    np.testing.assert_allclose(crop, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"resample": 2}, {"image_mean": [0.4] * 3}, {"size": {"shortest_edge": 90}}, {"do_center_crop": False}]
)
def test_each_setting_of_the_processor_changes_the_fingerprint(change, dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    path = tmp_path / "model" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    first, second = (PlaceEncoder(folder, center_crop=True, device="cpu") for folder in (dinov2, dinov2))
    assert first.fingerprint == second.fingerprint
    crops = change.get("do_center_crop", True)
    assert PlaceEncoder(tmp_path / "model", center_crop=crops, device="cpu").fingerprint != first.fingerprint


@pytest.mark.parametrize("family", ["dinov2", "clip", "swin", "mobilenet_v2"])
def test_saving_again_keeps_the_fingerprint(family, folders, tmp_path):
    fingerprint = PlaceEncoder(folders[family], device="cpu").fingerprint
    model = AutoModel.from_pretrained(folders[family])
    model.save_pretrained(tmp_path)
    shutil.copy(folders[family] / "preprocessor_config.json", tmp_path)
    assert PlaceEncoder(tmp_path, device="cpu").fingerprint == fingerprint
    assert PlaceEncoder(model, device="cpu").fingerprint == fingerprint
    weights = load_file(tmp_path / "model.safetensors")
    first = next(name for name in weights if name.endswith("weight") and "text" not in name)
    save_file(weights | {first: weights[first] + 0.01}, tmp_path / "model.safetensors", {"format": "pt"})
    assert PlaceEncoder(tmp_path, device="cpu").fingerprint != fingerprint


def test_half_precision_files_have_a_fingerprint_of_their_values(dinov2, tmp_path):
    AutoModel.from_pretrained(dinov2, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoModel.from_pretrained(tmp_path / "half", dtype=torch.float32).save_pretrained(tmp_path / "full")
    for name in ("half", "full"):
        shutil.copy(dinov2 / "preprocessor_config.json", tmp_path / name)
    half, full = (PlaceEncoder(tmp_path / name, device="cpu") for name in ("half", "full"))
    assert half.fingerprint == full.fingerprint and str(half.runtime) == "torch fp32"


def test_a_model_in_the_hub_cache(dinov2, tmp_path, monkeypatch):
    cache = hub_cache(tmp_path / "cache", "somebody/dinov2-tiny", dinov2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    encoder = PlaceEncoder("somebody/dinov2-tiny", device="cpu")
    assert (encoder.model_name, encoder.model_revision) == ("somebody/dinov2-tiny", "0" * 40)
    assert encoder.fingerprint == PlaceEncoder(dinov2, device="cpu").fingerprint


# ---- facts and remarks


def test_facts_come_from_the_model_and_its_card(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\ndatasets:\n- imagenet-1k\n---\n# DINOv2\n")
    facts = PlaceEncoder(tmp_path / "model", device="cpu").facts
    assert (facts.license, facts.arxiv) == ("apache-2.0", "2304.07193")
    assert "imagenet-1k" in facts.training_data and facts.title.startswith("DINOv2")
    assert facts.num_parameters == sum(weight.numel() for weight in AutoModel.from_pretrained(dinov2).parameters())
    facts = PlaceEncoder(dinov2, device="cpu").facts
    assert facts.license is None and facts.training_data is None


@pytest.mark.parametrize(
    "card", ["---\nlicense: other\nlicense_name: dinov3-license\n---\n", "---\nlicense: dinov3-license\n---\n"]
)
def test_a_licence_with_a_name_of_its_own(card, dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(card)
    assert PlaceEncoder(tmp_path / "model", device="cpu").facts.license == "dinov3-license"


def test_a_card_that_cannot_be_read_states_nothing(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: [\n---\n")
    assert PlaceEncoder(tmp_path / "model", device="cpu").facts.license is None


def test_resizing_whole_photos_is_said_once(dinov2, folders, caplog):
    with caplog.at_level(logging.WARNING):
        PlaceEncoder(dinov2, device="cpu").encode(IMAGES)
        assert [record.message for record in caplog.records if "Whole photos are resized to 70x70" in record.message] != []
        caplog.clear()
        PlaceEncoder(dinov2, device="cpu", center_crop=True)
        PlaceEncoder(folders["vit"], device="cpu")
        PlaceEncoder(dinov2, device="cpu", image_size=84)
    assert not caplog.records


@pytest.mark.parametrize(("family", "size"), [("dinov2", (224, 224)), ("vit", (64, 64)), ("convnext", (224, 224))])
def test_a_missing_processor_file_is_said(family, size, folders, tmp_path, caplog):
    shutil.copytree(folders[family], tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    encoder = PlaceEncoder(tmp_path / "model", device="cpu")
    assert encoder.input_size == size
    assert "has no preprocessor_config.json: photos are prepared as for published models of its family" in caplog.text


def test_settings_in_processor_config(dinov2, tmp_path):
    """`save_pretrained` of a processor for photos and texts writes this file instead."""
    shutil.copytree(dinov2, tmp_path / "model")
    values = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    fingerprint = PlaceEncoder(dinov2, device="cpu").fingerprint
    assert PlaceEncoder(tmp_path / "model", device="cpu").fingerprint == fingerprint
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(values | {"resample": 2}))
    assert (
        PlaceEncoder(tmp_path / "model", device="cpu").fingerprint == fingerprint
    )  # transformers prefers the nested ones, too


# ---- objects


def test_model_objects(dinov2, folders, caplog):
    expected = PlaceEncoder(dinov2, device="cpu")
    model = AutoModel.from_pretrained(dinov2)
    processor = transformers.models.bit.image_processing_pil_bit.BitImageProcessorPil.from_pretrained(dinov2)
    for given in (None, processor, expected.descriptor_model.preprocessing):
        encoder = PlaceEncoder(model, given, device="cpu")
        assert encoder.fingerprint == expected.fingerprint and encoder.model_name == str(dinov2.resolve())
        np.testing.assert_allclose(encoder.encode(IMAGES).descriptors, expected.encode(IMAGES).descriptors, atol=1e-6)
    in_memory = PlaceEncoder(make_model("dinov2"), processor, device="cpu")
    assert in_memory.model_name is None and in_memory.fingerprint == expected.fingerprint
    whole = AutoModel.from_pretrained(folders["clip"])
    assert PlaceEncoder(whole, device="cpu").fingerprint == PlaceEncoder(folders["clip"], device="cpu").fingerprint
    caplog.clear()
    assert PlaceEncoder(make_model("dinov2"), device="cpu").input_size == (224, 224)
    assert "This model has no preprocessor_config.json" in caplog.text


def test_our_processor_with_a_model_of_transformers():
    processor = D2VPRImageProcessor(size={"height": 56, "width": 84})
    encoder = PlaceEncoder(make_model("dinov2"), processor, device="cpu")
    pixels = encoder.descriptor_model.prepare(IMAGES[0])
    expected = processor(IMAGES[0], return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels - expected).max() < 0.02  # torch's bilinear resampling differs from Pillow's by 0.65/255


@pytest.mark.parametrize("processor", ["folder", AutoModel, 3])
def test_other_objects_are_no_processors(processor):
    with pytest.raises(TypeError, match="Expected an image processor of transformers, or a Preprocessing; got"):
        PlaceEncoder(make_model("vit"), processor)


# ---- refusals


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("siglip", {"pool": "cls"}, r"no pooling 'cls'; `pool` can be mean, gem, pooler, regions"),
        ("resnet", {"pool": "cls+gem"}, r"no pooling 'cls\+gem'; `pool` can be mean, gem, pooler"),
        ("ijepa", {"pool": "pooler"}, r"no pooling 'pooler'; `pool` can be mean, gem, regions"),
        ("dinov2", {"pool": "pooler", "layer": 1}, r"at layer 1 has no pooling 'pooler'"),
        ("dinov2", {"layer": 4}, r"`layer` must be in -3..3 for this model, got 4"),
        (
            "dinov2",
            {"image_size": (80, 100)},
            r"multiple of the patch size of this model, 14 pixels, got 80x100; .* is 84x98",
        ),
        ("dinov2", {"pool": "max"}, "`pool` must be one of"),
        ("vit", {"center_crop": True}, "has no crop. Leave `center_crop` out"),
        ("resnet", {"pool": "regions", "image_size": 32}, "too few for"),
        ("vit", {"precision": "int8"}, "precision of the backend torch is fp32 or bf16 or fp16"),
        ("vit", {"cross_image_encoder": True}, "has no cross-image encoder"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(family, options, message, folders):
    with pytest.raises(ValueError, match=message):
        PlaceEncoder(folders[family], device="cpu", **options)


def test_options_of_our_models_are_refused(tiny_folder):
    with pytest.raises(ValueError, match="in one way only, without the options `pool`"):
        PlaceEncoder(tiny_folder, pool="gem")


@pytest.mark.parametrize("name", ["somebody/not-in-the-cache", "nowhere"])
def test_a_model_that_cannot_be_found_is_said_first(name):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        PlaceEncoder(name, pool="gem")


def small(model: str, config: str, **values):
    return getattr(transformers, model)(getattr(transformers, config)(**values))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small("BertModel", "BertConfig", **TEXT), "of type 'bert', which has no vision tower"),
        (
            lambda: small("ASTModel", "ASTConfig", **VIT, max_length=32, num_mel_bins=32),
            "of type 'audio-spectrogram-transformer', which has no vision tower",
        ),
        (lambda: small("VideoMAEModel", "VideoMAEConfig", **VIT, image_size=32, num_frames=2), "has no vision tower"),
        (
            lambda: small("ViTMAEModel", "ViTMAEConfig", **VIT, image_size=64),
            "gives other features for the same image each time|not tokens",
        ),
    ],
)
def test_models_for_other_data_are_refused(make, message, tmp_path, folders):
    make().save_pretrained(tmp_path)
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path)
    with pytest.raises(ValueError, match=message):
        PlaceEncoder(tmp_path, device="cpu")


def test_weights_outside_safetensors_are_not_opened(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors"):
        PlaceEncoder(tmp_path / "model")


def test_code_next_to_weights_is_not_executed(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    config = json.loads((dinov2 / "config.json").read_text())
    code = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.C", "AutoModel": "strange.M"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | code))
    (tmp_path / "model" / "strange.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(ValueError, match=r"a network of its own, in code next to its weights.*does not execute"):
        PlaceEncoder(tmp_path / "model")
    known = config | {"auto_map": code["auto_map"]}  # transformers has the type: its own code runs
    (tmp_path / "model" / "config.json").write_text(json.dumps(known))
    assert PlaceEncoder(tmp_path / "model", device="cpu").fingerprint == PlaceEncoder(dinov2, device="cpu").fingerprint
    assert not (tmp_path / "executed").exists()


def test_an_unknown_type_is_named(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    config = json.loads((dinov2 / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"model_type": "dinov9"}))
    with pytest.raises(ValueError, match="transformers has no model of type 'dinov9'"):
        PlaceEncoder(tmp_path / "model")


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_must_be_complete(change, dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = next(name for name in weights if "attention" in name and name.endswith("weight"))
    weight = weights.pop(name)
    if change == "shape":
        weights[name] = torch.zeros(3, *weight.shape[1:])
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit its configuration: \{\s*.(missing|mismatched)_keys"):
        PlaceEncoder(tmp_path / "model")


def test_a_classifier_without_a_pooler(folders, tmp_path):
    """Published ViTs are classifiers: their files have a head that is not needed, and lack the pooler."""
    config = transformers.ViTConfig(**VIT, image_size=64)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path)
    first, second = PlaceEncoder(tmp_path, device="cpu"), PlaceEncoder(tmp_path, device="cpu")
    assert first.fingerprint == second.fingerprint  # the pooler is random, and not a part of it
    np.testing.assert_array_equal(first.encode(IMAGES).descriptors, second.encode(IMAGES).descriptors)
    with pytest.raises(ValueError, match="no pooling 'pooler'"):
        PlaceEncoder(tmp_path, pool="pooler")


def test_timm_models(tmp_path):
    """Only where timm is installed, which needs torchvision."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=0)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 192, "global_pool": "token"}
    config["model_args"] = {"img_size": 64, "depth": 2}
    pretrained = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": pretrained | {"tag": "x"}}))
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    encoder = PlaceEncoder(tmp_path, device="cpu", pool="mean")
    assert encoder.input_size == (64, 64)
    resized = [np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1 for image in IMAGES]
    with torch.no_grad():
        tokens = model.eval().forward_features(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    expected = torch.nn.functional.normalize(tokens[:, 1:].mean(1), dim=1)
    np.testing.assert_allclose(encoder.encode(IMAGES).descriptors, expected, atol=1e-5)


def test_timm_models_without_timm(tmp_path, monkeypatch, dinov2):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "timm" else find_spec(name))
    shutil.copy(dinov2 / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    with pytest.raises(ImportError, match="is a model of timm, which is not installed: pip install timm"):
        PlaceEncoder(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**6},
        {"hidden_size": -1},
        {"mlp_ratio": 10**6},
        {"num_hidden_layers": 10**9},
        {"patch_size": []},
        {"image_size": 10**6},
        {"model_type": ["dinov2"]},
        {"dtype": []},
    ],
)
def test_a_configuration_of_wrong_values_is_refused_before_memory_is_taken(values, dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    config = json.loads((dinov2 / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ValueError, match=r"The configuration of .*model|do not fit its configuration"):
        PlaceEncoder(tmp_path / "model")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "encoder.json", "export.json"])
def test_deep_tables_are_refused(file, dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / file).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"cannot be read|is not a card"):
        PlaceEncoder(tmp_path / "model")


def test_weights_in_shards_outside_of_the_folder_are_refused(dinov2, tmp_path):
    shutil.copytree(dinov2, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "secret.safetensors")
    names = dict.fromkeys(load_file(tmp_path / "secret.safetensors"), "../secret.safetensors")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match="outside of its folder"):
        PlaceEncoder(tmp_path / "model")
