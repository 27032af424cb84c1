"""A part of the report in a process of its own: `benchmarks.gpu_report` starts it, and ends it at its time limit.

`python -m benchmarks.gpu.part benchmarks.gpu.parity --device cuda --figures FILE --work DIR [--tiny]` starts it alone.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass
class Setting:
    """The setting of a part, and its figures so far.

    Attributes:
        device: Device that is measured, such as `"cuda"`.
        tiny: Whether sizes are tiny, to test that a part runs; its figures then mean nothing.
        work: Folder for temporary files.
        file: File that figures are written to; `None` to write none.
        figures: Figures by their names, JSON values.
    """

    device: str
    tiny: bool
    work: Path
    file: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    def note(self, name: str, value: Any) -> None:
        """Note a figure, print it, and write all figures so far, which stay if the part is ended later."""
        self.figures[name] = value
        self.progress(f"{name}: {json.dumps(value)}")
        if self.file is not None:
            scratch = self.file.with_suffix(".part")
            scratch.write_text(json.dumps({"machine": describe_machine(self.device), "figures": self.figures}))
            scratch.replace(self.file)

    def progress(self, text: str) -> None:
        """Print a line with the seconds since the part began."""
        print(f"  {time.perf_counter() - self.started:6.1f} s  {text}", flush=True)


def measure(setting: Setting) -> None:
    """Note nothing but the machine, which is written with each figure."""
    setting.note("machine", "described")


def describe_machine(device: str) -> dict[str, Any]:
    """Return card, driver, processor cores, and versions of the libraries."""
    return {
        "device": device,
        **(dict.fromkeys(("card", "memory_gb", "driver", "cuda")) if device == "cpu" else _describe_card()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _describe_card() -> dict[str, Any]:
    import torch

    return {
        "card": torch.cuda.get_device_name(),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    """Return the version of the GPU's driver; `None` if it cannot be read."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip().splitlines()[0] if result.returncode == 0 and result.stdout.strip() else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="module of the part")
    parser.add_argument("--device", required=True)
    parser.add_argument("--figures", type=Path, required=True, help="file for the figures")
    parser.add_argument("--work", type=Path, required=True, help="folder for temporary files")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    importlib.import_module(arguments.module).measure(
        Setting(arguments.device, arguments.tiny, arguments.work, arguments.figures)
    )


if __name__ == "__main__":
    main()
