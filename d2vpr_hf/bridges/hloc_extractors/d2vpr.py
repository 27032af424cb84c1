"""The extractor that hloc imports as `hloc.extractors.d2vpr`; see `hloc_configuration`."""

from typing import Any

import torch
from hloc.utils.base_model import BaseModel
from PIL import Image

from d2vpr_hf.encoders.place_encoder import PlaceEncoder


class D2VPR(BaseModel):
    """Global descriptors of a [`PlaceEncoder`]."""

    default_conf: dict[str, Any] = {"model": None, "options": {}}
    required_inputs = ["image"]

    def _init(self, conf: dict[str, Any]) -> None:
        self.encoder = PlaceEncoder(conf["model"], **conf["options"])

    def _forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `global_descriptor` (B, D) of `image` (B, 3, height, width), RGB in [0, 1].

        hloc divides the bytes of a photo by 255; rounding restores them, so that the encoder sees the photo itself.
        """
        pixels = (data["image"] * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        encoded = self.encoder.encode([Image.fromarray(photo) for photo in pixels])
        if encoded.skipped:
            raise ValueError(f"A photo cannot be encoded: {next(iter(encoded.skipped.values()))}")
        return {"global_descriptor": torch.from_numpy(encoded.descriptors).to(data["image"].device)}
