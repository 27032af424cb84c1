"""Load any model as a teacher for distillation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from d2vpr_hf.backends.exported_model import find_exported
from d2vpr_hf.encoders.encoder_teacher import open_encoder_teacher
from d2vpr_hf.model_info.encoder_card import CARD_FILE
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_families import family_of
from d2vpr_hf.model_info.model_options import Layer
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import VPRConfig
from d2vpr_hf.pretrained.feature_network import patch_size_of
from d2vpr_hf.pretrained.loading import DINOV2_TYPES, load_config, load_dinov2, load_model
from d2vpr_hf.pretrained.model_files import fetch_file, stored_config
from d2vpr_hf.pretrained.model_preprocessing import choose_preprocessing
from d2vpr_hf.pretrained.teachers import Dinov2Teacher, FeatureTeacher, PlaceTeacher, Teacher
from d2vpr_hf.pretrained.untrained_parts import warn_of_untrained_parts
from d2vpr_hf.pretrained.vision_towers import load_vision_tower

DescriptorKind = Literal["auto", "regions", "encoder"]


def load_teacher(
    name: Any,
    *,
    dtype: torch.dtype = torch.float32,
    taps: Sequence[Layer] = (),
    image_size: tuple[int, int] | None = None,
    descriptor: DescriptorKind = "auto",
    device: torch.device | None = None,
    **kwargs: Any,
) -> Teacher:
    """Load a teacher in eval mode, with its gradients off.

    Args:
        name: Everything that [`PlaceEncoder`] takes as a model: folder or Hub id of a model of this package,
            such as a converted CricaVPR, or of a vision model of transformers, such as `"facebook/dinov2-base"`; a graph, or
            a model with a card; `"embedded"`, `"auto"`, or an object.
        dtype: Type of the weights.
        taps: Hidden states or modules whose tokens or maps are the targets, as for [`FeatureTeacher`]; empty for the output.
        image_size: Height and width in pixels of the teacher's images; `None` for the size in its preprocessing, or for the
            student's pixels if it is a model of this package, or a DINOv2 without taps.
        descriptor: Descriptors that are the targets. `"regions"`: those of the published regions, before any projection;
            `"encoder"`: those that an index of this model holds; `"auto"`: the latter for graphs, models with a card and
            objects, the former for others.
        device: Device of an [`EncoderTeacher`]; other teachers are moved by their `to`.
        kwargs: Passed to `from_pretrained`; for vision models with an input size of their own only `revision`.

    Raises:
        FileNotFoundError, ValueError: For the reasons of [`load_model`], [`load_dinov2`] and [`load_vision_tower`], or of
            [`FeatureTeacher`]; also if the images' sides are not whole patches of the model.
    """
    if descriptor == "encoder" or (descriptor == "auto" and _needs_encoder(name, kwargs.get("revision"))):
        if taps:
            raise ValueError(f"{name} teaches the descriptors that it computes itself. Leave `teacher_taps` out.")
        return open_encoder_teacher(name, dtype=dtype, image_size=image_size, device=device, **kwargs)
    config = load_config(name, **kwargs)
    if isinstance(config, VPRConfig):
        if taps:
            raise ValueError(f"{name} is a model of this package, which has one kind of tokens. Leave `teacher_taps` out.")
        model = load_model(name, dtype=dtype, **kwargs)
        warn_of_untrained_parts(name, model.config.untrained_parts)
        _check_patches(image_size, model.config.patch_size)
        return PlaceTeacher(model, None if image_size is None else Preprocessing(size=image_size))
    if config.model_type in DINOV2_TYPES and not taps and image_size is None:
        return Dinov2Teacher(load_dinov2(name, dtype=dtype, **kwargs))
    return _load_feature_teacher(name, dtype, taps, image_size, **kwargs)


def _needs_encoder(name: Any, revision: str | None) -> bool:
    """Return whether the descriptors of a model cannot be computed by regions, or its card states how they are computed."""
    if not isinstance(name, str | Path) or str(name) == "auto":
        return True
    if find_exported(str(name), revision) is not None or fetch_file(str(name), CARD_FILE, revision) is not None:
        return True
    if Path(name).is_dir():
        return not stored_config(name, revision) and any(Path(name).glob("*.onnx"))
    known = find_known(str(name))
    return known is not None and known.kind == "onnx"


def _load_feature_teacher(
    name: str | Path,
    dtype: torch.dtype,
    taps: Sequence[Layer],
    image_size: tuple[int, int] | None,
    revision: str | None = None,
    **kwargs: Any,
) -> FeatureTeacher:
    if kwargs:
        raise ValueError(f"{name} is a vision model of transformers, loaded without {', '.join(kwargs)}. Leave them out.")
    stored = stored_config(name, revision)
    tower = load_vision_tower(name, stored, revision).model
    published = choose_preprocessing(tower, None, name, stored, revision)
    size = image_size or published.for_whole_images().input_size
    if size is None:
        raise ValueError(f"The preprocessing of {name} gives images of different sizes. Set `teacher_image_size`.")
    family = family_of(tower.config.model_type)
    if size != published.input_size and family.needs_whole_patches:
        _check_patches(size, patch_size_of(tower.config))
    cast(nn.Module, tower).to(dtype)
    return FeatureTeacher(tower, published.for_size(size), taps)


def _check_patches(size: tuple[int, int] | None, patch_size: int | None) -> None:
    """Raise ValueError if the sides of a teacher's images are not whole patches."""
    if size is not None and patch_size is not None and any(side % patch_size for side in size):
        raise ValueError(
            f"`teacher_image_size` must be multiples of the teacher's patch size, {patch_size} pixels, got {size[0]}x{size[1]}."
        )
