"""The table of known encoders: its counted values, its commands, and the models that it finds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from d2vpr_hf.encoders.automatic_model import CANDIDATES
from d2vpr_hf.model_info.known_models import KNOWN_MODELS, find_known, find_torch_hub
from d2vpr_hf.utils.hub_ids import is_hub_id

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
DINOV2_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "giant": (1536, 40, 24)}
DINOV3_SIZES = {"vits16": (384, 12, 6), "vitb16": (768, 12, 12), "vitl16": (1024, 24, 16)}
CLIP_SIZES = {
    "clip-vit-base-patch32": (768, 12, 12, 32),
    "clip-vit-base-patch16": (768, 12, 12, 16),
    "clip-vit-large-patch14": (1024, 24, 16, 14),
}
LARGE = ("large", "giant", "vitl16")


def network(name):
    """Return the network of a transformers model of the table, without values of its weights."""
    import transformers

    if name.startswith("dinov2"):
        width, layers, heads = DINOV2_SIZES[name.rpartition("-")[2]]
        kind = "Dinov2WithRegisters" if "-reg-" in name else "Dinov2"
        shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": 518}
        shape |= {"patch_size": 14, "use_swiglu_ffn": name.endswith("giant")}
    elif name == "dinov3-convnext-tiny":
        kind, shape = "DINOv3ConvNext", {}
    elif name.startswith("dinov3"):
        width, layers, heads = DINOV3_SIZES[name.removeprefix("dinov3-")]
        kind, shape = "DINOv3ViT", {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        shape |= {"intermediate_size": 4 * width, "num_register_tokens": 4}
    elif name.startswith("siglip2"):
        kind, shape = "SiglipVision", {"image_size": 256, "patch_size": 16}
    else:
        width, layers, heads, patch = CLIP_SIZES[name]
        kind, shape = "CLIPVision", {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        shape |= {"intermediate_size": 4 * width, "patch_size": patch}
    config = getattr(transformers, f"{kind}Config")(**shape, attn_implementation="eager")
    with torch.device("meta"):
        return getattr(transformers, f"{kind}Model")(config).eval()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, id=model.name, marks=[pytest.mark.slow] if any(word in model.name for word in LARGE) else [])
        for model in KNOWN_MODELS
        if model.kind == "transformers"
    ],
)
def test_parameters_multiply_adds_and_width_are_those_of_the_network(model):
    net = network(model.name)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = net(torch.zeros(1, 3, *model.input_size, device="meta"))
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(model.num_parameters, abs=60_000)
    assert counter.get_total_flops() / 2e9 == pytest.approx(model.gmac, abs=0.006)
    assert output.last_hidden_state.shape[-1] == model.descriptor_dim


def test_names_are_unique_and_find_their_models():
    names = [name for model in KNOWN_MODELS for name in (model.name, model.hub_id) if name is not None]
    assert len(names) == len(set(names))
    for model in KNOWN_MODELS:
        assert find_known(model.name) is model and find_known(model.name.upper()) is model
        assert model.hub_id is None or (is_hub_id(model.hub_id) and find_known(model.hub_id) is model)
    assert find_known("facebook/dinov2-small").facts.license == "Apache-2.0"
    assert find_known("user/other") is None and find_known(None) is None


def test_entries_of_torch_hub_are_found_by_repository_entry_and_arguments():
    for model in KNOWN_MODELS:
        hub = model.torch_hub
        if hub is not None:
            assert find_torch_hub(hub.repository.lower(), hub.entry, hub.arguments) is model
            assert len(hub.commit) == 40 and int(hub.commit, 16)
            assert model.kind != "torch-hub" or model.get == f"d2vpr import-hub {model.name} --out MODEL"
    assert find_torch_hub("amaralibey/Bag-of-Queries", "get_trained_boq").name == "boq-dinov2"
    texts = {"backbone_name": "resnet50", "output_dim": "16384"}  # as a command line gives them
    assert find_torch_hub("amaralibey/Bag-of-Queries", "get_trained_boq", texts).name == "boq-resnet50"
    assert find_torch_hub("gmberton/CosPlace", "get_trained_model", {"backbone": "VGG16"}) is None
    assert find_torch_hub("gmberton/CosPlace", "other") is None


def test_quoted_recalls_have_sources_and_sources_have_recalls():
    for model in KNOWN_MODELS:
        assert (model.recall_source is None) == (model.pitts30k is None and model.msls_val is None), model.name
        assert (model.gmac_source is None) == (model.gmac is None), model.name


def test_restricted_training_photos_are_named():
    """Weights trained on GSV-Cities or SF-XL carry that question, whatever the licence of the code is."""
    for model in KNOWN_MODELS:
        if model.training_data and ("GSV-Cities" in model.training_data or "SF-XL" in model.training_data):
            assert "CC BY-NC-ND 4.0" in model.training_data or "for research" in model.training_data, model.name


def test_preprocessing_of_graphs_resizes_the_whole_photo():
    megaloc = find_known("gberton/MegaLoc")
    assert megaloc.kinds == ("onnx", "torch-hub") and megaloc.onnx.name == "megaloc.onnx"
    assert megaloc.preprocessing.size == (322, 322) and megaloc.preprocessing.crop_size is None
    assert find_known("boq-resnet50").preprocessing.resample == "bicubic"
    assert find_known("facebook/dinov2-small").preprocessing is None


def test_the_table_loads_no_torch():
    code = "import sys; import d2vpr_hf.model_info.known_models; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def markdown():
    """Return the table of docs/encoders.md."""
    lines = [
        "| model | parameters | GMAC | width | input | licence of the weights | R@1 Pitts30k / MSLS-val | source | trained on |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in KNOWN_MODELS:
        parameters = "" if model.num_parameters is None else f"{model.num_parameters / 1e6:,.1f} M"
        gmac = "" if model.gmac is None else f"{model.gmac:g}"
        recalls = ["–" if value is None else f"{value:.1f}" for value in (model.pitts30k, model.msls_val)]
        cells = [
            f"`{model.name}`: {model.title}",
            parameters,
            gmac,
            str(model.descriptor_dim),
            "×".join(map(str, model.input_size)),
            model.license or "none stated",
            "" if recalls == ["–", "–"] else " / ".join(recalls),
            model.recall_source or "",
            model.training_data or "not named",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_has_the_table():
    """`python -m tests.model_info.test_known_models` prints it after a change."""
    assert markdown() in PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_order_of_auto():
    names = re.findall(r"^\d\. `([\w-]+)`", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert tuple(names) == CANDIDATES


if __name__ == "__main__":
    print(markdown())
