"""Hand-made descriptors as models that a `PlaceEncoder` runs, so that they are measured like all others."""

import hashlib
import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.baselines import Encode
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.model_info.model_facts import ModelFacts


class HandmadeModel:
    """A function of photos of one size as a [`d2vpr_hf.encoders.protocol.DescriptorModel`].

    Args:
        title: Name of the method.
        encode: Maps photos (N, height, width, 3) uint8 to descriptors (N, D) of unit length.
        image_size: Height and width in pixels that photos are resized to.
    """

    model_revision = None
    projection_dim = None
    depends_on_batch = False
    runtime = Runtime("numpy", "fp32")
    device_type = "cpu"

    def __init__(self, title: str, encode: Encode, image_size: tuple[int, int]) -> None:
        self.model_name = title
        self.facts = ModelFacts(title)
        self.input_size = image_size
        self.model_options: dict[str, Any] = {}
        self._encode = encode
        self.descriptor_dim = encode(np.zeros((1, *image_size, 3), np.uint8)).shape[1]

    @property
    def fingerprint(self) -> str:
        """Hash of the function's source and the size."""
        return hashlib.sha256(f"{inspect.getsource(self._encode)}{self.input_size}".encode()).hexdigest()

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the colours of an image, resized by bicubic interpolation, from 0 to 255: (3, height, width)."""
        height, width = self.input_size
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized, np.float32).transpose(2, 0, 1)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self._encode(pixel_values.transpose(0, 2, 3, 1).astype(np.uint8))
