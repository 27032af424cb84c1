"""Checkpoints to resume from. Each is a folder that is either complete or absent."""

import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.utils.atomic_files import WRITING_ERRORS, folder_checksums, make_empty, remove_folders, replace_folder, write_file
from d2vpr_hf.utils.bounded_files import parse_json

logger = logging.getLogger(__name__)

_PREFIX = "step-"
_STATE = "run_state.json"
_CHECKSUMS = "checksums.json"  # SHA-256 of all other files of a checkpoint

_REMEDY = "Remove the checkpoint's folder to resume from the one before it, or begin a new run."


@dataclass
class RunState:
    """Progress of a run. Its fields are the keys of `run_state.json`.

    Weights, optimiser, gradient scaler and torch's random numbers are stored in other files of the checkpoint.

    Attributes:
        step: Number of steps taken.
        validated: Step of the newest validation; -1 before the first.
        best: Best value of the metric that the best model is chosen by; `None` before the first validation.
        best_step: Step of the best value.
        worse_in_a_row: Number of validations since the best validation.
        num_processes: Number of training processes; a run resumes bit for bit only with the same number.
        unreadable_photos: Number of photos, over all processes, that were skipped because they could not be read.
        images_seen: Number of images trained on, over all processes.
        trained_parts: Parts of the model with a weight that had a gradient.
    """

    step: int = 0
    validated: int = -1
    best: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0
    num_processes: int = 1
    unreadable_photos: int = 0
    images_seen: int = 0
    trained_parts: list[str] = field(default_factory=list)

    def is_best(self, value: float, *, lower_is_better: bool) -> bool:
        """Return whether a value is better than that of every earlier validation."""
        if self.best is None:
            return True
        return value < self.best if lower_is_better else value > self.best

    def record_validation(self, value: float, *, is_best: bool) -> None:
        """Record the validation of the current step.

        Args:
            value: The metric that the best model is chosen by.
            is_best: Whether it is the best value so far.
        """
        self.validated = self.step
        if is_best:
            self.best = value
            self.best_step = self.step
            self.worse_in_a_row = 0
        else:
            self.worse_in_a_row += 1


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Folder of the checkpoints, which are called `step-00000500` and so on.
        keep: Number of checkpoints to keep; older ones are deleted.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint; incomplete ones have other names."""
        return max(self.folder.glob(f"{_PREFIX}*"), default=None)

    def newest_of_all(self) -> Path | None:
        """Return the newest checkpoint, after checking that all processes see the same one.

        Raises:
            ValueError: If processes see different checkpoints, because machines do not share the folder.
        """
        newest = self.newest()
        names = gather_object([None if newest is None else newest.name])
        if len(set(names)) > 1:
            raise ValueError(
                f"The processes see different checkpoints in {self.folder}: {names}. All machines must share this folder."
            )
        return newest

    def save(self, accelerator: Accelerator, state: RunState) -> None:
        """Write a checkpoint. All processes must call this method.

        Raises:
            OSError: If the checkpoint cannot be written, for example on a full disk. Older checkpoints are kept.
        """
        checkpoint = self.folder / f"{_PREFIX}{state.step:08d}"
        scratch = self.folder / f".{checkpoint.name}.writing"
        try:
            on_main(accelerator, lambda: make_empty(scratch))
            accelerator.save_state(str(scratch))
            accelerator.wait_for_everyone()
            on_main(accelerator, lambda: self._commit(scratch, checkpoint, state))
        except WRITING_ERRORS as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise OSError(f"The checkpoint of step {state.step} could not be written: {error}. {self._advice()}") from error

    def load(self, accelerator: Accelerator, checkpoint: Path) -> RunState:
        """Restore a checkpoint into the objects that the accelerator has prepared.

        Raises:
            ValueError: If a file is damaged, or the run that wrote the checkpoint had another number of processes.
        """
        check_files(checkpoint)
        state = RunState(**parse_json((checkpoint / _STATE).read_text(encoding="utf-8")))
        if state.num_processes != accelerator.num_processes:
            raise ValueError(
                f"{checkpoint} was written by a run with {state.num_processes} processes, this run has "
                f"{accelerator.num_processes}. Resume with {state.num_processes} processes, or begin a new run from its model: "
                "`model=OUT/best`."
            )
        accelerator.load_state(str(checkpoint))
        return state

    def _commit(self, scratch: Path, checkpoint: Path, state: RunState) -> None:
        """Complete a checkpoint in its scratch folder, move it to its place, and delete old checkpoints."""
        write_file(scratch / _STATE, json.dumps(asdict(state), indent=1) + "\n")
        write_file(scratch / _CHECKSUMS, json.dumps(folder_checksums(scratch), indent=1) + "\n")
        replace_folder(scratch, checkpoint)
        remove_folders(self.folder, [old.name for old in sorted(self.folder.glob(f"{_PREFIX}*"))[: -self.keep]])

    def _advice(self) -> str:
        newest = self.newest()
        if newest is None:
            return "Free some disk space and start again."
        return f"Free some disk space, then continue from {newest.name} with `resume=True`."


def check_files(checkpoint: Path) -> None:
    """Compare all files of a checkpoint with their checksums; checkpoints of earlier versions have none, which is logged.

    Accelerate itself continues without random states that it cannot read, so that a run would not resume to the same weights.

    Raises:
        ValueError: If a file is missing, damaged, or was added, unless the added one is hidden (its name begins with a dot).
    """
    path = checkpoint / _CHECKSUMS
    if not path.is_file():
        logger.warning("%s was written by an earlier version, without checksums: damage would not be noticed.", checkpoint)
        return
    try:
        stated = dict(parse_json(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {_REMEDY}") from error

    def is_checked(name: str) -> bool:
        is_hidden = "/." in f"/{name}"  # file systems and file managers add such files
        return name in stated or not (is_hidden or name == _CHECKSUMS)

    present = folder_checksums(checkpoint, is_checked)
    wrong = [name for name in sorted({*stated, *present}) if name not in present or present[name] != stated.get(name)]
    if wrong:
        raise ValueError(f"The checkpoint {checkpoint} is damaged: {', '.join(wrong[:3])} is missing or has changed. {_REMEDY}")
