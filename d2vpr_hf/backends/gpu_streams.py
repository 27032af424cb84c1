"""Batches on their way to a GPU and back, while the GPU computes: memory that the GPU reads itself, and a second stream."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.backends.protocol import Finish


class GpuStreams:
    """Copies to and from a GPU for which neither the CPU nor the computation of the former batch waits.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)

    def to_device(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Copy a batch to the GPU while it computes; kernels that are started later wait for the copy.

        The copy runs by itself only from the memory of [`stack_pinned`], which must not change before the batch is finished.
        """
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            images = pixel_values.to(self._device, non_blocking=True)
        computing.wait_stream(self._copies)
        images.record_stream(computing)  # its memory is not used again before these kernels have read it
        return images

    def to_cpu(self, descriptors: torch.Tensor) -> Finish:
        """Start copying descriptors (B, D) to the CPU once they are computed; return a function that waits for them."""
        copied = torch.empty(descriptors.shape, dtype=torch.float32, pin_memory=True)
        copied.copy_(descriptors, non_blocking=True)
        finished = torch.cuda.Event()
        finished.record(torch.cuda.current_stream(self._device))

        def finish() -> NDArray[np.float32]:
            finished.synchronize()
            return copied.numpy()

        return finish


def start_on_gpu(streams: Any, network: Callable[[torch.Tensor], torch.Tensor], pixel_values: Any) -> Finish:
    """Start a network on a batch; return a function that waits for its descriptors (B, D).

    Args:
        streams: A [`GpuStreams`].
        network: Maps images on the GPU to descriptors there.
        pixel_values: Normalised images (B, 3, height, width), an array or a tensor on the CPU.
    """
    images = torch.as_tensor(pixel_values)
    return start_loaded(streams, network, lambda: streams.to_device(images), images)


def start_loaded(
    streams: Any, network: Callable[[torch.Tensor], torch.Tensor], load: Callable[[], torch.Tensor], source: Any
) -> Finish:
    """Start a network on images that a function brings to the GPU; return a function that waits for its descriptors (B, D).

    Args:
        streams: A [`GpuStreams`].
        network: Maps images on the GPU to descriptors there.
        load: Returns the images on the GPU; their copies may still run.
        source: Owner of the memory on the CPU that is copied; it is kept until the batch is finished.
    """
    with torch.inference_mode():
        finish: Finish = streams.to_cpu(network(load()))

    def finish_and_release() -> NDArray[np.float32]:
        descriptors = finish()
        _ = source
        return descriptors

    return finish_and_release


def pin(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of a photo in memory that a GPU reads without the CPU."""
    pinned: NDArray[np.uint8] = torch.from_numpy(photo).pin_memory().numpy()
    return pinned


def stack_pinned(photos: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stack photos (3, height, width) in memory that a GPU reads without the CPU: (B, 3, height, width)."""
    stacked = torch.empty((len(photos), *photos[0].shape), dtype=torch.float32, pin_memory=True).numpy()
    return np.stack(photos, out=stacked)
