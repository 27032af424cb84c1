"""Teachers for distillation: frozen models that compute tokens and descriptors.

A student learns from both. CricaVPR and every other model of this package has tokens and descriptors. Other vision models
have tokens or feature maps only; their descriptor is CricaVPR's pyramid of 14 regions, pooled without training (p = 3).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from d2vpr_hf.model_info.model_families import family_of
from d2vpr_hf.model_info.model_options import Layer
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.modeling.modeling_vpr import check_pixel_values, flatten_and_normalize
from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.pretrained.feature_network import LayerNetwork
from d2vpr_hf.pretrained.pooling import Features, RegionPooling, generalized_mean
from d2vpr_hf.pretrained.principal_components import PrincipalComponents
from d2vpr_hf.pretrained.token_grids import resample_patches
from d2vpr_hf.utils.threads import map_on_cores

_IMAGES_OF_A_CORE = 4  # images that a core processes at once: their activations fit in its cache


class TeacherTargets(NamedTuple):
    """A teacher's targets for B images with N patches.

    Attributes:
        tokens (`torch.Tensor` of shape (B, 1 + N, width)): The global token first, then the patches row by row; (B, 0, 0) of a
            teacher without tokens.
        descriptors (`torch.Tensor` of shape (B, descriptor_dim)): L2-normalised, before any projection; those of an
            [`EncoderTeacher`] as an index holds them.
    """

    tokens: torch.Tensor
    descriptors: torch.Tensor


class Teacher(nn.Module):
    """A frozen model in eval mode that records no gradients. Subclasses compute the targets.

    Args:
        model: The model.
        preprocessing: The steps from images to the model's pixel values; `None` for a model that takes the student's.

    Attributes:
        model: The model.
        width: Channels of a token, and of each of the descriptor's features; 0 for a teacher without tokens.
        descriptor_dim: Width of the descriptors: 14 times `width` with the published regions.
        depends_on_batch: Whether an image's descriptor depends on the other images of its batch.
        input_size: Height and width in pixels of the teacher's images; `None` if it takes exactly the student's pixel values.
        has_unit_length: Whether the descriptors are L2-normalised.
    """

    width: int
    descriptor_dim: int
    depends_on_batch: bool
    has_unit_length = True

    def __init__(self, model: PreTrainedModel, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.input_size = None if preprocessing is None else preprocessing.input_size
        flags = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        model.config.update(flags)  # a saved configuration may have other values

    def freeze(self) -> "Teacher":
        """Switch gradients off and eval mode on."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever the mode of the module that contains the teacher."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the pixel values that the model takes."""
        return next(self.model.parameters()).dtype

    @property
    def settings(self) -> dict[str, Any]:
        """The values that targets depend on in addition to the model; empty for a model that takes the student's pixels."""
        return {} if self.preprocessing is None else {"preprocessing": self.preprocessing.to_dict()}

    @property
    def identity(self) -> str:
        """A text of everything that targets depend on, except the weights."""
        config = self.model.config.to_json_string(use_diff=False)
        return f"{config} {self.settings}" if self.settings else config

    def remove_cross_image_encoder(self) -> None:
        """Treat images one by one from now on, whatever their batch; most teachers always do."""

    @torch.no_grad()
    def forward(self, images: torch.Tensor, grid_size: GridSize | None = None) -> TeacherTargets:
        """Compute the targets of images.

        Args:
            images: Without `input_size`: pixel values (B, 3, height, width), normalised like the student's, with sides in whole
                patches. With `input_size`: bytes (B, 3, height, width) of any size, which are resized to it and normalised.
            grid_size: Rows and columns of the patches that the tokens are resampled to, those of the student; `None` for the
                teacher's own.

        Raises:
            ValueError: If `images` are not of that form.
        """
        return self._targets(images if self.preprocessing is None else self._prepare(images), grid_size)

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and normalise bytes (B, 3, height, width)."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"Expected images (B, 3, height, width) of bytes for a teacher with an input size of its own, got "
                f"{tuple(images.shape)} of {images.dtype}."
            )
        assert self.preprocessing is not None and self.input_size is not None
        pixel_values = resize_and_normalise(images, self.input_size, self.preprocessing)
        return pixel_values.to(self.dtype, memory_format=torch.channels_last)

    def _targets(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        raise NotImplementedError


def resize_and_normalise(images: torch.Tensor, size: tuple[int, int], steps: Preprocessing) -> torch.Tensor:
    """Resize bytes (B, 3, height, width) on their device, antialiased and in floating point, and normalise them.

    Args:
        images: The bytes.
        size: Height and width in pixels of the result.
        steps: Filter, factor, mean and standard deviation; a filter that torch does not have is replaced by the bilinear one.
    """
    pixels = images.float()
    if images.shape[2:] != size:
        mode = "bicubic" if steps.resample == "bicubic" else "bilinear"
        pixels = nn.functional.interpolate(pixels, size, mode=mode, antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (steps.mean, steps.std))
    return (pixels * steps.rescale_factor - mean) / std


class PlaceTeacher(Teacher):
    """A model of this package as a teacher: CricaVPR, as published, or a D²-VPR."""

    model: VPRPreTrainedModel

    def __init__(self, model: VPRPreTrainedModel, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(model, preprocessing)
        self.width = model.config.feature_size
        self.descriptor_dim = model.config.unprojected_dim
        self.depends_on_batch = model.config.use_cross_image_encoder
        self.freeze()

    def remove_cross_image_encoder(self) -> None:
        """Treat images one by one from now on, whatever their batch; targets change."""
        self.model.remove_cross_image_encoder()
        self.depends_on_batch = False

    def _targets(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        output = self.model(pixel_values)
        tokens = output.last_hidden_state
        own_grid = _grid_of(pixel_values, self.model.config.patch_size)
        if grid_size is not None and grid_size != own_grid:
            tokens = torch.cat((tokens[:, :1].float(), resample_patches(tokens[:, 1:], own_grid, grid_size)), dim=1)
        return TeacherTargets(tokens, flatten_and_normalize(output.region_features))


class TokenTeacher(Teacher):
    """A model whose tokens are pooled without training, so that they may be projected to principal components first.

    Attributes:
        taps: Names of the parts that tokens are taken from, for logs and errors.
        widths: Channels of the tokens of each tap.
    """

    depends_on_batch = False
    taps: tuple[str, ...] = ("output",)
    widths: tuple[int, ...]

    def __init__(self, model: PreTrainedModel, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(model, preprocessing)
        self.regions = RegionPooling()
        self.components: nn.ModuleList | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The preprocessing, and the length of projected tokens."""
        return {**super().settings, **({} if self.components is None else {"token_length": 1})}

    def project(self, components: Sequence[PrincipalComponents]) -> None:
        """Project the tokens of each tap to its principal components from now on, and L2-normalise them; targets change."""
        device = next(self.model.parameters()).device
        self.components = nn.ModuleList(components).to(device)
        self._set_width(sum(tap.directions.shape[1] for tap in components))

    @torch.no_grad()
    def tap_tokens(self, images: torch.Tensor, grid_size: GridSize | None = None) -> list[torch.Tensor]:
        """Return the tokens (B, 1 + N, D) of each tap before any projection; arguments and errors as for `forward`."""
        return self._taps(images if self.preprocessing is None else self._prepare(images), grid_size)[0]

    def _set_width(self, width: int) -> None:
        self.width, self.descriptor_dim = width, self.regions.num_regions * width

    def _targets(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        taps, grid_size = self._taps(pixel_values, grid_size)
        if self.components is not None:
            # all tokens have the same length, so that the longer global token does not outweigh the regions
            taps = [
                nn.functional.normalize(project(tokens), dim=2) for project, tokens in zip(self.components, taps, strict=True)
            ]
        tokens = taps[0] if len(taps) == 1 else torch.cat(taps, dim=2)
        return TeacherTargets(tokens, self.regions(tokens, grid_size))

    def _taps(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> tuple[list[torch.Tensor], GridSize]:
        """Return the tokens of each tap, and their grid."""
        raise NotImplementedError


class Dinov2Teacher(TokenTeacher):
    """A transformers DINOv2, with or without registers, that takes the student's pixel values."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.widths = (model.config.hidden_size,)
        self._set_width(model.config.hidden_size)
        self.num_channels: int = model.config.num_channels
        self.num_registers: int = getattr(model.config, "num_register_tokens", 0)
        patch_size = model.config.patch_size
        self.patch_size: int = patch_size if isinstance(patch_size, int) else patch_size[0]
        self.freeze()

    def _taps(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> tuple[list[torch.Tensor], GridSize]:
        check_pixel_values(pixel_values, self.num_channels, self.patch_size)
        states = self.model(pixel_values).last_hidden_state  # cls, registers, patches
        first, patches = states[:, :1], states[:, 1 + self.num_registers :]
        own_grid = _grid_of(pixel_values, self.patch_size)
        if grid_size is None or grid_size == own_grid:
            return [torch.cat((first, patches), dim=1)], own_grid
        return [torch.cat((first.float(), resample_patches(patches, own_grid, grid_size)), dim=1)], grid_size


class FeatureTeacher(TokenTeacher):
    """A vision model of transformers at its own input size: its tokens or its feature maps, of its output or of several taps.

    The tokens of a tap are its patches, resampled to the student's grid ([`resample_patches`]), after a global token: the class
    token if there is one, else the generalised mean (p = 3) of all patches before resampling. The tokens of several taps are
    brought to the same length and joined: patches are L2-normalised, and the global token, which the descriptor weights by its
    length, is divided by the mean length of its image's patches.

    Args:
        model: The vision tower, in eval mode.
        preprocessing: Steps that give images of one size.
        taps: Numbers of hidden states, or names of modules; empty for the model's output.

    Raises:
        ValueError: If the model has no such tap, or cannot process images of the size.
    """

    def __init__(self, model: PreTrainedModel, preprocessing: Preprocessing, taps: Sequence[Layer] = ()) -> None:
        cast(Any, model).to(memory_format=torch.channels_last)  # an argument that the types of torch lack
        super().__init__(model, preprocessing)
        self.network = LayerNetwork(model, family_of(model.config.model_type), taps or [None])
        self.taps = tuple(map(str, taps)) or ("output",)
        self.freeze()
        self.widths = self._measure_widths()
        self._set_width(sum(self.widths))

    @property
    def settings(self) -> dict[str, Any]:
        """The preprocessing and the taps."""
        return {**super().settings, "taps": self.taps}

    def _measure_widths(self) -> tuple[int, ...]:
        """Return the channels of the taps, after checking that the model processes images of the input size."""
        height, width = self.input_size or (0, 0)
        black = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=self.model.device)
        name = self.model.name_or_path or f"A model of type {self.model.config.model_type}"
        try:
            with torch.inference_mode():
                features = self.network.layer_features(self._prepare(black))
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{name} cannot process images of {height}x{width} pixels: {error}") from error
        for tap, output in zip(self.taps, features, strict=True):
            if output.grid_size is None:
                raise ValueError(
                    f"{name} has no grid of patches at {tap} for images of {height}x{width} pixels, so that it cannot be a "
                    "teacher. Choose another tap."
                )
        return tuple(output.patches.shape[2] for output in features)

    def _taps(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> tuple[list[torch.Tensor], GridSize]:
        parts = self._on_all_cores(pixel_values, grid_size)
        return [torch.cat(tokens) for tokens in zip(*(taps for taps, _ in parts), strict=True)], parts[0][1]

    def _on_all_cores(
        self, pixel_values: torch.Tensor, grid_size: GridSize | None
    ) -> list[tuple[list[torch.Tensor], GridSize]]:
        """Return the tokens of a few images at a time: on the CPU each core processes separate images."""

        @torch.inference_mode()  # of each thread
        def compute(images: torch.Tensor) -> tuple[list[torch.Tensor], GridSize]:
            features = self.network.layer_features(images)
            grid = grid_size or features[0].grid_size
            assert grid is not None  # checked in the constructor
            return [self._tokens(output, grid) for output in features], grid

        if pixel_values.device.type != "cpu":
            return [compute(pixel_values)]
        return map_on_cores(compute, pixel_values.split(_IMAGES_OF_A_CORE))

    def _tokens(self, features: Features, grid_size: GridSize) -> torch.Tensor:
        """Return the global token and the resampled patches (B, 1 + N, D) of a tap, in float32."""
        assert features.grid_size is not None
        patches = features.patches.float()
        first = (generalized_mean(patches) if features.cls is None else features.cls.float()).unsqueeze(1)
        patches = resample_patches(patches, features.grid_size, grid_size)
        if len(self.taps) > 1:
            first = first / patches.norm(dim=2).mean(1)[:, None, None].clamp(min=1e-6)
            patches = nn.functional.normalize(patches, dim=2)
        return torch.cat((first, patches), dim=1)


def _grid_of(pixel_values: torch.Tensor, patch_size: int) -> GridSize:
    return pixel_values.shape[2] // patch_size, pixel_values.shape[3] // patch_size
