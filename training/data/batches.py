"""From places to batches of pixels: decoded, resized and augmented by worker processes, ahead of the network."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image, Resampling
from torch.utils.data import DataLoader, Dataset

from d2vpr_hf.gridtown import Labels
from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb
from d2vpr_hf.training.data.augmentation import RandAugment
from d2vpr_hf.training.data.place_photos import PlacePhotos
from d2vpr_hf.training.data.place_sampler import LocalBatches
from d2vpr_hf.training.random_streams import Purpose, make_rng

NO_AUGMENTATION = RandAugment(0)


class PlaceBatch(NamedTuple):
    """P places of K photos each, B = P * K, photos of one place side by side.

    Attributes:
        pixels: (B, 3, height, width) uint8 RGB, augmented.
        place_ids: (B,) int64.
        unreadable: Photos that could not be read and gave way to others, with the reason.
        labels: Of the photos, if the data set has any.
    """

    pixels: torch.Tensor
    place_ids: torch.Tensor
    unreadable: list[str]
    labels: Labels | None = None


@dataclass(frozen=True)
class PlaceDataset(Dataset[PlaceBatch]):
    """Photos of places, chosen and augmented anew in each epoch.

    What is drawn for a photo depends on seed, epoch and photo only: not on the worker, the process or the batch.

    Attributes:
        photos: Where photos come from.
        images_per_place: K.
        image_size: Height and width in pixels.
        resample: How photos are resized.
        augment: What is done to them afterwards.
        seed: What everything is drawn from.
    """

    photos: PlacePhotos
    images_per_place: int
    image_size: tuple[int, int]
    resample: Resampling = Resampling.BILINEAR
    augment: RandAugment = NO_AUGMENTATION
    seed: int = 0

    def __getitem__(self, index: tuple[int, int]) -> PlaceBatch:
        """Give one place, by its epoch and id."""
        epoch, place = index
        rng = make_rng(Purpose.WHICH_PHOTOS, self.seed, epoch, place)
        shots, unreadable = self.photos.take(place, self.images_per_place, rng)
        pixels = torch.stack([self._prepare(shot.image, epoch, shot.key) for shot in shots])
        labels = _join_labels([shot.labels for shot in shots], torch.stack)
        return PlaceBatch(pixels, torch.full((len(shots),), place), unreadable, labels)

    def _prepare(self, image: Image, epoch: int, key: tuple[int, ...]) -> torch.Tensor:
        """Bring a photo to its size, augmented: (3, height, width) uint8."""
        height, width = self.image_size
        if image.size != (width, height):
            image = image.resize((width, height), self.resample)
        return pil_to_rgb(self.augment(image, make_rng(Purpose.AUGMENTATION, self.seed, epoch, *key)))


def load_batches(dataset: PlaceDataset, batches: LocalBatches, num_workers: int, pin_memory: bool) -> DataLoader[PlaceBatch]:
    """Load batches in order, each by one of `num_workers` processes (0: by this one), ahead of their use.

    Nothing is drawn from torch's global generator, so that loading has no part in what a network draws.
    """
    return _UndisturbedLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=join_places,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=_begin_worker,
    )


class _UndisturbedLoader(DataLoader[PlaceBatch]):
    """Starts its processes so that SIGTERM, which may be sent to them all, finds none of them unprepared."""

    def __iter__(self):  # type: ignore[no-untyped-def] # torch's iterators are private
        with _sigterm_held_back():
            return super().__iter__()


@contextlib.contextmanager
def _sigterm_held_back() -> Iterator[None]:
    """Let SIGTERM wait until the end of the block; in processes that start within it waits for good."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no such signal
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def join_places(places: Sequence[PlaceBatch]) -> PlaceBatch:
    """Join batches of one place or more."""
    pixels, place_ids, unreadable, labels = zip(*places, strict=True)
    every = [photo for photos in unreadable for photo in photos]
    return PlaceBatch(torch.cat(pixels), torch.cat(place_ids), every, _join_labels(labels, torch.cat))


def _join_labels(labels: Sequence[Labels | None], join: Callable[[tuple[torch.Tensor, ...]], torch.Tensor]) -> Labels | None:
    """Join labels part by part; none where there are none."""
    given = [one for one in labels if one is not None]
    return Labels(*(join(parts) for parts in zip(*given, strict=True))) if given else None


def _begin_worker(worker: int) -> None:
    """Use one thread, and leave SIGTERM to the training process, which still needs its batch; workers end when it does."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
