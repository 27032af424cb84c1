"""Compass headings of the crops of SF-XL.

A crop of SF-XL is 512 of the 3328 pixels of a panorama. The heading in its name is that of its left edge, and is counted to the
west: 0 is north, and 90 is west. In compass angles the left edge is at -heading, and the middle of the crop is half its width
to the right of it:

    compass = (-heading + 360 * 512 / 3328 / 2) mod 360

Sources: https://github.com/gmberton/CosPlace/issues/26 (the heading of a crop is that of its first pixel) and
https://github.com/gmberton/CosPlace/issues/43 (the sizes of panoramas and crops).
"""

import numpy as np
from numpy.typing import NDArray

PANORAMA_WIDTH = 3328  # pixels
CROP_WIDTH = 512
CROP_ANGLE = 360 * CROP_WIDTH / PANORAMA_WIDTH  # degrees


def compass_headings(headings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the compass headings (N,) of the middles of crops, from 0 to below 360 degrees, from those of their names."""
    return np.mod(CROP_ANGLE / 2 - headings, 360)
