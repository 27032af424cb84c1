"""Training adapters with PEFT, as docs/ecosystem.md shows it: the trained model and the one loaded again are equal."""

import pytest
import torch
from torch import nn

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.pretrained.loading import load_model
from tests.conftest import relative, tiny_model
from tests.photos import draw

peft = pytest.importorskip("peft")

TARGETS = ["qkv", "proj", "mlp.fc1", "mlp.fc2", "recovery.projection"]


def train(model: nn.Module, *, freeze_batch_norm: bool) -> nn.Module:
    """Take some steps towards random descriptors."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 70, 70, generator=generator)
    targets = nn.functional.normalize(torch.randn(4, model.config.descriptor_dim, generator=generator))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    model.train()
    if freeze_batch_norm:
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(pixels).pooler_output, targets).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def describe(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(2))).pooler_output


@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_trained_adapters_are_equal_after_loading(tmp_path, freeze_batch_norm):
    """Running statistics change in training mode: they are frozen, or saved with the adapters."""
    saved = None if freeze_batch_norm else ["norm"]
    options = peft.LoraConfig(r=4, target_modules=TARGETS, modules_to_save=saved)
    model = train(peft.get_peft_model(tiny_model(), options), freeze_batch_norm=freeze_batch_norm)
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"qkv", "proj", "fc1", "fc2", "projection"}
    model.save_pretrained(tmp_path / "adapters")
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "adapters").eval()
    assert relative(describe(loaded), describe(model)) < 1e-5
    assert relative(describe(tiny_model()), describe(model)) > 1e-2


def test_running_statistics_in_training_mode_are_not_in_the_file(tmp_path):
    """The reason for the recipe; if PEFT saves them one day, the page can be shorter."""
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=TARGETS))
    train(model, freeze_batch_norm=False).save_pretrained(tmp_path)
    assert relative(describe(peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()), describe(model)) > 1e-4


def test_merged_adapters_are_a_model_folder(tmp_path):
    """Every command then opens it; the encoder of the adapted model has the same fingerprint."""
    options = peft.LoraConfig(r=4, target_modules=TARGETS)
    model = train(peft.get_peft_model(tiny_model(), options), freeze_batch_norm=True)
    processor, photos = D2VPRImageProcessor(size={"height": 70, "width": 70}), [draw(0, 90, 70)]
    encoder = PlaceEncoder(model, processor, device="cpu")
    expected = describe(model)
    before, fingerprint = encoder.encode(photos).descriptors, encoder.fingerprint
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    assert relative(describe(load_model(tmp_path / "merged")), expected) < 1e-5
    reopened = PlaceEncoder(tmp_path / "merged", device="cpu")
    assert relative(torch.from_numpy(reopened.encode(photos).descriptors), torch.from_numpy(before)) < 1e-5
    assert reopened.fingerprint == fingerprint
