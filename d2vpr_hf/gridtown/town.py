"""A city with its pictures, of which photos are rendered straight to tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.city_layout import COPY_SHARE, make_city
from d2vpr_hf.gridtown.painting.photo_textures import Textures
from d2vpr_hf.gridtown.painting.textures import Paintbox, make_paintbox
from d2vpr_hf.gridtown.photo_spec import Photo
from d2vpr_hf.gridtown.rendering.render import render
from d2vpr_hf.gridtown.rendering.scene import make_scene
from d2vpr_hf.gridtown.wildness import WildPhoto
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
        pixels = torch.empty((len(photos), 3, *size), dtype=torch.uint8, device=device)
        is_wild = [isinstance(photo, WildPhoto) for photo in photos]
        for kind in (False, True):  # a batch has photos of one kind
            rows = [row for row, wild in enumerate(is_wild) if wild == kind]
            for batch in (rows[start : start + step] for start in range(0, len(rows), step)):
                scene = make_scene(self.city, [photos[row] for row in batch], device)
                pixels[batch] = render(scene, paintbox, size).to(torch.uint8)
        return pixels


def make_town(seed: int, num_places: int, copy_share: float = COPY_SHARE, textures: Textures | None = None) -> Town:
    """Make a city and draw its pictures.

    Args:
        seed: Seed of the city.
        num_places: Number of its places.
        copy_share: Share of street segments that copy another one.
        textures: Textures from [`cut_textures`] for walls and ground of wild photos; `None` keeps the drawn ones.

    Raises:
        ValueError: If an argument of [`make_city`] is out of its range.
    """
    town = on_one_core(lambda: Town(make_city(seed, num_places, copy_share), make_paintbox(seed)))
    return town if textures is None else replace(town, paintbox=town.paintbox.with_textures(textures))
