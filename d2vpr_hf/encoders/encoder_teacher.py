"""Any encoder as a teacher for distillation: its descriptors are the targets, as an index of it would hold them."""

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from d2vpr_hf.encoders.open_model import open_model
from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.pretrained.pooling import generalized_mean
from d2vpr_hf.pretrained.teachers import Teacher, TeacherTargets, resize_and_normalise
from d2vpr_hf.pretrained.token_grids import resample_patches
from d2vpr_hf.pretrained.untrained_parts import warn_of_untrained_parts
from d2vpr_hf.utils.threads import map_on_cores

logger = logging.getLogger(__name__)

_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_LENGTH_TOLERANCE = 1e-2  # of descriptors in half precision


class EncoderTeacher(Teacher):
    """A [`DescriptorModel`] as a teacher: of this package, of transformers, a graph, or of another program.

    Its photos are resized and normalised on the teacher's device where its preprocessing resizes to one size, else by the
    model's own `prepare`. Tokens are the patches of a model that has a method `tokens`, after a global token, their generalised
    mean (p = 3); they are computed only with `with_tokens`, because that runs the network a second time.

    Args:
        model: The model, with an input size.
        device: Device on which photos are prepared; `None` for the CPU.

    Attributes:
        encoder: The model.
        with_tokens: Whether the targets have tokens.

    Raises:
        ValueError: If the model has no fixed input size.
    """

    def __init__(self, model: DescriptorModel, device: torch.device | None = None) -> None:
        nn.Module.__init__(self)
        if model.input_size is None:
            raise ValueError(
                f"The input size of {model.model_name or 'the teacher'} depends on the photo. Set `teacher_image_size`."
            )
        self.encoder = model
        self.input_size = model.input_size
        self.preprocessing = _device_steps(model)
        self.with_tokens = False
        self._device = device or torch.device("cpu")
        self.descriptor_dim = model.descriptor_dim
        self.depends_on_batch = model.depends_on_batch
        noise = torch.randint(0, 256, (1, 3, *self.input_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        values = self._prepare(noise.to(self._device))
        length = torch.from_numpy(model.describe(_to_numpy(values))).float().norm().item()
        self.has_unit_length = abs(length - 1) < _LENGTH_TOLERANCE
        tokens = self._model_tokens(values)
        self.width = 0 if tokens is None else tokens.shape[3]
        self.freeze()

    @property
    def device(self) -> torch.device:
        """The device on which photos are prepared and targets are returned."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """The type of prepared pixel values."""
        return torch.float32

    @property
    def identity(self) -> str:
        """The fingerprint of the model, with its runtime and whether tokens are computed."""
        return f"{self.encoder.fingerprint} {self.encoder.runtime} {self.with_tokens}"

    def remove_cross_image_encoder(self) -> None:
        """Treat images one by one from now on, whatever their batch; targets change.

        Raises:
            ValueError: If the model mixes the images of a batch, and is not one of this package.
        """
        if not self.depends_on_batch:
            return
        model: Any = getattr(self.encoder, "model", None)
        if not hasattr(model, "remove_cross_image_encoder"):
            raise ValueError(
                f"{self.encoder.model_name} mixes the images of a batch in a way of its own, which `teacher_groups: off` does "
                "not switch off. Choose other groups."
            )
        model.remove_cross_image_encoder()
        encoder: Any = self.encoder
        encoder.reopen_backend()  # the constructor has opened one, with the cross-image encoder
        self.depends_on_batch = False

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and normalise bytes (B, 3, height, width), antialiased."""
        steps = self.preprocessing
        if steps is None:
            rows = [Image.fromarray(image.permute(1, 2, 0).numpy(force=True)) for image in images]
            prepared = map_on_cores(self.encoder.prepare, rows)
            return torch.from_numpy(np.stack(prepared)).to(self.device)
        assert self.input_size is not None  # checked in the constructor
        return resize_and_normalise(images, self.input_size, steps)

    def _targets(self, pixel_values: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        descriptors = torch.from_numpy(self.encoder.describe(_to_numpy(pixel_values))).to(self.device)
        patches = self._model_tokens(pixel_values) if self.with_tokens else None
        if patches is None:
            return TeacherTargets(descriptors.new_zeros(len(descriptors), 0, 0), descriptors)
        grid = (patches.shape[1], patches.shape[2])
        patches = patches.flatten(1, 2)  # (B, rows, columns, D) -> (B, N, D)
        first = generalized_mean(patches).unsqueeze(1)
        return TeacherTargets(torch.cat((first, resample_patches(patches, grid, grid_size or grid)), dim=1), descriptors)

    def _model_tokens(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """Return the patches (B, rows, columns, D) of images; `None` if the model has none."""
        compute = getattr(self.encoder, "tokens", None)
        tokens = None if compute is None else compute(_to_numpy(pixel_values))
        return None if tokens is None else torch.from_numpy(np.array(tokens, np.float32)).to(self.device)

    def forward(self, images: torch.Tensor, grid_size: GridSize | None = None) -> TeacherTargets:
        """Compute the targets of bytes (B, 3, height, width) of any size; see [`Teacher.forward`].

        Raises:
            ValueError: If `images` are not of that form.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"Expected images (B, 3, height, width) of bytes for an encoder, got {tuple(images.shape)} of {images.dtype}."
            )
        with torch.no_grad():
            return self._targets(self._prepare(images), grid_size)


def _device_steps(model: DescriptorModel) -> Preprocessing | None:
    """Return the steps of a model that only resize to one size and normalise; `None` for other steps."""
    steps = getattr(model, "preprocessing", None) or getattr(model, "steps", None)
    if not isinstance(steps, Preprocessing) or steps.size is None or steps.size != model.input_size:
        return None
    is_plain = steps.crop_size is None is steps.pad_size and steps.resample in ("bilinear", "bicubic")
    return steps if is_plain else None


def _to_numpy(values: torch.Tensor) -> Any:
    return values.float().numpy(force=True)


def open_encoder_teacher(
    name: Any,
    *,
    dtype: torch.dtype = torch.float32,
    image_size: tuple[int, int] | None = None,
    device: torch.device | None = None,
    revision: str | None = None,
) -> EncoderTeacher:
    """Open a model for a [`PlaceEncoder`] as a teacher.

    Args:
        name: Folder or Hub id, `"embedded"`, `"auto"`, or an object.
        dtype: Number type of the products of a model with weights; a graph has its own.
        image_size: Height and width in pixels of the teacher's images; `None` for those of its preprocessing.
        device: Device of the network; `None` for the CPU.
        revision: Branch, tag or commit of a model on the Hub.

    Raises:
        FileNotFoundError, ValueError, TypeError: As [`open_model`] and [`EncoderTeacher`] raise them.
    """
    name = str(name) if isinstance(name, Path) else name
    is_on_gpu = device is not None and device.type == "cuda"
    open_with = functools.partial(
        open_model,
        name,
        device=device or torch.device("cpu"),
        revision=revision,
        options=ModelOptions(image_size=image_size),
    )
    try:
        model = open_with(precision=_PRECISIONS.get(dtype) if is_on_gpu else None)
    except ValueError:
        if not is_on_gpu or dtype not in _PRECISIONS:
            raise
        model = open_with()  # a graph has its own type; other errors are raised again
        logger.info("%s does not run in %s, and teaches in its own type.", name, dtype)
    warn_of_untrained_parts(model.model_name or "of the teacher", model.facts.untrained_parts)
    return EncoderTeacher(model, device)


__all__ = ["EncoderTeacher", "open_encoder_teacher"]
