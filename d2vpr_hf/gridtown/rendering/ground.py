"""The ground: carriageways with their markings, sidewalks, squares and parks."""

import torch

from d2vpr_hf.gridtown.city import SIDEWALK
from d2vpr_hf.gridtown.painting.textures import GROUND_TILE, Ground, Paintbox
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View
from d2vpr_hf.gridtown.rendering.walls import mirrored, per_pixel

_KERB = 0.16  # metres
_LINE = 0.07  # metres; half the width of the middle line
_DASH = 6.0  # metres between the beginnings of two dashes of the middle line
_TEXTURED = 0.8  # share of the materials of a street that a texture replaces in wild photos
_ZEBRA = (1.2, 4.0)  # metres between the crossing street's kerb and the zebra's beginning and end


def ground_light(scene: Scene, view: View, paintbox: Paintbox) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the light (3, B, G, W) of the G rows that can show ground, and its depth (B, G, 1) in metres."""
    slope = view.slope[:, view.first_ground_row :].clamp(min=1e-3)
    depth = view.height[:, None, None] / slope
    x, y = (view.direction[:, axis, None] * depth for axis in (0, 1))
    blur = depth / view.focal[:, None, None]  # width of a pixel in metres, sideways
    blur_ahead = (blur * depth / view.height[:, None, None]).expand_as(x)
    surface, paint = _surface(scene, x, y, blur.expand_as(x), blur_ahead)
    step = (blur * blur_ahead).sqrt() / GROUND_TILE
    if scene.wild is None:
        tile = [(part + scene.camera[name][:, None, None] % GROUND_TILE) / GROUND_TILE for part, name in ((x, "x"), (y, "y"))]
        albedo = paintbox.ground.read(surface, tile[0] % 1, tile[1] % 1, step, step)[:3]
    else:
        albedo = _wild_albedo(scene, scene.wild, surface, (x, y), step, paintbox)
    albedo = torch.lerp(albedo, torch.full_like(albedo, 0.82), paint)
    return _lit(scene, albedo, depth), depth


def _wild_albedo(
    scene: Scene,
    look: dict[str, torch.Tensor],
    surface: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor],
    step: torch.Tensor,
    paintbox: Paintbox,
) -> torch.Tensor:
    """Read the ground's colours for wild photos: textures of the street in place of most materials, and grass by the season."""
    is_grass = surface == Ground.GRASS
    if paintbox.num_textures:
        chance = look["ground"].gather(1, surface.flatten(1)).view(surface.shape)
        texture = len(Ground) + (chance / _TEXTURED * paintbox.num_textures).long()
        surface = torch.where(chance < _TEXTURED, texture, surface)
    tile = [  # textures are repeated in mirror images, after two tiles
        (part + scene.camera[name][:, None, None] % (2 * GROUND_TILE)) / GROUND_TILE
        for part, name in zip(where, "xy", strict=True)
    ]
    across, down = (torch.where(surface < len(Ground), part % 1, mirrored(part)) for part in tile)
    albedo = paintbox.ground.read(surface, across, down, step, step)[:3]
    return torch.where(is_grass, albedo * per_pixel(look["foliage"]), albedo)


def _surface(
    scene: Scene, x: torch.Tensor, y: torch.Tensor, blur: torch.Tensor, blur_ahead: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the material at each point, a number of [`Ground`], and the share of the pixel that is painted white."""
    streets = scene.streets
    off_x, half_x = _nearest(x, streets["x"], streets["width_x"])
    off_y, half_y = _nearest(y, streets["y"], streets["width_y"])
    road = torch.minimum(off_x.abs() - half_x, off_y.abs() - half_y)  # metres from the kerb; below 0 on a carriageway
    kerb = _cover((road - _KERB / 2).abs(), _KERB / 2, blur)
    surface = torch.where(road < 0, int(Ground.ASPHALT), int(Ground.PAVING))
    surface = torch.where(road > SIDEWALK, _block_surface(scene, x, y), surface)
    # city coordinates instead of those relative to the camera, so that dashes are at the same spots in every photo
    along_x, along_y = (part + scene.camera[name][:, None, None] for part, name in ((x, "x"), (y, "y")))
    lines = _markings(off_x, half_x, off_y, half_y, along_y, blur_ahead)
    lines = lines + _markings(off_y, half_y, off_x, half_x, along_x, blur_ahead)
    return surface, (0.55 * kerb + 0.85 * lines).clamp(max=1)


def _nearest(where: torch.Tensor, lines: torch.Tensor, widths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distance from the middle of the nearest street at `lines`, and half the width of its carriageway, metres."""
    off, half = where - lines[:, 0, None, None], (widths[:, 0, None, None] / 2 - SIDEWALK).expand_as(where)
    for number in range(1, lines.shape[1]):
        next_off = where - lines[:, number, None, None]
        is_nearer = next_off.abs() < off.abs()
        off = torch.where(is_nearer, next_off, off)
        half = torch.where(is_nearer, widths[:, number, None, None] / 2 - SIDEWALK, half)
    return off, half


def _block_surface(scene: Scene, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the material within blocks: grass in parks, paving in squares, gravel between houses."""
    blocks = scene.open_blocks
    surface = torch.full_like(x, int(Ground.GRAVEL), dtype=torch.long)
    for number in range(blocks.shape[1]):
        low_x, low_y, high_x, high_y, is_park = (blocks[:, number, part, None, None] for part in range(5))
        inside = (x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)
        kind = torch.where(is_park > 0, int(Ground.GRASS), int(Ground.PAVING))
        surface = torch.where(inside, kind, surface)
    return surface


def _markings(
    off: torch.Tensor,
    half: torch.Tensor,
    off_other: torch.Tensor,
    half_other: torch.Tensor,
    along: torch.Tensor,
    blur: torch.Tensor,
) -> torch.Tensor:
    """Return the share of each pixel that is marked: by a dashed middle line between crossings, or by a zebra at a crossing.

    Args:
        off: (B, G, W) metres from the middle of the marked street.
        half: (B, G, W) half the width of its carriageway.
        off_other: (B, G, W) metres from the middle of the street that crosses it.
        half_other: (B, G, W) half the width of that street's carriageway.
        along: (B, G, W) metres along the marked street.
        blur: (B, G, W) metres that a pixel covers in viewing direction.
    """
    to_crossing = off_other.abs() - half_other  # metres to the kerb of the crossing street
    dash = _cover(((along / _DASH) % 1 - 0.5).abs() * _DASH, _DASH / 4, blur)
    middle = _cover(off.abs(), _LINE, 0.3 * blur) * dash * (to_crossing > _ZEBRA[1] + 1)
    stripe = _cover(((off / 1.0) % 1 - 0.5).abs(), 0.25, blur.clamp(max=0.5))
    first, last = _ZEBRA
    zebra = stripe * _cover((to_crossing - (first + last) / 2).abs(), (last - first) / 2, blur) * (off.abs() < half - 0.3)
    return torch.maximum(middle, zebra)


def _cover(distance: torch.Tensor, half_width: float, blur: torch.Tensor) -> torch.Tensor:
    """Return the share of a pixel, `blur` metres wide, that a strip covers whose middle is `distance` metres away."""
    return ((half_width - distance) / blur.clamp(min=1e-3) + 0.5).clamp(0, 1) * (2 * half_width / blur.clamp(min=1e-3)).clamp(
        max=1
    )


def _lit(scene: Scene, albedo: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Return the light of the ground; rain darkens it and mirrors the sky, snow covers it."""
    light = scene.conditions
    albedo = albedo * (1 - 0.45 * light["rain"][:, None, None])
    white = torch.full_like(albedo, 0.86)
    snow = light["snow"] if scene.wild is None else torch.maximum(light["snow"], scene.wild["snow_cover"])
    albedo = torch.lerp(albedo, white, (0.85 * snow).clamp(max=1)[:, None, None])
    near = (1 - depth / 24.0).clamp(0, 1)
    received = (
        per_pixel(light["sunlight"] * light["sun"][:, 2:].clamp(min=0) * 0.75)
        + per_pixel(light["skylight"])
        + per_pixel(light["lamplight"]) * near
    )
    mirrored = 0.1 * light["rain"][:, None, None] * per_pixel(light["horizon"])
    return albedo * received + mirrored
