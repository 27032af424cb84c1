"""The last steps from light to bytes: fog, rain, snow, lens and sensor."""

import torch

from d2vpr_hf.gridtown.hashing import hash_unit
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import per_pixel

_FLAKES = ((5, 0.9), (9, 1.4), (17, 2.4))  # pixels between flakes at 224 pixels, and their radius
_GAMMA = 1 / 2.2
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
    if scene.wild is not None:
        vignette = vignette * _lens(scene.wild, view)
    light = light * per_pixel(conditions["exposure"][:, None] * conditions["white_balance"]) * vignette
    bright = (light / (light + 0.18) * 1.18).clamp(0, 1) ** _GAMMA  # compresses highlights before it clips, as cameras do
    bright = bright + _noise(scene, bright) * conditions["noise"][:, None, None]
    if scene.wild is not None:
        bright = _graded(scene.wild, scene.key, bright)
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


def _lens(look: dict[str, torch.Tensor], view: View) -> torch.Tensor:
    """Return the factor (B, H, W) by which a wild photo's lens darkens what is far from its centre."""
    right, down = (look["lens_centre"][:, axis, None, None] for axis in (0, 1))
    squared = (view.slope - view.slope.mean(dim=1, keepdim=True) - down) ** 2 + (view.column.unsqueeze(1) - right) ** 2
    return 1 / (1 + look["vignette"][:, None, None] * squared) ** 2


def _graded(look: dict[str, torch.Tensor], key: torch.Tensor, bright: torch.Tensor) -> torch.Tensor:
    """Return the brightness (3, B, H, W) of wild photos after a change of colourfulness, the tone curves and grain."""
    grey = (bright * torch.tensor(_GREY, device=bright.device).view(3, 1, 1, 1)).sum(dim=0)
    bright = torch.lerp(grey, bright, look["saturation"][:, None, None])
    curves = look["tone"].transpose(0, 1)  # (B, 3, L) -> (3, B, L)
    row = (bright.clamp(0, 1) * (curves.shape[2] - 1)).round().long()
    return curves.gather(2, row.flatten(2)).view_as(bright) + _grain(look, key, bright.shape[2], bright.shape[3])


def _grain(look: dict[str, torch.Tensor], key: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return grey grain (B, H, W), uniform from minus to plus its amplitude."""
    size = (look["grain_size"] * (width / 224)).clamp(min=1)[:, None, None]
    row, column = ((torch.arange(length, device=key.device) / size).long() for length in (height, width))
    return look["grain"][:, None, None] * (2 * hash_unit(key[:, None, None], row.transpose(1, 2), column, 7) - 1)
