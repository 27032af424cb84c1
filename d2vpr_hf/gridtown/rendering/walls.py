"""Walls: the ray casting of pixel columns, and the light of facades."""

from dataclasses import dataclass

import torch

from d2vpr_hf.gridtown.hashing import hash_unit
from d2vpr_hf.gridtown.painting.textures import Cell, Ground, Paintbox
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.view import View

NEAR = 0.4  # metres; nearer walls are not drawn
FAR = 1e6  # metres; depth without a wall
_NUM_HITS = 8  # walls behind each other that a column of pixels can show
_CORNICE = 0.55  # metres below a wall's top
_SIGN_BAND = (0.85, 0.15)  # metres between the top of the ground floor and the sign's lower and upper edge
_LAMP_REACH = 28.0  # metres from the camera
_TEXTURED = 0.9  # share of buildings that a texture covers in wild photos
_TEXTURE_WIDTHS = (2.5, 10.0)  # metres, smallest and largest
_LIT = (1.0, 0.78, 0.46)  # light of a lit window


@dataclass(frozen=True)
class Hits:
    """The walls that pixels show.

    Attributes:
        depth: (B, H, W) metres along the camera's axis; `FAR` without a wall.
        wall: (B, H, W) row in the scene's walls.
        along: (B, H, W) metres from the wall's left end, seen from outside.
        facing: (B, H, W) the column's step across the wall for each metre of depth, at least 0.03.
        is_sky: (B, H, W) whether no wall is high enough for the pixel.
        foot: (B, W) slope at which the nearest wall meets the ground.
    """

    depth: torch.Tensor
    wall: torch.Tensor
    along: torch.Tensor
    facing: torch.Tensor
    is_sky: torch.Tensor
    foot: torch.Tensor


def cast_walls(scene: Scene, view: View) -> Hits:
    """Find the walls that each column of pixels meets, and for each pixel the nearest wall that is high enough."""
    walls = scene.walls
    across, along = _steps(walls["axis"], view.direction)
    depth = walls["coordinate"].unsqueeze(2) / across  # (B, M, W)
    where = depth * along
    is_met = (where >= walls["low"].unsqueeze(2)) & (where <= walls["high"].unsqueeze(2)) & (depth > NEAR)
    depth = torch.where(is_met, depth, FAR)
    count = min(_NUM_HITS, depth.shape[1])
    depth, wall = depth.topk(count, dim=1, largest=False)  # (B, K, W)
    where, across = where.gather(1, wall), across.gather(1, wall)
    top = look_up(walls["height"], wall) + _gable(scene, wall, where)
    slope_of_top = ((view.height[:, None, None] - top) / depth).masked_fill(depth >= FAR, torch.inf)
    skyline = slope_of_top.cummin(dim=1).values  # (B, K, W) upper edge of the nearest k walls
    layer = torch.zeros(view.slope.shape[0], *view.size, dtype=torch.long, device=depth.device)
    for number in range(count):
        layer += view.slope < skyline[:, number, None]
    is_sky = layer == count
    layer = layer.clamp(max=count - 1)
    seen = wall.gather(1, layer)
    pixel_depth = depth.gather(1, layer)
    return Hits(
        depth=pixel_depth.masked_fill(is_sky, FAR),
        wall=seen,
        along=_from_left(scene, seen, where.gather(1, layer)),
        facing=across.abs().gather(1, layer).clamp(min=0.03),
        is_sky=is_sky,
        foot=view.height[:, None] / depth[:, 0],
    )


def _steps(axis: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a column's step across each wall, which is never 0, and along it: (B, M, W) both."""
    x, y = direction[:, None, 0], direction[:, None, 1]
    is_first = axis.unsqueeze(2) == 0
    across, along = torch.where(is_first, x, y), torch.where(is_first, y, x)
    return torch.where(across.abs() < 1e-6, 1e-6, across), along


def look_up(column: torch.Tensor, wall: torch.Tensor) -> torch.Tensor:
    """Look up a column (B, M) of the walls at rows (B, ...)."""
    return column.gather(1, wall.flatten(1)).view(wall.shape)


def _gable(scene: Scene, wall: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the metres that a gable adds to a wall's height at the position `where` along it."""
    low, high = look_up(scene.walls["low"], wall), look_up(scene.walls["high"], wall)
    return look_up(scene.walls["gable"], wall) * (1 - (2 * (where - low) / (high - low).clamp(min=0.1) - 1).abs()).clamp(min=0)


def _from_left(scene: Scene, wall: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the metres between a wall's left end, seen from outside, and the position `where` along it."""
    walls = scene.walls
    left_is_low = (walls["side"] > 0) == (walls["axis"] == 0)
    low, high = look_up(walls["low"], wall), look_up(walls["high"], wall)
    return torch.where(look_up(left_is_low, wall), where - low, high - where)


def wall_light(scene: Scene, view: View, hits: Hits, paintbox: Paintbox) -> torch.Tensor:
    """Return the light (3, B, H, W) of walls, without fog."""
    look = {name: look_up(scene.walls[name], hits.wall) for name in _LOOKS}
    up = view.height[:, None, None] - view.slope * hits.depth
    pixel = hits.depth / view.focal[:, None, None]  # height of a pixel in metres
    bay = _Bay.of(look, hits.along, up)
    texels = bay.read(look, paintbox, pixel, pixel / hits.facing)
    glass = texels[3]
    colour = texels[:3]
    if scene.wild is not None and paintbox.num_textures:
        colour = _with_photo(colour, glass, scene, hits, up, pixel, paintbox)
    colour = _with_sign(colour, look, hits, up, pixel, paintbox)
    colour = colour * torch.stack([look_up(scene.walls["tint"][..., channel], hits.wall) for channel in range(3)])
    colour = torch.lerp(colour, 0.62 * colour, _band(look["height"] - up, 0.0, _CORNICE, pixel))
    return _lit(scene, look, hits, colour, glass, bay)


_LOOKS = (
    *("style", "bay_width", "floor_height", "ground_height", "has_shop", "sign", "key", "is_facade"),
    *("length", "height", "axis", "side"),
)


@dataclass(frozen=True)
class _Bay:
    """The bay of a facade at each pixel, and the position in it: (B, H, W) each.

    Attributes:
        number: Number of the bay, from the left.
        floor: Number of the floor; -1 is the ground floor.
        count: Number of bays of the facade.
        across, upward: Position in the bay, from 0 to 1.
        height: Metres of the floor.
    """

    number: torch.Tensor
    floor: torch.Tensor
    count: torch.Tensor
    across: torch.Tensor
    upward: torch.Tensor
    height: torch.Tensor

    @classmethod
    def of(cls, look: dict[str, torch.Tensor], along: torch.Tensor, up: torch.Tensor) -> "_Bay":
        """Return the bay at points `along` metres from a wall's left end and `up` metres above the ground."""
        count = (look["length"] / look["bay_width"]).round().clamp(min=1)
        bay = along / look["length"] * count
        floor = (up - look["ground_height"]) / look["floor_height"]
        on_ground = floor < 0
        height = torch.where(on_ground, look["ground_height"], look["floor_height"])
        upward = torch.where(on_ground, up / look["ground_height"], floor - floor.floor())
        number = bay.floor()
        return cls(number.long(), floor.floor().clamp(min=-1).long(), count.long(), bay - number, upward, height)

    def read(
        self, look: dict[str, torch.Tensor], paintbox: Paintbox, pixel: torch.Tensor, pixel_along: torch.Tensor
    ) -> torch.Tensor:
        """Read the facade's texels (4, B, H, W); a pixel is `pixel` metres high and `pixel_along` metres wide."""
        picture = look["style"] * len(Cell) + self._cell(look)
        step = pixel_along * self.count / look["length"]
        return paintbox.facades.read(picture, self.across, 1 - self.upward, step, pixel / self.height)

    def _cell(self, look: dict[str, torch.Tensor]) -> torch.Tensor:
        """Choose the bay's cell: shops and doors on the ground floor, windows above, a blank wall above the last floor."""
        chance = hash_unit(look["key"], self.number, self.floor)
        every_second = ((look["key"] >> 7) & 1) * ((self.number + self.floor) & 1)
        window = torch.where((chance < 0.22) | (every_second == 1), int(Cell.OTHER_WINDOW), int(Cell.WINDOW))
        window = torch.where(chance > 0.95, int(Cell.BLANK), window)
        is_door = self.number == look["key"] % self.count
        has_shop = look["has_shop"] > 0
        ground = torch.where(has_shop, int(Cell.SHOP), window) + is_door * torch.where(has_shop, 1, int(Cell.DOOR) - window)
        top_floor = ((look["height"] - 0.7 - look["ground_height"]) / look["floor_height"]).round().long()
        cell = torch.where(self.floor < 0, ground, window)
        return cell * (look["is_facade"] > 0) * (self.floor < top_floor)


def _with_photo(
    colour: torch.Tensor,
    glass: torch.Tensor,
    scene: Scene,
    hits: Hits,
    up: torch.Tensor,
    pixel: torch.Tensor,
    paintbox: Paintbox,
) -> torch.Tensor:
    """Cover the walls' colours with textures cut from photos, which depend on the building only."""
    chance = [hash_unit(scene.walls["key"], 91, number) for number in range(4)]  # (B, M) each
    texture = len(Ground) + (chance[0] * paintbox.num_textures).long()
    metres = look_up(_TEXTURE_WIDTHS[0] * (_TEXTURE_WIDTHS[1] / _TEXTURE_WIDTHS[0]) ** chance[1], hits.wall)
    opacity = torch.where(chance[2] < _TEXTURED, 0.6 + 0.4 * chance[3], 0.0)
    across, down = mirrored(hits.along / metres), mirrored(up / metres)
    texels = paintbox.ground.read(look_up(texture, hits.wall), across, down, pixel / hits.facing / metres, pixel / metres)
    return torch.lerp(colour, texels[:3], look_up(opacity, hits.wall) * (1 - 0.5 * glass))


def mirrored(where: torch.Tensor) -> torch.Tensor:
    """Fold positions to 0..1, so that a picture without matching borders continues in its mirror image."""
    return 1 - (where % 2 - 1).abs()


def _with_sign(
    colour: torch.Tensor,
    look: dict[str, torch.Tensor],
    hits: Hits,
    up: torch.Tensor,
    pixel: torch.Tensor,
    paintbox: Paintbox,
) -> torch.Tensor:
    """Draw the shop's sign over the wall's colour."""
    low, high = (look["ground_height"] - part for part in _SIGN_BAND)
    width = torch.minimum(0.8 * look["length"], torch.full_like(up, 7.0))
    across = (hits.along - (look["length"] - width) / 2) / width
    down = (high - up) / (high - low)
    texels = paintbox.signs.read(look["sign"], across, down, pixel / hits.facing / width, pixel / (high - low))
    share = _band(across * width, 0.0, width, pixel / hits.facing) * _band(up, low, high, pixel)
    return torch.lerp(colour, texels[:3], share * look["has_shop"] * look["is_facade"])


def _band(where: torch.Tensor, low: torch.Tensor | float, high: torch.Tensor | float, pixel: torch.Tensor) -> torch.Tensor:
    """Return the share of a pixel, `pixel` wide and centred at `where`, that is between two borders."""
    first = torch.maximum(where - pixel / 2, torch.as_tensor(low, device=where.device))
    last = torch.minimum(where + pixel / 2, torch.as_tensor(high, device=where.device))
    return ((last - first) / pixel).clamp(0, 1)


def _lit(
    scene: Scene, look: dict[str, torch.Tensor], hits: Hits, colour: torch.Tensor, glass: torch.Tensor, bay: _Bay
) -> torch.Tensor:
    """Return the light of a wall lit by sun, sky and lamps; glass mirrors the sky, or shows the lamp of a lit window."""
    light = scene.conditions
    sun = torch.where(look["axis"] == 0, light["sun"][:, 0, None, None], light["sun"][:, 1, None, None]) * look["side"]
    near = (1 - hits.depth / _LAMP_REACH).clamp(0, 1)
    received = (
        per_pixel(light["sunlight"]) * sun.clamp(min=0) + per_pixel(light["skylight"]) + per_pixel(light["lamplight"]) * near
    )
    chance = hash_unit(scene.key[:, None, None], look["key"], bay.number, bay.floor)
    is_lit = (chance < light["lit_windows"][:, None, None]) * glass
    window = torch.tensor(_LIT, device=colour.device).view(3, 1, 1, 1) * (
        0.35 + 0.5 * chance / light["lit_windows"][:, None, None]
    )
    mirrored = 0.13 * per_pixel(light["horizon"]) + 0.5 * colour * received
    seen = torch.lerp(colour * received, mirrored, 0.8 * glass)
    return torch.lerp(seen, window, is_lit)


def per_pixel(colour: torch.Tensor) -> torch.Tensor:
    """Reshape colours (B, 3) -> (3, B, 1, 1), to be broadcast against light (3, B, H, W)."""
    return colour.T[:, :, None, None]
