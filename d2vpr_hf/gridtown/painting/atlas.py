"""Pictures in all power-of-two sizes, which are read without aliasing.

Both axes have sizes of their own, down to one texel: a wall seen at a slant is filtered along the street and not vertically,
and far walls fade to their mean colour.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Picture = NDArray[np.float32]  # (height, width, 4) in [0, 1]: red, green, blue and a fourth channel; row 0 is at the top


@dataclass(frozen=True)
class Atlas:
    """Pictures of one size, stored at all scales.

    Attributes:
        texels: (pictures * texels of a picture,) int32 with one byte for each channel.
        height, width: Size of the largest scale in texels, powers of two.
    """

    texels: torch.Tensor
    height: int
    width: int

    def to(self, device: torch.device | str) -> "Atlas":
        """Move the texels to a device."""
        return Atlas(self.texels.to(device), self.height, self.width)

    def read(
        self,
        picture: torch.Tensor,
        across: torch.Tensor,
        down: torch.Tensor,
        step_across: torch.Tensor,
        step_down: torch.Tensor,
    ) -> torch.Tensor:
        """Interpolate pictures bilinearly, at the scale nearest to the distance between pixels.

        Args:
            picture: (...) number of the picture at each point.
            across: (...) position in the picture, from 0 at the left to 1. Outside, the border is repeated.
            down: (...) position in the picture, from 0 at the top to 1.
            step_across: (...) distance to the neighbouring pixel in the unit of `across`.
            step_down: (...) distance to the neighbouring pixel in the unit of `down`.

        Returns:
            (4, ...) float32 in [0, 1].
        """
        height, y0, y1, y = _axis(self.height, down, step_down)
        width, x0, x1, x = _axis(self.width, across, step_across)
        start = picture * ((2 * self.height - 1) * (2 * self.width - 1))
        start = start + (2 * self.width - 1) * (2 * self.height - 2 * height) + height * (2 * self.width - 2 * width)
        upper, lower = start + y0 * width, start + y1 * width
        top = torch.lerp(self._texel(upper + x0), self._texel(upper + x1), x)
        bottom = torch.lerp(self._texel(lower + x0), self._texel(lower + x1), x)
        return torch.lerp(top, bottom, y) * (1 / 255)

    def _texel(self, index: torch.Tensor) -> torch.Tensor:
        """Return the channels (4, ...) of texels, from 0 to 255."""
        packed = self.texels.take(index)
        return torch.stack([((packed >> shift) & 255).float() for shift in (0, 8, 16, 24)])


def _axis(size: int, where: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Choose the scale along one axis and return its size, the two neighbouring texels and the weight of the second."""
    scale = (step * size).clamp(1, size).log2().round().long()
    length = size >> scale
    position = (where * length - 0.5).clamp(min=0)
    first = torch.minimum(position.long(), length - 1)
    second = torch.minimum(first + 1, length - 1)
    return length, first, second, (position - first).clamp(0, 1)


def make_atlas(pictures: list[Picture], has_opacity: bool = False) -> Atlas:
    """Make an atlas of pictures of one size. The outer loop halves the rows, the inner loop the columns.

    Pictures are drawn in screen colours and stored as linear light, because averages and shading are correct only there.

    Args:
        pictures: Pictures in screen colours.
        has_opacity: Whether the fourth channel is opacity. Colours are multiplied by it in `pictures` and in the atlas.
    """
    rows = np.stack(pictures).astype(np.float32)
    rows[..., :3] = rows[..., :3] ** 2 / (rows[..., 3:].clip(1e-3, 1) if has_opacity else 1)
    count, height, width, _ = rows.shape
    scales = []
    for _ in range(height.bit_length()):
        columns = rows
        for _ in range(width.bit_length()):
            scales.append(columns.reshape(count, -1, 4))
            columns = _halve(columns, axis=2)
        rows = _halve(rows, axis=1)
    texels = np.rint(np.concatenate(scales, axis=1) * 255).clip(0, 255).astype(np.uint8)
    return Atlas(torch.from_numpy(texels.reshape(-1, 4).view(np.int32).reshape(-1)), height, width)


def _halve(pictures: Picture, axis: int) -> Picture:
    """Average neighbouring pairs along an axis; an axis of length 1 does not change."""
    if pictures.shape[axis] == 1:
        return pictures
    first, second = (np.take(pictures, np.arange(start, pictures.shape[axis], 2), axis) for start in (0, 1))
    return ((first + second) / 2).astype(np.float32)
