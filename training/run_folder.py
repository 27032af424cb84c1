"""The folder of a training run.

- `best/`, `last/`: models as Hub folders, each with a card and the report of its validation.
- `run/`: `options.yaml`, `run.json` (command, versions, hardware), `metrics.jsonl`, the components of a projected teacher, and
  the files of trackers.
- `checkpoints/`: the newest checkpoints, from which a run resumes.
"""

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf import __version__
from d2vpr_hf.training.options import TrainingOptions, check_resumable, to_yaml
from d2vpr_hf.utils.atomic_files import append_text, refuse_links, restore_folder, store_files
from d2vpr_hf.utils.bounded_files import parse_json

_LIBRARIES = ("torch", "transformers", "accelerate", "pytorch-metric-learning", "pillow", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which may be a link; `run/` and `checkpoints/` in it may not, because files are written into them.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def records(self) -> Path:
        """Folder of the run's records: options, environment and metrics."""
        return self.path / "run"

    @property
    def metrics(self) -> Path:
        """File of metrics: one JSON object on each line, with its `step`."""
        return self.records / "metrics.jsonl"

    @property
    def teacher_components(self) -> Path:
        """File of the principal components of the teacher's tokens, if the run projects them."""
        return self.records / "teacher_components.safetensors"

    @property
    def _options(self) -> Path:
        return self.records / "options.yaml"

    def refuse_links(self) -> None:
        """Raise FileExistsError if a folder of the run that files are written into is a link, or something in `run/`."""
        refuse_links(self.path, (self.records.name, self.checkpoints.name))
        if self.records.is_dir():
            refuse_links(self.records, (path.name for path in self.records.iterdir()))  # trackers have folders there

    def begin(self, options: TrainingOptions, resumed_step: int | None) -> None:
        """Create the folder and write the options and the environment of the run.

        Args:
            options: Options of the run.
            resumed_step: Step of the checkpoint that the run resumes from; `None` without a checkpoint. Metrics of later steps
                are deleted, because the resumed run takes these steps again.

        Raises:
            FileExistsError: If the folder holds a run and `resume` is not set.
            ValueError: If the run to resume had options that must not change.
        """
        lines = self._lines()
        if lines and not options.resume:
            raise FileExistsError(f"{self.path} already holds a run. Continue it with `resume=True`, or choose another `out`.")
        if resumed_step is not None:
            check_resumable(self._options.read_text(encoding="utf-8"), options, self.path)
        self.records.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            restore_folder(self.path / name)
        metrics = [line for line in lines if resumed_step is not None and parse_json(line)["step"] <= resumed_step]
        texts = {
            self.metrics.name: "".join(metrics),
            self._options.name: to_yaml(options),
            "run.json": json.dumps(run_info(), indent=1) + "\n",
        }
        store_files(self.records, {name: text.encode() for name, text in texts.items()})

    def log(self, step: int, numbers: dict[str, Any]) -> None:
        """Append the numbers of a step to the metrics."""
        append_text(self.metrics, json.dumps({"step": step, **numbers}) + "\n")

    def _lines(self) -> list[str]:
        """Return the complete lines of metrics; the last line of a killed run may be incomplete."""
        text = self.metrics.read_text(encoding="utf-8") if self.metrics.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def run_info() -> dict[str, Any]:
    """Return the command, versions and hardware of this process."""
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {"d2vpr-hf": __version__} | {name: version(name) for name in _LIBRARIES},
        "machine": platform.machine(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of the code, with a `+` if files differ from it; `None` if the code is not in a repository."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
