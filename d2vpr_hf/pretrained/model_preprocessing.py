"""Choose the preprocessing of a vision model of transformers: that of its files, its family or its user."""

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from d2vpr_hf.model_info.model_families import ModelFamily, family_of
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.model_info.preprocessor_files import (
    PROCESSOR_FILES,
    read_preprocessing,
    read_processor_file,
    read_timm_preprocessing,
)
from d2vpr_hf.pretrained.feature_network import image_size_of, patch_size_of
from d2vpr_hf.pretrained.model_files import fetch_file

logger = logging.getLogger(__name__)


def choose_preprocessing(
    model: PreTrainedModel, processor: Any, name: str | Path | None, stored: dict[str, Any], revision: str | None
) -> Preprocessing:
    """Return the steps from photos to pixels for a model.

    Args:
        model: The vision tower.
        processor: A [`Preprocessing`], an image processor of transformers or a processor that contains one; `None` for the file
            of the model's folder, or the steps of its family if there is none.
        name: Folder or Hub id of the model; `None` for one in memory only.
        stored: The contents of its `config.json`.
        revision: Commit of a model on the Hub.

    Raises:
        TypeError: If `processor` is of another type.
        ValueError: If the settings have a step that this package does not have.
    """
    if isinstance(processor, Preprocessing):
        return processor
    if processor is not None:
        processor = getattr(processor, "image_processor", processor)
        if not hasattr(processor, "to_dict"):
            raise TypeError(f"Expected an image processor of transformers, or a Preprocessing; got {type(processor).__name__}.")
        values = dict(processor.to_dict())
        return read_preprocessing({"image_processor_type": type(processor).__name__} | values)
    if model.config.model_type == "timm_wrapper":
        return read_timm_preprocessing(stored or model.config.to_dict())
    files = [] if name is None else [fetch_file(name, file, revision) for file in PROCESSOR_FILES]
    folder = next((path.parent for path in files if path is not None), None)
    stored_steps = None if folder is None else read_processor_file(folder)
    if stored_steps:
        return read_preprocessing(
            stored_steps, default_type=family_of(model.config.model_type).processor.get("image_processor_type")
        )
    return _default_preprocessing(model, name)


def _default_preprocessing(model: PreTrainedModel, name: str | Path | None) -> Preprocessing:
    """Return the preprocessing of the published models of a family, with a warning."""
    family = family_of(model.config.model_type)
    if not family.processor:
        raise ValueError(
            f"{name or 'This model'} has no preprocessor_config.json, and the preprocessing of models of type "
            f"{model.config.model_type!r} is not known. Give an image processor or a Preprocessing."
        )
    preprocessing = read_preprocessing(family.processor)
    side = image_size_of(model.config)
    if side is not None and model.config.model_type not in ("dinov2", "dinov2_with_registers"):
        preprocessing = preprocessing.for_size(side, crop=True)
    logger.warning(
        "%s has no preprocessor_config.json: photos are prepared as for published models of its family (%s, mean %s, std %s).",
        name or "This model",
        preprocessing.resample,
        preprocessing.mean,
        preprocessing.std,
    )
    return preprocessing


def apply_size(published: Preprocessing, options: ModelOptions, model: PreTrainedModel, family: ModelFamily) -> Preprocessing:
    """Return the steps for the size and the crop of the options.

    Raises:
        ValueError: If the model cannot process images of the size.
    """
    if options.image_size is not None:
        preprocessing = published.for_size(options.image_size, crop=options.center_crop)
        patch_size = patch_size_of(model.config) if family.needs_whole_patches else None
        is_published = options.image_size == (published.input_size or image_size_of(model.config))
        if patch_size is not None and not is_published and any(side % patch_size for side in options.image_size):
            raise ValueError(
                f"`image_size` must be a multiple of the patch size of this model, {patch_size} pixels, got "
                f"{options.image_size[0]}x{options.image_size[1]}; the nearest is {_nearest(options.image_size, patch_size)}."
            )
        return preprocessing
    if options.center_crop:
        if published.crop_size is None:
            raise ValueError("The preprocessing of this model has no crop. Leave `center_crop` out.")
        return published
    if published.crop_size is not None:
        logger.warning(
            "Whole photos are resized to %dx%d pixels, though this model's preprocessing crops them at the centre; "
            "`center_crop=True` crops.",
            *published.crop_size,
        )
    return published.for_whole_images()


def _nearest(size: tuple[int, int], patch_size: int) -> str:
    height, width = (max(patch_size, round(side / patch_size) * patch_size) for side in size)
    return f"{height}x{width}"
