"""Square crops of queries: the forms of test time of deep-visual-geo-localization-benchmark (arXiv 2204.03444).

There, a query is resized so that its shorter side is that of the input size, and five square crops are taken, in the corners
and in the centre. `five_crops` takes the mean of their descriptors, and `nearest_crop` searches with each, so that the smallest
distance counts. Photos of the database are resized as always. The mean is L2-normalised here and not there, which changes no
ranking among descriptors of unit length. Photos are resized by the model's own filter with antialiasing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.utils.unit_length import are_wrong, divide_by_norms

NUM_CROPS = 5


def five_crops(pixel_values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return square crops (5, 3, side, side) of pixel values (3, height, width): four corners, row by row, then the centre."""
    height, width = pixel_values.shape[1:]
    bottom, right = height - side, width - side
    middle = (round(bottom / 2), round(right / 2))  # rounded half to even, as torchvision's crops at the centre
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    return np.stack([pixel_values[:, top : top + side, left : left + side] for top, left in corners])


def crop_side(steps: Preprocessing) -> int | None:
    """Return the side in pixels of the crops for some steps, the shorter one of the input; `None` if it is not known."""
    if steps.input_size is not None:
        return min(steps.input_size)
    return steps.shortest_edge if steps.crop_size is None else None


def prepare_crops(steps: Preprocessing, image: Any) -> NDArray[np.float32]:
    """Return the pixel values (5, 3, side, side) of the crops of an image.

    Raises:
        ValueError: If the steps have no size.
    """
    side = crop_side(steps)
    if side is None:
        raise ValueError("Crops of queries need a size of the input. Give `image_size`.")
    return five_crops(steps.for_shorter_side(side)(to_rgb(image)), side)


def mean_of_crops(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean (B, D) of the descriptors (B, 5, D) of crops, of unit length where those of all crops are."""
    means = descriptors.mean(axis=1)
    has_unit_lengths = ~are_wrong(np.linalg.norm(descriptors, axis=2)).any(axis=1, keepdims=True)
    return np.where(has_unit_lengths, divide_by_norms(means), means)
