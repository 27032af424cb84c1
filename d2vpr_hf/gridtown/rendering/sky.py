"""The sky: a gradient of colours with clouds."""

import torch

from d2vpr_hf.gridtown.painting.textures import GROUND_TILE, Ground, Paintbox
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import per_pixel


def sky_light(scene: Scene, view: View, paintbox: Paintbox) -> torch.Tensor:
    """Return the light (3, B, H, W) of the sky."""
    upward = (-view.slope / (1 + view.column.unsqueeze(1) ** 2).sqrt()).clamp(0, 1)
    light = scene.conditions
    colour = torch.lerp(per_pixel(light["horizon"]), per_pixel(light["zenith"]), upward.sqrt())
    clouds = _clouds(scene, view, paintbox, upward) * (upward * 4).clamp(max=1)
    return colour * (1 + 0.5 * (clouds - 0.5))


def _clouds(scene: Scene, view: View, paintbox: Paintbox, upward: torch.Tensor) -> torch.Tensor:
    """Return the clouds (B, H, W), from 0 to 1: a picture on a plane overhead, shifted by the key of each photo."""
    distance = 1 / (upward + 0.12)
    x, y = (view.direction[:, axis, None] * distance + scene.key[:, None, None] % (97 + axis) for axis in (0, 1))
    picture = torch.full_like(x, int(Ground.CLOUD), dtype=torch.long)
    step = 4 * distance / view.focal[:, None, None] / GROUND_TILE
    return paintbox.ground.read(picture, (x / GROUND_TILE) % 1, (y / GROUND_TILE) % 1, step, step)[0]
