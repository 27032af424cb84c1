"""The interfaces of encoders: of photos to descriptors, and of the models that they run. Importing it loads no torch."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.protocol import Finish
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.readers.remarks import Remark, RemarkCounter

Progress = Callable[[int], None]  # called with the number of photos that were just finished
ReceiveBatch = Callable[["EncodedPhotos"], None]  # called with a batch that was just finished


@dataclass(frozen=True)
class EncodedPhotos:
    """Descriptors of the photos that could be read.

    Attributes:
        descriptors: (M, D) float32, in the order of the photos; (M, V, D) for queries with V descriptors each.
        rows: (M,) int64, the position of each in the photos that were given.
        skipped: Position and reason of each photo that could not be read.
        corrected: Position of each photo whose pixels were corrected, with the text of a remark that counts such photos.
    """

    descriptors: NDArray[np.float32]
    rows: NDArray[np.int64]
    skipped: dict[int, str]
    corrected: dict[int, str] = field(default_factory=dict)

    def remarks(self, paths: Sequence[str]) -> tuple[Remark, ...]:
        """Return the remarks on photos whose pixels were corrected; `paths` has the paths of all photos that were given."""
        counter = RemarkCounter()
        for row, text in sorted(self.corrected.items()):
            counter.add("corrected", text, paths[row])
        return counter.summary()


class Encoder(Protocol):
    """Encode photos as descriptors.

    Indexing, searching and localization accept any object with these attributes and this method.

    `encode` may have another parameter, `on_batch: ReceiveBatch | None = None`, a function that is called with each batch once
    its descriptors are computed; its rows are positions in `photos`, and the batches come in the order of the photos. Indexing
    then gives the encoder all photos of a shard at once, and stores the finished batches if it is interrupted. Without this
    parameter it gives the encoder one batch at a time, so that the encoder cannot decode photos of the next one meanwhile.

    The encoder of a model from the Hub may have an attribute `model_revision`, the commit of the model, and one of a model that
    was opened with options may have `model_options`, a table as of [`ModelOptions.to_dict`]. Indexes record both.

    An encoder whose queries may be searched for in indexes of other models has an attribute `compatible_with`, the fingerprints
    of these models.

    An encoder of queries in another form than that of database photos has a method `encode_queries` with the first parameters
    of `encode`; it may return several descriptors of each query. [`encode_queries`] calls it.
    """

    @property
    def descriptor_dim(self) -> int:
        """Width D of the descriptors."""

    @property
    def projection_dim(self) -> int | None:
        """Width that a projection stored in the model reduces descriptors to; `None` without a projection."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that descriptors depend on. An index refuses an encoder with another fingerprint."""

    @property
    def model_name(self) -> str | None:
        """Folder or Hub id that the model can be loaded from again; `None` if there is none."""

    @property
    def batch_size(self) -> int:
        """The number of photos that the network processes at once."""

    @property
    def depends_on_batch(self) -> bool:
        """Whether a photo's descriptor depends on the other photos of its batch."""

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, such as `Runtime("torch", "fp32")`. Descriptors of different runtimes differ slightly."""

    def encode(
        self, photos: Iterable[Any], progress: Progress | None = None, *, order: Sequence[int] | None = None
    ) -> EncodedPhotos:
        """Encode photos.

        Args:
            photos: Each is a path, a URL, the content of a file (`bytes`), or a function without arguments that returns one of
                these; see [`d2vpr_hf.readers.open_photo`]. A function is called once. Photos are taken one by one and may be
                a stream of unknown length.
            progress: Called after each batch with its number of photos, skipped ones included.
            order: The order in which the network processes the photos, a permutation of their positions. It matters only where
                `depends_on_batch` is true. The descriptors are returned in the order of `photos`.
        """


def encode_queries(
    encoder: Encoder, photos: Iterable[Any], progress: Progress | None = None, *, order: Sequence[int] | None = None
) -> EncodedPhotos:
    """Encode photos as queries: in the encoder's form of queries, or as database photos if it has none.

    Args:
        encoder: The encoder.
        photos: As for [`Encoder.encode`].
        progress: As for [`Encoder.encode`].
        order: As for [`Encoder.encode`].

    Returns:
        Descriptors (M, D), or (M, V, D) if each query has several; [`d2vpr_hf.stores.views.search_views`] searches with both.
    """
    encode: Callable[..., EncodedPhotos] = getattr(encoder, "encode_queries", encoder.encode)
    return encode(photos, progress) if order is None else encode(photos, progress, order=order)


class DescriptorModel(Protocol):
    """A model with its preprocessing: it maps upright images to descriptors.

    [`PlaceEncoder`] runs any object with these attributes and methods: it decodes photos while the model computes, forms
    batches, keeps the order and checks descriptors. It calls `prepare` in threads, and `describe` in one thread.

    A model on a GPU may have a method `start_describing(pixel_values)`, which starts to compute and returns a function that
    waits for the descriptors, those of `describe`; the encoder forms the next batch meanwhile.

    A model whose queries may be encoded as crops has two more: `crop_side`, the side of a crop in pixels, and
    `prepare_crops(image)`, which returns the pixel values (5, 3, side, side). `shorter_side` is the length in pixels of the
    shorter side of photos that keep their aspect.
    """

    @property
    def model_name(self) -> str | None:
        """Folder (absolute) or Hub id that the model can be loaded from again; `None` if there is none."""

    @property
    def model_revision(self) -> str | None:
        """The commit of a model from the Hub; `None` for other models."""

    @property
    def model_options(self) -> dict[str, Any]:
        """The options to load the model with again, as of [`ModelOptions.to_dict`]; empty if it has none."""

    @property
    def facts(self) -> ModelFacts:
        """Title, licence and origin of the model."""

    @property
    def descriptor_dim(self) -> int:
        """Width D of the descriptors."""

    @property
    def projection_dim(self) -> int | None:
        """Width that a projection reduces descriptors to, which then need not be of unit length; `None` without one."""

    @property
    def depends_on_batch(self) -> bool:
        """Whether a photo's descriptor depends on the other photos of its batch."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width in pixels that photos are resized to; `None` if these depend on the photo."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that descriptors depend on: weights, pooling and preprocessing."""

    @property
    def runtime(self) -> Runtime:
        """Backend and precision that compute the descriptors."""

    @property
    def device_type(self) -> str:
        """Type of the device that computes the descriptors, such as `"cpu"` or `"cuda"`."""

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image: a PIL image, an array or a tensor."""

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D), L2-normalised unless they were projected."""


def start_model(model: DescriptorModel, pixel_values: NDArray[np.float32]) -> Finish:
    """Start to describe pixel values on a GPU, if the model can; return a function that waits for descriptors (B, D)."""
    start: Callable[[NDArray[np.float32]], Finish] | None = getattr(model, "start_describing", None)
    return functools.partial(model.describe, pixel_values) if start is None else start(pixel_values)
