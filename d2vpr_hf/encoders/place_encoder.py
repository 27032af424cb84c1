"""The encoder of photos: decoding, preprocessing and the network overlap, for any model."""

import functools
import logging
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.backends.protocol import Finish, check_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.automatic_model import AUTOMATIC, is_candidate
from d2vpr_hf.encoders.encoding_run import EncodingRun, SizeGroups, Stack
from d2vpr_hf.encoders.open_model import accepted_options, open_model
from d2vpr_hf.encoders.photo_batches import (
    CorrectedPixels,
    Preprocessed,
    check_independence,
    preprocess_ahead,
    read_descriptors,
    read_pixels,
)
from d2vpr_hf.encoders.prefix_model import prefix_fingerprint
from d2vpr_hf.encoders.protocol import DescriptorModel, EncodedPhotos, Progress, ReceiveBatch
from d2vpr_hf.encoders.query_crops import NUM_CROPS, mean_of_crops
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME, Layer, ModelOptions, Pool, TestTime
from d2vpr_hf.model_info.preprocessing import UnfitImageError
from d2vpr_hf.model_info.region_boxes import Box
from d2vpr_hf.pretrained.model_files import stored_config
from d2vpr_hf.pretrained.unreachable_hub import cached_if_unconfirmed, confirm_if_on_hub, offline_if_unreachable
from d2vpr_hf.pretrained.untrained_parts import warn_of_untrained_parts
from d2vpr_hf.readers.photos import PhotoSource, UnreadablePhotoError, open_photo, photo_modes

if TYPE_CHECKING:
    from d2vpr_hf.index import PlaceIndex

logger = logging.getLogger(__name__)

_ACCEPTED_DIFFERENCE, _ACCEPTED_IN_HALF = 1e-3, 2e-2  # of a photo alone and in a batch, as a share of its descriptor's length
_WAITING_BATCHES = 4  # photos of several sizes that wait for others of their size, as a multiple of the batch size
SCALED_BY_OWN_RANGE = "photos in grey of an unusual range, scaled by their own range"


class PlaceEncoder:
    """Encode photos as descriptors, in order, in batches, while threads decode the next ones.

    Args:
        model: A model, its folder or Hub id, or a folder that `d2vpr export` wrote; `"auto"` for the best known one that is in
            the Hub's cache or can be downloaded; `None` or `"embedded"` for the small one that comes with this package, which
            has seen few real places. The model is of this package, or a vision model of transformers, such as
            `"facebook/dinov2-small"`. Model objects may come from `AutoModel` with `trust_remote_code=True`, and
            may be quantised, wrapped by PEFT (a copy with merged adapters runs), or by `torch.compile` (the model inside
            runs; `backend="torch-compiled"` compiles it). An object with the attributes and methods of [`DescriptorModel`] runs
            unchanged; arguments about the network have no effect on it.
        processor: The image processor; `None` for the one that belongs to the model. Required with a model object of this
            package. For a model of transformers, its image processor or a `Preprocessing`.
        device: Device that runs the network, such as `"cuda"`; `None` for a GPU if there is one, otherwise the CPU.
        batch_size: Number of photos that the network processes at once. It changes descriptors only by rounding, unless the
            model has a cross-image encoder.
        cross_image_encoder: Whether the model's cross-image encoder is used; `False` removes it from the model, `None` leaves
            the model unchanged.
        num_workers: Number of threads that decode and preprocess (Pillow and torch release the interpreter while they work).
        backend: The name of the backend that runs the network; see [`d2vpr_hf.backends.registry.open_backend`].
        precision: Number type of the network's products: `"fp32"`, `"bf16"`, `"fp16"` or `"int8"`, if the backend has it;
            `None` for the type of the model's weights, but for `"bf16"` on a GPU that is faster in it; see
            [`d2vpr_hf.backends.registry.default_precision`].
        revision: Branch, tag or commit of a model on the Hub; `None` for its main branch.
        pool, layer, center_crop: The way to compute descriptors by a model that leaves it open; see [`ModelOptions`].
        image_size: Height and width in pixels that photos are resized to; one number means a square. `None` for the size in the
            model's preprocessing.
        keep_aspect: Whether photos keep their aspect: the shorter side becomes `image_size`, its smaller number; see
            [`ModelOptions`].
        test_time: Form of queries, the photos of [`encode_queries`]: `"resize"`, `"five-crops"` or `"nearest-crop"`; see
            [`ModelOptions`].
        dim: Number of the first numbers of each descriptor to take, divided by their length; `None` for all.
        resize_on_gpu: Whether a GPU resizes photos, so that the threads only decode them. It changes pixel values by rounding:
            the first photos of several sizes are compared with the CPU, which resizes all if they differ by more than 0.001.
            Only for models of this package on a GPU that resize photos to one size, and not for crops of queries.

    Attributes:
        descriptor_model: The model with its preprocessing, a [`DescriptorModel`].
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        device: Any = None,
        batch_size: int = 16,
        num_workers: int = 2,
        cross_image_encoder: bool | None = None,
        backend: str = "torch",
        precision: str | None = None,
        revision: str | None = None,
        pool: Pool | None = None,
        image_size: tuple[int, int] | int | None = None,
        layer: Layer | None = None,
        center_crop: bool = False,
        keep_aspect: bool = False,
        test_time: TestTime = DEFAULT_TEST_TIME,
        dim: int | None = None,
        resize_on_gpu: bool = False,
    ) -> None:
        check_backend(backend, precision)
        if batch_size < 1 or num_workers < 1:
            raise ValueError(f"batch_size and num_workers must be at least 1, got {batch_size} and {num_workers}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        with offline_if_unreachable(model, revision):
            self.descriptor_model: DescriptorModel = open_model(
                model,
                processor,
                device=device,
                backend=backend,
                precision=precision,
                revision=revision,
                options=ModelOptions(pool, image_size, layer, center_crop, keep_aspect, test_time, dim),  # type: ignore[arg-type] # one number is a square
            )
            self._warn_of_untrained_parts()
        self._is_checked = self.descriptor_model is not model or self.depends_on_batch
        if cross_image_encoder is False and self.depends_on_batch:
            self.model.remove_cross_image_encoder()
        if cross_image_encoder and not self.depends_on_batch:
            raise ValueError(f"The model {self.model_name or 'in this package'} has no cross-image encoder to use.")
        if self.depends_on_batch:
            logger.warning(
                "This model has a cross-image encoder, or mixes photos otherwise: a photo's descriptor depends on the other "
                "photos of its batch and on batch_size (%d), and a query encoded alone gets another descriptor than among "
                "others. Use a model without it where descriptors must be comparable.",
                batch_size,
            )
        self._check_test_time()
        self.resize_on_gpu = resize_on_gpu
        if resize_on_gpu and not (self._has_own("start_describing_bytes") and self._attribute("can_resize_on_gpu")):
            raise ValueError(
                "`resize_on_gpu=True` needs a model of this package that torch runs on a GPU and that resizes photos to one "
                f"size, got {self.model_name or 'another model'} on {self.device_type}. Omit it."
            )

    def _check_test_time(self) -> None:
        """Check that the model can encode queries in their form.

        Raises:
            ValueError: If it cannot.
        """
        if self.test_time == DEFAULT_TEST_TIME:
            return
        name = self.model_name or "This model"
        if self.depends_on_batch:
            raise ValueError(
                f"{name} mixes the photos of a batch, so that the crops of a query would change each other. Give "
                "`cross_image_encoder=False`, or leave `test_time` out."
            )
        if getattr(self.descriptor_model, "crop_side", None) is None:
            raise ValueError(
                f"{name} has no size of square crops for `test_time={self.test_time!r}`: its input size depends on the "
                "photo, or is fixed and not square. Give `image_size`, or leave `test_time` out."
            )

    @classmethod
    def for_index(cls, index: "PlaceIndex", model: str | Path | None = None, **options: Any) -> Self:
        """Load the model that an index was built with; a model from the Hub in the revision that the index records.

        Args:
            index: The index.
            model: Folder or Hub id of a model to load instead, such as one that was moved; `None` for that of the index, as
                also `"auto"` if that may be its choice.
            options: Other arguments of the encoder; by default the batch size is that of the index, and the way to compute
                descriptors, such as `pool`, the one that the index records.

        Raises:
            ValueError: If the index holds descriptors that another program made, and no model is given; or if it names a model
                of the Hub that is not in the cache, and that was never given as `model` on this machine.
        """
        settings = index.settings
        confirm_if_on_hub(model)
        if model is None:
            settings.check_has_model()
        defaults: dict[str, Any] = {} if settings.batch_size is None else {"batch_size": settings.batch_size}
        if model == AUTOMATIC and is_candidate(settings.model_name):
            model = None  # the best model may have changed since
        is_recorded = model in (None, settings.model_name)
        if is_recorded:
            model = settings.model_name
            defaults["revision"] = settings.model_revision
        revision = (defaults | options).get("revision")
        with cached_if_unconfirmed(model, revision), offline_if_unreachable(model, revision):
            if settings.model_options:
                recorded = ModelOptions.from_dict(settings.model_options)
                accepted: Collection[str] = settings.model_options
                if _is_compatible(model, options.get("revision"), settings.fingerprint, recorded.dim):
                    accepted = ("dim",)  # it has its own way to compute descriptors
                elif not is_recorded and model is not None:
                    accepted = accepted_options(model, options.get("revision"))
                defaults |= {name: getattr(recorded, name) for name in settings.model_options if name in accepted}
            encoder = cls(model, **defaults | options)
        if is_recorded and not options.keys() & {"backend", "precision"} and hasattr(encoder.descriptor_model, "keep_runtime"):
            encoder.descriptor_model.keep_runtime(settings.runtime)
        return encoder

    @property
    def model_name(self) -> str | None:
        """Folder (absolute) or Hub id that the model can be loaded from again; `None` for a model that was never saved.

        It is `"embedded"` for the model in this package.
        """
        return self.descriptor_model.model_name

    @property
    def model_revision(self) -> str | None:
        """The commit of the model on the Hub; `None` for other models, and for model objects."""
        return self.descriptor_model.model_revision

    @property
    def model_options(self) -> dict[str, Any]:
        """The options to load the model with again, as of [`ModelOptions.to_dict`]; empty if it has none."""
        return self.descriptor_model.model_options

    @property
    def facts(self) -> ModelFacts:
        """Title, licence and origin of the model."""
        return self.descriptor_model.facts

    @property
    def model(self) -> Any:
        """The model with its weights.

        Raises:
            ValueError: If it was exported: a graph has no weights.
        """
        return self._attribute("model")

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._attribute("config")

    @property
    def processor(self) -> Any:
        """The image processor of a model of this package."""
        return self._attribute("processor")

    @property
    def device(self) -> Any:
        """The device that the network runs on."""
        return self._attribute("device")

    @property
    def device_type(self) -> str:
        """Type of the device that the network runs on, such as `"cpu"`."""
        return self.descriptor_model.device_type

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self.descriptor_model.descriptor_dim

    @property
    def projection_dim(self) -> int | None:
        """Width that the model's projection reduces descriptors to; `None` without a projection."""
        return self.descriptor_model.projection_dim

    @property
    def depends_on_batch(self) -> bool:
        """Whether a descriptor depends on the other photos of its batch, as with a cross-image encoder."""
        return self.descriptor_model.depends_on_batch

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if these depend on the photo."""
        return self.descriptor_model.input_size

    @property
    def shorter_side(self) -> int | None:
        """Length of the shorter side of photos that keep their aspect; `None` if they do not."""
        return getattr(self.descriptor_model, "shorter_side", None)

    @property
    def test_time(self) -> TestTime:
        """Form of queries; see [`encode_queries`]."""
        form: TestTime = self.model_options.get("test_time", DEFAULT_TEST_TIME)
        return form

    @property
    def fingerprint(self) -> str:
        """Hash of everything that descriptors of database photos depend on: weights, configuration and preprocessing."""
        return self.descriptor_model.fingerprint

    @property
    def compatible_with(self) -> tuple[str, ...]:
        """Fingerprints of models whose indexes this model can search, because distillation gave it their space."""
        return tuple(getattr(self.descriptor_model, "compatible_with", ()))

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, such as `Runtime("torch", "fp32")`, without opening the backend."""
        return self.descriptor_model.runtime

    @property
    def backend(self) -> Any:
        """The backend that runs the network, with the weights that the model has at the first use; see `reopen_backend`."""
        return self._attribute("backend")

    def reopen_backend(self) -> None:
        """Close the backend, so that the next photos are encoded with the weights that the model has then."""
        self._attribute("reopen_backend")()

    def _attribute(self, name: str) -> Any:
        """Return an attribute that only some models have.

        Raises:
            AttributeError: If this model does not have it.
        """
        return getattr(self.descriptor_model, name)

    def encode(
        self,
        photos: Any,
        progress: Progress | None = None,
        *,
        order: Sequence[int] | None = None,
        on_batch: ReceiveBatch | None = None,
    ) -> EncodedPhotos:
        """Encode photos.

        Args:
            photos: Paths, URLs, contents of files (`bytes`), PIL images, numpy arrays or tensors, or functions that return one
                of these and are called in the threads. They are taken one by one, no further ahead than the threads need.
                One photo alone (an array or tensor of up to three axes, too) gives one row.
            progress: Called after each batch with its number of photos, skipped ones included.
            order: The order in which the network processes the photos, a permutation of their positions; `photos` must then be
                a sequence. It matters to models with a cross-image encoder only. The descriptors are returned in the order of
                `photos`.
            on_batch: Called with each batch once its descriptors are computed; its rows are positions in `photos`.

        Raises:
            ValueError: If a descriptor is not finite, zero or of another length, or depends on the other photos of its batch
                though the model does not say so.
        """
        if self.resize_on_gpu:
            prepare = functools.partial(self._attribute("gpu_resizing").read, prepare=self._prepare)
            return self._run(photos, prepare, self._start_bytes, self.descriptor_dim, progress, order, on_batch)
        return self._run(photos, self._prepare, self._start, self.descriptor_dim, progress, order, on_batch)

    def encode_queries(
        self, photos: Any, progress: Progress | None = None, *, order: Sequence[int] | None = None
    ) -> EncodedPhotos:
        """Encode photos as queries, in the form of `test_time`; arguments and errors are those of [`encode`].

        The network processes at most `batch_size` crops at once.

        Returns:
            Descriptors (M, D), or with `test_time="nearest-crop"` (M, 5, D): those of the crops of each photo.
        """
        if self.test_time == DEFAULT_TEST_TIME:
            return self.encode(photos, progress, order=order)
        if self.test_time == "five-crops":
            start = functools.partial(functools.partial, self._describe_means)
            return self._run(photos, self._prepare_crops, start, self.descriptor_dim, progress, order)
        width = NUM_CROPS * self.descriptor_dim
        start = functools.partial(functools.partial, self._describe_crops)
        encoded = self._run(photos, self._prepare_crops, start, width, progress, order)
        return replace(encoded, descriptors=encoded.descriptors.reshape(-1, NUM_CROPS, self.descriptor_dim))

    @property
    def region_boxes(self) -> list[Box] | None:
        """Boxes of the R regions that the model describes, from 0 to 1, the whole photo first; `None` if it has none."""
        return getattr(self.descriptor_model, "region_boxes", None)

    @property
    def holds_regions(self) -> bool:
        """Whether a descriptor is the features of the regions in a row."""
        return self.region_boxes is not None and bool(getattr(self.descriptor_model, "holds_regions", False))

    @property
    def can_encode_regions(self) -> bool:
        """Whether [`encode_regions`] can encode photos."""
        has_regions = self.region_boxes is not None and hasattr(self.descriptor_model, "describe_regions")
        return has_regions and not self.depends_on_batch

    @property
    def region_shape(self) -> tuple[int, int]:
        """R and D of the features of regions, if the model can compute them."""
        return len(self.region_boxes or ()), self._attribute("region_dim")

    def encode_regions(self, photos: Any, progress: Progress | None = None) -> EncodedPhotos:
        """Encode the regions of photos; arguments and errors are those of [`encode`].

        Returns:
            Features (M, R, D) of the regions of each photo, as `descriptors`.

        Raises:
            ValueError: If the model cannot compute regions, or they depend on the other photos of a batch.
        """
        if not self.can_encode_regions:
            raise ValueError(
                f"{self.facts.title} computes no regions or tokens of patches for photos one by one. Use a D²-VPR, a CricaVPR "
                "or a vision transformer of transformers, with its weights and without a cross-image encoder."
            )
        num_regions, width = self.region_shape
        start = functools.partial(functools.partial, self._describe_regions)
        encoded = self._run(photos, self._prepare, start, num_regions * width, progress, None)
        return replace(encoded, descriptors=encoded.descriptors.reshape(-1, num_regions, width))

    def _describe_regions(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features (B, R * D) of the regions of pixel values (B, 3, height, width)."""
        features: NDArray[np.float32] = self._attribute("describe_regions")(pixel_values)
        return features.reshape(len(features), -1)  # (B, R, D) -> (B, R * D)

    def _run(
        self,
        photos: Any,
        prepare: Callable[[Any], NDArray[Any]],
        start: Callable[[Any], Finish],
        width: int,
        progress: Progress | None,
        order: Sequence[int] | None,
        on_batch: ReceiveBatch | None = None,
    ) -> EncodedPhotos:
        """Encode photos.

        Args:
            photos: As for [`encode`].
            prepare: Returns the pixel values of an image, or with `start=self._start_bytes` its bytes.
            start: Starts to describe stacked pixel values of photos; returns a function that waits for descriptors (B, width).
            width: Numbers of the descriptors of a photo.
            progress: As for [`encode`].
            order: As for [`encode`].
            on_batch: As for [`encode`].
        """
        photos = [photos] if is_one_photo(photos) else photos
        names: dict[int, str] = {}
        stream = photos if order is not None else _note_names(photos, names)
        # a batch of a model that mixes photos has the photos in their order, whatever their sizes
        mixes_sizes = self.input_size is None and not self.depends_on_batch
        takes_bytes = start == self._start_bytes
        run = EncodingRun(
            start,
            width,
            operator.length_hint(photos),
            SizeGroups(
                self.batch_size,
                _WAITING_BATCHES * self.batch_size if mixes_sizes else 0,
                list if takes_bytes else self._stack,
                is_one_size=takes_bytes,
            ),
            names.get if order is None else lambda row: _name_of(photos[row]),
            on_batch,
            progress,
            num_ahead=1 if self._starts_ahead else 0,
        )
        preprocess = functools.partial(self._preprocess, prepare=prepare)
        for batch in preprocess_ahead(
            stream, preprocess, batch_size=self.batch_size, num_workers=self.num_workers, order=order
        ):
            for row in run.add(batch):
                names.pop(row, None)
        return run.finish()

    def _prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image."""
        return read_pixels(self.descriptor_model.prepare(image))

    def _prepare_crops(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (5, 3, height, width) of the crops of an image."""
        return np.stack([read_pixels(crop) for crop in self._attribute("prepare_crops")(image)])

    @property
    def _starts_ahead(self) -> bool:
        """Whether a GPU describes a batch while the next one is formed."""
        return self.device_type == "cuda" and self._has_own("start_describing")

    def _has_own(self, name: str) -> bool:
        """Return whether the model's class has a method: a wrapper also passes on those of its model, without its change."""
        return hasattr(type(self.descriptor_model), name)

    @property
    def _stack(self) -> Stack:
        if not self._starts_ahead:
            return np.stack
        from d2vpr_hf.backends.gpu_streams import stack_pinned

        return stack_pinned

    def _start(self, pixel_values: NDArray[np.float32]) -> Finish:
        """Start to describe pixel values (B, 3, height, width); return a function that waits for descriptors (B, D).

        Where the model computes on the CPU, that function computes them.
        """
        if not self._starts_ahead:
            return functools.partial(self._describe, pixel_values)
        finish = self._attribute("start_describing")(pixel_values)
        return lambda: self._checked(pixel_values, self._read(finish(), len(pixel_values)))

    def _start_bytes(self, photos: list[NDArray[Any]]) -> Finish:
        """Start to resize and describe photos, bytes (3, h, w); return a function that waits for descriptors (B, D)."""
        finish = self._attribute("start_describing_bytes")(photos)
        return lambda: self._read(finish(), len(photos))

    def _describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the descriptors (B, D) of pixel values (B, 3, height, width), after checks of their form."""
        return self._checked(pixel_values, self._describe_unchecked(pixel_values))

    def _checked(self, pixel_values: NDArray[np.float32], described: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors (B, D) after a check of their dependence on the batch."""
        self._check_independence(pixel_values, described)
        return described

    def _describe_unchecked(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the descriptors (B, D) without a check of their dependence on the batch."""
        return self._read(self.descriptor_model.describe(pixel_values), len(pixel_values))

    def _read(self, described: Any, count: int) -> NDArray[np.float32]:
        """Return the descriptors (B, D) that the model gave for a number of photos, after checks of their form."""
        shape = (count, self.descriptor_dim)
        return read_descriptors(described, shape, is_projected=self.projection_dim is not None)

    def _describe_crops(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the descriptors (B, 5 * D) of crops (B, 5, 3, height, width)."""
        crops = pixel_values.reshape(-1, *pixel_values.shape[2:])  # (B, 5, 3, H, W) -> (B * 5, 3, H, W)
        starts = range(0, len(crops), self.batch_size)
        described = np.concatenate([self._describe(crops[start : start + self.batch_size]) for start in starts])
        return described.reshape(len(pixel_values), -1)  # (B * 5, D) -> (B, 5 * D)

    def _describe_means(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean descriptors (B, D) of crops (B, 5, 3, height, width)."""
        return mean_of_crops(self._describe_crops(pixel_values).reshape(len(pixel_values), NUM_CROPS, -1))

    def _check_independence(self, pixel_values: NDArray[np.float32], described: NDArray[np.float32]) -> None:
        """Compare the first batch with different photos with photos alone, if the model is an object of other code.

        Raises:
            ValueError: If descriptors depend on the batch.
        """
        if self._is_checked:
            return
        accepted = _ACCEPTED_DIFFERENCE if self.runtime.precision == "fp32" else _ACCEPTED_IN_HALF
        difference = check_independence(self._describe_unchecked, pixel_values, described, accepted)
        if difference:
            raise ValueError(
                f"The descriptor of a photo by this model changes by {difference:.2g} of its length with the other photos of "
                "its batch, but `depends_on_batch` of the model is false. Correct one of them: such descriptors are comparable "
                "only within a batch."
            )
        self._is_checked = difference is not None

    @property
    def _decoding_size(self) -> tuple[int, int] | None:
        return getattr(self.descriptor_model, "decoding_size", self.input_size)

    def _warn_of_untrained_parts(self) -> None:
        warn_of_untrained_parts(self.model_name or "of this encoder", self.facts.untrained_parts)

    def _preprocess(self, photo: Any, prepare: Callable[[Any], NDArray[np.float32]]) -> Preprocessed:
        """Return the pixel values of a photo that `prepare` gives, or the reason why it cannot be read."""
        photo = photo() if callable(photo) else photo
        try:
            image = open_photo(photo, self._decoding_size) if isinstance(photo, PhotoSource) else photo
        except UnreadablePhotoError as error:
            return str(error)
        try:
            pixel_values = prepare(image)
        except UnfitImageError as error:
            return str(error)
        is_corrected = getattr(image, "info", {}).get(photo_modes.OWN_RANGE, False)
        return CorrectedPixels(pixel_values, SCALED_BY_OWN_RANGE) if is_corrected else pixel_values


def _is_compatible(model: Any, revision: str | None, fingerprint: str, dim: int | None) -> bool:
    """Return whether a model states that it is compatible with another one, or with its first `dim` numbers."""
    stated = stored_config(model, revision).get("compatible_with") if isinstance(model, str | Path) else None
    if not isinstance(stated, list):
        return False
    return fingerprint in (stated if dim is None else [prefix_fingerprint(whole, dim) for whole in stated])


def _note_names(photos: Iterable[Any], names: dict[int, str]) -> Iterator[Any]:
    """Yield photos unchanged, and store the names of those that have one by their positions."""
    for row, photo in enumerate(photos):
        name = _name_of(photo)
        if name is not None:
            names[row] = name
        yield photo


def _name_of(photo: Any) -> str | None:
    """Return the path or address of a photo, or the path of its place; `None` for other photos."""
    if isinstance(photo, str | Path):
        return str(photo)
    place = getattr(photo, "place", None)  # of a photo that is being indexed
    return None if place is None else str(place.path)


def is_one_photo(photos: Any) -> bool:
    """Return whether an argument is one photo: a path would be read letter by letter, an array row by row."""
    if hasattr(photos, "ndim"):  # an array or a tensor
        return bool(photos.ndim <= 3)
    return isinstance(photos, PhotoSource | bytearray | Image.Image) or callable(photos)
