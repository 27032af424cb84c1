"""ONNX graphs of other people, with the card that describes them, as a [`PlaceEncoder`] runs them on the CPU.

Everything that a card or a graph names is checked before a runtime opens the graph. Importing this module loads no torch.
"""

import functools
import importlib.util
import json
import logging
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.verification import MAX_DIFFERENCES
from d2vpr_hf.encoders.graph_checks import (
    MAX_BATCH_DIFFERENCE,
    check_input_size,
    check_outline,
    choose_value,
    relative_difference,
)
from d2vpr_hf.encoders.photo_batches import check_independence
from d2vpr_hf.encoders.query_crops import crop_side, prepare_crops
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.model_info.encoder_card import (
    CARD_FILE,
    EncoderCard,
    hash_files,
    locate_file,
)
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import SIZE_OPTIONS, ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.model_info.stored_projection import read_projection
from d2vpr_hf.utils.atomic_files import copy_file
from d2vpr_hf.utils.unit_length import are_wrong, divide_by_norms

_PRECISIONS = {"float32": "fp32", "float16": "fp16"}
REFERENCE_BACKEND = "onnxruntime"
_BACKENDS = (REFERENCE_BACKEND, "openvino")  # in the order of preference

logger = logging.getLogger(__name__)


class CardedGraph:
    """A graph in a folder, with its card.

    Args:
        folder: Folder of all files.
        card: The card, which names the graph.
        backend: `"onnxruntime"`, `"openvino"`; `"torch"` and `"auto"` select the first that is installed.
        precision: Number type of the products; `None` for that of the graph. OpenVINO can also run in `"bf16"`.
        name: Folder or Hub id that the encoder can be opened from again.
        revision: Commit of an encoder from the Hub.
        options: Only sizes have a meaning here: `image_size` and `keep_aspect` for graphs of any size, and `test_time`.

    Attributes:
        folder: Folder of all files.
        card: The card.
        path: Path of the graph.
        files: Names of the files: the graph, files with its weights, and the projection.
        preprocessing: The steps from an image to pixel values.
        graph_input: The input of the graph.
        graph_output: The output that holds the descriptors.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, is not the one that the card belongs to, or names a file outside of the folder; if the
            graph needs a library of operators, or does not fit the card or the arguments.
    """

    device_type = "cpu"

    def __init__(
        self,
        folder: Path,
        card: EncoderCard,
        backend: str = "torch",
        precision: str | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
    ) -> None:
        if card.graph is None:
            raise ValueError(f"{folder / CARD_FILE} names no `graph`, so that it belongs to a model of transformers.")
        self.folder, self.card = folder, card
        self.model_name, self.model_revision = name, revision
        self.model_options = options.to_dict()
        self.path = path = locate_file(folder, card.graph)
        outline = read_outline(path)
        check_outline(path, outline)
        self.graph_input = choose_value(path, "input", outline.inputs, card.input_name)
        self.graph_output = choose_value(path, "output", outline.outputs, card.output_name)
        self.files = [card.graph, *sorted(outline.external_files), *([card.projection] if card.projection else [])]
        self._checksums = hash_files(folder, self.files, card)
        self.preprocessing = self._choose_preprocessing(options)
        self._projection = read_projection(folder, card, self.graph_output.shape[-1])
        self._check_width()
        self._runtime = self._choose_runtime(backend, precision)
        self._is_checked = bool(card.checked)
        self._is_compared = self._runtime.backend == REFERENCE_BACKEND

    @property
    def facts(self) -> ModelFacts:
        """Title, licence and origin, as the card states them."""
        return self.card.facts

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self.card.descriptor_dim

    @property
    def projection_dim(self) -> int | None:
        """Width that the projection of the card reduces descriptors to; `None` without one."""
        return None if self.card.projection is None else self.card.descriptor_dim

    @property
    def depends_on_batch(self) -> bool:
        """Whether a photo's descriptor depends on the other photos of its batch, as the card states it."""
        return self.card.depends_on_batch

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if they depend on the photo."""
        return self.preprocessing.input_size

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded photos must cover; `None` if they depend on the photo."""
        side = self.shorter_side
        return self.preprocessing.decoding_size if side is None else (side, side)

    @property
    def shorter_side(self) -> int | None:
        """Length of the shorter side of photos that keep their aspect by an option; `None` otherwise."""
        return self.preprocessing.shortest_edge if self.model_options.get("keep_aspect") else None

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of the crops of queries; `None` if the graph takes other sizes only."""
        height, width = self.graph_input.shape[2:]
        return crop_side(self.preprocessing) if height == width else None

    @property
    def batch_size(self) -> int | None:
        """The number of photos that the graph takes at once; `None` for any number."""
        return self.graph_input.shape[0]

    @property
    def model(self) -> Any:
        """Raise ValueError: a graph has no weights to work with."""
        raise ValueError(f"{self.folder.resolve()} is a graph; this needs a model with weights.")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all files and of the values of the card that change descriptors."""
        names = [self.card.graph, self.card.projection]
        default = Preprocessing().to_dict()  # a value that a later version adds has its default here
        values = {
            "graph": self._checksums[str(self.card.graph)],
            "weights": {name: digest for name, digest in self._checksums.items() if name not in names},
            "input": self.graph_input.name,
            "output": self.graph_output.name,
            "preprocessing": {name: value for name, value in self.preprocessing.to_dict().items() if value != default[name]},
            "normalize": self.card.normalize,
            "projection": self.card.projection and self._checksums[self.card.projection],
            "normalize_projection": self.card.normalize_projection,
        }
        return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return self._runtime

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that runs the graph."""
        return _open_backend(self.folder, self.files, self.graph_input.name, self.graph_output.name, self._runtime)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image."""
        return self.preprocessing(to_rgb(image))

    def prepare_crops(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (5, 3, side, side) of the crops of an image."""
        return prepare_crops(self.preprocessing, image)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D).

        Raises:
            ValueError: If the graph does not run on them, or its descriptors are not as the card states.
        """
        outputs = self.run_graph(pixel_values)
        if not self._is_compared:
            self._compare_backends(pixel_values[:1], outputs[:1])
            self._is_compared = True
        if not self._is_checked and not self.card.depends_on_batch:
            self._is_checked = self._check_independence(pixel_values, outputs)
        return self.finish(outputs)

    def run_graph(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output of the graph (B, D) for pixel values (B, 3, height, width), before norms and projection.

        A graph that takes N photos runs once for each N; missing photos are filled with the last one.
        """
        pixel_values = np.ascontiguousarray(pixel_values, self.graph_input.number_type)
        step = self.batch_size or len(pixel_values)
        outputs = []
        for start in range(0, len(pixel_values), step):
            part = pixel_values[start : start + step]
            filled = part if len(part) == step else np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
            outputs.append(self._run(filled)[: len(part)])
        return np.concatenate(outputs)

    def finish(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors (B, D) of outputs of the graph: divided by their norms and projected, as the card states."""
        descriptors = divide_by_norms(outputs) if self.card.normalize else outputs
        if self._projection is None:
            if not self.card.normalize:
                self._check_lengths(descriptors)
            return descriptors
        return self._projection(descriptors)

    def encode_whole_batch(self, pixel_values: NDArray[np.float32]) -> NDArray[Any]:
        """Return the output of the graph for a batch of the size that it takes.

        Raises:
            ValueError: If the graph does not run on it.
        """
        backend = self.backend
        try:
            return np.asarray(backend.encode(pixel_values.astype(self.graph_input.number_type, copy=False)))
        except Exception as error:  # runtimes have classes of their own, directly below Exception
            raise ValueError(
                f"{self.path} does not run on images of the shape {pixel_values.shape}. Check the size in its card, "
                f"{CARD_FILE}. {backend.name} reports: {_reason(error)}"
            ) from error

    def _run(self, pixel_values: NDArray[Any]) -> NDArray[np.float32]:
        outputs = self.encode_whole_batch(pixel_values)
        width = None if self._projection is not None else self.card.descriptor_dim
        if outputs.ndim != 2 or len(outputs) != len(pixel_values) or (width is not None and outputs.shape[1] != width):
            raise ValueError(
                f"Expected descriptors of the shape ({len(pixel_values)}, {width or 'any'}) in the output "
                f"{self.graph_output.name} of {self.path}, got {outputs.shape}. The card names another output by "
                "`output_name`, and the width by `descriptor_dim`."
            )
        return outputs.astype(np.float32)

    def _choose_preprocessing(self, options: ModelOptions) -> Preprocessing:
        """Return the steps for the size that the options or the card give, after comparing it with the graph."""
        others = [name for name in self.model_options if name not in SIZE_OPTIONS]
        if others:
            raise ValueError(
                f"{self.path} computes its descriptors in one way, without the options "
                f"{', '.join(f'`{name}`' for name in others)}. Omit them."
            )
        preprocessing = self.card.preprocessing
        if options.image_size is not None:
            preprocessing = preprocessing.for_size(options.image_size)
        if options.keep_aspect:
            is_fixed = self.graph_input.shape[2:] != (None, None)
            if is_fixed or preprocessing.input_size is None:
                reason = "takes one size of images only" if is_fixed else "has no size of images in its card"
                raise ValueError(f"{self.path} {reason}, so that photos cannot keep their aspect. Omit `keep_aspect`.")
            preprocessing = preprocessing.for_shorter_side(min(preprocessing.input_size), self.card.preprocessing.multiple_of)
        check_input_size(self.path, self.graph_input, preprocessing)
        return preprocessing

    def _check_width(self) -> None:
        output, width = self.graph_output, self.card.descriptor_dim
        if self._projection is None and len(output.shape) == 2 and output.shape[1] not in (None, width):
            raise ValueError(
                f"{self.path} gives descriptors of {output.shape[1]} numbers, but its card states "
                f"`descriptor_dim` {width}. Write the card again."
            )
        if self.card.depends_on_batch and (self.batch_size or 1) > 1:
            raise ValueError(
                f"{self.path} takes exactly {self.batch_size} photos, and their descriptors depend on "
                "each other, so that a smaller batch has none. Export it for any number of photos."
            )

    def _choose_runtime(self, backend: str, precision: str | None) -> Runtime:
        if backend in ("torch", "auto"):
            backend = next((name for name in _BACKENDS if importlib.util.find_spec(name)), _BACKENDS[0])
        if backend not in _BACKENDS:
            raise ValueError(f"An ONNX graph runs by {' or '.join(_BACKENDS)}, got the backend {backend!r}.")
        graph_precision = _PRECISIONS[str(self.graph_input.number_type)]
        is_convertible = backend == "openvino" and precision == "bf16"
        if precision not in (None, graph_precision) and not is_convertible:
            raise ValueError(f"{self.path} is a graph in {graph_precision}, which cannot run in {precision}.")
        return Runtime(backend, precision or graph_precision)

    def _check_independence(self, pixel_values: NDArray[np.float32], outputs: NDArray[np.float32]) -> bool:
        """Return whether a batch has two different photos, after comparing their descriptors with those of each alone.

        Raises:
            ValueError: If they differ.
        """
        accepted = MAX_BATCH_DIFFERENCE[str(self.graph_input.number_type)]
        difference = check_independence(self.run_graph, pixel_values, outputs, accepted)
        if difference:
            raise ValueError(
                f"The descriptor of a photo by {self.path} changes by {difference:.2g} of its length with the other photos of "
                f'its batch, but {CARD_FILE} does not state "depends_on_batch": true. Add it, or use another model: such '
                "descriptors are comparable only within a batch."
            )
        return difference is not None

    def _compare_backends(self, pixel_values: NDArray[np.float32], outputs: NDArray[np.float32]) -> None:
        """Compare the descriptor of a photo with that of onnxruntime, if this is installed: OpenVINO omits some attributes.

        Raises:
            ValueError: If they differ by more than the backend's numbers do.
        """
        if importlib.util.find_spec(REFERENCE_BACKEND) is None:
            logger.warning(
                "Descriptors of %s by %s were not compared with those of onnxruntime, which is not installed.",
                self.path,
                self._runtime.backend,
            )
            return
        reference = CardedGraph(self.folder, self.card, REFERENCE_BACKEND)
        difference = relative_difference(reference.run_graph(pixel_values), outputs)
        bound = max(MAX_DIFFERENCES.get(self._runtime.precision, 0), MAX_BATCH_DIFFERENCE[str(self.graph_input.number_type)])
        if difference > bound:
            raise ValueError(
                f"{self._runtime.backend} computes other descriptors by {self.path} than onnxruntime: they differ by "
                f'{difference:.2g} of their length, more than {bound}. Give `backend="{REFERENCE_BACKEND}"`.'
            )

    def _check_lengths(self, descriptors: NDArray[np.float32]) -> None:
        lengths = np.linalg.norm(descriptors, axis=1)
        wrong = lengths[np.isfinite(lengths) & are_wrong(lengths)]
        if len(wrong):
            raise ValueError(
                f"{self.path} gives descriptors of the length {wrong[0]:.4g}, but {CARD_FILE} does not "
                'state "normalize": true. Add it, so that they are divided by their lengths.'
            )


def _reason(error: Exception) -> str:
    """Return the first five lines of a runtime's error that are not about its own source files, as OpenVINO's are."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(reasons[:5]).rstrip(".") or type(error).__name__


def _open_backend(folder: Path, files: list[str], input_name: str, output_name: str, runtime: Runtime) -> Backend:
    """Open a graph, the first of the files.

    Raises:
        ImportError: If the backend is not installed.
        ValueError: If it cannot open the graph.
    """
    path = folder / files[0]
    try:
        if runtime.backend == "onnxruntime":
            from d2vpr_hf.backends.onnxruntime_backend import OnnxRuntimeBackend

            return OnnxRuntimeBackend(path, runtime.precision, input_name, output_name)
        from d2vpr_hf.backends.openvino_backend import OpenVinoBackend

        with tempfile.TemporaryDirectory() as scratch:
            if any((folder / name).is_symlink() for name in files):  # OpenVINO follows no links out of the folder
                path = _collect(folder, files, Path(scratch))
            return OpenVinoBackend(path, runtime.precision, output_name)
    except ImportError:
        raise
    except Exception as error:  # runtimes have classes of their own, directly below Exception
        raise ValueError(
            f"{runtime.backend} cannot open {path}: {_reason(error)}. The file may be damaged, or use operators that this "
            "version does not have: update it, or export the model again."
        ) from error


def _collect(folder: Path, files: list[str], target: Path) -> Path:
    """Put files that links name into one folder, without a copy where the disk allows it; return the path of the first."""
    for name in files:
        source = (folder / name).resolve()
        try:
            os.link(source, target / name)
        except OSError:  # another disk
            copy_file(source, target / name)
    return target / files[0]
