"""Tiny random models of transformers, saved as the published ones of their families are."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP_COLOURS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 0.00392156862745098}
OLD_STEPS = {"do_resize": True, "do_normalize": True}

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 96, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "window_size": 3}
TEXT = {**VIT, "vocab_size": 50}


class Published(NamedTuple):
    """A tiny model, and the preprocessor_config.json of its family with a smaller size."""

    make: Any
    processor: dict[str, Any]
    size: tuple[int, int]  # of whole photos


def _make(model: str, config: str, **values: Any) -> Any:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**values))


def _crop(edge: int, side: int) -> dict[str, Any]:
    crop = {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    return {**STEPS, **crop, "size": {"shortest_edge": edge}}


def _square(side: int) -> dict[str, Any]:
    return {**STEPS, "size": {"height": side, "width": side}}


BIT = {**_crop(80, 70), **IMAGENET, "image_processor_type": "BitImageProcessor", "resample": 3, "do_convert_rgb": True}
DINOV3 = {
    **_square(64),
    **IMAGENET,
    **{"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2, "crop_size": None, "do_center_crop": None},
    **{"default_to_square": True, "device": None, "disable_grouping": None, "return_tensors": None},
}
SIGLIP = {
    **_square(64),
    **HALF,
    "image_processor_type": "SiglipImageProcessor",
    "processor_class": "SiglipProcessor",
    "resample": 3,
}
OLD_CLIP = {
    **OLD_STEPS,
    **CLIP_COLOURS,
    **{"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 64, "do_center_crop": True, "crop_size": 64},
}
OLD_VIT = {**OLD_STEPS, **HALF, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 64}
OLD_SWIN = {**OLD_STEPS, **IMAGENET, "feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 96}
OLD_CONVNEXT = {
    **OLD_STEPS,
    **IMAGENET,
    **{"feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, "size": 96, "crop_pct": 0.875},
}
IJEPA = {**_square(64), **IMAGENET, "image_processor_type": "ViTImageProcessor", "resample": 2, "do_convert_rgb": None}
MOBILENET = {**_crop(110, 96), **HALF, "image_processor_type": "MobileNetV2ImageProcessor", "resample": 2}
OLD_BEIT = {
    **OLD_STEPS,
    **HALF,
    **{"feature_extractor_type": "BeitFeatureExtractor", "resample": 2, "size": 64, "do_center_crop": False, "crop_size": 64},
}
SIGLIP2 = {
    **STEPS,
    **HALF,
    **{"image_processor_type": "Siglip2ImageProcessor", "resample": 2, "max_num_patches": 16, "patch_size": 16},
}

PUBLISHED = {
    "dinov2": Published(_make("Dinov2Model", "Dinov2Config", **VIT, image_size=112, patch_size=14), BIT, (70, 70)),
    "dinov2_with_registers": Published(
        _make("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **VIT, image_size=112, patch_size=14), BIT, (70, 70)
    ),
    "dinov3_vit": Published(
        _make("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, image_size=64, num_register_tokens=4), DINOV3, (64, 64)
    ),
    "dinov3_convnext": Published(
        _make("DINOv3ConvNextModel", "DINOv3ConvNextConfig", **STAGES), DINOV3 | {"size": {"height": 96, "width": 96}}, (96, 96)
    ),
    "siglip": Published(
        _make("SiglipModel", "SiglipConfig", text_config=TEXT, vision_config={**VIT, "image_size": 64}), SIGLIP, (64, 64)
    ),
    "clip": Published(
        _make("CLIPModel", "CLIPConfig", text_config=TEXT, vision_config={**VIT, "image_size": 64, "patch_size": 16}),
        OLD_CLIP,
        (64, 64),
    ),
    "vit": Published(_make("ViTModel", "ViTConfig", **VIT, image_size=64), OLD_VIT, (64, 64)),
    "swin": Published(_make("SwinModel", "SwinConfig", **SWIN), OLD_SWIN, (96, 96)),
    "swinv2": Published(_make("Swinv2Model", "Swinv2Config", **SWIN), OLD_SWIN, (96, 96)),
    "convnext": Published(_make("ConvNextModel", "ConvNextConfig", **STAGES), OLD_CONVNEXT, (96, 96)),
    "convnextv2": Published(_make("ConvNextV2Model", "ConvNextV2Config", **STAGES), OLD_CONVNEXT, (96, 96)),
    "ijepa": Published(_make("IJepaModel", "IJepaConfig", **VIT, image_size=64), IJEPA, (64, 64)),
    "mobilenet_v2": Published(_make("MobileNetV2Model", "MobileNetV2Config", depth_multiplier=0.35), MOBILENET, (96, 96)),
    "resnet": Published(_make("ResNetModel", "ResNetConfig", **STAGES, embedding_size=8), OLD_CONVNEXT, (96, 96)),
    "beit": Published(_make("BeitModel", "BeitConfig", **VIT, image_size=64), OLD_BEIT, (64, 64)),
}


def make_model(family: str, seed: int = 0) -> Any:
    """Make a model whose tokens differ from image to image."""
    torch.manual_seed(seed)
    model = PUBLISHED[family].make()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim:
                noise = torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:  # statistics of real activations; with others all images look alike
            model.train()(torch.randn(4, 3, 96, 96, generator=generator))
    return model.eval()


def save_published(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a model folder: config.json, model.safetensors and preprocessor_config.json."""
    make_model(family, seed).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED[family].processor))
    return folder
