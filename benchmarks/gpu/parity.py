"""Part (a): descriptors and gradients on a device against the CPU's, and Gridtown's photos against those of the CPU.

The reference of descriptors is the golden numbers of the published code (tests/data/parity); that of gradients is the CPU in
float32, which the tests hold to the golden norms. Differences are shares of the norm of the reference.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from safetensors.torch import load_file

from benchmarks.gpu.part import Setting
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.convert import convert_weights
from d2vpr_hf.gridtown import Variation, draw_photo, make_town
from d2vpr_hf.modeling import D2VPRModel
from d2vpr_hf.pretrained.loading import load_model
from tests.networks import PARITY, parity_images, published_weights, relative, tiny_model

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SIZE = {False: 224, True: 70}  # pixels, by whether sizes are tiny
_PHOTOS = {False: 16, True: 1}  # of Gridtown


def measure(setting: Setting) -> None:
    """Measure differences of descriptors, gradients and rendered photos."""
    model, images, golden = make_case(setting)
    reference, gradient = derive(model, images)
    setting.note("descriptor_of_cpu", relative(reference, golden))
    model = model.to(setting.device)
    images = images.to(setting.device)
    for precision in PRECISIONS:
        with number_type(precision, setting.device):
            descriptors, moved = derive(model, images)
        gradient_difference = relative(moved.cpu(), gradient)
        setting.note(
            precision,
            {
                "descriptor": relative(descriptors.cpu(), golden),
                "gradient": gradient_difference if math.isfinite(gradient_difference) else None,  # float16 may overflow
            },
        )
    for precision in ("fp32", "bf16", "fp16"):
        with number_type("fp32", setting.device):  # a backend has its own number type; float32 is without TF32
            prepared = torch.from_numpy(TorchBackend(model, precision).encode(images))
        setting.note(f"prepared {precision}", {"descriptor": relative(prepared, golden)})
    setting.note("gridtown", compare_photos(setting))


def make_case(setting: Setting) -> tuple[D2VPRModel, torch.Tensor, torch.Tensor]:
    """Return a model on the CPU, images, and their descriptors."""
    if setting.tiny:
        model, images = tiny_model(), torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
        return model, images, derive(model, images)[0]
    torch.save({"model_state_dict": published_weights("d2vpr")}, setting.work / "published.pth")
    convert_weights(setting.work / "published.pth", setting.work / "published")
    golden = load_file(PARITY / "golden.safetensors")["d2vpr.descriptor"]
    return load_model(setting.work / "published").eval(), parity_images("d2vpr", 2, 224), golden


def derive(model: D2VPRModel, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return descriptors (B, D), and the gradients of all weights (N,) of their product with a fixed direction."""
    model.zero_grad(set_to_none=True)
    descriptors = model(images).pooler_output
    direction = torch.randn(descriptors.shape, generator=torch.Generator().manual_seed(1)).to(descriptors.device)
    (descriptors.float() * direction).sum().backward()
    gradients = [weight.grad.float().flatten() for weight in model.parameters() if weight.grad is not None]
    return descriptors.detach().float(), torch.cat(gradients)


@contextlib.contextmanager
def number_type(precision: str, device: str) -> Iterator[None]:
    """Compute in a number type; `fp32` is without TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    dtype = _AUTOCAST.get(precision)
    try:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def compare_photos(setting: Setting) -> dict[str, float]:
    """Return the mean and the largest difference of rendered photos from those of the CPU, in levels of 0 to 255."""
    town = make_town(seed=1, num_places=4)
    photos = [
        draw_photo(town.city, number % 4, number % 2, number // 4, Variation()) for number in range(_PHOTOS[setting.tiny])
    ]
    size = (_SIZE[setting.tiny], _SIZE[setting.tiny])
    expected, rendered = (town.take(photos, size, device).cpu().float() for device in ("cpu", setting.device))
    difference = (rendered - expected).abs()
    return {"mean": float(difference.mean()), "largest": float(difference.max())}
