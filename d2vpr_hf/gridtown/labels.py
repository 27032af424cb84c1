"""What a camera would have to understand of a scene: what stands where, how far, which way it faces, which building it is."""

import json
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.painting.textures import Paintbox
from d2vpr_hf.gridtown.photo_spec import Photo
from d2vpr_hf.gridtown.rendering.billboards import stand_before
from d2vpr_hf.gridtown.rendering.scene import Scene, make_scene
from d2vpr_hf.gridtown.rendering.view import View, make_view
from d2vpr_hf.gridtown.rendering.walls import Hits, cast_walls

_HORIZON = 130.0  # metres at which depth ends, the sky's too: as far as walls are drawn


class Surface(IntEnum):
    """What the middle of a cell shows."""

    SKY = 0
    GROUND = 1
    WALL = 2
    STANDING = 3  # a tree, a vehicle, a person, street furniture


class Labels(NamedTuple):
    """Labels of B photos in rows x columns cells, each of what its middle shows.

    Attributes:
        surface: (B, rows, columns) uint8, a [`Surface`].
        depth: (B, rows, columns) float32 metres along the camera's axis, at most 130.
        normal: (B, rows, columns, 2) float32: where a wall faces on the map, to the camera's right and towards it; 0 elsewhere.
        building: (B, rows, columns) int32: a wall's building, one number for all that look the same; -1 elsewhere.
    """

    surface: torch.Tensor
    depth: torch.Tensor
    normal: torch.Tensor
    building: torch.Tensor


@torch.no_grad()
def label_photos(city: City, paintbox: Paintbox, photos: list[Photo], cells: tuple[int, int]) -> Labels:
    """Say what photos show, without rendering them.

    Args:
        city: Where they are taken.
        paintbox: The city's pictures, which say where trees and people have gaps.
        photos: As [`draw_photo`] draws them, of a square image.
        cells: Rows and columns to divide an image into, such as a ViT's patches.
    """
    scene = make_scene(city, photos)
    view = make_view(scene, cells)
    hits = cast_walls(scene, view)
    is_ground = view.slope > hits.foot.unsqueeze(1).clamp(min=1e-3)
    depth = torch.where(is_ground, view.height[:, None, None] / view.slope.clamp(min=1e-3), hits.depth)
    nearest = _before_all(scene, view, paintbox, depth)
    surface = torch.full_like(depth, Surface.WALL, dtype=torch.uint8)
    surface[hits.is_sky & ~is_ground] = Surface.SKY
    surface[is_ground] = Surface.GROUND
    surface[nearest < depth] = Surface.STANDING
    is_wall = surface == Surface.WALL
    building = _of_wall(scene.walls["key"], hits).to(torch.int32).masked_fill(~is_wall, -1)
    return Labels(surface, nearest.clamp(max=_HORIZON), _normal(scene, view, hits) * is_wall.unsqueeze(3), building)


def _before_all(scene: Scene, view: View, paintbox: Paintbox, depth: torch.Tensor) -> torch.Tensor:
    """Return the depth of what stands before walls and ground, or theirs."""
    return stand_before(scene, view, paintbox, torch.zeros(3, *depth.shape), depth)[1]


def _of_wall(column: torch.Tensor, hits: Hits) -> torch.Tensor:
    return column.gather(1, hits.wall.flatten(1)).view(hits.wall.shape)


def _normal(scene: Scene, view: View, hits: Hits) -> torch.Tensor:
    """Return the walls' normals in the camera's axes, (B, H, W, 2)."""
    side = _of_wall(scene.walls["side"], hits).float()
    along_y = _of_wall(scene.walls["axis"], hits).bool()
    axes = torch.stack((view.right, -view.forward), dim=1)[:, None, None]  # (B, 1, 1, 2 of the camera, 2 of the map)
    return torch.where(along_y.unsqueeze(3), axes[..., 1], axes[..., 0]) * side.unsqueeze(3)


def write_labels(file: Path, labels: Sequence[Labels], photos: Sequence[str]) -> None:
    """Write the labels of photos, named by their paths, as a safetensors file."""
    joined = {name: torch.cat(parts) for name, parts in zip(Labels._fields, zip(*labels, strict=True), strict=True)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(joined, file, metadata={"photos": json.dumps(list(photos))})


def read_labels(file: str | Path) -> dict[str, Labels]:
    """Read labels by the paths of their photos; without the first dimension, of one photo each.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"There are no labels {file}. `d2vpr simulate --layout gsv-cities --label-cells` writes them.")
    with safe_open(file, "pt") as stored:
        photos = json.loads(stored.metadata()["photos"])
        columns = [stored.get_tensor(name) for name in Labels._fields]
    return {photo: Labels(*row) for photo, row in zip(photos, zip(*columns, strict=True), strict=True)}
