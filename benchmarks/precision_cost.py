"""Cost of precision: changes of descriptors and of recall on Gridtown's test cities.

    python benchmarks/precision_cost.py --work build/precision [--model FOLDER] [--cities 2] [--places 350] [--image-size 112]

The cities are neighbours on one map and are searched together. Descriptors of each backend and precision are compared with the
plain model's in float32: their change as a share of the median distance between different places, and the difference of
recall@1 on the same queries. int8 is calibrated on photos of another city.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf import PlaceEncoder, compare_evaluations
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.evaluation import Evaluation, PositiveRule, evaluate_descriptors
from d2vpr_hf.evaluation.photo_selection import PhotoSelection, select_photos
from d2vpr_hf.export import export
from d2vpr_hf.gridtown import TEST_SEEDS, VAL_SEEDS, simulate
from d2vpr_hf.readers import read_places

CASES = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def encoders(model: str | None, work: Path, calibration: Path) -> Iterator[tuple[str, PlaceEncoder]]:
    """Yield the name and an encoder of each backend and precision."""
    for name, precision in (("onnx", "fp32"), ("onnx-int8", "int8")):
        if not (work / name).exists():
            export(model, work / name, ExportOptions("onnx", precision), photos=calibration)
    for backend, precision in CASES:
        graph = str(work / ("onnx-int8" if precision == "int8" else "onnx"))
        yield (
            f"{backend} {precision}",
            PlaceEncoder(model if backend == "torch" else graph, backend=backend, precision=precision),
        )


def encode(encoder: PlaceEncoder, sides: tuple[PhotoSelection, PhotoSelection]) -> list[NDArray[np.float32]]:
    """Return the descriptors of database and queries."""
    return [encoder.encode([side.table.photo(place) for place in side.places]).descriptors for side in sides]


def judge(descriptors: list[NDArray[np.float32]], sides: tuple[PhotoSelection, PhotoSelection]) -> Evaluation:
    """Evaluate the descriptors of database and queries."""
    return evaluate_descriptors(*descriptors, *(side.photos for side in sides))


def different_places(database: PhotoSelection, descriptors: NDArray[np.float32]) -> float:
    """Return the median distance between photos more than 25 m apart."""
    positions = np.asarray(database.photos.positions)[::2]
    apart = np.linalg.norm(positions[:, None] - positions, axis=2) > 25
    return float(np.median(np.sqrt(np.clip(2 - 2 * descriptors[::2] @ descriptors[::2].T, 0, None))[apart]))


def measure(model: str | None, work: Path, city: Path, calibration: Path) -> dict[str, Any]:
    """Compare all cases with the plain model."""
    plain = PlaceEncoder(model)
    sides = select_photos(read_places(city / "database"), read_places(city / "queries"), PositiveRule())
    exact = encode(plain, sides)
    apart = different_places(sides[0], exact[0])
    plain_evaluation = judge(exact, sides)
    cases = {}
    for name, encoder in encoders(model, work, calibration):
        descriptors = encode(encoder, sides)
        changes = np.linalg.norm(descriptors[1] - exact[1], axis=1) / apart
        recall = compare_evaluations(plain_evaluation, judge(descriptors, sides)).differences[0]
        cases[name] = {
            "median_change": float(np.median(changes)),
            "largest_change": float(changes.max()),
            "recall@1": [recall.first, recall.second],
            "recall@1_interval": recall.interval_95,
            "won_and_lost": [recall.won, recall.lost],
        }
        print(name, cases[name], flush=True)
    counts = {"queries": len(exact[1]), "database": len(exact[0]), "photos": city.parents[1].name}
    return counts | {"median_distance": apart, "fingerprint": plain.fingerprint, "cases": cases}


def table(measured: dict[str, Any]) -> str:
    """Return the cases as a Markdown table."""
    lines = [
        "| run | median change | largest change | R@1 | difference, points | 95 % interval over places | won, lost |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in measured["cases"].items():
        before, after = row["recall@1"]
        changes = f"{100 * row['median_change']:.2f} % | {100 * row['largest_change']:.2f} %"
        interval = " to ".join(f"{100 * end:+.2f}" for end in row["recall@1_interval"])
        won, lost = row["won_and_lost"]
        lines.append(f"| {name} | {changes} | {100 * after:.1f} | {100 * (after - before):+.2f} | {interval} | {won}, {lost} |")
    return "\n".join(lines)


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/precision"))
    parser.add_argument("--model", help="folder or Hub id; by default the embedded model")
    parser.add_argument("--cities", type=int, default=2)
    parser.add_argument("--places", type=int, default=350, help="of each city")
    parser.add_argument("--image-size", type=int, default=112)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    test = arguments.work / f"test-{arguments.cities}-{arguments.places}"
    calibration = arguments.work / "calibration"
    towns = (test, TEST_SEEDS[0], arguments.cities, arguments.places), (calibration, VAL_SEEDS[0], 1, 10)
    for folder, seed, cities, places in towns:
        if not folder.exists():
            simulate(folder, places, seed, num_cities=cities, image_size=arguments.image_size)
    city, photos = (folder / "images" / "test" for folder in (test, calibration))
    measured = measure(arguments.model, arguments.work, city, photos / "database")
    (arguments.work / "precision.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(f"{measured['queries']} queries; different places are {measured['median_distance']:.3f} apart\n\n{table(measured)}")


if __name__ == "__main__":
    main()
