"""A small canvas on which shapes are painted; averaging smooths their edges."""

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.gridtown.painting.atlas import Picture

Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]
_FINER = 2  # pictures are drawn larger by this factor and then averaged


class Canvas:
    """A picture being drawn. Coordinates run from 0 to 1, x to the right and y down.

    Attributes:
        pixels: (rows, columns, 4) float32 in [0, 1], larger than the final picture.
        x, y: (rows, columns) coordinates of the pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        rows, columns = height * _FINER, width * _FINER
        self.pixels = np.zeros((rows, columns, 4), np.float32)
        self.y, self.x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")

    def paint(self, mask: Mask, colour: Colour, fourth: float) -> None:
        """Paint the pixels of a mask. The meaning of the fourth channel depends on the kind of picture (glass or opacity)."""
        self.pixels[mask] = (*colour, fourth)

    def box(self, left: float, top: float, right: float, bottom: float) -> Mask:
        """Return the mask of a rectangle."""
        return (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)

    def disc(self, x: float, y: float, radius_x: float, radius_y: float) -> Mask:
        """Return the mask of an ellipse."""
        return ((self.x - x) / radius_x) ** 2 + ((self.y - y) / radius_y) ** 2 < 1

    def finish(self) -> Picture:
        """Return the picture, averaged to its final size."""
        height, width = self.pixels.shape[0] // _FINER, self.pixels.shape[1] // _FINER
        return self.pixels.reshape(height, _FINER, width, _FINER, 4).mean((1, 3))
