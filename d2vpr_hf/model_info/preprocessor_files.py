"""Read the settings of transformers' image processors, and of timm, as [`Preprocessing`]. This module loads no library.

The settings stand in `preprocessor_config.json`, in `processor_config.json` under `image_processor`, and for timm's models in
`config.json` under `pretrained_cfg`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2vpr_hf.model_info.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Resample
from d2vpr_hf.utils.bounded_files import parse_json

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

# settings that a file may omit, by the processor's name without its ending, as transformers 5.23 has them
_SHORTEST_224 = {"size": {"shortest_edge": 224}, "default_to_square": False}
_CROP_224 = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_CLIP = {**_SHORTEST_224, **_CROP_224, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_SQUARE_224 = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": HALF, "image_std": HALF}
_MOBILE = {**_CROP_224, "size": {"shortest_edge": 256}, "default_to_square": False, "resample": 2}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Beit": {**_SQUARE_224, "resample": 3, "crop_size": {"height": 224, "width": 224}},
    "Bit": _CLIP,
    "Blip": {"size": {"height": 384, "width": 384}, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD},
    "ChineseCLIP": _CLIP,
    "CLIP": _CLIP,
    "ConvNext": {"size": {"shortest_edge": 384}, "default_to_square": False, "resample": 3, "crop_pct": 224 / 256}
    | {"image_mean": HALF, "image_std": HALF},
    "D2VPR": {**_SQUARE_224, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "DeiT": {**_CROP_224, "size": {"height": 256, "width": 256}, "resample": 3, "image_mean": HALF, "image_std": HALF},
    "DINOv3ViT": {**_SQUARE_224, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Levit": {**_SHORTEST_224, **_CROP_224, "resample": 3, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "MobileNetV1": {**_MOBILE, "image_mean": HALF, "image_std": HALF},
    "MobileNetV2": {**_MOBILE, "image_mean": HALF, "image_std": HALF},
    "Pvt": {**_SQUARE_224, "resample": 3, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Segformer": {**_SQUARE_224, "size": {"height": 512, "width": 512}}
    | {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Siglip": {**_SQUARE_224, "resample": 3, "default_to_square": False},
    "Siglip2": {"max_num_patches": 256, "patch_size": 16, "resample": 2, "image_mean": HALF, "image_std": HALF},
    "ViT": _SQUARE_224,
}
_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
_CONVNEXT_WARP_EDGE = 384  # from this size on, ConvNeXt's processor resizes the whole image
_FLOAT_RESIZERS = ("D2VPR", "DINOv3ViT")  # processors that resize floating-point numbers
_RESAMPLE: dict[object, Resample] = {
    **{0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"},
    **{name: name for name in ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")},
}
_READING_ERRORS = (KeyError, IndexError, TypeError, OverflowError)  # of values of other types, or too few or too large
# settings that change pixels in a way that `Preprocessing` does not have
_UNSUPPORTED = ("do_flip_channel_order", "rescale_offset", "keep_aspect_ratio", "do_image_splitting", "do_thumbnail")


def read_processor_file(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the image processor in a model folder; `None` if it has none.

    Raises:
        ValueError: If a file cannot be read.
    """
    paths = {name: folder / name for name in PROCESSOR_FILES}
    files = {name: _read_json(path) for name, path in paths.items() if path.is_file()}
    nested = files.get("processor_config.json", {}).get("image_processor")
    return nested if isinstance(nested, dict) else files.get("preprocessor_config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have a JSON object, got {type(values).__name__}.")
    return values


def read_preprocessing(values: Mapping[str, Any], *, default_type: str | None = None) -> Preprocessing:
    """Return the steps of an image processor of transformers.

    Args:
        values: Its settings, as `preprocessor_config.json` has them. Omitted ones have the defaults of its type.
        default_type: Type of the processor if the settings name none, such as `"ViT"`.

    Raises:
        ValueError: If its type is not supported, or it has a step that [`Preprocessing`] does not have.
    """
    kind = _processor_type(values, default_type)
    settings = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    settings |= _DEFAULTS[kind] | {name: value for name, value in values.items() if value is not None}
    for name in _UNSUPPORTED:
        if settings.get(name):
            raise ValueError(f"This image processor has the step `{name}`, which this package does not have.")
    try:
        return Preprocessing(
            **_resizing(kind, settings),
            pad_size=_pair(settings["pad_size"]) if settings.get("do_pad") and settings.get("pad_size") else None,
            resample=_resample(settings["resample"]),
            resized_as="float32" if kind in _FLOAT_RESIZERS else "uint8",
            rescale_factor=float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0,
            mean=_three(settings["image_mean"]) if settings["do_normalize"] else (0.0, 0.0, 0.0),
            std=_three(settings["image_std"]) if settings["do_normalize"] else (1.0, 1.0, 1.0),
        )
    except (*_READING_ERRORS, AttributeError) as error:
        raise ValueError(f"The settings of this image processor cannot be read: {error!r}.") from error


def _processor_type(values: Mapping[str, Any], default_type: str | None) -> str:
    """Return the type of a processor without the ending of its name."""
    full_name = values.get("image_processor_type") or values.get("feature_extractor_type")
    kind = default_type if full_name is None else str(full_name)
    for ending in _ENDINGS:
        kind = kind.removesuffix(ending) if kind else kind
    if kind not in _DEFAULTS:
        raise ValueError(
            f"Expected the settings of an image processor of type {', '.join(_DEFAULTS)}; got {full_name or 'no type'}. "
            "From Python, give the steps: `PlaceEncoder(model, Preprocessing(...))` with a model object."
        )
    return str(kind)


def _resizing(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of [`Preprocessing`] for resizing and cropping."""
    crop_size = _pair(settings["crop_size"]) if settings.get("do_center_crop") else None
    if not settings["do_resize"]:
        return {"crop_size": crop_size}
    if kind == "Siglip2":
        return {"max_patches": int(settings["max_num_patches"]), "multiple_of": int(settings["patch_size"])}
    rule = _size_rule(settings["size"], square=settings.get("default_to_square", True))
    edge = rule.get("shortest_edge")
    if kind == "ConvNext" and edge is not None:
        if edge >= _CONVNEXT_WARP_EDGE:
            return {"size": (edge, edge), "crop_size": crop_size}
        return {"shortest_edge": int(edge / settings["crop_pct"]), "crop_size": crop_size or (edge, edge)}
    if kind == "Levit" and edge is not None:
        rule["shortest_edge"] = int(256 / 224 * edge)
    return rule | {"crop_size": crop_size}


def _size_rule(size: Any, *, square: bool) -> dict[str, Any]:
    """Return the rule of a size in any of the forms that transformers has."""
    if isinstance(size, int):
        return {"size": (size, size)} if square else {"shortest_edge": size}
    if isinstance(size, list | tuple):
        return {"size": _pair(size)}
    sides = {name: int(side) for name, side in size.items() if side is not None}
    if "shortest_edge" in sides:
        return {"shortest_edge": sides["shortest_edge"], "longest_edge": sides.get("longest_edge")}
    if {"height", "width"} <= set(sides):
        return {"size": (sides["height"], sides["width"])}
    if {"max_height", "max_width"} <= set(sides):
        return {"fit_size": (sides["max_height"], sides["max_width"])}
    if set(sides) == {"longest_edge"}:
        return {"fit_size": (sides["longest_edge"], sides["longest_edge"])}
    raise ValueError(
        "`size` of an image processor must have height and width, shortest_edge, longest_edge, or max_height and max_width; "
        f"got {dict(size)}."
    )


def _pair(size: Any) -> tuple[int, int]:
    """Return height and width of a crop or of padding."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[1])
    return int(size["height"]), int(size["width"])


def _three(values: Any) -> tuple[float, float, float]:
    """Return a number for each channel; one for all of them is repeated."""
    numbers = [float(number) for number in (values if isinstance(values, list | tuple) else [values])]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3:
        raise ValueError(f"Expected a mean and a standard deviation for one or three channels, got {values!r}.")
    return numbers[0], numbers[1], numbers[2]


def _resample(value: Any) -> Resample:
    """Return the name of a filter that is given by its number in Pillow or by its name."""
    name = _RESAMPLE.get(value.lower() if isinstance(value, str) else value)
    if name is None:
        raise ValueError(f"Expected a filter of Pillow, 0 to 5, for `resample`; got {value!r}.")
    return name


def read_timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """Return the evaluation steps of a timm model, by the `pretrained_cfg` of its `config.json`.

    timm rounds the position of a crop of an odd margin to the even pixel; here it is rounded down.

    Raises:
        ValueError: If the steps cannot be read.
    """
    settings = config.get("pretrained_cfg") or {}
    if not isinstance(settings, Mapping):
        raise ValueError(f"`pretrained_cfg` of this timm model must be a table, got {settings!r}.")
    crop_mode = settings.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise ValueError(f"This timm model is evaluated with the crop mode {crop_mode!r}; expected center or squash.")
    try:
        height, width = (int(number) for number in (settings.get("input_size") or (3, 224, 224))[1:])
        share = float(settings.get("crop_pct") or 0.875)
        larger = (math.floor(height / share), math.floor(width / share))
        keeps_shape = crop_mode == "center" and height == width
        return Preprocessing(
            size=None if keeps_shape else larger,
            shortest_edge=larger[0] if keeps_shape else None,
            crop_size=(height, width),
            resample=_resample(settings.get("interpolation") or "bicubic"),
            mean=_three(settings.get("mean") or IMAGENET_MEAN),
            std=_three(settings.get("std") or IMAGENET_STD),
        )
    except (*_READING_ERRORS, ValueError) as error:
        raise ValueError(f"The preprocessing of this timm model cannot be read: {error}.") from error
