"""A teacher's targets on disk, for later steps and runs with the same pixels."""

import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file

from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.pretrained.teachers import Teacher, TeacherTargets
from d2vpr_hf.utils.atomic_files import TEMPORARY, store_file, write_file
from d2vpr_hf.utils.threads import map_on_cores


class TargetCache:
    """A cache of targets, whose keys are digests of the teacher and of the pixels that determine a target.

    Targets that depend on the batch are stored for each group of images that the teacher sees together, other targets for each
    image. So any step of any run with the same pixels finds them, whatever student it trains: later runs with the same
    photos, image size, augmentation and seed; and later epochs, if a photo has the same pixels again. Any difference gives
    another key, so that all runs may share a cache. Nothing is ever deleted. An image of N patches takes
    4 * ((1 + N) * width + descriptor_dim) bytes: 60 KB at 112x112 for a teacher of width 192, 0.83 MB at 224x224 for CricaVPR.

    Args:
        folder: Folder of the cache; it is created if missing.
        teacher: Teacher whose targets are stored; it must not change after the first targets.
    """

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        self.folder = folder
        self._teacher = teacher

    def targets(
        self, images: torch.Tensor, grid_size: GridSize | None, compute: Callable[[torch.Tensor], TeacherTargets]
    ) -> TeacherTargets:
        """Return the targets of images that the teacher sees together; compute and store those that are not stored.

        Args:
            images: Images (B, 3, height, width), float32 or bytes.
            grid_size: Rows and columns of the tokens.
            compute: Computes the targets of images.

        Raises:
            OSError: If targets cannot be written.
        """
        if self._teacher.depends_on_batch:
            return self._group_targets(images, compute)
        kind = repr((tuple(images.shape[1:]), str(images.dtype), grid_size, self._device.type)).encode()
        rows = list(images.cpu())
        paths = map_on_cores(lambda image: self._path(kind, _bytes(image)), rows)  # hashing runs without Python's lock
        stored = [_read_image(path) for path in paths]
        missing = [row for row, targets in enumerate(stored) if targets is None]
        if missing:
            computed = compute(images[missing])
            tokens, descriptors = (target.cpu() for target in computed)
            for number, row in enumerate(missing):
                stored[row] = TeacherTargets(tokens[number], descriptors[number])
                _write_image(paths[row], tokens[number], descriptors[number])
        joined = (torch.stack(parts).to(self._device) for parts in zip(*filter(None, stored), strict=True))
        return TeacherTargets(*joined)

    def _group_targets(self, pixel_values: torch.Tensor, compute: Callable[[torch.Tensor], TeacherTargets]) -> TeacherTargets:
        kind = repr((tuple(pixel_values.shape), pixel_values.device.type)).encode()
        path = self._path(kind, _bytes(pixel_values))
        targets = _read_group(path, pixel_values.device)
        if targets is None:
            targets = compute(pixel_values)
            tensors = {name: target.cpu().contiguous() for name, target in targets._asdict().items()}
            store_file(path, lambda scratch: save_file(tensors, scratch))
        return targets

    @property
    def _device(self) -> torch.device:
        return self._teacher.device

    @functools.cached_property
    def _fingerprint(self) -> bytes:
        """A digest of the teacher: its class, configuration, settings, weights and their data type."""
        teacher = self._teacher
        text = f"{type(teacher).__name__} {teacher.depends_on_batch} {teacher.identity}"
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for name, weights in sorted(teacher.state_dict().items()):
            digest.update(f"{name} {weights.dtype}".encode())
            digest.update(_bytes(weights))
        return digest.digest()

    def _path(self, kind: bytes, pixels: memoryview) -> Path:
        digest = hashlib.blake2b(self._fingerprint, digest_size=16)
        digest.update(kind)
        digest.update(pixels)
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read_group(path: Path, device: torch.device) -> TeacherTargets | None:
    """Return the targets in a file; `None` if it is missing or damaged."""
    try:
        return TeacherTargets(**load_file(path, device=str(device)))
    except (FileNotFoundError, SafetensorError, TypeError):
        return None


def _read_image(path: Path) -> TeacherTargets | None:
    """Return the targets of one image, on the CPU; `None` if its file is missing or damaged."""
    try:
        return TeacherTargets(**load(path.read_bytes()))
    except (FileNotFoundError, SafetensorError, TypeError):
        return None


def _write_image(path: Path, tokens: torch.Tensor, descriptor: torch.Tensor) -> None:
    """Write the targets of one image, completely or not at all.

    Nothing waits for the disk, because an image takes microseconds without it. If a machine loses its power, remove the folder:
    a file may then have the right length and zeros in it.
    """
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(scratch, save({"tokens": tokens.contiguous(), "descriptors": descriptor.contiguous()}))
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(f"The teacher's targets could not be stored in {path.parent}: {error}. Free some disk space.") from error
