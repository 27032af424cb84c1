"""Networks for tests and benchmarks: tiny ones, and weights under the published names with their golden numbers."""

import importlib.util
from pathlib import Path

import torch

from d2vpr_hf.modeling import CricaVPRConfig, CricaVPRModel, D2VPRConfig, D2VPRImageProcessor, D2VPRModel, VPRPreTrainedModel

PARITY = Path(__file__).parent / "data" / "parity"
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 70,
    "recovery_size": 48,
    "offset_hidden_size": 16,
    "fusion_hidden_size": 16,
    "position_encoding_hidden_size": 8,
    "cross_image_num_heads": 4,
    "cross_image_intermediate_size": 32,
}
TINY_CRICAVPR = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 70,
    "adapter_ratio": 1 / 3,
    "cross_image_num_heads": 4,
    "cross_image_intermediate_size": 32,
}


def _load_recipe():
    spec = importlib.util.spec_from_file_location("parity_recipe", PARITY / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _load_recipe()


def published_weights(manifest: str, salt: str = "") -> dict[str, torch.Tensor]:
    """Return the seeded weights under the published names; golden numbers belong to those with an empty `salt`."""
    return {name: torch.from_numpy(array) for name, array in recipe.state_dict(manifest, salt).items()}


def drawn_weights(manifest: str) -> dict[str, torch.Tensor]:
    """Return random weights under the published names, drawn faster than `published_weights`; they have no golden numbers."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in recipe.shapes(manifest).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            weights[name] = torch.randn(shape, generator=generator).mul_(0.05)
            if name.endswith("running_var"):
                weights[name].abs_()
    return weights


def parity_images(case: str, batch: int, size: int, salt: str = "") -> torch.Tensor:
    return torch.from_numpy(recipe.images(case, batch, size, salt))


def perturb(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every weight and statistic away from its initial value, so that every branch has an effect (`up` starts at zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else 0.2 * noise)
    return model


def tiny_model(seed: int = 0, **changes) -> D2VPRModel:
    """Make a student of two blocks in which every branch has an effect."""
    torch.manual_seed(seed)
    return perturb(D2VPRModel(D2VPRConfig(**(TINY | changes))), seed).eval()


def tiny_cricavpr(seed: int = 0, **changes) -> CricaVPRModel:
    """Make a CricaVPR of two blocks, as wide as the recovered tokens of `tiny_model`; every branch has an effect."""
    torch.manual_seed(seed)
    return perturb(CricaVPRModel(CricaVPRConfig(**(TINY_CRICAVPR | changes))), seed).eval()


def save_folder(model: VPRPreTrainedModel, folder: Path) -> Path:
    """Write a complete model folder for photos of 70x70 pixels."""
    model.save_pretrained(folder)
    D2VPRImageProcessor(size={"height": 70, "width": 70}).save_pretrained(folder)
    return folder


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference, divided by the norm of what is expected."""
    return ((found.float() - expected).norm() / expected.norm()).item()
