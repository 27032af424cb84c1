# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Photos to pixel values, without torchvision: upright, RGB, resized by torch's antialiased interpolation, normalised."""

import base64
import io
import os
import urllib.request
from typing import Any

import torch
from transformers import BaseImageProcessor, BatchFeature, image_utils
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageType,
    PILImageResampling,
    SizeDict,
    get_image_type,
    infer_channel_dimension_format,
    load_image,
    to_numpy_array,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from .photo_modes import (
    OWN_RANGE,
    WHOLE_TOPS,
    check_brightness,
    has_deep_colours,
    scale_to_bytes,
    to_8_bit_grey,
    to_rgb_image,
)
from .saved_files import set_new_file_mode

INTERPOLATION = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}
_UNSUPPORTED = ("do_center_crop", "do_pad")

_FETCH_SECONDS = 60.0  # without an answer
_OVERSHOOT = 0.15  # bicubic resampling exceeds the range of an image by about 0.1 of it


class D2VPRImageProcessor(BaseImageProcessor):
    """Turn PIL images, numpy arrays, tensors, file paths or URLs into `pixel_values`.

    - PIL images are turned upright by their EXIF orientation and converted to RGB from any mode: transparency is dropped,
      grey of 16 or 32 bits is scaled to 8 bits by [`to_8_bit_grey`]. (A HEIC file that is turned by EXIF alone, without a
      rotation box, has lost its orientation when Pillow opens it; `d2vpr_hf.readers.open_photo` keeps it.)
    - Arrays and tensors are (height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4
      channels, as 8-bit or unsigned 16-bit numbers, or as floating-point numbers in 0..1 or 0..255. They are in 0..1 if
      none exceeds 1, or by so little as resampling may exceed it, and in 0..255 otherwise; values of other ranges, such as
      normalised ones, are an error.
    - Images are resized without keeping their aspect, in floating point (`interpolate(antialias=True)`), then normalised
      by ImageNet's mean and standard deviation, as the published models were trained.

    Args:
        size (`dict`, defaults to `{"height": 224, "width": 224}`): Size after resizing. The model needs multiples of
            its patch size, 14.
        resample (`PILImageResampling`, defaults to `BILINEAR`): `BILINEAR` or `BICUBIC`.
        do_resize, do_rescale, do_normalize (`bool`, default to `True`): Switch steps off.
        image_mean, image_std (`list[float]`): Mean and standard deviation to normalise by.
    """

    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Unpack[ImagesKwargs]) -> None:
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the processor as transformers does, and give its code the mode that the umask gives new files."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        set_new_file_mode(save_directory)
        return files

    @property
    def backend(self) -> str:
        """The library that processes images."""
        return "torch"

    def fetch_images(self, images: Any) -> Any:
        """Open file paths and URLs; return everything else unchanged."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if not isinstance(images, (str, os.PathLike)):
            return images
        return _open_image(images)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """List the single images in the input, grey ones without a channel axis included."""
        flat = _flatten(self.fetch_images(images))
        if not flat:
            raise ValueError("There is no image in the input.")
        return flat

    def process_image(
        self, image: Any, do_rescale: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """Convert one image to an upright RGB tensor (3, height, width): uint8, or float32 in the range 0..255."""
        kind = get_image_type(image)
        if kind is ImageType.PIL:
            return pil_to_rgb(image)
        if kind is ImageType.NUMPY:
            image = torch.from_numpy(to_numpy_array(image).copy())
        image = _to_channels_first(image, input_data_format)
        return _to_byte_range(image) if do_rescale else image

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        disable_grouping: bool | None = None,
        return_tensors: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Resize, rescale and normalise, all images of one shape at a time."""
        _refuse_unsupported(kwargs)
        if device is not None:
            images = [image.to(device) for image in images]
        groups, order = group_images_by_shape(images, disable_grouping=disable_grouping)
        for shape, stacked in groups.items():
            stacked = stacked.float() * rescale_factor if do_rescale else stacked.float()
            if do_resize:
                stacked = _resize(stacked, size, resample)
            groups[shape] = _normalize(stacked, image_mean, image_std) if do_normalize else stacked
        return BatchFeature({"pixel_values": reorder_images(groups, order)}, tensor_type=return_tensors)


def _open_image(source: Any) -> Any:
    """Open a path, a URL or an image in base64 in the mode of its file; `load_image` would cut off grey of more than 8 bits."""
    try:
        return image_utils.PIL.Image.open(source)
    except (OSError, ValueError):
        text = str(source)
    if text.startswith(("http://", "https://")):
        with urllib.request.urlopen(text, timeout=_FETCH_SECONDS) as response:
            return image_utils.PIL.Image.open(io.BytesIO(response.read()))
    content = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        return image_utils.PIL.Image.open(io.BytesIO(base64.b64decode(content)))
    except (OSError, ValueError):
        return load_image(text)  # its error names the sources that are possible


def _flatten(images: Any) -> list[Any]:
    """Unfold lists and four-dimensional batches."""
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in _flatten(item)]
    return list(images) if getattr(images, "ndim", 3) == 4 else [images]


def pil_to_rgb(image: Any) -> torch.Tensor:
    """Turn a PIL image upright and into RGB bytes (3, height, width)."""
    return torch.from_numpy(to_numpy_array(to_rgb_image(image)).copy()).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _to_channels_first(image: torch.Tensor, input_data_format: Any = None) -> torch.Tensor:
    """Bring an array of any accepted layout to RGB (3, height, width)."""
    if 0 in image.shape:
        raise ValueError(f"An image must have pixels, got the shape {tuple(image.shape)}.")
    if image.ndim == 2:
        image = image.unsqueeze(0)
    elif image.ndim != 3:
        raise ValueError(f"An image must have 2 or 3 dimensions, got the shape {tuple(image.shape)}.")
    elif (input_data_format or _infer_layout(image)) == ChannelDimension.LAST:
        image = image.permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]


def _infer_layout(image: torch.Tensor) -> ChannelDimension:
    return infer_channel_dimension_format(image, num_channels=(1, 3, 4))  # type: ignore[arg-type] # reads the shape only


def _to_byte_range(image: torch.Tensor) -> torch.Tensor:
    """Scale values to 0..255, the range that `rescale_factor` expects."""
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.float() * 255
    if image.dtype == torch.uint16:
        scaled, _ = scale_to_bytes(image.float().numpy(force=True), WHOLE_TOPS[2:3])
        return torch.from_numpy(scaled).to(image.device)
    if not image.is_floating_point():
        raise ValueError(f"An image of whole numbers must be uint8 or uint16, got {image.dtype}.")
    image = image.float()
    low, high = (float(value) for value in image.aminmax()) if image.numel() else (0.0, 0.0)
    if not (-_OVERSHOOT * max(high, 1) <= low and high <= 255 * (1 + _OVERSHOOT)):
        raise ValueError(
            f"An image of floating-point numbers must be in 0..1 or 0..255, got {low:.4g} to {high:.4g}. Scale it, or switch "
            "`do_rescale` and `do_normalize` off for an image that is normalised already."
        )
    return image * 255 if high <= 1 + _OVERSHOOT else image


def _resize(images: torch.Tensor, size: SizeDict, resample: Any) -> torch.Tensor:
    """Resize (B, 3, H, W) to the height and width of `size`."""
    if not size.height or not size.width:
        raise ValueError(f'`size` must be {{"height": ..., "width": ...}}, got {size}.')
    if resample not in INTERPOLATION:
        raise ValueError(f"`resample` must be BILINEAR (2) or BICUBIC (3), got {resample!r}.")
    mode = INTERPOLATION[PILImageResampling(resample)]
    target = (size.height, size.width)
    return torch.nn.functional.interpolate(images, size=target, mode=mode, antialias=True, align_corners=False)


def _normalize(images: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of each channel of (B, 3, H, W)."""
    centre, spread = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return (images - centre) / spread


def _refuse_unsupported(kwargs: dict[str, Any]) -> None:
    unsupported = [name for name in _UNSUPPORTED if kwargs.get(name)]
    if unsupported:
        raise ValueError(f"D2VPRImageProcessor resizes whole images; it has no {' and '.join(unsupported)}.")


__all__ = [
    "OWN_RANGE",
    "D2VPRImageProcessor",
    "check_brightness",
    "has_deep_colours",
    "pil_to_rgb",
    "to_8_bit_grey",
    "to_rgb_image",
]
