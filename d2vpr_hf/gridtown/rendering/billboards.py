"""What stands about: trees, vehicles, people and street furniture, as upright pictures that face the camera."""

import torch

from d2vpr_hf.gridtown.painting.textures import Paintbox
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import FAR, per_pixel

_NUM_LAYERS = 6  # things behind each other that a column of pixels can see
_NEAR = 1.2  # metres


def stand_before(
    scene: Scene, view: View, paintbox: Paintbox, light: torch.Tensor, depth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what stands about before walls and ground.

    Args:
        scene: The scene.
        view: Where pixels look.
        paintbox: The city's pictures.
        light: (3, B, H, W) light of what is behind, fog not yet counted.
        depth: (B, H, W) metres to it.

    Returns:
        Light and depth with everything in its place.
    """
    received = _received(scene)
    for layer in _layers(scene, view):
        texels = _read(layer, view, paintbox)
        opacity = texels[3] * (layer["depth"].unsqueeze(1) < depth)
        light = light * (1 - opacity) + texels[:3] * received * (opacity > 0)
        depth = torch.lerp(depth, layer["depth"].unsqueeze(1).expand_as(depth), (opacity > 0.5).float())
    return light, depth


def _layers(scene: Scene, view: View) -> list[dict[str, torch.Tensor]]:
    """Return what each column of pixels meets, the farthest first: (B, W) each.

    Of a thing: its depth, width, height and picture, and where across it the column lies, from 0 to 1.
    """
    things = scene.standing
    depth, aside = (things["x"] * axis[:, 0, None] + things["y"] * axis[:, 1, None] for axis in (view.forward, view.right))
    offset = view.column.unsqueeze(1) * depth.unsqueeze(2) - aside.unsqueeze(2)  # metres off its middle, (B, S, W)
    is_met = (offset.abs() < things["width"].unsqueeze(2) / 2) & (depth > _NEAR).unsqueeze(2)
    met = torch.where(is_met, depth.unsqueeze(2), FAR)
    met, thing = met.topk(min(_NUM_LAYERS, met.shape[1]), dim=1, largest=False)  # (B, K, W)
    found = {name: things[name].gather(1, thing.flatten(1)).view(thing.shape) for name in ("width", "height", "picture")}
    found |= {"depth": met, "across": 0.5 + offset.gather(1, thing) / found["width"].clamp(min=0.1)}
    count = int((met < FAR).any(dim=2).sum(dim=1).max())  # layers that anything is in; the nearest come first
    return [{name: column[:, k] for name, column in found.items()} for k in reversed(range(count))]


def _read(layer: dict[str, torch.Tensor], view: View, paintbox: Paintbox) -> torch.Tensor:
    """Read a layer's pictures (4, B, H, W); opacity is 0 above and below them."""
    column = {name: value.unsqueeze(1) for name, value in layer.items()}
    height = column["height"].clamp(min=0.1)
    down = 1 - (view.height[:, None, None] - view.slope * column["depth"]) / height
    pixel = column["depth"] / view.focal[:, None, None]
    across = column["across"].expand_as(down)
    texels = paintbox.sprites.read(column["picture"], across, down, pixel / column["width"].clamp(min=0.1), pixel / height)
    return texels * ((down > 0) & (down < 1) & (column["depth"] < FAR))


def _received(scene: Scene) -> torch.Tensor:
    """Return the light (3, B, 1, 1) that falls on what stands about."""
    light = scene.conditions
    return per_pixel(0.55 * light["sunlight"] + 0.9 * light["skylight"] + 0.6 * light["lamplight"])
