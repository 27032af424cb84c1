"""The last steps from light to bytes: fog, rain, snow, lens and sensor."""

import torch

from d2vpr_hf.gridtown.hashing import hash_unit
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import per_pixel

_FLAKES = ((5, 0.9), (9, 1.4), (17, 2.4))  # pixels between flakes at 224 pixels, and their radius
_GAMMA = 1 / 2.2


def develop(scene: Scene, view: View, light: torch.Tensor, depth: torch.Tensor, is_sky: torch.Tensor) -> torch.Tensor:
    """Turn light (3, B, H, W) into pixels.

    Args:
        scene: The scene.
        view: The directions of the pixels.
        light: Linear light, without fog.
        depth: (B, H, W) metres.
        is_sky: (B, H, W) whether a pixel shows the sky, which only thick fog covers because its colours contain haze.

    Returns:
        (B, 3, H, W) float32, whole numbers from 0 to 255.
    """
    conditions = scene.conditions
    light = _with_fog(scene, light, depth, is_sky)
    light = _with_falling_weather(scene, view, light)
    vignette = 1 / (1 + 0.16 * (view.slope**2 + view.column.unsqueeze(1) ** 2)) ** 2  # (B, H, W) the lens darkens corners
    light = light * per_pixel(conditions["exposure"][:, None] * conditions["white_balance"]) * vignette
    bright = (light / (light + 0.18) * 1.18).clamp(0, 1) ** _GAMMA  # compresses highlights before it clips, as cameras do
    bright = bright + _noise(scene, bright) * conditions["noise"][:, None, None]
    return (bright.clamp(0, 1) * 255).round().transpose(0, 1).contiguous()


def _with_fog(scene: Scene, light: torch.Tensor, depth: torch.Tensor, is_sky: torch.Tensor) -> torch.Tensor:
    """Blend the light with the fog's colour, the more the larger the depth."""
    visibility = scene.conditions["visibility"][:, None, None]
    depth = torch.where(is_sky, 90.0, depth)  # metres of fog in front of the sky
    return torch.lerp(per_pixel(scene.conditions["fog"]), light, (-depth / visibility).exp())


def _with_falling_weather(scene: Scene, view: View, light: torch.Tensor) -> torch.Tensor:
    """Draw falling rain or snow over the light."""
    rain, snow = (scene.conditions[name][:, None, None] for name in ("rain", "snow"))
    if not bool((rain + snow).any()):
        return light
    height, width = view.size
    device = light.device
    row, column = torch.arange(height, device=device)[None, :, None], torch.arange(width, device=device)[None, None, :]
    key = scene.key[:, None, None]
    streaks = (hash_unit(key, column, (row * 224 // height + 3 * column) // 13) > 1 - 0.05 * rain).float()
    light = light * (1 + 0.35 * streaks)
    flakes = sum(_flakes(key, row, column, spacing * width / 224, radius * width / 224) for spacing, radius in _FLAKES)
    return torch.lerp(light, torch.full_like(light, 0.75), (flakes * snow).clamp(0, 0.9))


def _flakes(key: torch.Tensor, row: torch.Tensor, column: torch.Tensor, spacing: float, radius: float) -> torch.Tensor:
    """Return the share of each pixel that a flake covers; each square of a grid has at most one flake."""
    across, down = (column + 0.5) / spacing, (row + 0.5) / spacing
    square = across.floor().long(), down.floor().long()
    x, y, chance = (hash_unit(key, *square, number) for number in (1, 2, 3))
    distance = (((across - square[0] - x) ** 2 + (down - square[1] - y) ** 2).sqrt()) * spacing
    return (radius - distance + 0.5).clamp(0, 1) * (chance < 0.12)


def _noise(scene: Scene, like: torch.Tensor) -> torch.Tensor:
    """Return noise (3, B, H, W) of mean 0 and variance 1: a scaled sum of two uniform numbers, nearly bell-shaped."""
    height, width = like.shape[2:]
    pixel = torch.arange(height * width, device=like.device).view(1, height, width)
    channel = torch.arange(3, device=like.device).view(3, 1, 1, 1)
    first = hash_unit(scene.key[:, None, None], pixel, channel)
    second = hash_unit(scene.key[:, None, None], pixel, channel + 3)
    return (first + second - 1) * 6**0.5
