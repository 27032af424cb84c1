"""CUDA graphs: the kernels of a network are recorded once for each input size, and started again by one call."""

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)

_MAX_SIZES = 4  # input sizes that are recorded; the activations of each stay in the GPU's memory
_WARM_UP = 2  # calls before a recording, in which libraries allocate their memory and choose their kernels
_ACCEPTED_DIFFERENCE = 1e-3  # of a replay, as a share of the output's norm; libraries may choose other kernels for a recording

Network = Callable[[torch.Tensor], torch.Tensor]


class Recording(NamedTuple):
    """Recorded kernels, with the memory that they read and write.

    Attributes:
        replay: Starts the kernels.
        inputs: The input that they read, (B, 3, height, width).
        outputs: The output that they write, (B, D).
    """

    replay: Callable[[], Any]
    inputs: torch.Tensor
    outputs: torch.Tensor


Record = Callable[[Network, torch.Tensor], Recording]


class ReplayedNetwork:
    """A network on a GPU whose kernels are recorded for input sizes that come again.

    The first input of a size runs without a recording, the second one is recorded: the last batch of some photos, whose size
    comes once, costs no memory. Without a recording, starting several hundred kernels takes longer than computing one photo.

    A recording reads all memory at the addresses of its first run: the network must not read memory of the CPU. Each recording
    is compared with the network once. If they differ, or a size cannot be recorded, a warning is logged, and inputs of that
    size run without a recording.

    Args:
        network: Maps images (B, 3, height, width) to descriptors (B, D), on a GPU.
        record: Records the kernels of the network for an input; a parameter for tests on machines without a GPU.
    """

    def __init__(self, network: Network, record: Record | None = None) -> None:
        self._network, self._record = network, record or record_kernels
        self._recordings: dict[torch.Size, Recording | None] = {}  # `None` for sizes that run without one
        self._seen: set[torch.Size] = set()
        self._lock = threading.Lock()  # a recording has one input and one output, and threads share them

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, height, width) to descriptors (B, D), which later calls do not change."""
        with self._lock:
            recording = self._find_recording(pixel_values)
            if recording is None:
                return self._network(pixel_values)
            recording.inputs.copy_(pixel_values)
            recording.replay()
            return recording.outputs.clone()

    def is_recorded(self, size: torch.Size) -> bool:
        """Return whether inputs of a size run by a recording."""
        return self._recordings.get(size) is not None

    def _find_recording(self, pixel_values: torch.Tensor) -> Recording | None:
        size = pixel_values.shape
        if size in self._recordings:
            return self._recordings[size]
        if size not in self._seen or len(self._recordings) == _MAX_SIZES:
            self._seen.add(size)
            return None
        self._recordings[size] = self._checked_recording(pixel_values)
        return self._recordings[size]

    def _checked_recording(self, pixel_values: torch.Tensor) -> Recording | None:
        """Record the network for an input; return `None`, with a warning, if this fails or changes the descriptors."""
        expected = self._network(pixel_values)
        try:
            recording = self._record(self._network, pixel_values)
            recording.replay()
            difference = float((recording.outputs - expected).norm() / expected.norm())
        except RuntimeError as error:
            logger.warning("Images of the size %s run without a CUDA graph: %s", tuple(pixel_values.shape), error)
            return None
        if difference <= _ACCEPTED_DIFFERENCE:
            return recording
        logger.warning(
            "Images of the size %s run without a CUDA graph, which changes their descriptors by %.2g of their length.",
            tuple(pixel_values.shape),
            difference,
        )
        return None


def record_kernels(network: Network, pixel_values: torch.Tensor) -> Recording:
    """Record the kernels that a network starts for an input, as a CUDA graph."""
    inputs = pixel_values.clone()
    current, other_stream = torch.cuda.current_stream(), torch.cuda.Stream()
    other_stream.wait_stream(current)
    with torch.cuda.stream(other_stream):
        for _ in range(_WARM_UP):
            network(inputs)
    current.wait_stream(other_stream)
    graph = torch.cuda.CUDAGraph()
    # threads that decode photos may pin memory meanwhile, which the default mode refuses
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = network(inputs)
    return Recording(graph.replay, inputs, outputs)
