"""Split real photos into photos to train on, to validate with and to test with: `python -m benchmarks.split_real ROOT WORK`.

`ROOT` has the folders `ie_tower` (walks of numbered clips, positions in `places.csv`), `panoramas` (equirectangular photos) and
`unlabelled` (folders of photos), the last two with `sources.tsv`, the origin of each photo. Nothing else in `ROOT` is used.

    WORK/train/unlabelled/SOURCE, WORK/train/overlapping/SOURCE, WORK/train/panoramas, WORK/train/walks (a table with place ids)
    WORK/validation/NAME/{database,queries} and WORK/test/NAME/{database,queries}, with positions in `places.csv`

`NAME` is `walks` (indoor, 1000 m a clip and 1 m a second), `views` (of panoramas, with other directions, fields of view and
exposures) or `light` (photos, and parts of them under other light). `overlapping` has photos without labels whose place other
photos of the training part show too, so that they must not be negatives of each other: parts of panoramas, and photos taken at
one spot. Photos are copied. The rules are below, in one place.
"""

import argparse
import csv
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from benchmarks.other_light import LIGHTS, change_light, crop
from d2vpr_hf.readers import find_photos, open_photo
from d2vpr_hf.training.data.geometry import PanoramaPart
from d2vpr_hf.utils.atomic_files import new_folder

Part = Literal["train", "validation", "test"]
SETS = ("walks", "views", "light")
FACTS = "split.json"

_RULES = 3  # to be raised with every change of the rules or of a picture
_FRAME = "Split: 1000 m a place"  # frame of the positions: no map has it
_SECONDS_OF_PLACE = 4  # of a walk; places of one group begin 16 s apart
_NUM_GROUPS = 4
_DIRECTIONS = 6  # places of a panorama, 60 degrees apart
_VIEWS_OF_PLACE = 4
_VIEW_SIZE = (168, 224)
_ONE_SPOT = ("opensfm_berlin", "sully_dash")  # folders of photos without labels that were taken at one spot
_LIGHT_PHOTOS = {"polyhaven_hdri": 36, "brazil_highways": 22, "cc0_backgrounds": 2}  # 60 photos under other light


# The rules: numbers are positions in the sorted list of names.


def part_of_clip(clip: int, clips: list[int]) -> Part:
    """Return the part of a walk: every third clip is for tests, and of the others every sixth for validation."""
    if clip % 3 == 0:
        return "test"
    others = [number for number in clips if number % 3 != 0]
    return "validation" if others.index(clip) % 6 == 0 else "train"


def part_of_panorama(number: int) -> Part:
    """Return the part of a panorama or of another single photo: every fourth is held out, for validation and tests by turns."""
    if number % 4 != 0:
        return "train"
    return "validation" if number % 8 == 0 else "test"


def part_of_road(number: int) -> Part:
    """Return the part of a section of a highway: every sixth is held out, for tests and validation by turns."""
    if number % 6 != 0:
        return "train"
    return "test" if number % 12 == 0 else "validation"


@dataclass(frozen=True)
class Row:
    """A photo of a set with its position.

    Attributes:
        path: Path in the set's folder.
        x, y: Metres.
        condition: Condition such as `night`; empty without one.
        place_id: Number of the place, for training; `None` in sets to measure with.
        group_id: Number of the group of places that do not overlap, for training.
    """

    path: str
    x: int
    y: int
    condition: str = ""
    place_id: int | None = None
    group_id: int | None = None


def split(root: Path, work: Path) -> dict[str, dict[str, int]]:
    """Write the photos of all parts into a new folder; a folder that has them already is not changed.

    Returns:
        Numbers of photos by part and set, which `split.json` in the folder has too.

    Raises:
        FileNotFoundError: If a folder or a table of `root` is missing.
        FileExistsError: If `work` has other files, or another split.
    """
    missing = [name for name in ("ie_tower", "panoramas", "unlabelled") if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"Expected the folders ie_tower, panoramas and unlabelled in {root}; {', '.join(missing)} is missing."
        )
    origin = {"rules": _RULES, "root": str(root.resolve())}
    if (work / FACTS).exists():
        facts = json.loads((work / FACTS).read_text())
        if {name: facts[name] for name in origin} != origin:
            raise FileExistsError(f"{work} has a split of {facts['root']} by rules {facts['rules']}, not {origin}. Remove it.")
        return facts["photos"]
    if work.exists() and any(work.iterdir()):
        raise FileExistsError(f"{work} exists and has no {FACTS}, so this command did not write it. Give another folder.")
    if work.exists():
        work.rmdir()
    with new_folder(work) as folder:
        split_walks(root / "ie_tower", folder)
        split_panoramas(root / "panoramas", folder)
        split_unlabelled(root, folder)
        photos = {
            part: {of_set.name: len(find_photos(of_set)) for of_set in sorted((folder / part).iterdir())}
            for part in ("train", "validation", "test")
        }
        (folder / FACTS).write_text(json.dumps(origin | {"photos": photos}, indent=1) + "\n")
    return photos


def split_walks(walks: Path, folder: Path) -> None:
    """Copy the frames of each clip: database and queries of held-out clips, and all frames of the others as one table."""
    rows = {side: _read_table(walks / side / "places.csv") for side in ("database", "queries")}
    clips = sorted({int(row["x"]) // 1000 for side in rows.values() for row in side})
    parts = {clip: part_of_clip(clip, clips) for clip in clips}
    trained = []
    for side, side_rows in rows.items():
        held_out: dict[Part, list[Row]] = {"validation": [], "test": []}
        for row in side_rows:
            photo = Row(row["path"], int(row["x"]), int(row["y"]))
            part = parts[photo.x // 1000]
            if part == "train":
                place = photo.y // _SECONDS_OF_PLACE
                trained.append(replace(photo, place_id=photo.x + place, group_id=place % _NUM_GROUPS))
                target = folder / "train" / "walks"
            else:
                held_out[part].append(photo)
                target = folder / part / "walks" / side
            _copy(walks / side / photo.path, target / photo.path)
        for part, part_rows in held_out.items():
            write_table(folder / part / "walks" / side, part_rows)
    write_table(folder / "train" / "walks", sorted(trained, key=lambda photo: (photo.x, photo.y)))


def split_panoramas(panoramas: Path, folder: Path) -> None:
    """Copy the panoramas to train on, and cut views of the others: all in both databases, each in the queries of its part."""
    names = sorted(path.name for path in find_photos(panoramas))
    database: list[Row] = []
    queries: dict[str, list[Row]] = {"validation": [], "test": []}
    for number, name in enumerate(names):
        part = part_of_panorama(number)
        if part == "train":
            _copy(panoramas / name, folder / "train" / "panoramas" / name)
            continue
        panorama = np.asarray(open_photo(panoramas / name).convert("RGB"))
        for direction in range(_DIRECTIONS):
            place = Row(f"{Path(name).stem}-{direction}.jpg", 1000 * number, 100 * direction)
            view = _cut(PanoramaPart([panorama], yaw=60 * direction, pitch=0, field_of_view=75))
            for side in queries:
                _save(view, folder / side / "views" / "database" / place.path)
            database.append(place)
            for visit in range(_VIEWS_OF_PLACE):
                query = replace(place, path=f"{Path(name).stem}-{direction}-{visit}.jpg")
                view = _draw_view(panorama, 60 * direction, query.path)
                _save(view, folder / part / "views" / "queries" / query.path)
                queries[part].append(query)
    for side, side_queries in queries.items():
        write_table(folder / side / "views" / "database", database)
        write_table(folder / side / "views" / "queries", side_queries)


def _draw_view(panorama: np.ndarray, yaw: float, name: str) -> np.ndarray:
    """Cut a view near a direction that differs from it in yaw, pitch, field of view, exposure and white balance."""
    rng = _rng(name)
    turn = rng.uniform(8, 22) * rng.choice((-1, 1))
    view = _cut(PanoramaPart([panorama], yaw + turn, rng.uniform(-12, 12), rng.uniform(50, 90)))
    warmth = rng.uniform(-0.2, 0.2)
    gain = 2 ** rng.uniform(-1.2, 0.8) * np.exp([warmth, rng.uniform(-0.03, 0.03), -warmth])
    return (view * gain).clip(0, 255).round().astype(np.uint8)


def _cut(view: PanoramaPart) -> np.ndarray:
    return np.asarray(view.resize(_VIEW_SIZE, Image.Resampling.BILINEAR))


def split_unlabelled(root: Path, folder: Path) -> None:
    """Copy the photos to train on, and change the light of some of the others: all in both databases, each in its queries.

    Photos that were cut of a panorama are in its part, and a section of a highway is in one part as a whole.
    """
    parts, cut = _parts_of_unlabelled(root)
    held_out: dict[str, list[str]] = {}
    for path, part in parts.items():
        if part == "train":
            is_single = path not in cut and path.split("/")[0] not in _ONE_SPOT
            _copy(root / "unlabelled" / path, folder / "train" / ("unlabelled" if is_single else "overlapping") / path)
        else:
            held_out.setdefault(path.split("/")[0], []).append(path)
    chosen = [path for source, paths in sorted(held_out.items()) for path in _spread(paths, _LIGHT_PHOTOS.get(source, 0))]
    database = [Row(path.replace("/", "-"), 1000 * number, 0) for number, path in enumerate(chosen)]
    queries: dict[str, list[Row]] = {"validation": [], "test": []}
    for path, row in zip(chosen, database, strict=True):
        photo = np.asarray(open_photo(root / "unlabelled" / path).convert("RGB"))
        part = parts[path]
        for side in queries:
            _copy(root / "unlabelled" / path, folder / side / "light" / "database" / row.path)
        for light in LIGHTS:
            name = f"{Path(row.path).stem}-{light}.jpg"
            rng = _rng(name)
            _save(change_light(crop(photo, rng), light, rng), folder / part / "light" / "queries" / name)
            queries[part].append(Row(name, row.x, 0, light))
    for side, side_queries in queries.items():
        write_table(folder / side / "light" / "database", database)
        write_table(folder / side / "light" / "queries", side_queries)


def _parts_of_unlabelled(root: Path) -> tuple[dict[str, Part], set[str]]:
    """Return the part of each unlabelled photo, by its path; and the photos that were cut of a panorama."""
    names = sorted(path.stem for path in find_photos(root / "panoramas"))
    part_of_name = {name: part_of_panorama(number) for number, name in enumerate(names)}
    origins = {tuple(row[1:]): row[0] for row in _read_lines(root / "panoramas" / "sources.tsv")}
    sources = {row[0]: tuple(row[1:]) for row in _read_lines(root / "unlabelled" / "sources.tsv") if row[0] != "file"}
    roads = sorted({_road(origin[1]) for path, origin in sources.items() if path.startswith("brazil_highways/")})
    parts: dict[str, Part] = {}
    cut: set[str] = set()
    for photo in find_photos(root / "unlabelled"):
        path = photo.relative_to(root / "unlabelled").as_posix()
        origin = sources.get(path)
        if origin is None:
            raise ValueError(f"{root / 'unlabelled' / 'sources.tsv'} has no line for {path}; the split needs its origin.")
        if origin in origins:
            parts[path] = part_of_name[origins[origin]]
            cut.add(path)
        elif path.startswith("brazil_highways/"):
            parts[path] = part_of_road(roads.index(_road(origin[1])))
        elif path.split("/")[0] in _LIGHT_PHOTOS:
            parts[path] = part_of_panorama(int(Path(path).stem))
        else:
            parts[path] = "train"
    return parts, cut


def _road(path: str) -> str:
    """Return the section of a highway: `386_386RS289112` of `Dataset/1007599_RS_386_386RS289112_28920/...`."""
    return "_".join(Path(path).parent.name.split("_")[1:4])


def _spread(paths: list[str], count: int) -> list[str]:
    """Return paths at equal steps of a list."""
    rows = np.linspace(0, len(paths), min(count, len(paths)), endpoint=False).astype(int)
    return [paths[row] for row in rows]


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _save(photo: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path, quality=90)


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read_lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").split("\t")


def write_table(folder: Path, rows: Iterable[Row]) -> None:
    """Write `places.csv` of a set."""
    rows = list(rows)
    names = ["path", "x", "y", "frame", "condition"] + (
        ["place_id", "group_id"] if rows and rows[0].place_id is not None else []
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "places.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            writer.writerow([_FRAME if name == "frame" else getattr(row, name) for name in names])


def main() -> None:
    """Split the photos and print their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    for part, sets in split(arguments.root, arguments.work).items():
        print(f"{part}: " + ", ".join(f"{name} {count}" for name, count in sets.items()))


if __name__ == "__main__":
    main()
