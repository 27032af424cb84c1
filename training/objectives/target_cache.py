"""A teacher's targets on disk, for later runs with the same pixels."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from d2vpr_hf.pretrained.teachers import Teacher, TeacherTargets
from d2vpr_hf.utils.atomic_files import store_file


class TargetCache:
    """A cache of targets, whose keys are digests of the teacher and of the pixels that the teacher sees together.

    Runs with the same photos, image size, augmentation and seed have the same pixels at the same step, whatever student they
    train, so that only the first of them computes the teacher. Any difference gives another key, so that all runs may share a
    cache. Nothing is ever deleted. An image of N patches takes 4 * ((1 + N) * width + descriptor_dim) bytes: 60 KB at 112x112
    for a teacher of width 192, 0.83 MB at 224x224 for CricaVPR.

    Args:
        folder: Folder of the cache; it is created if missing.
        teacher: Teacher whose targets are stored.
    """

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        self.folder = folder
        self._teacher = _fingerprint(teacher)

    def targets(self, pixel_values: torch.Tensor, compute: Callable[[torch.Tensor], TeacherTargets]) -> TeacherTargets:
        """Return the targets of images that the teacher sees together; compute and store them if they are not stored.

        Args:
            pixel_values: Images (B, 3, height, width), float32.
            compute: Computes their targets.

        Raises:
            OSError: If targets cannot be written.
        """
        path = self._path(pixel_values)
        targets = _read(path, pixel_values.device)
        if targets is None:
            targets = compute(pixel_values)
            tensors = {name: target.cpu().contiguous() for name, target in targets._asdict().items()}
            store_file(path, lambda scratch: save_file(tensors, scratch))
        return targets

    def _path(self, pixel_values: torch.Tensor) -> Path:
        digest = hashlib.blake2b(self._teacher, digest_size=16)
        digest.update(repr((tuple(pixel_values.shape), pixel_values.device.type)).encode())
        digest.update(_bytes(pixel_values))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def _fingerprint(teacher: Teacher) -> bytes:
    """Return a digest of a teacher: its class, configuration, weights and their data type."""
    config = teacher.model.config.to_json_string(use_diff=False)
    digest = hashlib.blake2b(f"{type(teacher).__name__} {teacher.depends_on_batch} {config}".encode(), digest_size=16)
    for name, weights in sorted(teacher.state_dict().items()):
        digest.update(f"{name} {weights.dtype}".encode())
        digest.update(_bytes(weights))
    return digest.digest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _read(path: Path, device: torch.device) -> TeacherTargets | None:
    try:
        return TeacherTargets(**load_file(path, device=str(device)))
    except (FileNotFoundError, SafetensorError, TypeError):  # missing or damaged
        return None
