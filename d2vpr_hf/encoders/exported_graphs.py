"""Graphs that `d2vpr export` wrote, as a [`PlaceEncoder`] runs them, on the CPU.

A photo becomes a descriptor without torch and transformers, which take seconds to load. Only graphs of earlier versions, whose
`export.json` lacks an entry about the encoder, and images in arrays or tensors need them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.query_crops import crop_side, prepare_crops
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.model_info.encoder_entry import ENCODER_KEY, EncoderEntry
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import square_decoding_size
from d2vpr_hf.model_info.region_boxes import Box, own_region_boxes

if TYPE_CHECKING:
    from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig


class ExportedGraph:
    """A graph in a folder that `d2vpr export` wrote.

    Args:
        exported: The folder.
        processor: An image processor to prepare photos by; `None` for the steps that the folder states.
        backend: Name of the backend; `"torch"` and `"auto"` select the first one that runs the graph.
        precision: Number type of the products; `None` for that of the export.
        name: Folder or Hub id that the graph can be opened from again.
        revision: Commit of a graph from the Hub.
        options: Only `test_time` has a meaning here; the graph has the other options of its export.

    Raises:
        ValueError: If other options are given than those of the export, or the folder states the encoder in a form that this
            version cannot read.
    """

    device_type = "cpu"

    def __init__(
        self,
        exported: ExportedModel,
        processor: D2VPRImageProcessor | None = None,
        backend: str = "torch",
        precision: str | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
    ) -> None:
        self._exported, self._backend_choice = exported, (backend, precision)
        self._given_processor = processor
        self.model_name, self.model_revision = name, revision
        exported.check_files()
        self._entry = self._read_entry()
        self._check_options(options)
        self.model_options = self._entry.model_options | self._form_of_queries(options)

    def _read_entry(self) -> EncoderEntry:
        values = self._exported.info.get(ENCODER_KEY)
        if values is None:
            from d2vpr_hf.pretrained.own_facts import describe_encoder

            return describe_encoder(self.config, self._exported.processor())
        try:
            return EncoderEntry.from_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            path = self._exported.folder / INFO_FILE
            raise ValueError(
                f"The entry {ENCODER_KEY!r} of {path} cannot be read ({error}). Export the model again."
            ) from error

    def _check_options(self, options: ModelOptions) -> None:
        """Check that options are those that the model had when it was exported; `test_time` belongs to the encoder.

        An index records the options, and opens its encoder with them.

        Raises:
            ValueError: If they differ.
        """
        given = {name: value for name, value in options.to_dict().items() if name != "test_time"}
        stated = self._entry.model_options
        size = self._entry.preprocessing.input_size
        if size is not None and given.get("image_size") == list(size):
            del given["image_size"]  # the size of the graph, by whatever option it has it
        differing = {name: value for name, value in given.items() if stated.get(name) != value}
        if differing:
            takes = "photos of several sizes" if size is None else f"images of {size[0]}x{size[1]} pixels"
            stated_text = f"the options {stated}" if stated else "no options"
            raise ValueError(
                f"The graph {self.model_name} was exported with {stated_text} and takes {takes}, got {differing}. Its "
                "fingerprint is that of these options. Export the model again with other ones."
            )

    def _form_of_queries(self, options: ModelOptions) -> dict[str, Any]:
        return {name: value for name, value in options.to_dict().items() if name == "test_time"}

    @functools.cached_property
    def config(self) -> VPRConfig:
        """The configuration of the model that was exported."""
        return self._exported.config()

    @functools.cached_property
    def processor(self) -> D2VPRImageProcessor:
        """The image processor for the steps that the graph does not contain."""
        return self._given_processor or self._exported.processor()

    @property
    def device(self) -> Any:
        """The CPU, as a device of torch."""
        import torch

        return torch.device("cpu")

    @property
    def model(self) -> Any:
        """Raise ValueError: a graph has no weights to work with."""
        folder = self._exported.folder.resolve()
        raise ValueError(f"{folder} is an exported graph; this needs the model that it was made of.")

    @property
    def facts(self) -> ModelFacts:
        """Title and origin of the model that was exported."""
        return self._entry.facts

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self._entry.descriptor_dim

    @property
    def projection_dim(self) -> int | None:
        """Width that the model's projection reduces descriptors to; `None` without a projection."""
        return self._entry.projection_dim

    @property
    def depends_on_batch(self) -> bool:
        """Whether the model has a cross-image encoder."""
        return self._entry.depends_on_batch

    @property
    def region_boxes(self) -> list[Box] | None:
        """Boxes of the R regions whose features a descriptor consists of; `None` if they are not known."""
        return own_region_boxes(self.config)

    @property
    def holds_regions(self) -> bool:
        """Whether a descriptor is the features of its regions in a row."""
        return self.projection_dim is None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if the graph resizes them."""
        if self._given_processor is None:
            return self._entry.preprocessing.input_size
        from d2vpr_hf.pretrained.own_facts import size_of

        return size_of(self._given_processor)

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded photos must cover, as for the model that was exported; `None` to decode every pixel."""
        steps = self._entry.preprocessing
        if self._given_processor is not None:
            return self.input_size
        if steps.resized_as == "float32":  # a model of this package
            return self.input_size or (None if self.shorter_side is None else (self.shorter_side, self.shorter_side))
        return steps.enlarged_decoding_size or square_decoding_size(self.shorter_side)

    @property
    def shorter_side(self) -> int | None:
        """Length of the shorter side of photos that keep their aspect by an option; `None` otherwise."""
        return self._entry.preprocessing.shortest_edge if self.model_options.get("keep_aspect") else None

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of the crops of queries; `None` if the graph resizes photos, or takes other sizes only."""
        size = self.input_size
        is_fixed = self._exported.info.get("input") != "any-size"
        if self._given_processor is not None or (is_fixed and size is not None and size[0] != size[1]):
            return None
        return crop_side(self._entry.preprocessing)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that was exported."""
        fingerprint = self._exported.info.get("fingerprint")
        if not isinstance(fingerprint, str):
            raise ValueError(f"{self._exported.folder / INFO_FILE} has no `fingerprint` of the model. Export the model again.")
        return fingerprint

    @property
    def compatible_with(self) -> tuple[str, ...]:
        """Fingerprints of models whose descriptors can be compared with this graph's, as the exported model states them."""
        return tuple(map(str, self._exported.info.get("compatible_with", ())))

    @property
    def trained_prefixes(self) -> tuple[int, ...] | None:
        """Numbers of first numbers for which training kept a head; `None` without such a head, as the export states it."""
        dims = self._exported.info.get("trained_prefixes")
        return None if dims is None else tuple(map(int, dims))

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return self._exported.settle_backend(*self._backend_choice)

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that runs the graph."""
        return self._exported.open_backend(*self._backend_choice)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image, by the steps that the graph does not contain."""
        if self._given_processor is None:
            return self._entry.preprocessing(to_rgb(image))
        from d2vpr_hf.encoders.own_models import prepare_by

        return prepare_by(self._given_processor, image)

    def prepare_crops(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (5, 3, side, side) of the crops of an image."""
        return prepare_crops(self._entry.preprocessing, image)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)
