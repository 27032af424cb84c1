"""Batches of pixels: photos of places, decoded, resized and augmented by worker processes ahead of the network."""

import signal
from collections.abc import Callable, Sequence
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
from d2vpr_hf.utils.interrupts import SIGNALS, blocked_signals

NO_AUGMENTATION = RandAugment(0)


class PlaceBatch(NamedTuple):
    """P places with K photos each, B = P * K. The photos of a place are consecutive.

    Attributes:
        pixels: (B, 3, height, width) uint8 RGB, augmented.
        place_ids: (B,) int64.
        skipped: Photos that could not be read, with the reason. Other photos of their places replace them.
        labels: Labels of the photos, if the data set has any.
    """

    pixels: torch.Tensor
    place_ids: torch.Tensor
    skipped: list[str]
    labels: Labels | None = None


@dataclass(frozen=True)
class PlaceDataset(Dataset[PlaceBatch]):
    """Photos of places; each epoch draws its own photos and augmentation.

    The random numbers of a photo depend only on seed, epoch and photo, not on the worker, the process or the batch.

    Attributes:
        photos: Source of the photos.
        images_per_place: K.
        image_size: Height and width in pixels.
        resample: Interpolation that resizes photos.
        augment: Augmentation, applied after resizing.
        seed: Seed of the choice of photos and of the augmentation.
    """

    photos: PlacePhotos
    images_per_place: int
    image_size: tuple[int, int]
    resample: Resampling = Resampling.BILINEAR
    augment: RandAugment = NO_AUGMENTATION
    seed: int = 0

    def __getitem__(self, index: tuple[int, int]) -> PlaceBatch:
        """Return the photos of a place, given as (epoch, place id)."""
        epoch, place = index
        rng = make_rng(Purpose.WHICH_PHOTOS, self.seed, epoch, place)
        shots, skipped = self.photos.take(place, self.images_per_place, rng)
        pixels = torch.stack([self._prepare(shot.image, epoch, shot.key) for shot in shots])
        labels = _join_labels([shot.labels for shot in shots], torch.stack)
        return PlaceBatch(pixels, torch.full((len(shots),), place), skipped, labels)

    def _prepare(self, image: Image, epoch: int, key: tuple[int, ...]) -> torch.Tensor:
        """Resize and augment a photo: (3, height, width) uint8."""
        height, width = self.image_size
        if image.size != (width, height):
            image = image.resize((width, height), self.resample)
        return pil_to_rgb(self.augment(image, make_rng(Purpose.AUGMENTATION, self.seed, epoch, *key)))


def load_batches(dataset: PlaceDataset, batches: LocalBatches, num_workers: int, pin_memory: bool) -> DataLoader[PlaceBatch]:
    """Make a loader of batches in order. Worker processes load them ahead of their use.

    The loader draws nothing from torch's global generator, so that the network's dropout does not depend on it.

    Args:
        dataset: Photos of places.
        batches: Places of each batch.
        num_workers: Number of worker processes; 0 loads in this process.
        pin_memory: Whether batches are put into pinned memory, for a faster copy to a GPU.
    """
    return _SignalSafeLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=join_places,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=_begin_worker,
    )


class _SignalSafeLoader(DataLoader[PlaceBatch]):
    """Block SIGINT and SIGTERM while workers start: until `_begin_worker` ignores a signal, it would end a worker."""

    def __iter__(self):  # type: ignore[no-untyped-def] # torch's iterators are private
        with blocked_signals():
            return super().__iter__()


def join_places(places: Sequence[PlaceBatch]) -> PlaceBatch:
    """Join batches, each of one or more places, into one batch."""
    pixels, place_ids, skipped, labels = zip(*places, strict=True)
    all_skipped = [photo for photos in skipped for photo in photos]
    return PlaceBatch(torch.cat(pixels), torch.cat(place_ids), all_skipped, _join_labels(labels, torch.cat))


def _join_labels(labels: Sequence[Labels | None], join: Callable[[tuple[torch.Tensor, ...]], torch.Tensor]) -> Labels | None:
    """Join each field of the labels; `None` without labels."""
    present = [label for label in labels if label is not None]
    return Labels(*(join(tensors) for tensors in zip(*present, strict=True))) if present else None


def _begin_worker(worker: int) -> None:
    """Use one thread, and ignore SIGINT and SIGTERM: the training process needs this worker's batch, and ends the worker."""
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
