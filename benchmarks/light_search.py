"""CPU time and memory of the first answer: a model with weights, and its exported graph without torch.

    python benchmarks/light_search.py [--model embedded] [--photos 200] [--runs 5] [--out build/light-search]

Photos are simulated and indexed with the model, and the model is exported to ONNX, once. Each way then searches one
photo, in turns and in new processes, by `d2vpr search` and by `d2vpr localize`. Figures are medians; CPU time is that
of all threads of the process, and memory is the largest resident size.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = "from d2vpr_hf.cli import main\nmain()"
MEGABYTE = 1024  # kilobytes


def measure(*arguments: object) -> tuple[float, float]:
    """Run a command in a new process; return its CPU seconds and megabytes."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"d2vpr {' '.join(map(str, arguments))} failed.")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEGABYTE


def prepare(folder: Path, model: str, photos: int) -> None:
    """Simulate photos, index them and export the model, unless the folder has them."""
    for name, arguments in {
        "photos": ("simulate", folder / "photos", "--places", photos, "--seed", 1),
        "index": ("index", folder / "photos", "--model", model, "--out", folder / "index"),
        "graph": ("export", model, folder / "graph"),
    }.items():
        if not (folder / name).exists():
            subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], check=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/light-search"))
    options = parser.parse_args()
    prepare(options.out, options.model, options.photos)
    query = min((options.out / "photos").rglob("*.jpg"))
    ways = {
        "model, torch": (),
        "graph, ONNX Runtime": ("--model", options.out / "graph"),
        "graph, OpenVINO": ("--model", options.out / "graph", "--backend", "openvino"),
    }
    print("| command | way | CPU seconds | resident MB |\n| --- | --- | --- | --- |")
    for command in ("search", "localize"):
        figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way, arguments in ways.items():
                figures[way].append(measure(command, options.out / "index", query, *arguments))
        for way, values in figures.items():
            seconds, megabytes = (statistics.median(column) for column in zip(*values, strict=True))
            print(f"| `{command}` | {way} | {seconds:.2f} | {megabytes:.0f} |")


if __name__ == "__main__":
    main()
