"""Families of vision models in transformers: the layout of their outputs, and the pooling to take by default.

The defaults are choices from publications; none was measured here:

| family | default | reason |
| --- | --- | --- |
| DINOv2, DINOv3 ViT, I-JEPA | `gem` | trained patch by patch; AnyLoc (arXiv 2308.00688) pools such patches for places |
| SigLIP, SigLIP 2 | `pooler` | the attention pooling that was trained with the tokens; there is no class token |
| CLIP | `pooler` | the normalised class token; only this one was compared with texts in training |
| ViT | `cls` | the only token that was trained by labels |
| Swin, ConvNeXt, ResNet, MobileNetV2, BEiT, timm, others | `gem` | the usual pooling of retrieval (arXiv 1711.02512) |
"""

from dataclasses import dataclass, field
from typing import Any

from d2vpr_hf.model_info.model_options import Pool


@dataclass(frozen=True)
class ModelFamily:
    """A family of vision models.

    Attributes:
        title: Name for people.
        arxiv: Identifier of its paper on arXiv.
        pool: Pooling by default.
        has_cls: Whether the first token is a class token; `None` if it depends on the model.
        norm: Name of the last norm in the model, which its output has and layers before it lack; `None` without one.
        needs_whole_patches: Whether a size must be a multiple of the patch size: pixels beyond would be dropped.
        processor: Settings of the image processor of its published models, for a model without a file of them.
    """

    title: str
    arxiv: str | None
    pool: Pool
    has_cls: bool | None = False
    norm: str | None = None
    needs_whole_patches: bool = True
    processor: dict[str, Any] = field(default_factory=dict)


_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_BIT = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, **_IMAGENET}
_DINOV3 = {"image_processor_type": "DINOv3ViTImageProcessor"}
_VIT = {"image_processor_type": "ViTImageProcessor"}
_SWIN = {"image_processor_type": "ViTImageProcessor", "resample": 3, **_IMAGENET}
_CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, **_IMAGENET}
_CLIP = {"image_processor_type": "CLIPImageProcessor"}
_SIGLIP = {"image_processor_type": "SiglipImageProcessor"}

OTHER = ModelFamily("", None, "gem", has_cls=None, needs_whole_patches=False)

# by the `model_type` of the configuration; `timm_wrapper` reads its layout and preprocessing from the model
FAMILIES: dict[str, ModelFamily] = {
    "dinov2": ModelFamily("DINOv2", "2304.07193", "gem", True, "layernorm", processor=_BIT),
    "dinov2_with_registers": ModelFamily("DINOv2 with registers", "2309.16588", "gem", True, "layernorm", processor=_BIT),
    "dinov3_vit": ModelFamily("DINOv3", "2508.10104", "gem", True, "norm", processor=_DINOV3),
    "dinov3_convnext": ModelFamily("DINOv3 ConvNeXt", "2508.10104", "gem", True, None, False, _DINOV3),
    "siglip_vision_model": ModelFamily("SigLIP", "2303.15343", "pooler", False, "post_layernorm", processor=_SIGLIP),
    "siglip2_vision_model": ModelFamily(
        "SigLIP 2", "2502.14786", "pooler", False, "post_layernorm", processor={"image_processor_type": "Siglip2ImageProcessor"}
    ),
    "clip_vision_model": ModelFamily("CLIP", "2103.00020", "pooler", True, None, processor=_CLIP),
    "vit": ModelFamily("ViT", "2010.11929", "cls", True, "layernorm", processor=_VIT),
    "ijepa": ModelFamily("I-JEPA", "2301.08243", "gem", False, "layernorm", processor={**_VIT, **_IMAGENET}),
    "swin": ModelFamily("Swin Transformer", "2103.14030", "gem", False, "layernorm", False, _SWIN),
    "swinv2": ModelFamily("Swin Transformer V2", "2111.09883", "gem", False, "layernorm", False, _SWIN),
    "convnext": ModelFamily("ConvNeXt", "2201.03545", "gem", None, None, False, _CONVNEXT),
    "convnextv2": ModelFamily("ConvNeXt V2", "2301.00808", "gem", None, None, False, _CONVNEXT),
    "resnet": ModelFamily("ResNet", "1512.03385", "gem", None, None, False, _CONVNEXT),
    "mobilenet_v2": ModelFamily(
        "MobileNetV2", "1801.04381", "gem", None, None, False, {"image_processor_type": "MobileNetV2ImageProcessor"}
    ),
    "beit": ModelFamily("BEiT", "2106.08254", "gem", True, None, processor={"image_processor_type": "BeitImageProcessor"}),
    "timm_wrapper": ModelFamily("timm", None, "gem", None, None, False),
}
# letters of ViT sizes by their width
VIT_SIZES = {192: "Ti", 384: "S", 768: "B", 1024: "L", 1152: "So400m", 1280: "H", 1408: "g", 1536: "g", 4096: "7B"}


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a model; a general one for a type that is not in the table."""
    return FAMILIES.get(model_type, OTHER)
