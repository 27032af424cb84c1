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
    """Return the steps for the size, the crop and the aspect of the options.

    Raises:
        ValueError: If the model cannot process images of the size.
    """
    patch_size = patch_size_of(model.config) if family.needs_whole_patches else None
    if options.image_size is not None:
        is_published = options.image_size == (published.input_size or image_size_of(model.config))
        if patch_size is not None and not is_published:
            check_whole_patches(options.image_size, patch_size)
        preprocessing = published.for_size(options.image_size, crop=options.center_crop)
        return _with_aspect(preprocessing, patch_size) if options.keep_aspect else preprocessing
    if options.center_crop:
        if published.crop_size is None:
            raise ValueError("The preprocessing of this model has no crop. Leave `center_crop` out.")
        return published
    if options.keep_aspect:
        return _with_aspect(published.for_whole_images(), patch_size)
    if published.crop_size is not None:
        logger.warning(
            "Whole photos are resized to %dx%d pixels, though this model's preprocessing crops them at the centre; "
            "`center_crop=True` crops.",
            *published.crop_size,
        )
    return published.for_whole_images()


def _with_aspect(preprocessing: Preprocessing, patch_size: int | None) -> Preprocessing:
    """Return steps that keep the aspect of photos, with the smaller number of the input size as their shorter side.

    Raises:
        ValueError: If the input size depends on the photo by another rule.
    """
    size = preprocessing.input_size
    side = preprocessing.shortest_edge if size is None else min(size)
    if side is None:
        raise ValueError("The preprocessing of this model has no fixed size, so `keep_aspect=True` needs `image_size`.")
    return preprocessing.for_shorter_side(side, patch_size or 1)


def check_whole_patches(size: tuple[int, int], patch_size: int) -> None:
    """Raise ValueError unless a height and a width consist of whole patches; the error has the nearest size that does."""
    if any(side % patch_size for side in size):
        height, width = (max(patch_size, round(side / patch_size) * patch_size) for side in size)
        raise ValueError(
            f"`image_size` must be a multiple of the patch size of this model, {patch_size} pixels, got {size[0]}x{size[1]}; "
            f"the nearest is {height}x{width}."
        )
