"""Seconds to read data sets of a given size without opening photos, as a Markdown table.

    python benchmarks/reading.py [--rows 60000] [--rounds 3]

The data sets are made in a temporary folder: empty files with names of GSV-Cities and of the `@` convention, and a saved
Hugging Face data set whose images are a kilobyte of zeros each. Times are the least of the rounds, because other work only adds
time.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets

from d2vpr_hf.readers import find_photos, iter_photos, load_places, read_gsv_cities, to_dataset

IMAGES_PER_PLACE = 8


def draw_gsv_city(root: Path, rows: int) -> Path:
    """Write one city's table and an empty file for each of its rows."""
    (root / "Dataframes").mkdir(parents=True)
    (root / "Images" / "Rome").mkdir(parents=True)
    chance = random.Random(0)
    lines = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"]
    for i in range(rows):
        place_id, northdeg = i // IMAGES_PER_PLACE, chance.randrange(360)
        year, month = 2008 + i % 12, 1 + i % 12
        degrees = f"{chance.uniform(41.8, 42.0)}", f"{chance.uniform(12.4, 12.6)}"
        lines.append(f"{place_id},{year},{month},{northdeg},Rome,{degrees[0]},{degrees[1]},pano{i:018d}")
        name = f"Rome_{place_id:07d}_{year}_{month:02d}_{northdeg:03d}_{degrees[0]}_{degrees[1]}_pano{i:018d}.jpg"
        (root / "Images" / "Rome" / name).touch()
    (root / "Dataframes" / "Rome.csv").write_text("\n".join(lines) + "\n")
    return root


def draw_at_names(folder: Path, rows: int) -> Path:
    """Write empty files, a thousand in each folder."""
    for i in range(rows):
        parent = folder / f"{i // 1000:04d}"
        parent.mkdir(parents=True, exist_ok=True)
        (parent / f"@{544000 + i}.00@4172758.00@10@S@@@pano{i}@@@@@@201606@@.jpg").touch()
    return folder


def write_list(folder: Path) -> Path:
    """Write a list of a folder's photos next to the folder."""
    lines = [path.relative_to(folder).as_posix() for path in find_photos(folder)]
    folder.with_name(f"{folder.name}_images_paths.txt").write_text("\n".join(lines))
    return folder


def save_dataset(folder: Path, rows: int) -> Path:
    """Write a data set with images and positions."""
    chance = random.Random(0)
    images = [{"bytes": bytes(1000), "path": f"{i}.jpg"} for i in range(rows)]
    columns = {name: [chance.uniform(low, low + 1) for _ in range(rows)] for name, low in (("lat", 43), ("lon", 11))}
    made = datasets.Dataset.from_dict({"image": images, **columns}).cast_column("image", datasets.Image())
    made.save_to_disk(folder)
    return folder


def count(dataset: datasets.Dataset) -> int:
    """Count the photos of a data set by iterating over them without decoding."""
    return sum(1 for _ in iter_photos(dataset))


def least_seconds(task: Callable[[], object], rounds: int) -> float:
    """Return the least time of several runs of a task."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Make the data sets, read them and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        gsv, saved = draw_gsv_city(root / "gsv", arguments.rows), save_dataset(root / "saved", arguments.rows)
        walked = draw_at_names(root / "walked", arguments.rows)
        listed = write_list(draw_at_names(root / "listed", arguments.rows))
        table, dataset = read_gsv_cities(gsv), load_places(saved)
        tasks: dict[str, Callable[[], object]] = {
            "`read_gsv_cities`": lambda: read_gsv_cities(gsv),
            "`to_dataset` of this table": lambda: to_dataset(table),
            "`find_photos`, walking": lambda: find_photos(walked),
            "`find_photos`, from a list": lambda: find_photos(listed),
            "`load_places` of a saved data set": lambda: load_places(saved),
            "`iter_photos` of this data set, undecoded": lambda: count(dataset),
            "`iter_photos` of this data set, streamed": lambda: count(load_places(saved, streaming=True)),
        }
        print(f"| {arguments.rows} photos | seconds |\n| --- | --- |")
        for name, task in tasks.items():
            print(f"| {name} | {least_seconds(task, arguments.rounds):.2f} |", flush=True)


if __name__ == "__main__":
    main()
