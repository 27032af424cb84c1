"""A teacher's targets on disk, for the next run that shows it the same pixels."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from d2vpr_hf.pretrained.teachers import Teacher, TeacherTargets
from d2vpr_hf.utils.atomic_files import store_file


class TargetCache:
    """Remember what a teacher answered, by what it was shown.

    Runs with the same photos, sizes, augmentation and seed show the same pixels at the same step, whatever student they train;
    all but the first one save the teacher's forward passes. Whatever differs is another key, so that a cache may be shared by
    any runs; it is never emptied. An image of N patches takes 4 * ((1 + N) * width + descriptor_dim) bytes: 60 KB at 112x112
    for a teacher 192 wide, 0.83 MB at 224x224 for CricaVPR.

    Args:
        folder: Where to; made if missing.
        teacher: Who answers.
    """

    def __init__(self, folder: Path, teacher: Teacher) -> None:
        self.folder = folder
        self._teacher = _fingerprint(teacher)

    def targets(self, pixel_values: torch.Tensor, ask: Callable[[torch.Tensor], TeacherTargets]) -> TeacherTargets:
        """Give the targets of images that the teacher sees together; ask it if these were not seen before.

        Args:
            pixel_values: Images (B, 3, height, width), float32.
            ask: Gives their targets.

        Raises:
            OSError: If targets cannot be written.
        """
        path = self._path(pixel_values)
        found = _read(path, pixel_values.device)
        if found is None:
            found = ask(pixel_values)
            tensors = {name: target.cpu().contiguous() for name, target in found._asdict().items()}
            store_file(path, lambda scratch: save_file(tensors, scratch))
        return found

    def _path(self, pixel_values: torch.Tensor) -> Path:
        digest = hashlib.blake2b(self._teacher, digest_size=16)
        digest.update(repr((tuple(pixel_values.shape), pixel_values.device.type)).encode())
        digest.update(_bytes(pixel_values))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def _fingerprint(teacher: Teacher) -> bytes:
    """Tell teachers apart: by kind, configuration, weights and their type."""
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
    except (FileNotFoundError, SafetensorError, TypeError):  # not there, or damaged
        return None
