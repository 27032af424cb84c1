"""Measure a student's recall on the test cities, and statistics of its offsets.

    python -m benchmarks.ablations.measure MODEL TOWNS OUT.json

`TOWNS` has a folder for each city, with `database`, `queries/standard` and `queries/all`. Each city is searched separately.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.evaluation.report import QueryResult
from d2vpr_hf.modeling.deformable_aggregation import DeformableSampler, sample_grid
from d2vpr_hf.readers import find_photos, open_photo

RECALL_VALUES = (1, 5, 10)
NUM_WATCHED = 200  # photos whose offsets are measured
# by tier and place: number of queries, and of queries with a positive among their first 1, 5 and 10 matches
_Counts = dict[str, dict[str, list[int]]]


def measure(model: Path, towns: Path) -> dict[str, Any]:
    """Search all cities; count hits for each place, so that differences can be resampled over places."""
    encoder = PlaceEncoder(str(model), batch_size=32)
    folders = sorted(path for path in towns.iterdir() if path.is_dir())
    counts: _Counts = defaultdict(lambda: defaultdict(lambda: [0] * (1 + len(RECALL_VALUES))))
    for town in folders:
        _count(evaluate(town / "database", town / "queries", encoder, recall_values=RECALL_VALUES), town.name, counts)
    parameters = sum(weights.numel() for weights in encoder.model.parameters())
    return {"parameters": parameters, "places": counts, "offsets": measure_offsets(encoder, folders[0] / "queries")}


def measure_offsets(encoder: PlaceEncoder, queries: Path) -> dict[str, float] | None:
    """Return statistics of the model's offsets on some queries; `None` if it has no offsets."""
    sampler = getattr(getattr(encoder.model, "aggregator", None), "sampler", None)
    if not isinstance(sampler, DeformableSampler):
        return None
    watch = OffsetWatch(sampler)
    photos = find_photos(queries)
    for photo in photos[:: max(1, len(photos) // NUM_WATCHED)][:NUM_WATCHED]:
        with torch.inference_mode():
            encoder.model(**encoder.processor(open_photo(photo), return_tensors="pt"))
    return watch.summary()


def _count(evaluation: Evaluation, town: str, counts: _Counts) -> None:
    for query in evaluation.queries:
        count_query(counts[Path(query.path).parts[0]][f"{town}-{_spot(query)}"], query)


def count_query(entry: list[int], query: QueryResult) -> None:
    """Add a query to the numbers of its place: of queries, and of those found among the first 1, 5 and 10 matches."""
    rank = query.first_positive_rank
    entry[0] += 1
    for number, limit in enumerate(RECALL_VALUES, start=1):
        entry[number] += rank is not None and rank <= limit


def _spot(query: QueryResult) -> str:
    """Read the number of a simulated photo's place from its name: `...@<seed>-<place>-<heading>-<visit>@...`."""
    return Path(query.path).name.split("@")[7].split("-")[1]


class OffsetWatch:
    """Collect statistics of the offsets and scales that a sampler computes."""

    def __init__(self, sampler: DeformableSampler) -> None:
        self.config = sampler.config
        self.samples = sample_grid(self.config.regions, torch.device("cpu")).samples
        self.read = sampler._read_offsets
        self.sums, self.count = torch.zeros(4, dtype=torch.float64), 0
        sampler.offset_generator.register_forward_hook(self._look)

    def _look(self, module: torch.nn.Module, inputs: Any, offset_map: torch.Tensor) -> None:
        values = self.read(offset_map.float(), self.samples)  # (B, 4, P)
        smallest, largest = self.config.scale_range
        offsets, scales = values[:, :2].abs(), smallest + (largest - smallest) * values[:, 2:].sigmoid()
        is_clamped = offsets > self.config.offset_limit
        numbers = (offsets.clamp(max=self.config.offset_limit), is_clamped, scales, scales.square())
        self.sums += torch.stack([number.double().sum() for number in numbers])
        self.count += offsets.numel()

    def summary(self) -> dict[str, float]:
        """Return the mean offset in regions, the share of clamped offsets, and the mean and deviation of scales."""
        offset, clamped, scale, square = (self.sums / self.count).tolist()
        spread = max(0.0, square - scale**2) ** 0.5
        return {"mean_offset": offset, "clamped": clamped, "mean_scale": scale, "scale_deviation": spread}


def main() -> None:
    """Measure one model."""
    model, towns, out = map(Path, sys.argv[1:4])
    out.write_text(json.dumps(measure(model, towns)))


if __name__ == "__main__":
    main()
