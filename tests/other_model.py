"""A model of another library, with no more than what this package asks of one: a DINOv2 of two layers with GeM pooling."""

import torch
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.preprocessing import Preprocessing


class PooledDinov2(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
        self.model = Dinov2Model(config).eval()

    def forward(self, pixel_values):
        patches = self.model(pixel_values).last_hidden_state[:, 1:]
        pooled = patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
        return torch.nn.functional.normalize(pooled, dim=1)


class OtherModel:
    """The attributes of a DescriptorModel, and those by which it can be exported."""

    model_name, model_revision = "user/tiny", None
    model_options = {"pool": "gem"}
    facts = ModelFacts("Tiny DINOv2", license="apache-2.0", arxiv="2304.07193", num_parameters=1000)
    descriptor_dim, projection_dim = 32, None
    depends_on_batch = False
    fingerprint, runtime = "f" * 64, Runtime("torch", "fp32")
    device_type, patch_size = "cpu", 14

    def __init__(self, preprocessing=Preprocessing(size=(70, 70), resample="bicubic")):  # noqa: B008 - it is immutable
        self.network, self.preprocessing = PooledDinov2().eval(), preprocessing
        self.config = self.network.model.config
        self.input_size = preprocessing.input_size

    def prepare(self, image):
        return self.preprocessing(image.convert("RGB"))

    def tokens(self, pixel_values):
        with torch.inference_mode():
            patches = self.network.model(torch.as_tensor(pixel_values)).last_hidden_state[:, 1:]
        return patches.unflatten(1, (pixel_values.shape[2] // 14, pixel_values.shape[3] // 14)).numpy()

    def describe(self, pixel_values):
        with torch.inference_mode():
            return self.network(torch.as_tensor(pixel_values)).numpy()
