"""Batches of pixels: photos of places, decoded, resized and augmented by worker processes ahead of the network."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Resampling
from torch.utils.data import DataLoader, Dataset

from d2vpr_hf.gridtown import Labels
from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb
from d2vpr_hf.training.data.augmentation import Augmentation, RandAugment
from d2vpr_hf.training.data.geometry import CropRange, GeometryDraws, Part, PhotoCutter, PhotoPart
from d2vpr_hf.training.data.place_photos import PlacePhotos, Shot
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
        teacher_pixels: (B, 3, height, width) uint8 RGB, the same parts of the photos in the teacher's size and without
            augmentation; `None` if the teacher sees `pixels`.
        size: Height and width of the network's images, to which `pixels` are resized on the device; `None` for `image_size`.
    """

    pixels: torch.Tensor
    place_ids: torch.Tensor
    skipped: list[str]
    labels: Labels | None = None
    teacher_pixels: torch.Tensor | None = None
    size: tuple[int, int] | None = None


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
        crops: Range of random crops of photos without a cutter of their own; `None` for whole photos.
        crop_cycle: Number of epochs after which crops and views repeat; 0 draws new ones in each epoch.
        teacher_size: Height and width of `teacher_pixels`; `None` for none.
    """

    photos: PlacePhotos
    images_per_place: int
    image_size: tuple[int, int]
    resample: Resampling = Resampling.BILINEAR
    augment: Augmentation = NO_AUGMENTATION
    seed: int = 0
    crops: CropRange | None = None
    crop_cycle: int = 0
    teacher_size: tuple[int, int] | None = None

    def __getitem__(self, index: tuple[int, int]) -> PlaceBatch:
        """Return the photos of a place, given as (epoch, place id)."""
        epoch, place = index
        rng = make_rng(Purpose.WHICH_PHOTOS, self.seed, epoch, place)
        shots, skipped = self.photos.take(place, self.images_per_place, rng)
        place_ids = torch.tensor([place if shot.place is None else shot.place for shot in shots])
        parts = [self._cut(shot, epoch, place_id) for shot, place_id in zip(shots, place_ids.tolist(), strict=True)]
        pixels = torch.stack([self._prepare(part, epoch, shot.key) for part, shot in zip(parts, shots, strict=True)])
        labels = _join_labels([shot.labels for shot in shots], torch.stack)
        return PlaceBatch(pixels, place_ids, skipped, labels, self._teacher_pixels(parts))

    def _cut(self, shot: Shot, epoch: int, place: int) -> Part:
        """Draw the part of a photo that is trained on."""
        cutter = shot.cutter or (None if self.crops is None else PhotoCutter(shot.image, self.crops))
        if cutter is None:
            return PhotoPart(shot.image)
        return cutter.cut(place, shot.key, GeometryDraws(self.seed, epoch % self.crop_cycle if self.crop_cycle else epoch))

    def _prepare(self, part: Part, epoch: int, key: tuple[int, ...]) -> torch.Tensor:
        """Resize and augment a part of a photo: (3, height, width) uint8."""
        image = part.resize(self.image_size, self.resample)
        return pil_to_rgb(self.augment(image, make_rng(Purpose.AUGMENTATION, self.seed, epoch, *key)))

    def _teacher_pixels(self, parts: Sequence[Part]) -> torch.Tensor | None:
        """Resize the parts for the teacher: (K, 3, height, width) uint8."""
        if self.teacher_size is None:
            return None
        return torch.stack([pil_to_rgb(part.resize(self.teacher_size, self.resample)) for part in parts])


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
    pixels, place_ids, skipped, labels, teacher_pixels, _ = zip(*places, strict=True)
    all_skipped = [photo for photos in skipped for photo in photos]
    for_teacher = None if teacher_pixels[0] is None else torch.cat(teacher_pixels)
    return PlaceBatch(torch.cat(pixels), torch.cat(place_ids), all_skipped, _join_labels(labels, torch.cat), for_teacher)


def _join_labels(labels: Sequence[Labels | None], join: Callable[[tuple[torch.Tensor, ...]], torch.Tensor]) -> Labels | None:
    """Join each field of the labels; `None` without labels."""
    present = [label for label in labels if label is not None]
    return Labels(*(join(tensors) for tensors in zip(*present, strict=True))) if present else None


def _begin_worker(worker: int) -> None:
    """Use one thread, and ignore SIGINT and SIGTERM: the training process needs this worker's batch, and ends the worker."""
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
