"""Billboards: upright sprites of trees, vehicles, people and street furniture that face the camera."""

import torch

from d2vpr_hf.gridtown.painting.textures import Group, Paintbox, group_start
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import FAR, per_pixel

_NUM_LAYERS = 6  # billboards behind each other that are drawn in a column of pixels
_NEAR = 1.2  # metres; nearer billboards are not drawn


def draw_billboards(
    scene: Scene, view: View, paintbox: Paintbox, light: torch.Tensor, depth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the billboards over walls, ground and sky.

    Args:
        scene: The scene.
        view: The directions of the pixels.
        paintbox: The city's pictures.
        light: (3, B, H, W) light of walls, ground and sky, without fog.
        depth: (B, H, W) metres to these surfaces.

    Returns:
        Light and depth after all billboards are drawn.
    """
    conditions = scene.conditions
    received = per_pixel(
        0.55 * conditions["sunlight"] + 0.9 * conditions["skylight"] + 0.6 * conditions["lamplight"]
    )  # (3, B, 1, 1) light that falls on a billboard
    for layer in _layers(scene, view):
        texels = _read(layer, view, paintbox)
        if scene.wild is not None:
            is_tree = (layer["picture"] < group_start(Group.LAMP)).unsqueeze(1)
            texels[:3] *= torch.where(is_tree, per_pixel(scene.wild["foliage"]), 1.0)
        opacity = texels[3] * (layer["depth"].unsqueeze(1) < depth)
        light = light * (1 - opacity) + texels[:3] * received * (opacity > 0)
        depth = torch.lerp(depth, layer["depth"].unsqueeze(1).expand_as(depth), (opacity > 0.5).float())
    return light, depth


def _layers(scene: Scene, view: View) -> list[dict[str, torch.Tensor]]:
    """Return the billboards that each column of pixels meets, in layers, the farthest layer first.

    Each layer has, as (B, W): depth, width, height and picture of the billboard, and the column's position across it, from 0
    at its left edge to 1.
    """
    standing = scene.standing
    depth, sideways = (
        standing["x"] * axis[:, 0, None] + standing["y"] * axis[:, 1, None] for axis in (view.forward, view.right)
    )
    offset = view.column.unsqueeze(1) * depth.unsqueeze(2) - sideways.unsqueeze(2)  # (B, S, W) metres from the middle
    is_met = (offset.abs() < standing["width"].unsqueeze(2) / 2) & (depth > _NEAR).unsqueeze(2)
    met_depth = torch.where(is_met, depth.unsqueeze(2), FAR)
    layer_depth, row = met_depth.topk(min(_NUM_LAYERS, met_depth.shape[1]), dim=1, largest=False)  # (B, K, W)
    layers = {name: standing[name].gather(1, row.flatten(1)).view(row.shape) for name in ("width", "height", "picture")}
    layers |= {"depth": layer_depth, "across": 0.5 + offset.gather(1, row) / layers["width"].clamp(min=0.1)}
    count = int((layer_depth < FAR).any(dim=2).sum(dim=1).max())  # the layers with any billboard are the first ones
    return [{name: column[:, k] for name, column in layers.items()} for k in reversed(range(count))]


def _read(layer: dict[str, torch.Tensor], view: View, paintbox: Paintbox) -> torch.Tensor:
    """Read a layer's pictures (4, B, H, W); above and below a billboard all channels are 0."""
    column = {name: value.unsqueeze(1) for name, value in layer.items()}
    height = column["height"].clamp(min=0.1)
    down = 1 - (view.height[:, None, None] - view.slope * column["depth"]) / height
    pixel = column["depth"] / view.focal[:, None, None]
    across = column["across"].expand_as(down)
    texels = paintbox.sprites.read(column["picture"], across, down, pixel / column["width"].clamp(min=0.1), pixel / height)
    return texels * ((down > 0) & (down < 1) & (column["depth"] < FAR))
