"""Photos that a GPU resizes and normalises, so that the threads of the CPU only decode them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import ChannelDimension

from d2vpr_hf.backends import gpu_streams
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb

logger = logging.getLogger(__name__)

ACCEPTED_DIFFERENCE = 1e-3  # of normalised pixel values from those of the CPU, about 0.06 of 255 levels
_CHECKED_SIZES = 8  # photo sizes of which the first photo is compared


class GpuResizing:
    """Pixel values that a GPU computes from bytes, by the image processor that the CPU has, in the same number type.

    The first photo of each of the first eight sizes is compared with the CPU. If they differ by more than a bound, a warning is
    logged, and the CPU resizes from then on.

    Args:
        processor: The image processor, which resizes to a fixed size.
        streams: Copies to the GPU; see [`d2vpr_hf.backends.gpu_streams.GpuStreams`].
    """

    def __init__(self, processor: D2VPRImageProcessor, streams: Any) -> None:
        self._processor, self._streams = processor, streams
        self._checked: set[torch.Size] = set()
        self.is_equal = True

    def read(self, image: Any, prepare: Callable[[Any], NDArray[np.float32]]) -> NDArray[Any]:
        """Return a photo upright and in RGB as bytes (3, h, w), in memory that a GPU reads without the CPU.

        An image that is not a PIL image, and all images once the CPU resizes, become pixel values (3, height, width) by
        `prepare`.
        """
        if not isinstance(image, Image.Image) or not self.is_equal:
            return prepare(image)
        return gpu_streams.pin(pil_to_rgb(image).contiguous().numpy())

    def load(self, photos: Sequence[NDArray[Any]]) -> torch.Tensor:
        """Return the pixel values (B, 3, height, width) of photos on the GPU.

        Args:
            photos: Bytes (3, h, w) in RGB of any sizes, or pixel values (3, height, width), as `read` returns them.
        """
        tensors = [torch.from_numpy(photo) for photo in photos]
        if not self.is_equal:
            return self._streams.to_device(self._resize(tensors))
        resized = self._resize([self._streams.to_device(tensor) for tensor in tensors])
        if not all(self._is_accepted(tensor, pixels) for tensor, pixels in zip(tensors, resized, strict=True)):
            return self.load(photos)
        return resized

    def _resize(self, photos: list[torch.Tensor]) -> torch.Tensor:
        """Return the pixel values (B, 3, height, width) of photos on their device; photos that have them are not changed."""
        is_bytes = [not photo.is_floating_point() for photo in photos]
        if not any(is_bytes):
            return torch.stack(photos)
        to_resize = [photo for photo, needed in zip(photos, is_bytes, strict=True) if needed]
        options: Any = {"return_tensors": "pt", "input_data_format": ChannelDimension.FIRST}
        resized = iter(self._processor(to_resize, **options)["pixel_values"])
        return torch.stack([next(resized) if needed else photo for photo, needed in zip(photos, is_bytes, strict=True)])

    def _is_accepted(self, photo: torch.Tensor, pixels: torch.Tensor) -> bool:
        """Return whether the pixel values of a photo are those of the CPU, for photos that need to be compared."""
        if photo.is_floating_point() or photo.shape in self._checked or len(self._checked) == _CHECKED_SIZES:
            return True
        self._checked.add(photo.shape)
        difference = float((pixels.cpu() - self._resize([photo])[0]).abs().max())
        self.is_equal = difference <= ACCEPTED_DIFFERENCE
        if not self.is_equal:
            logger.warning(
                "The GPU resizes photos of the size %s with pixel values that differ by %.2g from those of the CPU, which "
                "resizes all photos from now on.",
                tuple(photo.shape[1:]),
                difference,
            )
        return self.is_equal
