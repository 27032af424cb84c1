"""What a run leaves behind.

- `best/`, `last/`: models as Hub folders, each with a card, and the report of its validation.
- `run/`: `options.yaml`, `run.json` (command, versions, hardware), `metrics.jsonl`, and what trackers write.
- `checkpoints/`: what `--resume` goes on from.
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

from d2vpr_hf.training.options import TrainingOptions, check_resumable, to_yaml
from d2vpr_hf.utils.atomic_files import restore_folder, store_files

_LIBRARIES = ("d2vpr-hf", "torch", "transformers", "accelerate", "pytorch-metric-learning", "pillow", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def records(self) -> Path:
        """Where the records of the run lie."""
        return self.path / "run"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, each with its `step`."""
        return self.records / "metrics.jsonl"

    @property
    def _options(self) -> Path:
        return self.records / "options.yaml"

    def begin(self, options: TrainingOptions, done: int | None) -> None:
        """Make the folder, and write down what runs.

        Args:
            options: Of the run.
            done: Steps of the checkpoint that the run goes on from, `None` without one. Metrics of later steps go: they are of
                a run that was cut off, and will come again.

        Raises:
            FileExistsError: If a run is there already and it is not to be resumed.
            ValueError: If it is to be resumed with options that would make another run of it.
        """
        lines = self._lines()
        if lines and not options.resume:
            raise FileExistsError(f"{self.path} holds a run already. Go on with --resume, or give another --out.")
        if done is not None:
            check_resumable(self._options.read_text(encoding="utf-8"), options, self.path)
        self.records.mkdir(parents=True, exist_ok=True)
        for name in ("best", "last"):
            restore_folder(self.path / name)
        kept = [line for line in lines if done is not None and json.loads(line)["step"] <= done]
        texts = {
            self.metrics.name: "".join(kept),
            self._options.name: to_yaml(options),
            "run.json": json.dumps(describe_run(), indent=1) + "\n",
        }
        store_files(self.records, {name: text.encode() for name, text in texts.items()})

    def log(self, step: int, numbers: dict[str, Any]) -> None:
        """Write down numbers of a step."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")

    def _lines(self) -> list[str]:
        """Return the whole lines of metrics; the last of a killed run may be cut off."""
        text = self.metrics.read_text(encoding="utf-8") if self.metrics.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def describe_run() -> dict[str, Any]:
    """Say what runs, with what, on what."""
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "machine": platform.machine(),
        "gpus": devices,
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Name the commit of the code, with a `+` if files differ from it; `None` where the code is in no repository."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
