"""Labels of rendered photos: the kind of surface, its depth, its normal and its building, for each cell of an image."""

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
from d2vpr_hf.gridtown.rendering.billboards import draw_billboards
from d2vpr_hf.gridtown.rendering.scene import Scene, make_scene
from d2vpr_hf.gridtown.rendering.view import View, make_view
from d2vpr_hf.gridtown.rendering.walls import Hits, cast_walls, look_up
from d2vpr_hf.utils.atomic_files import store_file
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.threads import on_one_core

_HORIZON = 130.0  # metres; the largest depth, also that of the sky, because walls are drawn up to this distance


class Surface(IntEnum):
    """Kind of the surface in the middle of a cell."""

    SKY = 0
    GROUND = 1
    WALL = 2
    STANDING = 3  # a tree, a vehicle, a person, street furniture


class Labels(NamedTuple):
    """Labels of B photos, divided into rows x columns cells. A label describes the surface in the middle of its cell.

    Attributes:
        surface: (B, rows, columns) uint8, a [`Surface`].
        depth: (B, rows, columns) float32 metres along the camera's axis, at most 130.
        normal: (B, rows, columns, 2) float32: a wall's horizontal normal as its parts to the camera's right and towards the
            camera; 0 for other surfaces.
        building: (B, rows, columns) int32: number of a wall's building, the same for buildings that look the same; -1 for
            other surfaces.
    """

    surface: torch.Tensor
    depth: torch.Tensor
    normal: torch.Tensor
    building: torch.Tensor


def label_photos(city: City, paintbox: Paintbox, photos: list[Photo], cells: tuple[int, int]) -> Labels:
    """Return the labels of photos without rendering them.

    Args:
        city: The city of the photos.
        paintbox: The city's pictures; their opacity decides which cells trees and people cover.
        photos: Photos from [`draw_photo`]; their images are square.
        cells: Rows and columns that an image is divided into, such as a ViT's patches.
    """
    return on_one_core(lambda: _label(city, paintbox, photos, cells))


@torch.no_grad()
def _label(city: City, paintbox: Paintbox, photos: list[Photo], cells: tuple[int, int]) -> Labels:
    scene = make_scene(city, photos)
    view = make_view(scene, cells)
    hits = cast_walls(scene, view)
    is_ground = view.slope > hits.foot.unsqueeze(1).clamp(min=1e-3)
    depth = torch.where(is_ground, view.height[:, None, None] / view.slope.clamp(min=1e-3), hits.depth)
    no_light = torch.zeros(3, *depth.shape)
    _, nearest = draw_billboards(scene, view, paintbox, no_light, depth)
    surface = torch.full_like(depth, Surface.WALL, dtype=torch.uint8)
    surface[hits.is_sky & ~is_ground] = Surface.SKY
    surface[is_ground] = Surface.GROUND
    surface[nearest < depth] = Surface.STANDING
    is_wall = surface == Surface.WALL
    building = look_up(scene.walls["key"], hits.wall).to(torch.int32).masked_fill(~is_wall, -1)
    return Labels(surface, nearest.clamp(max=_HORIZON), _normal(scene, view, hits) * is_wall.unsqueeze(3), building)


def _normal(scene: Scene, view: View, hits: Hits) -> torch.Tensor:
    """Return the walls' normals along the camera's axes, (B, H, W, 2)."""
    side = look_up(scene.walls["side"], hits.wall).float()
    along_y = look_up(scene.walls["axis"], hits.wall).bool()
    axes = torch.stack((view.right, -view.forward), dim=1)[:, None, None]  # (B, 1, 1, 2 camera axes, 2 city axes)
    return torch.where(along_y.unsqueeze(3), axes[..., 1], axes[..., 0]) * side.unsqueeze(3)


def write_labels(file: Path, labels: Sequence[Labels], photos: Sequence[str]) -> None:
    """Write the labels of photos to a safetensors file, with the photos' paths in its metadata."""
    joined = {name: torch.cat(parts) for name, parts in zip(Labels._fields, zip(*labels, strict=True), strict=True)}
    store_file(file, lambda scratch: save_file(joined, scratch, metadata={"photos": json.dumps(list(photos))}))


def read_labels(file: str | Path) -> dict[str, Labels]:
    """Read a file of labels; return the labels of each photo, without batch dimension, by the photo's path.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"The file of labels {file} does not exist. `d2vpr simulate --layout gsv-cities --label-cells` writes one."
        )
    with safe_open(file, "pt") as stored:
        photos = parse_json(stored.metadata()["photos"])
        columns = [stored.get_tensor(name) for name in Labels._fields]
    return {photo: Labels(*row) for photo, row in zip(photos, zip(*columns, strict=True), strict=True)}
