"""A stranger's config.json loads no compiled kernel, no code and no other repository, with and without this package."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers.integrations.hub_kernels as hub_kernels
import transformers.modeling_utils as modeling_utils
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf.modeling import D2VPRConfig
from d2vpr_hf.modeling.refused_settings import refuse_code
from d2vpr_hf.pretrained.loading import load_config, load_dinov2, load_model
from d2vpr_hf.pretrained.vision_towers import load_vision_tower
from tests.pretrained.test_loading import edit_config

KERNEL = "kernels-community/flash-attn2@0123456789abcdef0123456789abcdef01234567"
REFUSED = {
    "a kernel": {"_attn_implementation": KERNEL},
    "a public field": {"attn_implementation": "user/kernel:forward"},
    "an internal field": {"_attn_implementation_internal": "user/kernel"},
    "a paged kernel": {"_attn_implementation": "paged|user/kernel"},
    "a table of parts": {"attn_implementation": {"": "sdpa", "vision_config": "user/kernel"}},
    "FlashAttention, which comes as a kernel where it is not installed": {"_attn_implementation": "flash_attention_2"},
    "experts": {"_experts_implementation": "user/experts"},
    "a nested configuration": {"vision_config": {"layers": [{"_attn_implementation": "user/kernel"}]}},
    "a mapping of kernels": {"kernel_config": {"kernel_mapping": {"RMSNorm": "user/norm:RMSNorm"}}},
    "a switch of kernels": {"use_kernels": True},
    "weights of a fetched kernel": {"quantization_config": {"quant_method": "mxfp4"}},
    "weights of another fetched kernel": {"quantization_config": {"quant_method": "fp8"}},
    "weights whose library fetches a kernel": {"quantization_config": {"quant_method": "gptq"}},
    "code elsewhere": {"auto_map": {"AutoModel": "stranger/repository--modeling.Model"}},
    "a pipeline": {"custom_pipelines": {"place": {"impl": "pipeline.Place", "pt": ["AutoModel"]}}},
    "weights of timm elsewhere": {"architecture": "hf-hub:stranger/repository"},
    "a backbone elsewhere": {"backbone_config": {"backbone": "stranger/repository"}},
}
ALLOWED = [
    {"_attn_implementation": "sdpa", "_experts_implementation": None},
    {"attn_implementation": {"": "eager"}, "kernel_size": 3, "adapter_kernel_sizes": [1, 3]},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    {"quantization_config": {"load_in_4bit": True}},
    {"auto_map": {"AutoModel": "modeling_d2vpr.D2VPRModel"}, "architectures": ["D2VPRModel"]},
    {"architecture": "resnet18.a1_in1k", "backbone": "resnet50"},
    {"quantization_config": {"quant_method": "compressed-tensors"}},
]


@pytest.fixture
def kernels(monkeypatch):
    """Return a list of the kernels that transformers asks for, as if the package that fetches them were installed."""
    fetched = []

    def fetch(name, *arguments, **keywords):
        fetched.append(name)
        raise ValueError("a kernel was fetched")

    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda *arguments, **keywords: True)
    return fetched


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_settings_that_load_code_are_refused(values):
    with pytest.raises(ValueError, match="This is refused"):
        refuse_code(values, "stranger/model")
    with pytest.raises(ValueError, match="This is refused"):
        D2VPRConfig.from_dict(values)


@pytest.mark.parametrize("values", ALLOWED)
def test_plain_settings_are_allowed(values):
    refuse_code(values, "user/model")


def test_a_configuration_of_endless_tables_is_refused():
    values = {"list": [[] for _ in range(20_000)]}
    with pytest.raises(ValueError, match="more than any model has"):
        refuse_code(values, "stranger/model")


@pytest.mark.parametrize("name", ["a kernel", "FlashAttention, which comes as a kernel where it is not installed", "experts"])
def test_no_kernel_is_fetched_for_our_models(tiny_folder, tmp_path, kernels, name):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    edit_config(folder, **REFUSED[name])
    with pytest.raises(ValueError, match="This is refused"):
        load_model(folder)
    assert not kernels
    with pytest.raises(ValueError, match="a kernel was fetched"):  # the caller's own choice, which would fetch one
        load_model(tiny_folder, attn_implementation=KERNEL)
    assert kernels


@pytest.mark.parametrize("values", [REFUSED["a kernel"], REFUSED["a table of parts"], REFUSED["weights of a fetched kernel"]])
def test_no_kernel_is_fetched_for_models_of_transformers(tmp_path, kernels, values):
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    edit_config(tmp_path, **values)
    stored = json.loads((tmp_path / "config.json").read_text())
    for load in (load_dinov2, load_config, lambda name: load_vision_tower(name, stored)):
        with pytest.raises(ValueError, match="This is refused"):
            load(tmp_path)
    assert not kernels


@pytest.mark.parametrize("stored", ["flash_attention_2", KERNEL])
def test_attention_of_the_caller_replaces_the_stored_one(tiny_folder, tmp_path, kernels, stored):
    """transformers itself prefers the stored one, and fetches its kernel."""
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    shutil.copytree(tiny_folder, tmp_path / "own")
    for load, name in ((load_dinov2, "dinov2"), (load_model, "own")):
        edit_config(tmp_path / name, _attn_implementation=stored)
        assert load(tmp_path / name, attn_implementation="eager").config._attn_implementation == "eager"
        with pytest.raises(ValueError, match="This is refused"):
            load(tmp_path / name, attn_implementation={"": "eager"})
    assert not kernels


def test_code_elsewhere_has_no_effect_on_models_that_transformers_has(tmp_path):
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    edit_config(tmp_path, **REFUSED["code elsewhere"])
    assert type(load_dinov2(tmp_path)) is Dinov2Model


def test_unknown_keys_with_an_underscore_are_refused_too(tiny_folder, tmp_path):
    """They passed the check of unknown keys, and became attributes of the configuration."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    edit_config(folder, _hooks=["x"])
    with pytest.raises(ValueError, match="are not fields of D2VPRConfig: _hooks"):
        load_model(folder)


@pytest.mark.slow  # torch is imported by another process
def test_no_kernel_is_fetched_by_remote_code(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    edit_config(folder, **REFUSED["a kernel"])
    code = f"""
import transformers.integrations.hub_kernels as hub_kernels, transformers.modeling_utils as modeling_utils
def fetch(*arguments, **keywords): raise SystemExit("a kernel was fetched")
hub_kernels.get_kernel, hub_kernels.is_kernels_available = fetch, lambda *a, **k: True
modeling_utils.is_kernels_available = lambda *a, **k: True
from transformers import AutoModel
AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-I", "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "This is refused" in done.stderr and "was fetched" not in done.stderr
    assert not torch.cuda.is_initialized()
