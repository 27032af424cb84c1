"""Helpers and fixtures for all tests: tiny models, and weights under the published names. No test reaches the network."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["D2VPR_CONFIG"] = tempfile.mkdtemp()  # instead of the user's file of confirmed names
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # with more, torch starts processes that import torch again

import importlib.util
from pathlib import Path

import hypothesis
import pytest
import torch

from d2vpr_hf.modeling import CricaVPRConfig, CricaVPRModel, D2VPRConfig, D2VPRImageProcessor, D2VPRModel, VPRPreTrainedModel

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is not an error
hypothesis.settings.load_profile("no deadline")

PARITY = Path(__file__).parent / "data" / "parity"
TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
)
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


def pytest_configure(config: pytest.Config) -> None:
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' common model tests")


def _refuse_missing_libraries(report):
    """Let a test fail that is skipped because a library is missing, where all are installed: `make ecosystem`."""
    if report.skipped and "D2VPR_ALL_LIBRARIES" in os.environ and "could not import" in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    return _refuse_missing_libraries((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    return _refuse_missing_libraries((yield))


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


def hub_cache(cache: Path, name: str, folder: Path) -> Path:
    """Link a model folder into a Hub cache, which is what transformers reads offline, and return the cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40)).symlink_to(folder, target_is_directory=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return cache


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference, divided by the norm of what is expected."""
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """No test cuts the power, and waiting for the disk takes minutes; `tests/index/test_crashes.py` counts what is forced."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model for photos of 70x70 pixels."""
    return save_folder(tiny_model(), tmp_path_factory.mktemp("tiny"))
