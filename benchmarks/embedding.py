"""Photos a second of `d2vpr embed` with one process and with several, as lines of a Markdown table.

    python benchmarks/embedding.py [--model MODEL] [--photos 128] [--processes 1 2] [--threads 2]

The photos are drawn JPEG files of 640×480. Without `--model` the model is a D²-VPR student with random weights, which takes as
long as a trained one. `--threads` is the number over all processes. Loading is not counted: all processes encode a batch, wait
for each other, and then encode the set, until the last process ends.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.readers import read_places
from d2vpr_hf.retrieval.distributed import embed_photos, launched_device, launched_process

BATCH_SIZE = 16


def draw_photos(folder: Path, count: int) -> None:
    """Draw photos with about as much detail as a camera's: smooth shapes and some noise."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse) + rng.normal(0, 8, (480, 640, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


def measure(scratch: Path, model: str, processes: int, threads: int) -> float:
    """Return the seconds that a number of processes take together."""
    folder = scratch / f"{processes}"
    folder.mkdir()
    environment = os.environ | {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": str(max(1, threads // processes))}
    command = [sys.executable, __file__, "--work", str(folder), "--model", model, "--scratch", str(scratch)]
    started = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)
    ]
    if any(process.wait() for process in started):
        raise RuntimeError("A process failed; see above.")
    times = np.array([np.loadtxt(path) for path in folder.glob("*.seconds")])
    return float(times[:, 1].max() - times[:, 0].min())


def work(folder: Path, model: str, photos: Path) -> None:
    """Run one of the processes: encode a batch, wait for the others, encode the shards, and write start and end times."""
    rank, processes = launched_process()
    table = read_places(photos)
    encoder = PlaceEncoder(model, device=launched_device(), batch_size=BATCH_SIZE)
    encoder.encode([table.photo(place) for place in table.places[:BATCH_SIZE]])
    (folder / f"{rank}.ready").touch()
    while len(list(folder.glob("*.ready"))) < processes:
        time.sleep(0.01)
    began = time.time()
    shard_size = BATCH_SIZE * max(1, len(table.places) // processes // BATCH_SIZE)
    embed_photos(table, folder / "parts", encoder, process=(rank, processes), shard_size=shard_size)
    np.savetxt(folder / f"{rank}.seconds", [began, time.time()])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or Hub id; without it a student with random weights")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work, options.model, options.scratch / "photos")
        return
    with tempfile.TemporaryDirectory() as scratch:
        draw_photos(Path(scratch) / "photos", options.photos)
        model = options.model or str(save_student(Path(scratch) / "student"))
        for processes in options.processes:
            seconds = measure(Path(scratch), model, processes, options.threads)
            print(f"| {options.model or 'D²-VPR student'} | {processes} | {options.photos / seconds:.1f} |", flush=True)


def save_student(folder: Path) -> Path:
    """Write a model folder of a student with random weights."""
    D2VPRModel(D2VPRConfig()).save_pretrained(folder)
    D2VPRImageProcessor().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
