"""The protocol of a backend, and the precisions that each backend has."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Finish = Callable[[], NDArray[np.float32]]  # waits for the descriptors (B, D) of a batch, and returns them
Precision = Literal["fp32", "bf16", "fp16", "int8"]
BackendName = Literal["torch", "torch-compiled", "onnxruntime", "openvino", "executorch"]

PRECISIONS: dict[BackendName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "torch-compiled": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "executorch": ("fp32",),
}


class Backend(Protocol):
    """A backend that runs the network of a model.

    Attributes:
        name: Name of the backend.
        precision: Number type of the network's products; descriptors of a model in two precisions differ slightly.
    """

    name: str
    precision: str

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map normalised images (B, 3, height, width) of one size, an array or a tensor on the CPU, to descriptors (B, D)."""


def start_describing(backend: Backend, pixel_values: Any) -> Finish:
    """Start a backend that computes on a GPU and so has `streams`; return a function that waits for descriptors (B, D).

    Another backend computes when that function is called.
    """
    if getattr(backend, "streams", None) is None:
        return functools.partial(backend.encode, pixel_values)
    finish: Finish = backend.start(pixel_values)  # type: ignore[attr-defined] # those with streams have it
    return finish


def check_backend(name: str, precision: str | None) -> None:
    """Raise ValueError unless a backend of that name has that precision; `"auto"` and `None` are allowed."""
    if name != "auto" and name not in PRECISIONS:
        raise ValueError(f"A backend is auto, {', '.join(PRECISIONS)}, got {name!r}.")
    allowed = get_args(Precision) if name == "auto" else PRECISIONS[name]  # type: ignore[index]
    if precision is not None and precision not in allowed:
        raise ValueError(f"The precision of the backend {name} is {' or '.join(allowed)}, got {precision!r}.")
