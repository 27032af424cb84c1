"""Loss of stage 0: a ViT predicts the renderer's labels of a photo."""

import torch
from torch import nn

from d2vpr_hf.gridtown import Labels, Surface
from d2vpr_hf.modeling import VPRPreTrainedModel

_SHARPNESS = 16.0  # factor on cosine similarities before the softmax over buildings
_INITIAL_SCALE = 0.05  # standard deviation of the buildings' vectors at first: short vectors turn quickly


class LabelLoss(nn.Module):
    """A model with one linear head for each label, and the sum of the heads' losses.

    Each patch predicts its surface (cross-entropy), its depth (Huber loss of log(1 + metres), except for the sky), its normal
    (squared error, walls only) and its building (cross-entropy over cosine similarities with one learned vector for each
    building, walls only). The class token predicts the buildings in the photo, each weighted by its share of the walls, by the
    same vectors.

    Args:
        model: A model of this package. Only its ViT is trained.
        buildings: (M,) numbers of all buildings, in ascending order.
        building_size: Width of the buildings' vectors.
        seed: Seed of the heads' weights.
    """

    numbers: torch.Tensor

    def __init__(self, model: VPRPreTrainedModel, buildings: torch.Tensor, building_size: int, seed: int) -> None:
        super().__init__()
        self.model = model
        torch.manual_seed(seed)
        width = model.config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.surface = nn.Linear(width, len(Surface))
        self.depth = nn.Linear(width, 1)
        self.normal = nn.Linear(width, 2)
        self.building = nn.Linear(width, building_size)
        self.view = nn.Linear(width, building_size)
        self.vectors = nn.Parameter(_INITIAL_SCALE * torch.randn(len(buildings), building_size))
        self.register_buffer("numbers", buildings, persistent=False)

    def forward(self, pixel_values: torch.Tensor, labels: Labels) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum of the losses, and each loss for the log.

        Args:
            pixel_values: (B, 3, height, width), normalised.
            labels: Labels of the photos, with one cell for each patch.

        Raises:
            ValueError: If the labels have another number of cells than the model has patches.
        """
        hidden = self.model(pixel_values, output_hidden_states=True).hidden_states[-1]
        tokens = self.norm(hidden.float())
        labels = Labels(*(label.flatten(1, 2) for label in labels))  # (B, rows, columns, ...) -> (B, N, ...)
        if labels.surface.shape[1] != tokens.shape[1] - 1:
            raise ValueError(
                f"The photos have labels of {labels.surface.shape[1]} cells, but the model sees {tokens.shape[1] - 1} patches. "
                "Make photos whose label_cells are the number of patches in a row (`d2vpr simulate --label-cells`)."
            )
        terms = self._patch_losses(tokens[:, 1:], labels) | self._building_losses(tokens, labels)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def _patch_losses(self, patches: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
        has_depth, is_wall = labels.surface != Surface.SKY, labels.surface == Surface.WALL
        depth = nn.functional.smooth_l1_loss(self.depth(patches).squeeze(2), labels.depth.log1p(), reduction="none")
        normal = (self.normal(patches) - labels.normal).square().sum(dim=2)
        surface = nn.functional.cross_entropy(self.surface(patches).flatten(0, 1), labels.surface.long().flatten())
        return {"surface": surface, "depth": _mean_where(has_depth, depth), "normal": _mean_where(is_wall, normal)}

    def _building_losses(self, tokens: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
        is_wall = labels.surface == Surface.WALL
        photo, _ = is_wall.nonzero(as_tuple=True)  # (n,) the photo of each patch that shows a wall
        building = torch.searchsorted(self.numbers, labels.building[is_wall])  # (n,) row in `numbers`
        patch_losses = -self._log_probabilities(self.building(tokens[:, 1:][is_wall])).gather(1, building[:, None]).squeeze(1)
        view_losses = -self._log_probabilities(self.view(tokens[:, 0]))[photo, building]
        weights = 1 / is_wall.sum(dim=1).clamp(min=1).float()[photo]  # every photo with walls has the same weight
        num_photos = is_wall.any(dim=1).sum().clamp(min=1)
        return {
            "building": patch_losses.sum() / is_wall.sum().clamp(min=1),
            "view": (view_losses * weights).sum() / num_photos,
        }

    def _log_probabilities(self, predicted: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of each building's probability, (n, M), for predicted vectors (n, `building_size`)."""
        cosines = nn.functional.normalize(predicted, dim=1) @ nn.functional.normalize(self.vectors, dim=1).T
        return (_SHARPNESS * cosines).log_softmax(dim=1)


def _mean_where(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
