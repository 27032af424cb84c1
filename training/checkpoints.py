"""Checkpoints to resume from: each is a folder that appears whole or not at all."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.utils.atomic_files import WRITING_ERRORS, make_empty, replace_folder

_PREFIX = "step-"
_STATE = "run_state.json"


@dataclass
class RunState:
    """Where a run stands, besides weights, optimiser, scaler and random numbers.

    Attributes:
        step: Steps done.
        validated: Step of the newest validation; -1 before the first.
        best: Best value of what the best model is chosen by; `None` before the first validation.
        best_step: Step of it.
        worse_in_a_row: Validations since.
        num_processes: How many processes train; another number cannot go on bit for bit.
        unreadable_photos: Photos so far that could not be read and gave way to others, of all processes.
        images_seen: Images so far, of all processes.
    """

    step: int = 0
    validated: int = -1
    best: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0
    num_processes: int = 1
    unreadable_photos: int = 0
    images_seen: int = 0

    def is_better(self, value: float, lower: bool) -> bool:
        """Take in a validation's value, and tell whether it is the best so far.

        Args:
            value: What the best model is chosen by.
            lower: Whether lower values are better.
        """
        self.validated = self.step
        if self.best is not None and (value >= self.best if lower else value <= self.best):
            self.worse_in_a_row += 1
            return False
        self.best, self.best_step, self.worse_in_a_row = value, self.step, 0
        return True


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

    def newest_of_all(self) -> Path | None:
        """Return the newest checkpoint, which all processes must see.

        Raises:
            ValueError: If machines see different ones: their folders are not one.
        """
        newest = self.newest()
        seen = gather_object([None if newest is None else newest.name])
        if len(set(seen)) > 1:
            raise ValueError(f"The processes see different checkpoints in {self.folder}: {seen}. It must lie on a shared disk.")
        return newest

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
        except WRITING_ERRORS as error:
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
