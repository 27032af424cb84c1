"""The viewing directions of pixels."""

from dataclasses import dataclass

import torch

from d2vpr_hf.gridtown.rendering.scene import Scene


@dataclass(frozen=True)
class View:
    """Viewing directions of the pixels of B photos. Depth is measured along the camera's axis.

    Attributes:
        direction: (B, 2, W) step in x and y for each metre of depth.
        forward, right: (B, 2) unit vectors of the camera's axis and of the image's right.
        column: (B, W) metres to the right for each metre of depth.
        slope: (B, H, 1) metres down for each metre of depth.
        focal: (B,) focal length in pixels.
        height: (B,) metres of the camera above the ground.
        first_ground_row: The uppermost row that shows ground in any photo.
    """

    direction: torch.Tensor
    forward: torch.Tensor
    right: torch.Tensor
    column: torch.Tensor
    slope: torch.Tensor
    focal: torch.Tensor
    height: torch.Tensor
    first_ground_row: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.slope.shape[1], self.column.shape[1]


def make_view(scene: Scene, size: tuple[int, int]) -> View:
    """Return the view of a scene's photos with `size` (height, width) pixels."""
    rows, columns = size
    camera = scene.camera
    device = camera["yaw"].device
    focal = columns / 2 / (camera["field_of_view"] / 2).tan()
    forward = torch.stack((camera["yaw"].cos(), camera["yaw"].sin()), dim=1)
    right = torch.stack((forward[:, 1], -forward[:, 0]), dim=1)
    column = (torch.arange(columns, device=device) + 0.5 - columns / 2) / focal[:, None]
    slope = (torch.arange(rows, device=device) + 0.5 - rows / 2) / focal[:, None] - camera["pitch"][:, None]
    return View(
        direction=forward[:, :, None] + right[:, :, None] * column[:, None],
        forward=forward,
        right=right,
        column=column,
        slope=slope.unsqueeze(2),
        focal=focal,
        height=camera["height"],
        first_ground_row=int((slope <= 0).sum(dim=1).min()),
    )
