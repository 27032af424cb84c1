"""Checkpoints to resume from: each is a folder that appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

_PREFIX = "step-"
_STATE = "run_state.json"
_WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk, in the words of Python, torch and safetensors


@dataclass
class RunState:
    """Where a run stands, besides weights, optimiser, scaler and random numbers.

    Attributes:
        step: Steps done.
        best: Best value of what the best model is chosen by; `None` before the first validation.
        best_step: Step of it.
        worse_in_a_row: Validations since.
        num_processes: How many processes train; another number cannot go on bit for bit.
        unreadable_photos: Photos so far that could not be read and gave way to others.
        images_seen: Images so far.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0
    num_processes: int = 1
    unreadable_photos: int = 0
    images_seen: int = 0


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Where they lie, `step-00000500` and so on.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint; half-written ones have other names."""
        return max(self.folder.glob(f"{_PREFIX}*"), default=None)

    def save(self, accelerator: Accelerator, state: RunState) -> None:
        """Write a checkpoint; all processes must call it.

        Raises:
            OSError: If it cannot be written, as on a full disk. Older checkpoints are left as they are.
        """
        place = self.folder / f"{_PREFIX}{state.step:08d}"
        scratch = self.folder / f".{place.name}.writing"
        try:
            on_main(accelerator, lambda: make_empty(scratch))
            accelerator.save_state(str(scratch))
            accelerator.wait_for_everyone()
            on_main(accelerator, lambda: self._commit(scratch, place, state))
        except _WRITING_ERRORS as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise OSError(f"The checkpoint of step {state.step} could not be written: {error}. {self._advice()}") from error

    def load(self, accelerator: Accelerator, checkpoint: Path) -> RunState:
        """Restore a checkpoint into what the accelerator has prepared.

        Raises:
            ValueError: If the checkpoint is of a run with another number of processes.
        """
        state = RunState(**json.loads((checkpoint / _STATE).read_text(encoding="utf-8")))
        if state.num_processes != accelerator.num_processes:
            raise ValueError(
                f"{checkpoint} is of a run with {state.num_processes} processes, this one has {accelerator.num_processes}. "
                "Resume with as many, or start anew from its model: --model OUT/best."
            )
        accelerator.load_state(str(checkpoint))
        return state

    def _commit(self, scratch: Path, place: Path, state: RunState) -> None:
        (scratch / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        replace_folder(scratch, place)
        for old in sorted(self.folder.glob(f"{_PREFIX}*"))[: -self.keep]:
            shutil.rmtree(old)

    def _advice(self) -> str:
        newest = self.newest()
        if newest is None:
            return "Make room and start again."
        return f"Make room, then go on from {newest.name} with --resume."


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Do something in one process while the others wait."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()


def make_empty(folder: Path) -> None:
    """Make a folder, without what an earlier run may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def replace_folder(new: Path, place: Path) -> None:
    """Bring a finished folder to its place for good; what was there goes."""
    for path in [*new.rglob("*"), new]:
        _flush(path)
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    _flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["Checkpoints", "RunState", "make_empty", "on_main", "replace_folder"]
