"""Run the network by torch, on a CPU or a GPU."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from d2vpr_hf.backends.cuda_graphs import Network, ReplayedNetwork
from d2vpr_hf.backends.gpu_streams import Finish, GpuStreams, start_loaded, start_on_gpu
from d2vpr_hf.backends.optimized.optimize import can_prepare, prepare
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.utils.threads import map_on_cores, num_cores

TORCH_TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}
_PHOTOS_OF_A_CORE = 4  # photos that a core processes at once: their activations fit in its cache


class TorchBackend:
    """An optimized copy of a model; later changes of the model's weights have no effect.

    A model that cannot be optimized ([`can_prepare`]: quantised weights, adapters, code saved next to weights) runs unchanged.

    On a CPU each core processes separate photos, if there are enough: two cores that share each product wait for each other.
    On a GPU `start` describes a batch while the CPU prepares the next one.

    Args:
        model: A model in eval mode, on its device. It is not changed.
        precision: Number type of the products; `None` for the type of the model's weights.
        compiled: Whether torch compiles the model, which takes a minute at the first call, again at the first other image size
            and the first other batch size, and on a CPU needs a C++ compiler. On a GPU the kernels of sizes that come again are
            started as one CUDA graph.

    Attributes:
        streams: Copies to and from a GPU; `None` on a CPU.

    Raises:
        ValueError: If another precision is requested for a model that cannot be optimized.
    """

    def __init__(self, model: VPRPreTrainedModel, precision: str | None = None, *, compiled: bool = False) -> None:
        self.name, self.precision = "torch-compiled" if compiled else "torch", precision or precision_of(model)
        self._device = model.device
        self._network: Callable[[torch.Tensor], Any]
        self._input_dtype = torch.float32
        self.streams = GpuStreams(self._device) if self._device.type == "cuda" else None
        self._compute: Network = self._describe
        if not can_prepare(model):
            self._use_unchanged(model, compiled)
            return
        if compiled and self.streams is not None:  # other networks may read memory of the CPU, which a CUDA graph must not
            self._compute = ReplayedNetwork(self._describe)
        on_cpu = self._device.type == "cpu" and not compiled
        in_float32 = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
        prepared = prepare(in_float32, TORCH_TYPES[self.precision], on_cpu=on_cpu)
        self._network = torch.compile(prepared, fullgraph=True) if compiled else prepared
        self._divisible = on_cpu and not model.config.use_cross_image_encoder

    def _use_unchanged(self, model: VPRPreTrainedModel, compiled: bool) -> None:
        if self.precision != precision_of(model):
            raise ValueError(
                f"This model has quantised weights, adapters or code of its own, so that it runs in the type of its weights, "
                f"{precision_of(model)}; got the precision {self.precision}. Leave `precision` out."
            )
        self._input_dtype, self._divisible = model.dtype, False
        self._network = torch.compile(model) if compiled else model

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map normalised images (B, 3, height, width) to descriptors (B, D)."""
        return run_divided(self._run, torch.as_tensor(pixel_values), divisible=self._divisible)

    def start(self, pixel_values: Any) -> Finish:
        """Start to describe images (B, 3, height, width) on a GPU; return a function that waits for the descriptors (B, D)."""
        return start_on_gpu(self.streams, self._compute, pixel_values)

    def start_photos(self, load: Callable[[], torch.Tensor], photos: Any) -> Finish:
        """Start to describe photos, whose pixel values `load` computes on a GPU; return a function that waits for them."""
        return start_loaded(self.streams, self._compute, load, photos)

    @torch.inference_mode()
    def _run(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        return self._compute(pixel_values.to(self._device)).cpu().numpy()

    def _describe(self, images: torch.Tensor) -> torch.Tensor:
        """Map images on the device to descriptors (B, D) there."""
        descriptors: torch.Tensor = self._network(images.to(self._input_dtype)).pooler_output
        return descriptors.float()


class FeatureBackend:
    """A network from images to descriptors, such as a vision model of transformers with its pooling, in one number type.

    On a CPU each core processes separate photos, if there are enough. On a GPU `start` describes a batch while the CPU prepares
    the next one.

    Args:
        network: The network in eval mode, on its device; another precision than that of its weights runs a copy.
        device: The device.
        dtype: Type of the network's weights.
        precision: Number type to run in; `None` for that of the weights.
        compiled: Whether torch compiles the network.

    Attributes:
        streams: Copies to and from a GPU; `None` on a CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        precision: str | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        own_precision = _NAMES.get(dtype, "fp32")
        self.name, self.precision = "torch-compiled" if compiled else "torch", precision or own_precision
        self._device, self._dtype = device, dtype
        if self.precision != own_precision:
            self._dtype = TORCH_TYPES[self.precision]
            network = copy.deepcopy(network).to(self._dtype)
        self._network: Callable[[torch.Tensor], Any] = torch.compile(network) if compiled else network
        self._divisible = device.type == "cpu" and not compiled
        self.streams = GpuStreams(device) if device.type == "cuda" else None

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map normalised images (B, 3, height, width) to descriptors (B, D)."""
        return run_divided(self._run, torch.as_tensor(pixel_values), divisible=self._divisible)

    def start(self, pixel_values: Any) -> Finish:
        """Start to describe images (B, 3, height, width) on a GPU; return a function that waits for the descriptors (B, D)."""
        return start_on_gpu(self.streams, self._describe, pixel_values)

    @torch.inference_mode()
    def _run(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        return self._describe(pixel_values.to(self._device)).cpu().numpy()

    def _describe(self, images: torch.Tensor) -> torch.Tensor:
        """Map images on the device to descriptors (B, D) there."""
        descriptors: torch.Tensor = self._network(images.to(self._dtype))
        return descriptors.float()


class PlainTorchBackend:
    """An unchanged model whose weights may change: for training, and for models that are spread over processes."""

    def __init__(self, model: VPRPreTrainedModel) -> None:
        self.name, self.precision = "torch", precision_of(model)
        self._model = model

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map normalised images (B, 3, height, width) to descriptors (B, D)."""
        return run_network(self._model, torch.as_tensor(pixel_values).to(self._model.device, self._model.dtype))


@torch.inference_mode()
def run_network(network: Callable[[torch.Tensor], Any], pixel_values: torch.Tensor) -> NDArray[np.float32]:
    """Return a model's descriptors (B, D) for images on its device. torch switches gradients off for each thread separately."""
    return network(pixel_values).pooler_output.float().cpu().numpy()


def precision_of(model: VPRPreTrainedModel) -> str:
    """Return the precision of a model's weights; `"fp32"` for types that are not a precision."""
    return _NAMES.get(model.dtype, "fp32")


def run_divided(
    run: Callable[[torch.Tensor], NDArray[np.float32]], pixel_values: torch.Tensor, *, divisible: bool
) -> NDArray[np.float32]:
    """Return the descriptors (B, D) that a function computes for images, on all cores if these are divisible and enough."""
    if not divisible or len(pixel_values) < max(2, num_cores()):
        return run(pixel_values)
    return np.concatenate(map_on_cores(run, _divide(pixel_values)))


def _divide(pixel_values: torch.Tensor) -> Sequence[torch.Tensor]:
    """Divide a batch into small parts, the same number for each core."""
    cores = num_cores()
    return pixel_values.tensor_split(cores * math.ceil(len(pixel_values) / (cores * _PHOTOS_OF_A_CORE)))
