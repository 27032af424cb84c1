"""Bring images of any mode and layout to RGB, for [`Preprocessing`]."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.readers.photos import photo_modes


def to_rgb(image: Any) -> Image.Image | NDArray[Any]:
    """Return an image as an upright PIL image in RGB, or as an array (height, width, 3) in 0..255.

    Args:
        image: A PIL image of any mode; or an array or tensor with the channels first, last or missing, of bytes or in 0..1.
            Arrays and tensors load torch.
    """
    if isinstance(image, Image.Image):
        rgb: Image.Image = photo_modes.to_rgb_image(image)
        return rgb
    pixels = _array_reader().process_image(image, do_rescale=True)  # (3, height, width)
    return np.asarray(pixels.permute(1, 2, 0).numpy(force=True))  # (3, height, width) -> (height, width, 3)


@functools.cache
def _array_reader() -> Any:
    from d2vpr_hf.modeling import D2VPRImageProcessor

    return D2VPRImageProcessor()
