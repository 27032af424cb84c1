"""All pictures of a city as atlases: facades, shop signs, sprites and ground."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from d2vpr_hf.gridtown.city import NUM_SIGNS, NUM_STYLES
from d2vpr_hf.gridtown.painting.atlas import Atlas, Picture, make_atlas
from d2vpr_hf.gridtown.painting.facades import draw_sign, draw_style
from d2vpr_hf.gridtown.painting.sprites import (
    Season,
    draw_box,
    draw_car,
    draw_lamp,
    draw_person,
    draw_traffic_sign,
    draw_tree,
)


class Cell(IntEnum):
    """Kinds of facade cells, in the order of a style's pictures."""

    BLANK = 0
    WINDOW = 1
    OTHER_WINDOW = 2
    DOOR = 3
    SHOP = 4
    SHOP_DOOR = 5


class Group(IntEnum):
    """Kinds of sprites."""

    TREE_SUMMER = 0
    TREE_AUTUMN = 1
    TREE_WINTER = 2
    LAMP = 3
    SIGN = 4
    BOX = 5
    CAR_SIDE = 6
    CAR_BEHIND = 7
    PERSON = 8


class Ground(IntEnum):
    """Materials of the ground, and clouds, which are stored with them."""

    ASPHALT = 0
    PAVING = 1
    GRASS = 2
    GRAVEL = 3
    CLOUD = 4


GROUND_TILE = 8.0  # metres; width of a ground picture
GROUND_SIZE = 128  # texels
_PAINTERS: dict[Group, tuple[Callable[[Generator], Picture], int]] = {  # with the number of pictures
    Group.TREE_SUMMER: (partial(draw_tree, season=Season.SUMMER), 12),
    Group.TREE_AUTUMN: (partial(draw_tree, season=Season.AUTUMN), 12),
    Group.TREE_WINTER: (partial(draw_tree, season=Season.WINTER), 12),
    Group.LAMP: (draw_lamp, 4),
    Group.SIGN: (draw_traffic_sign, 10),
    Group.BOX: (draw_box, 8),
    Group.CAR_SIDE: (partial(draw_car, from_behind=False), 20),
    Group.CAR_BEHIND: (partial(draw_car, from_behind=True), 20),
    Group.PERSON: (draw_person, 16),
}
_TREES = (Group.TREE_SUMMER, Group.TREE_AUTUMN, Group.TREE_WINTER)


@dataclass(frozen=True)
class Paintbox:
    """All pictures of a city.

    Attributes:
        facades: Cell `c` of style `s` is picture `s * len(Cell) + c`; the fourth channel is 1 on glass.
        signs: One picture for each sign.
        sprites: The groups in the order of [`Group`]; colours are multiplied by the fourth channel, opacity.
        ground: One picture for each [`Ground`], `GROUND_TILE` metres wide, then `num_textures` pictures cut from photos.
        num_textures: Number of textures for wild photos; 0 if these show drawn walls and ground.
    """

    facades: Atlas
    signs: Atlas
    sprites: Atlas
    ground: Atlas
    num_textures: int = 0

    def to(self, device: str) -> "Paintbox":
        """Move the pictures to a device."""
        atlases = (self.facades.to(device), self.signs.to(device), self.sprites.to(device), self.ground.to(device))
        return Paintbox(*atlases, self.num_textures)

    def with_textures(self, textures: NDArray[np.uint8]) -> "Paintbox":
        """Return a paintbox with textures for wild photos, (N, GROUND_SIZE, GROUND_SIZE, 3) screen colours."""
        added = make_atlas([np.pad(texture / 255, ((0, 0), (0, 0), (0, 1))).astype(np.float32) for texture in textures])
        ground = replace(self.ground, texels=torch.cat((self.ground.texels, added.texels)))
        return replace(self, ground=ground, num_textures=len(textures))


def make_paintbox(seed: int) -> Paintbox:
    """Draw the pictures of a city."""
    styles = [picture for style in range(NUM_STYLES) for picture in draw_style(np.random.default_rng([seed, 20, style]))]
    signs = [draw_sign(np.random.default_rng([seed, 21, sign])) for sign in range(NUM_SIGNS)]
    sprites = [
        painter(np.random.default_rng([seed, 22, 0 if group in _TREES else group, number]))  # a tree is the same in all seasons
        for group, (painter, count) in _PAINTERS.items()
        for number in range(count)
    ]
    ground = [_draw_ground(kind, np.random.default_rng([seed, 23, kind])) for kind in Ground]
    return Paintbox(make_atlas(styles), make_atlas(signs), make_atlas(sprites, has_opacity=True), make_atlas(ground))


def _draw_ground(kind: Ground, rng: Generator) -> Picture:
    """Draw a ground picture that can be repeated without a visible seam."""
    base, grain, patches = {  # colour, amplitude of the noise of single texels, amplitude of smooth noise
        Ground.ASPHALT: ((0.2, 0.2, 0.21), 0.12, 0.25),
        Ground.PAVING: ((0.46, 0.44, 0.42), 0.06, 0.12),
        Ground.GRASS: ((0.22, 0.32, 0.12), 0.22, 0.35),
        Ground.GRAVEL: ((0.42, 0.39, 0.34), 0.2, 0.2),
        Ground.CLOUD: ((0.5, 0.5, 0.5), 0.0, 1.6),
    }[kind]
    shade = 1 + grain * rng.uniform(-1, 1, (GROUND_SIZE, GROUND_SIZE)) + patches * _soft_noise(rng)
    if kind == Ground.PAVING:
        row, column = np.mgrid[:GROUND_SIZE, :GROUND_SIZE] % 16
        shade = shade * np.where((row == 0) | (column == 0), 0.75, 1.0)
    picture = np.ones((GROUND_SIZE, GROUND_SIZE, 4), np.float32)
    picture[..., :3] = np.clip(np.asarray(base) * shade[..., None], 0, 1)
    return picture


def _soft_noise(rng: Generator) -> NDArray[np.float64]:
    """Draw smooth, periodic noise with mean 0: the mean of 14 waves of random length and direction."""
    row, column = 2 * np.pi * np.mgrid[:GROUND_SIZE, :GROUND_SIZE] / GROUND_SIZE
    waves = [np.sin(rng.integers(-5, 6) * row + rng.integers(-5, 6) * column + rng.uniform(0, 2 * np.pi)) for _ in range(14)]
    return np.sum(waves, axis=0) / 14


def group_size(group: Group) -> int:
    """Return the number of pictures in a group."""
    return _PAINTERS[group][1]


def group_start(group: Group) -> int:
    """Return the number of a group's first picture."""
    return sum(count for other, (_, count) in _PAINTERS.items() if other < group)
