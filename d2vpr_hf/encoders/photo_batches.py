"""Turn photos into batches of pixel values, and batches of descriptors into one array."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.utils.threads import single_core_threads
from d2vpr_hf.utils.unit_length import are_wrong


class CorrectedPixels(NamedTuple):
    """Pixel values (3, height, width) of a photo that were corrected, and the text of a remark on it."""

    pixel_values: NDArray[np.float32]
    correction: str


Preprocessed = NDArray[np.float32] | CorrectedPixels | str  # pixel values (3, height, width), or why a photo cannot be read


def preprocess_ahead(
    photos: Iterable[Any],
    preprocess: Callable[[Any], Preprocessed],
    *,
    batch_size: int,
    num_workers: int,
    order: Sequence[int] | None = None,
) -> Iterator[list[tuple[int, Preprocessed]]]:
    """Yield batches of positions and pixel values of photos, while threads preprocess the next photos.

    Args:
        photos: Taken one by one, at most `batch_size + num_workers` ahead of the photo that is yielded.
        preprocess: Returns the pixel values of a photo, or the reason why it cannot be read; called in threads.
        batch_size: Number of photos in a batch.
        num_workers: Number of threads.
        order: Positions of the photos in the order to process them, if `photos` is a sequence; `None` for the given order.

    Raises:
        TypeError: If `order` is set and `photos` is not a sequence.
    """
    if order is None:
        numbered: Iterable[tuple[int, Any]] = enumerate(photos)
    elif isinstance(photos, Sequence):
        numbered = ((int(row), photos[row]) for row in order)
    else:
        raise TypeError(f"An order needs photos in a sequence, got {type(photos).__name__}.")
    with single_core_threads(num_workers) as pool:
        submitted = ((row, pool.submit(preprocess, photo)) for row, photo in numbered)
        # enough pending photos that no thread waits for the network
        pending: deque[tuple[int, Future[Preprocessed]]] = deque(islice(submitted, batch_size + num_workers))
        batch = []
        try:
            while pending:
                row, future = pending.popleft()
                pending.extend(islice(submitted, 1))
                batch.append((row, future.result()))
                if len(batch) == batch_size:
                    yield batch
                    batch = []
            if batch:
                yield batch
        finally:
            for _, future in pending:  # after an interrupt: the threads finish only the photos that they have begun
                future.cancel()


def read_pixels(pixels: Any) -> NDArray[np.float32]:
    """Return the pixel values (3, height, width) that a model prepared, as float32.

    Raises:
        ValueError: If they are of another form.
    """
    values = _to_array(pixels)
    if values is None or values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(
            f"Expected pixel values (3, height, width) in float32 from `prepare` of the model, got {_describe_value(pixels)}."
        )
    return values


def read_descriptors(described: Any, shape: tuple[int, int], *, is_projected: bool) -> NDArray[np.float32]:
    """Return a copy of the descriptors of a batch as float32, after checks: similarities are products of descriptors.

    It is a copy because a model may use the same memory for each batch. Descriptors that are not finite are not reported here.

    Args:
        described: The descriptors (B, D), an array or a tensor.
        shape: B and D.
        is_projected: Whether they were projected, so that they may be shorter than 1.

    Raises:
        ValueError: If they are of another form, or are not L2-normalised.
    """
    descriptors = _to_array(described)
    if descriptors is None:
        raise ValueError(
            f"Expected descriptors of the shape {shape} in floating-point numbers from the model, got "
            f"{_describe_value(described)}."
        )
    if descriptors.shape != shape:
        raise ValueError(f"Expected descriptors of the shape {shape} from the model, got {descriptors.shape}.")
    lengths = np.linalg.norm(descriptors, axis=1)
    lengths = lengths[np.isfinite(lengths)]
    if not lengths.all():
        raise ValueError("The model gives a descriptor of zeros, which has no direction. Its output or its weights are wrong.")
    wrong = are_wrong(lengths, is_projected=is_projected)
    if wrong.any():
        raise ValueError(
            f"Expected descriptors of unit length from the model, got the length {lengths[wrong][0]:.4g}. Divide each by its "
            "norm."
        )
    return descriptors.copy()


def _to_array(value: Any) -> NDArray[np.float32] | None:
    """Return an array or a tensor of floating-point numbers as float32; `None` for anything else."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().float().numpy(force=True) if value.is_floating_point() else None
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return None
    return value.astype(np.float32, copy=False)


def _describe_value(value: Any) -> str:
    """Return the form of a value for an error."""
    if not hasattr(value, "shape"):
        return f"a value of type {type(value).__name__}"
    return f"the shape {tuple(value.shape)} in {value.dtype}"


def check_independence(
    describe: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pixel_values: NDArray[np.float32],
    descriptors: NDArray[np.float32],
    accepted: float,
) -> float | None:
    """Compare descriptors of a batch with those of photos alone: of the first, and of the last one that differs from it.

    Args:
        describe: Maps pixel values (B, 3, height, width) to descriptors (B, D).
        pixel_values: The batch.
        descriptors: Its descriptors.
        accepted: Largest difference, as a share of a descriptor's length, that rounding explains.

    Returns:
        The difference if it is not accepted, 0 if it is, and `None` for a batch that has one photo only, or equal ones, or
        descriptors that are not finite.
    """
    different = np.flatnonzero((pixel_values != pixel_values[:1]).any(axis=(1, 2, 3)))
    if not len(different) or not np.isfinite(descriptors).all():
        return None
    differences = []
    for row in (0, int(different[-1])):
        alone, expected = describe(pixel_values[row : row + 1])[0], descriptors[row]
        differences.append(float(np.linalg.norm(alone - expected)) / max(float(np.linalg.norm(expected)), 1e-12))
    return 0.0 if max(differences) <= accepted else max(differences)


def check_finite(descriptors: NDArray[np.float32], rows: Sequence[int], names: Mapping[int, str]) -> None:
    """Check that descriptors (B, D) of the photos at the positions `rows` are finite.

    Raises:
        ValueError: With positions and names of photos if they are not.
    """
    broken = ~np.isfinite(descriptors.sum(axis=1))  # a sum is finite only if its terms are, and needs little memory
    if broken.any():
        numbers = [rows[number] for number in np.flatnonzero(broken)[:5]]
        named = ", ".join(names[number] for number in numbers if number in names)
        raise ValueError(
            f"{broken.sum()} descriptors are not finite (photos number {numbers} first){': ' if named else ''}{named}. The "
            "weights are broken, or they overflow in half precision: load the model in float32."
        )


class DescriptorArray:
    """Descriptors (N, D) of photos whose number N need not be known.

    A second copy of the descriptors of a large map may not fit into memory, so they are enlarged and compacted in place.
    """

    def __init__(self, expected_count: int, descriptor_dim: int) -> None:
        self._descriptors = np.empty((expected_count, descriptor_dim), np.float32)

    def store(self, rows: list[int], descriptors: NDArray[np.float32]) -> None:
        """Store the descriptors (B, D) of photos at their positions (B,)."""
        needed, present = max(rows) + 1, len(self._descriptors)
        if needed > present:  # a stream yields more photos than its length promised
            self._descriptors.resize((max(needed, present * 5 // 4), self._descriptors.shape[1]), refcheck=False)
        self._descriptors[rows] = descriptors

    def copy(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the descriptors at the positions `rows` (B,)."""
        return self._descriptors[rows]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the descriptors at the positions `rows` (M,), which ascend; the array cannot be used afterwards."""
        if len(rows) < len(self._descriptors):
            for target, row in enumerate(rows):
                self._descriptors[target] = self._descriptors[row]
        return self._descriptors[: len(rows)]
