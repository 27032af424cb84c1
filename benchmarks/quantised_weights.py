"""Change of descriptors by quantised weights: smallest cosine between a quantised model's and a float32 model's descriptors.

    python benchmarks/quantised_weights.py [--photos DIR] [--count 16] [--model MODEL ...]

The models are the embedded one and a student of the published shapes with seeded weights, or those of `--model`. Photos are
rendered in Gridtown, or read from a folder. Libraries that are not installed are skipped.
"""

import argparse
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from d2vpr_hf.encoders.model_objects import check_four_bits
from d2vpr_hf.gridtown.simulate import simulate
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.readers import find_photos, open_photo

Loader = Callable[[str], nn.Module]  # opens a model folder with quantised weights


def loaders() -> Iterator[tuple[str, Loader]]:
    """Yield the name of each quantisation whose library is installed, and how a model folder is opened with it."""

    def dynamic(folder: str) -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(AutoModel.from_pretrained(folder).eval(), {nn.Linear}, torch.qint8)

    def by(settings: object) -> Loader:
        return lambda folder: AutoModel.from_pretrained(folder, quantization_config=settings, device_map="cpu").eval()

    yield "`quantize_dynamic`, int8", dynamic
    if importlib.util.find_spec("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        yield "torchao, `Int8WeightOnlyConfig`", by(TorchAoConfig(Int8WeightOnlyConfig()))
        yield "torchao, `Int8DynamicActivationInt8WeightConfig`", by(TorchAoConfig(Int8DynamicActivationInt8WeightConfig()))
    if importlib.util.find_spec("optimum"):
        from transformers import QuantoConfig

        yield "quanto, int8", by(QuantoConfig(weights="int8"))
        yield "quanto, int4", by(QuantoConfig(weights="int4"))
    if importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes as bnb
        from transformers import BitsAndBytesConfig

        # on CPUs with AVX512-BF16 the kernel for 4 bits refuses layers whose width is not a multiple of 64; use the general one
        bnb.nn.modules.has_avx512bf16 = bnb.backends.cpu.ops.has_avx512bf16 = lambda: False
        yield "bitsandbytes, `load_in_8bit`", by(BitsAndBytesConfig(load_in_8bit=True))
        four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        yield "bitsandbytes, nf4, all layers", by(BitsAndBytesConfig(**four_bits))
        skipped = ["aggregator"]
        yield "bitsandbytes, nf4, without the aggregator", by(BitsAndBytesConfig(**four_bits, llm_int8_skip_modules=skipped))
        skipped += ["adapter.down", "adapter.up", "attention.proj", "attention.qkv", "mlp.fc1"]
        yield "bitsandbytes, nf4, `mlp.fc2` alone", by(BitsAndBytesConfig(**four_bits, llm_int8_skip_modules=skipped))


def seeded_student(folder: Path) -> str:
    """Save a student of the published shapes, whose weights are drawn so that each of its parts has an effect."""
    torch.manual_seed(0)
    model = D2VPRModel(D2VPRConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    D2VPRImageProcessor().save_pretrained(folder)
    return str(folder)


@torch.no_grad()  # some quantised tensors refuse inference mode
def descriptors(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the descriptors (B, D) of pixel values."""
    return model(pixels).pooler_output.float()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: rendered in Gridtown")
    parser.add_argument("--count", type=int, default=16, help="number of photos")
    parser.add_argument("--model", nargs="*", help="model folders or Hub ids")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.photos
        if folder is None:
            folder = Path(scratch) / "town"
            simulate(folder, num_places=max(1, arguments.count // 5), seed=1)
        photos = [open_photo(path) for path in find_photos(folder)[: arguments.count]]
        models = arguments.model or ["embedded", seeded_student(Path(scratch) / "student")]
        exact, pixels = {}, {}
        for name in models:
            pixels[name] = load_image_processor(name)(photos, return_tensors="pt")["pixel_values"]
            exact[name] = descriptors(load_model(name), pixels[name])
        print(f"| quantisation, {len(photos)} photos | {' | '.join(Path(name).name for name in models)} |")
        print("| --- |" + " --- |" * len(models))
        for quantisation, loader in loaders():
            cosines = []
            for name in models:
                folder = EMBEDDED_MODEL if name == EMBEDDED_NAME else name
                quantised = loader(str(folder))
                try:
                    check_four_bits(quantised)
                except ValueError:
                    cosines.append("refused")
                    continue
                similarities = torch.cosine_similarity(descriptors(quantised, pixels[name]), exact[name])
                cosines.append(f"{similarities.min():.4f}")
            print(f"| {quantisation} | {' | '.join(cosines)} |", flush=True)


if __name__ == "__main__":
    main()
