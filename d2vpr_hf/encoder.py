"""From photos to descriptors: decoding, preprocessing and the network, overlapping."""

import functools
import logging
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.backends.exported_model import ExportedModel, is_exported
from d2vpr_hf.backends.protocol import Backend, check_backend
from d2vpr_hf.backends.registry import open_backend, settle_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.readers import PhotoSource, UnreadablePhotoError, open_photo
from d2vpr_hf.utils.threads import single_core_threads

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]  # called with the number of photos that were just finished


@dataclass(frozen=True)
class EncodedPhotos:
    """Descriptors of the photos that could be read.

    Attributes:
        descriptors: (M, D) float32, in the order of the photos.
        rows: (M,) int64, the position of each in the photos that were given.
        skipped: Position and reason of each photo that could not be read.
    """

    descriptors: NDArray[np.float32]
    rows: NDArray[np.int64]
    skipped: dict[int, str]


class PlaceEncoder:
    """Encode photos as descriptors, in order, in batches, while threads decode the next ones.

    Args:
        model: A model, its folder or Hub id, or a folder that `d2vpr export` wrote; `None` for the small one that comes with
            this package.
        processor: The image processor; `None` for the one that belongs to the model. Required with a model object.
        device: Where the network runs, such as `"cuda"`; `None` takes a GPU if there is one.
        batch_size: Photos the network sees at once. Descriptors depend on it by rounding only, unless the model has a
            cross-image encoder.
        cross_image_encoder: Whether a model's cross-image encoder takes part; `False` removes it from the model, `None` leaves
            the model as it is.
        num_workers: Threads that decode and preprocess (Pillow and torch release the interpreter while they work).
        backend: What runs the network; see [`d2vpr_hf.backends.registry.open_backend`].
        precision: Of the network's products: `"fp32"`, `"bf16"`, `"fp16"` or `"int8"`, as far as the backend has it; `None` for
            the type of the model's weights.

    Attributes:
        model_name: Folder (absolute) or Hub id that the model can be loaded from again; `None` for the embedded model, and for
            a model object that was never saved.
    """

    def __init__(
        self,
        model: VPRPreTrainedModel | str | Path | None = None,
        processor: D2VPRImageProcessor | None = None,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        num_workers: int = 2,
        cross_image_encoder: bool | None = None,
        backend: str = "torch",
        precision: str | None = None,
    ) -> None:
        check_backend(backend, precision)
        if batch_size < 1 or num_workers < 1:
            raise ValueError(f"batch_size and num_workers must be at least 1, got {batch_size} and {num_workers}.")
        self._exported = ExportedModel.open(str(model)) if is_exported(model) else None
        self._model: VPRPreTrainedModel | None = None
        self.device = torch.device("cpu")
        if self._exported is not None:
            self._config, self.processor = self._exported.config(), processor or self._exported.processor()
        else:
            self._model, self.processor = _load(model, processor)
            self.device = _usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._model.to(self.device).eval()  # type: ignore[arg-type] # transformers' wrapper loses the signature
        self.model_name = _portable_name(model)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._backend_choice = (backend, precision)
        if cross_image_encoder is False:
            self.model.remove_cross_image_encoder()
        if cross_image_encoder and not self.config.use_cross_image_encoder:
            raise ValueError(f"The model {self.model_name or 'in this package'} has no cross-image encoder to use.")
        if self.config.use_cross_image_encoder:
            logger.warning(
                "This model has a cross-image encoder: a photo's descriptor depends on the photos around it and on "
                "batch_size (%d), and a query alone gets another one than among others. Take a D²-VPR without it where "
                "descriptors must be comparable.",
                batch_size,
            )

    @property
    def model(self) -> VPRPreTrainedModel:
        """The model.

        Raises:
            ValueError: If it was exported: there are no weights then.
        """
        if self._model is None:
            raise ValueError(f"{self.model_name} is an exported graph; this needs the model that it was made of.")
        return self._model

    @property
    def config(self) -> VPRConfig:
        """The model's configuration."""
        return self._config if self._model is None else self._model.config

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self.config.descriptor_dim

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what the descriptors depend on; see [`d2vpr_hf.pretrained.loading.fingerprint`]. Taken once."""
        if self._exported is not None:
            return str(self._exported.facts["fingerprint"])
        return fingerprint(self.model, self.processor)

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, such as `Runtime("torch", "fp32")`, without opening the backend."""
        settle = functools.partial(settle_backend, self.model) if self._exported is None else self._exported.settle_backend
        return settle(*self._backend_choice)

    @functools.cached_property
    def backend(self) -> Backend:
        """What runs the network, with the weights that the model has when it is first asked for; see `reopen_backend`."""
        return self._open_backend()

    def reopen_backend(self) -> None:
        """Take up changes of the model."""
        self.__dict__.pop("backend", None)

    def _open_backend(self) -> Backend:
        name, precision = self._backend_choice
        if self._exported is not None:
            return self._exported.open_backend(name, precision)
        return open_backend(self.model, self.processor, name, precision)

    def encode(
        self, photos: Iterable[Any], progress: Progress | None = None, *, order: Sequence[int] | None = None
    ) -> EncodedPhotos:
        """Encode photos.

        Args:
            photos: Paths, URLs, contents of files (`bytes`), PIL images, numpy arrays or tensors, or functions that return one
                of these and are called in the threads. They are taken one by one, no further ahead than it needs to keep the
                threads at work.
            progress: Called after each batch with the number of photos it finished, skipped ones included.
            order: In which order the network sees the photos, a permutation of their numbers, which must then be a sequence; it
                matters to models with a cross-image encoder only. The descriptors come in the order of `photos` all the same.

        Raises:
            ValueError: If the network gives a descriptor that is not finite.
        """
        descriptors = np.empty((operator.length_hint(photos), self.descriptor_dim), np.float32)
        skipped: dict[int, str] = {}
        count = 0
        for batch in _batches(self._preprocessed(photos, order), self.batch_size):
            skipped.update({row: pixels for row, pixels in batch if isinstance(pixels, str)})
            readable = [(row, pixels) for row, pixels in batch if not isinstance(pixels, str)]
            for rows, pixel_values in _by_size(readable):
                _make_room(descriptors, max(rows) + 1)
                descriptors[rows] = self.backend.encode(pixel_values)
            count += len(batch)
            if progress is not None:
                progress(len(batch))
        found = np.array([row for row in range(count) if row not in skipped], dtype=np.int64)
        joined = _keep_rows(descriptors, found)
        _check_finite(joined, found)
        return EncodedPhotos(joined, found, dict(sorted(skipped.items())))

    def _preprocessed(
        self, photos: Iterable[Any], order: Sequence[int] | None = None
    ) -> Iterator[tuple[int, torch.Tensor | str]]:
        """Yield each photo's number and pixel values (1, 3, height, width), or why there are none, in order."""
        with single_core_threads(self.num_workers) as pool:
            ahead = self.batch_size + self.num_workers  # enough that no thread waits for the network
            numbered = enumerate(photos) if order is None else _in_order(photos, order)
            submitted = ((row, pool.submit(self._preprocess, photo)) for row, photo in numbered)
            waiting: deque[tuple[int, Future[torch.Tensor | str]]] = deque(islice(submitted, ahead))
            while waiting:
                row, future = waiting.popleft()
                waiting.extend(islice(submitted, 1))
                yield row, future.result()

    @functools.cached_property
    def _target(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; None if they are not."""
        size = self.processor.size
        return (size["height"], size["width"]) if self.processor.do_resize else None

    def _preprocess(self, photo: Any) -> torch.Tensor | str:
        photo = photo() if callable(photo) else photo
        try:
            image = open_photo(photo, self._target) if isinstance(photo, PhotoSource) else photo
        except UnreadablePhotoError as error:
            return str(error)
        return self.processor(image, return_tensors="pt")["pixel_values"]


def _load(
    model: VPRPreTrainedModel | str | Path | None, processor: D2VPRImageProcessor | None
) -> tuple[VPRPreTrainedModel, D2VPRImageProcessor]:
    if not isinstance(model, VPRPreTrainedModel):
        return load_model(model), processor or load_image_processor(model)
    if processor is None:
        raise ValueError("A model object needs its image processor too; load_image_processor() gives it.")
    return model, processor


def _portable_name(model: VPRPreTrainedModel | str | Path | None) -> str | None:
    """Name a model so that it can be loaded from anywhere; None for the embedded one, and one that only lives in memory."""
    name = model.name_or_path if isinstance(model, VPRPreTrainedModel) else model
    if not name:
        return None
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The network cannot run on {str(device)!r} here: {error}") from error
    return torch.device(device)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _by_size(photos: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield numbers and pixel values (B, 3, height, width) of the photos of each size; most often there is one."""
    groups: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for row, pixels in photos:
        groups.setdefault(pixels.shape, []).append((row, pixels))
    for group in groups.values():
        yield [row for row, _ in group], torch.cat([pixels for _, pixels in group])


def _in_order(photos: Iterable[Any], order: Sequence[int]) -> Iterator[tuple[int, Any]]:
    if not isinstance(photos, Sequence):
        raise TypeError(f"An order needs photos in a sequence, got {type(photos).__name__}.")
    return ((int(row), photos[row]) for row in order)


def _make_room(descriptors: NDArray[np.float32], count: int) -> None:
    """Enlarge descriptors in place, by a quarter at least, where a stream gives more photos than its length promised."""
    if count > len(descriptors):
        descriptors.resize((max(count, len(descriptors) * 5 // 4), descriptors.shape[1]), refcheck=False)


def _keep_rows(descriptors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Move the rows wanted, in ascending order, to the front in place: a second copy of a large map may not fit."""
    if len(rows) < len(descriptors):
        for target, row in enumerate(rows):
            descriptors[target] = descriptors[row]
    return descriptors[: len(rows)]


def _check_finite(descriptors: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    broken = ~np.isfinite(descriptors.sum(axis=1))  # a sum is finite only if its terms are, and takes no room
    if broken.any():
        numbers = rows[np.flatnonzero(broken)[:5]].tolist()
        raise ValueError(
            f"{broken.sum()} descriptors are not finite (photos number {numbers} first). The weights are broken, or they "
            "overflow in half precision: load the model in float32."
        )
