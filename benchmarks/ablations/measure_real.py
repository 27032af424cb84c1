"""Measure a model on the held-out real photos, and statistics of its offsets.

    python -m benchmarks.ablations.measure_real MODEL SPLIT CORRIDOR OUT.json [--frozen-teacher]

`SPLIT` is a folder of `benchmarks.split_real`. Queries for validation and for tests count together: rows choose nothing.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.ablations.measure import RECALL_VALUES, count_query, measure_offsets
from benchmarks.real_photos import open_teacher
from benchmarks.split_real import SETS
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import PositiveRule, evaluate

REPORTED = "corridor"  # is measured, and no claim rests on it


def measure_real(encoder: PlaceEncoder, split: Path, corridor: Path | None) -> dict[str, Any]:
    """Search all sets; count found queries by set and place, so that differences can be resampled over places."""
    folders = [(name, part, split / part / name, None) for name in SETS for part in ("validation", "test")]
    if corridor is not None:
        folders.append((REPORTED, "test", corridor, PositiveRule(frame_tolerance=2)))
    counts: dict[str, dict[str, list[int]]] = {}
    for name, part, folder, rule in folders:
        evaluation = evaluate(folder / "database", folder / "queries", encoder, rule, recall_values=RECALL_VALUES)
        places = counts.setdefault(name, defaultdict(lambda: [0] * (1 + len(RECALL_VALUES))))
        for query in evaluation.queries:
            count_query(places[f"{part}-{query.place}"], query)
    parameters = sum(weights.numel() for weights in encoder.model.parameters())
    offsets = measure_offsets(encoder, split / "test" / "walks" / "queries")
    return {"parameters": parameters, "places": counts, "offsets": offsets}


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("split", type=Path)
    parser.add_argument("corridor", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frozen-teacher", action="store_true", help="the model is a MobileNetV2Model of transformers")
    arguments = parser.parse_args()
    encoder = open_teacher(arguments.model, 224) if arguments.frozen_teacher else PlaceEncoder(arguments.model, batch_size=32)
    corridor = arguments.corridor if arguments.corridor.is_dir() else None
    arguments.out.write_text(json.dumps(measure_real(encoder, arguments.split, corridor)))


if __name__ == "__main__":
    main()
