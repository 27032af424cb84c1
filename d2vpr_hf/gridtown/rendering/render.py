"""The renderer: columns of pixels are cast against upright walls.

The image plane is upright, so that all pixels of a column look into the same direction on the map, and the walls that they meet
are computed once for each column; pitch only moves the horizon up or down. A pixel shows sky, ground, or a point on one of the
walls, with trees, vehicles and people in front of it.
"""

import torch

from d2vpr_hf.gridtown.painting.textures import Paintbox
from d2vpr_hf.gridtown.rendering.billboards import draw_billboards
from d2vpr_hf.gridtown.rendering.film import develop
from d2vpr_hf.gridtown.rendering.ground import ground_light
from d2vpr_hf.gridtown.rendering.scene import Scene
from d2vpr_hf.gridtown.rendering.sky import sky_light
from d2vpr_hf.gridtown.rendering.view import make_view
from d2vpr_hf.gridtown.rendering.walls import cast_walls, wall_light


@torch.no_grad()
def render(scene: Scene, paintbox: Paintbox, size: tuple[int, int]) -> torch.Tensor:
    """Render the photos of a scene.

    Args:
        scene: The photos' surroundings.
        paintbox: The city's pictures, on the scene's device.
        size: Height and width in pixels.

    Returns:
        (B, 3, height, width) float32, whole numbers from 0 to 255.
    """
    view = make_view(scene, size)
    hits = cast_walls(scene, view)
    light = torch.lerp(wall_light(scene, view, hits, paintbox), sky_light(scene, view, paintbox), hits.is_sky.float())
    is_ground = view.slope > hits.foot.unsqueeze(1).clamp(min=1e-3)
    first = view.first_ground_row  # the rows above do not show ground in any photo
    ground, ground_depth = ground_light(scene, view, paintbox)
    share = is_ground[:, first:].float()
    lower_light = torch.lerp(light[:, :, first:], ground, share)
    lower_depth = torch.lerp(hits.depth[:, first:], ground_depth.expand_as(share), share)
    light = torch.cat((light[:, :, :first], lower_light), dim=2)
    depth = torch.cat((hits.depth[:, :first], lower_depth), dim=1)
    light, depth = draw_billboards(scene, view, paintbox, light, depth)
    return develop(scene, view, light, depth, hits.is_sky & ~is_ground & (depth >= hits.depth))
