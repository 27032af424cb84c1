"""Open a backend by its name."""

from d2vpr_hf.backends.protocol import Backend, check_backend
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel


def open_backend(model: VPRPreTrainedModel, processor: D2VPRImageProcessor, name: str, precision: str | None = None) -> Backend:
    """Open a backend that runs a model.

    Args:
        model: In eval mode, on the device wanted.
        processor: Says of which size images are.
        name: `"torch"`, `"torch-compiled"` or `"auto"`.
        precision: Of the products; `None` for the type of the model's weights.

    Raises:
        ValueError: If there is no such backend, or it has no such precision or device.
    """
    check_backend(name, precision)
    return TorchBackend(model, precision, compiled=name == "torch-compiled")


__all__ = ["open_backend"]
