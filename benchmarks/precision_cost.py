"""What precision costs: how far descriptors move, and paired recall, on a Gridtown test city.

    python benchmarks/precision_cost.py --work build/precision [--model FOLDER] [--places 100]

Descriptors of each backend and precision are compared with the plain model's in float32: their change as a share of the median
distance between different places, and the difference of recall@1 on the same queries. int8 is calibrated on photos of another
city.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf import PlaceEncoder, compare_evaluations, evaluate
from d2vpr_hf.backends.exporting import ExportOptions
from d2vpr_hf.export import export
from d2vpr_hf.gridtown import TEST_SEEDS, VAL_SEEDS, simulate
from d2vpr_hf.readers import find_photos

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
    """Make an encoder of each backend and precision."""
    for name, precision in (("onnx", "fp32"), ("onnx-int8", "int8")):
        if not (work / name).exists():
            export(model, work / name, ExportOptions("onnx", precision), photos=calibration)
    for backend, precision in CASES:
        graph = str(work / ("onnx-int8" if precision == "int8" else "onnx"))
        yield (
            f"{backend} {precision}",
            PlaceEncoder(model if backend == "torch" else graph, backend=backend, precision=precision),
        )


def describe(encoder: PlaceEncoder, photos: list[Path]) -> NDArray[np.float32]:
    """Encode photos."""
    return encoder.encode(photos).descriptors


def different_places(database: list[Path], descriptors: NDArray[np.float32]) -> float:
    """Return the median distance between photos more than 25 m apart, whose names begin with their UTM position."""
    positions = np.array([[float(part) for part in path.name.split("@")[1:3]] for path in database])
    apart = np.linalg.norm(positions[:, None] - positions, axis=2) > 25
    return float(np.median(np.sqrt(np.clip(2 - 2 * descriptors @ descriptors.T, 0, None))[apart]))


def measure(model: str | None, work: Path, city: Path, calibration: Path) -> dict[str, Any]:
    """Compare all cases with the plain model."""
    plain = PlaceEncoder(model)
    sides = city / "database", city / "queries"
    database, queries = (find_photos(side) for side in sides)
    exact = describe(plain, queries)
    apart = different_places(database, describe(plain, database))
    first, found = evaluate(*sides, plain), {}
    for name, encoder in encoders(model, work, calibration):
        changes = np.linalg.norm(describe(encoder, queries) - exact, axis=1) / apart
        one = compare_evaluations(first, evaluate(*sides, encoder)).differences[0]
        found[name] = {
            "median_change": float(np.median(changes)),
            "largest_change": float(changes.max()),
            "recall@1": [one.first, one.second],
            "recall@1_interval": one.interval_95,
        }
    return {"queries": len(queries), "median_distance": apart, "fingerprint": plain.fingerprint, "cases": found}


def table(measured: dict[str, Any]) -> str:
    """Draw the cases as Markdown."""
    lines = ["| run | median change | largest change | R@1 | difference, points |", "| --- | --- | --- | --- | --- |"]
    for name, row in measured["cases"].items():
        before, after = row["recall@1"]
        changes = f"{100 * row['median_change']:.2f} % | {100 * row['largest_change']:.2f} %"
        lines.append(f"| {name} | {changes} | {100 * after:.1f} | {100 * (after - before):+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/precision"))
    parser.add_argument("--model", help="folder or Hub id; the embedded model if left out")
    parser.add_argument("--places", type=int, default=100)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for name, seed, places in (("test", TEST_SEEDS[0], arguments.places), ("calibration", VAL_SEEDS[0], 10)):
        if not (arguments.work / name).exists():
            simulate(arguments.work / name, places, seed)
    city, calibration = (next((arguments.work / name).rglob("database")).parent for name in ("test", "calibration"))
    measured = measure(arguments.model, arguments.work, city, calibration / "database")
    (arguments.work / "precision.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(f"{measured['queries']} queries; different places lie {measured['median_distance']:.3f} apart\n\n{table(measured)}")


if __name__ == "__main__":
    main()
