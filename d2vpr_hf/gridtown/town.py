"""A city with its pictures, of which photos are rendered straight to tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.city_layout import COPY_SHARE, make_city
from d2vpr_hf.gridtown.painting.textures import Paintbox, make_paintbox
from d2vpr_hf.gridtown.photo_spec import Photo
from d2vpr_hf.gridtown.rendering.render import render
from d2vpr_hf.gridtown.rendering.scene import make_scene
from d2vpr_hf.utils.threads import on_one_core

_BATCH = 32  # photos that a GPU renders at once


@dataclass(frozen=True)
class Town:
    """A city with its pictures.

    Example:
    ```python
    >>> town = make_town(seed=1, num_places=100)
    >>> photos = [draw_photo(town.city, place=3, heading=0, visit=visit, variation=Variation()) for visit in range(4)]
    >>> town.take(photos, size=(224, 224)).shape
    torch.Size([4, 3, 224, 224])
    ```
    """

    city: City
    paintbox: Paintbox

    def take(self, photos: Sequence[Photo], size: tuple[int, int] = (224, 224), device: str = "cpu") -> torch.Tensor:
        """Render photos.

        A CPU renders them one by one, so that a photo has the same bytes in any batch, and on one core; a GPU renders many at
        once and rounds differently.

        Args:
            photos: Photos from [`draw_photo`].
            size: Height and width in pixels.
            device: Device that renders, such as `"cuda"`.

        Returns:
            (B, 3, height, width) uint8 RGB, on the device.
        """
        if torch.device(device).type == "cpu":
            return on_one_core(lambda: self._render(photos, size, device, 1))
        return self._render(photos, size, device, _BATCH)

    def _render(self, photos: Sequence[Photo], size: tuple[int, int], device: str, step: int) -> torch.Tensor:
        paintbox = self.paintbox.to(device)
        batches = [photos[start : start + step] for start in range(0, len(photos), step)]
        rendered = [render(make_scene(self.city, list(batch), device), paintbox, size).to(torch.uint8) for batch in batches]
        return torch.cat(rendered) if rendered else torch.empty((0, 3, *size), dtype=torch.uint8, device=device)


def make_town(seed: int, num_places: int, copy_share: float = COPY_SHARE) -> Town:
    """Make a city and draw its pictures; arguments and errors are those of [`make_city`]."""
    return on_one_core(lambda: Town(make_city(seed, num_places, copy_share), make_paintbox(seed)))
