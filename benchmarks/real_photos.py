"""Measure models and hand-made descriptors on real photos: the table of docs/real_photos.md.

    python -m benchmarks.real_photos --real ROOT --streets STREETS --model NEW=FOLDER --model OLD=FOLDER --teacher FOLDER \
        [--work build/real_photos] [--json OUT.json] [--page docs/real_photos.md]

`ROOT` has `corridor` and the folders that `benchmarks.split_real` reads; `STREETS` has `database` and `queries`, whose pairs
`--pairs` names. A folder that is missing is named in the output, and the tables lack its column. Every method is measured by
`evaluate`, as `d2vpr evaluate` does. The first model is compared with each other model and with the frozen teacher, query by
query. The reports of all searches are in `--work`, for `d2vpr compare`.
"""

import argparse
import json
import logging
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.baselines import colours, gradients, thumbnails
from benchmarks.code_version import commit
from benchmarks.handmade_model import HandmadeModel
from benchmarks.page_tables import write_page
from benchmarks.split_real import Row, split, write_table
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, PositiveRule, compare_evaluations, evaluate
from d2vpr_hf.evaluation.report import percent, percent_interval
from d2vpr_hf.readers import find_photos
from d2vpr_hf.utils.atomic_files import new_folder, store_file

PAIRS = ("q1=db2", "q2=db5", "q3=db11", "q4=db15,db16,db17", "q5=db12,db13")
# VPR-Bench (arXiv 2005.08135), recall@1 of its stored matches
QUOTED = {"NetVLAD": 67.6, "DenseVLAD": 70.3, "AMOSNet": 84.7, "HybridNet": 90.1}
TABLE = "benchmarks.real_photos"  # name of the markers around it
_SIZE = (112, 112)
_TEACHER_SIZES = (112, 224)
TEACHER_LAYER = "layer.12.expand_1x1"  # of transformers' MobileNetV2Model: 576 channels at 1/16
_RECALL_VALUES = (1, 2, 3, 5, 10, 20)
_HANDMADE = {"grey thumbnails 32 × 32": thumbnails, "colour histogram": colours, "HOG": gradients}


@dataclass(frozen=True)
class PhotoSet:
    """Photos to measure with.

    Attributes:
        name: Short name.
        title: Title of the column.
        folder: Folder that has `database` and `queries`.
        rule: The rule of correct matches.
    """

    name: str
    title: str
    folder: Path
    rule: PositiveRule


def find_sets(
    real: Path | None, streets: Path | None, pairs: Sequence[str], work: Path, part: str = "test"
) -> tuple[list[PhotoSet], list[str]]:
    """Return the sets whose folders exist, and a line for each folder that is missing. Cut photos are written into `work`."""
    sets, missing = [], []
    if real is not None and (real / "corridor").is_dir():
        sets.append(PhotoSet("corridor", "corridor", real / "corridor", PositiveRule(frame_tolerance=2)))
    else:
        missing.append("corridor: there is no folder `corridor` in --real")
    try:
        if real is None:
            raise FileNotFoundError("--real is not given")
        split(real, work / "split")
    except FileNotFoundError as error:
        missing.append(f"walks, views, light: {error}")
    else:
        titles = {"walks": "indoor walks", "views": "hard viewpoints", "light": "other light"}
        sets += [PhotoSet(name, title, work / "split" / part / name, PositiveRule()) for name, title in titles.items()]
    if streets is not None and streets.is_dir():
        place_streets(streets, pairs, work / "placed-streets")
        sets.append(PhotoSet("streets", "street photos", work / "placed-streets", PositiveRule()))
    else:
        missing.append("streets: there is no folder --streets")
    return sets, missing


def place_streets(streets: Path, pairs: Sequence[str], out: Path) -> None:
    """Copy database and queries, and give photos of one place one position.

    Args:
        streets: Folder with `database` and `queries`.
        pairs: `QUERY=MATCH[,MATCH]`, names without endings, for each query.
        out: Folder to write.

    Raises:
        ValueError: If a query has no pair, or a pair names photos that do not exist.
    """
    if out.exists():
        shutil.rmtree(out)
    photos = {side: {path.stem: path for path in find_photos(streets / side)} for side in ("database", "queries")}
    places = {name: 1000 * number for number, name in enumerate(sorted(photos["queries"]))}
    matches = {match: places.get(query) for query, names in (pair.split("=") for pair in pairs) for match in names.split(",")}
    unknown = sorted(match for match, x in matches.items() if x is None or match not in photos["database"])
    paired = {pair.split("=")[0] for pair in pairs}
    if unknown or paired != set(places):
        raise ValueError(
            f"Expected a pair QUERY=MATCH for each of the queries {', '.join(places)}, with photos of {streets / 'database'}; "
            f"got {' '.join(pairs)}."
        )
    with new_folder(out) as folder:
        for side, side_photos in photos.items():
            (folder / side).mkdir()
            rows = []
            for number, (name, path) in enumerate(side_photos.items()):
                shutil.copyfile(path, folder / side / path.name)
                x = places[name] if side == "queries" else matches.get(name)
                rows.append(Row(path.name, -1000 * (1 + number) if x is None else x, 0))
            write_table(folder / side, rows)


def open_methods(models: dict[str, str], teacher: str | None) -> dict[str, PlaceEncoder]:
    """Return the encoders by their titles: given models first, then the frozen teacher at two sizes, then hand-made methods."""
    encoders = {title: PlaceEncoder(folder, batch_size=32) for title, folder in models.items()}
    if teacher is not None:
        for size in _TEACHER_SIZES:
            encoders[f"frozen MobileNetV2, {size}×{size}"] = open_teacher(teacher, size)
    for title, encode in _HANDMADE.items():
        encoders[title] = PlaceEncoder(HandmadeModel(title, encode, _SIZE), batch_size=32)
    return encoders


def open_teacher(teacher: str, size: int) -> PlaceEncoder:
    """Open a MobileNetV2Model of transformers, with generalised mean pooling of its 576 channels at 1/16."""
    return PlaceEncoder(teacher, batch_size=32, pool="gem", layer=TEACHER_LAYER, image_size=size)


def measure(sets: Sequence[PhotoSet], encoders: dict[str, PlaceEncoder], reports: Path) -> dict[str, dict[str, Evaluation]]:
    """Evaluate every method on every set: evaluations by title, then by name of the set. Each is saved in `reports`."""
    evaluations: dict[str, dict[str, Evaluation]] = {}
    for title, encoder in encoders.items():
        evaluations[title] = {}
        for photos in sets:
            evaluation = evaluate(
                photos.folder / "database", photos.folder / "queries", encoder, photos.rule, recall_values=_RECALL_VALUES
            )
            file_name = f"{photos.name}-{''.join(letter if letter.isalnum() else '_' for letter in title)}.json"
            evaluation.save(reports / file_name, overwrite=True)
            evaluations[title][photos.name] = evaluation
            print(f"{title}, {photos.title}: R@1 {percent(evaluation.recall()['recall@1']['recall'])}", flush=True)
    return evaluations


def summarize(evaluations: dict[str, dict[str, Evaluation]], references: Sequence[str]) -> dict[str, Any]:
    """Return the record of a measurement: versions, sets, and each method's recalls and differences from `references`."""
    first = next(iter(evaluations))
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("d2vpr-hf", "torch", "transformers", "numpy", "pillow")},
        "sets": {
            name: {
                "database": evaluation.database["count"],
                "queries": evaluation.query_set["count"],
                "places": len(set(evaluation.places.tolist())),
                "correct": str(evaluation.rule),
            }
            for name, evaluation in evaluations[first].items()
        },
        "methods": {
            title: {
                "model": _model_info(next(iter(of_sets.values()))),
                "recall": {name: evaluation.recall() for name, evaluation in of_sets.items()},
                "ranks": {"streets": of_sets["streets"].ranks.tolist()} if "streets" in of_sets else {},
            }
            for title, of_sets in evaluations.items()
        },
        "differences": [
            {"first": reference, "second": first, "set": name} | _difference(evaluations[reference][name], evaluation)
            for reference in references
            for name, evaluation in evaluations[first].items()
        ],
    }


def _model_info(evaluation: Evaluation) -> dict[str, Any]:
    """Return the model of a report, with the last part of its name only: a folder of this machine says nothing elsewhere."""
    info = evaluation.model.to_dict()
    return info | {"name": Path(info["name"]).name}


def _difference(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    difference = compare_evaluations(first, second).differences[0]
    low_high = None if difference.interval_95 is None else list(difference.interval_95)
    return {
        "difference": difference.second - difference.first,
        "interval_95": low_high,
        "won": difference.won,
        "lost": difference.lost,
    }


def table(record: dict[str, Any], sets: Sequence[PhotoSet]) -> str:
    """Return the Markdown tables of a record: recalls, quoted recalls, and differences."""
    measured = [photos for photos in sets if photos.name != "streets"]
    has_streets = len(measured) < len(sets)
    titles = [f"{photos.title}, {record['sets'][photos.name]['queries']} queries" for photos in measured]
    titles += ["street photos: ranks of the matches"] * has_streets
    lines = [f"| R@1, % | {' | '.join(titles)} |", "| --- " * (1 + len(titles)) + "|"]
    for title, method in record["methods"].items():
        recalls = [method["recall"][photos.name]["recall@1"] for photos in measured]
        cells = [f"{percent(recall['recall'])} ({percent_interval(recall['interval_95'])})" for recall in recalls]
        cells += [", ".join(str(rank or "-") for rank in method["ranks"]["streets"])] if has_streets else []
        lines.append(f"| {title} | {' | '.join(cells)} |")
    if any(photos.name == "corridor" for photos in sets):
        for title, value in QUOTED.items():
            cells = [f"{value:.1f}" if photos.name == "corridor" else "" for photos in measured] + [""] * has_streets
            lines.append(f"| {title}, quoted | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_difference_lines(record, measured)])


def _difference_lines(record: dict[str, Any], measured: Sequence[PhotoSet]) -> list[str]:
    """Return the Markdown table of the first method's differences from others, in points of R@1."""
    by_pair: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in record["differences"]:
        by_pair.setdefault(f"{entry['second']} − {entry['first']}", {})[entry["set"]] = entry
    lines = [f"| points of R@1 | {' | '.join(photos.title for photos in measured)} |", "| --- " * (1 + len(measured)) + "|"]
    for pair, entries in by_pair.items():
        cells = []
        for photos in measured:
            entry = entries[photos.name]
            reach = (
                "" if entry["interval_95"] is None else " ({:+.1f} to {:+.1f})".format(*(100 * x for x in entry["interval_95"]))
            )
            cells.append(f"{100 * entry['difference']:+.1f}{reach}")
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return lines if by_pair else []


def main() -> None:
    """Measure all methods on all sets, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder of real photos")
    parser.add_argument("--streets", type=Path, help="folder of a few street photos without positions")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="QUERY=MATCH[,MATCH]")
    parser.add_argument("--model", action="append", default=[], metavar="TITLE=MODEL", help="by default the embedded model")
    parser.add_argument("--teacher", help="folder of a MobileNetV2Model of transformers")
    parser.add_argument("--work", type=Path, default=Path("build/real_photos"), help="folder for cut photos and reports")
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="part of walks, views and light")
    parser.add_argument("--json", type=Path, dest="record", help="file for the record")
    parser.add_argument("--page", type=Path, help="Markdown page whose table is replaced")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    sets, missing = find_sets(arguments.real, arguments.streets, arguments.pairs, arguments.work, arguments.part)
    for line in missing:
        print(f"not measured: {line}")
    if not sets:
        parser.error("there is nothing to measure with")
    models = dict(text.split("=", 1) for text in arguments.model) or {"embedded D²-VPR": "embedded"}
    encoders = open_methods(models, arguments.teacher)
    evaluations = measure(sets, encoders, arguments.work / "reports")
    references = [title for title in encoders if title not in _HANDMADE][1:]
    record = summarize(evaluations, references)
    text = table(record, sets)
    print(f"\n{text}")
    if arguments.record is not None:
        store_file(
            arguments.record,
            lambda path: path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"),
        )
    if arguments.page is not None:
        write_page(arguments.page, text, TABLE)


if __name__ == "__main__":
    main()
