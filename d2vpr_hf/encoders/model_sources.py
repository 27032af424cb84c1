"""The two kinds of models that a [`PlaceEncoder`] runs: one with weights, and a graph that `d2vpr export` wrote."""

from pathlib import Path
from typing import Any, Protocol

import torch

from d2vpr_hf.backends.exported_model import ExportedModel, download_exported, is_exported
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.registry import open_backend, settle_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.model_objects import check_four_bits, check_processor, is_immovable, merge_adapters, unwrap_model
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.embedded_model import EMBEDDED_NAME
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model, pin_revision


class ModelSource(Protocol):
    """A model that a [`PlaceEncoder`] runs."""

    @property
    def config(self) -> VPRConfig:
        """The configuration of the model."""

    @property
    def processor(self) -> D2VPRImageProcessor:
        """The image processor of the model."""

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub; `None` for other models."""

    @property
    def model(self) -> VPRPreTrainedModel:
        """The model with its weights. Raises ValueError for an exported graph, which has none."""

    def fingerprint(self) -> str:
        """Compute the hash of everything that descriptors depend on."""

    def settle_backend(self, name: str, precision: str | None) -> Runtime:
        """Return the backend and precision to run with; `"auto"` and `None` are replaced by a choice."""

    def open_backend(self, name: str, precision: str | None) -> Backend:
        """Open the backend that runs the model."""


class LoadedModel:
    """A model with its weights, which is moved to a device and set to eval mode.

    Quantised models, and models that are spread over devices, stay where they are.

    Raises:
        ValueError: If the network cannot run on the device, or cannot be moved to it.
    """

    def __init__(
        self,
        model: VPRPreTrainedModel,
        processor: D2VPRImageProcessor,
        device: str | torch.device | None,
        revision: str | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.revision = revision
        if is_immovable(model):
            self.device = model.device
            if device is not None and torch.device(device).type != self.device.type:
                raise ValueError(
                    f"This model is quantised or spread over devices, on {self.device}; it cannot move to {device}."
                )
            check_four_bits(model)
            self.model.eval()
            return
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.ones(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"The network cannot run on {str(device)!r} here: {error}") from error
        self.device = torch.device(device)
        self.model.to(self.device).eval()  # type: ignore[arg-type] # transformers' wrapper loses the signature

    @property
    def config(self) -> VPRConfig:
        """The model's configuration, with later changes."""
        return self.model.config

    def fingerprint(self) -> str:
        """Hash weights, configuration and preprocessing."""
        return fingerprint(merge_adapters(self.model), self.processor)

    def settle_backend(self, name: str, precision: str | None) -> Runtime:
        """Return the backend and precision to run with."""
        return settle_backend(self.model, name, precision)

    def open_backend(self, name: str, precision: str | None) -> Backend:
        """Open a backend with the weights that the model has now."""
        runtime = self.settle_backend(name, precision)
        return open_backend(merge_adapters(self.model), self.processor, runtime.backend, runtime.precision)


class ExportedGraph:
    """A graph in a folder that `d2vpr export` wrote. It runs on the CPU."""

    def __init__(self, exported: ExportedModel, processor: D2VPRImageProcessor | None, revision: str | None = None) -> None:
        self._exported, self.revision = exported, revision
        self.config, self.processor = exported.config(), processor or exported.processor()
        self.device = torch.device("cpu")

    @property
    def model(self) -> VPRPreTrainedModel:
        """Raise ValueError: a graph has no weights to work with."""
        folder = self._exported.folder.resolve()
        raise ValueError(f"{folder} is an exported graph; this needs the model that it was made of.")

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that was exported."""
        return str(self._exported.info["fingerprint"])

    def settle_backend(self, name: str, precision: str | None) -> Runtime:
        """Return the backend and precision to run with."""
        return self._exported.settle_backend(name, precision)

    def open_backend(self, name: str, precision: str | None) -> Backend:
        """Open a backend that runs the graph."""
        return self._exported.open_backend(name, precision)


def open_model(
    model: VPRPreTrainedModel | str | Path | None,
    processor: D2VPRImageProcessor | None,
    device: str | torch.device | None,
    revision: str | None = None,
) -> ModelSource:
    """Open a model object, a folder, a Hub id, an exported folder, or the embedded model (`None` or `"embedded"`).

    Raises:
        TypeError: If an object is not a model, or not an image processor, of this package.
        ValueError: If a model object comes without its image processor, a model that is not from the Hub with a revision, or
            the network cannot run on the device.
    """
    if processor is not None:
        check_processor(processor)
    if model is None or isinstance(model, str | Path):
        if revision is None and model != EMBEDDED_NAME and is_exported(model):
            return ExportedGraph(ExportedModel.open(str(model)), processor)
        revision = pin_revision(model, revision)
        pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
        if (graph := download_exported(model, revision)) is not None:
            return ExportedGraph(graph, processor, revision)
        return LoadedModel(load_model(model, **pinned), processor or load_image_processor(model, **pinned), device, revision)
    if revision is not None:
        raise ValueError("A model object is of the revision that it was loaded from. Leave `revision` out.")
    model = unwrap_model(model)
    if processor is None:
        raise ValueError("A model object needs its image processor too; load_image_processor() gives it.")
    return LoadedModel(model, processor, device)
