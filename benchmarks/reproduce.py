"""Compare the published weights with their published recalls: `make reproduce MODEL=my-d2vpr-4096 DATASET=pitts30k PHOTOS=DIR`.

    d2vpr convert finetune_no_encoder.pth my-d2vpr
    d2vpr fit-projection my-d2vpr pitts30k/images --dim 4096 --out my-d2vpr-4096
    python benchmarks/reproduce.py --model my-d2vpr-4096 --dataset pitts30k --photos pitts30k/images/test

`--photos` contains `database` and `queries`, named by the `@` convention. The published recalls are quoted from the authors: no
cross-image encoder, and PCA to 4096 numbers, fitted to at most 16,384 photos of all of Pitts30k, its test part included. The
exit status is 1 if a recall differs by more than 0.3 points.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.readers import read_places

TOLERANCE = 0.3  # points
RECALL_VALUES = (1, 5, 10)
PROJECTION_DIM = 4096
SIZE = {"height": 224, "width": 224}


@dataclass(frozen=True)
class Published:
    """Published recall@1, 5 and 10 on a data set in per cent, and its numbers of photos; `None` if they are not known."""

    recalls: tuple[float, float, float]
    database: int | None = None
    queries: int | None = None


PUBLISHED = {
    "pitts30k": Published((91.7, 95.8, 96.8), 10_000, 6_816),
    "pitts250k": Published((94.4, 98.3, 98.9), queries=8_280),
    "msls-val": Published((90.7, 95.4, 96.4), 18_871, 740),
    "sped": Published((86.0, 92.9, 94.1), 607, 607),
    "amstertime": Published((49.1, 70.7, 76.1), 1_231, 1_231),
    "nordland": Published((77.1, 88.6, 91.9), 27_592, 2_760),
}


def reproduce(encoder: PlaceEncoder, photos: Path, published: Published) -> tuple[Evaluation, list[float]]:
    """Evaluate as published; return the evaluation, and each recall minus the published one in points.

    Raises:
        ValueError: If the model or the photos differ from those of the published recalls.
    """
    check_model(encoder)
    database, queries = (read_places(photos / side) for side in ("database", "queries"))
    check_count("database", len(database.places), published.database)
    check_count("queries", len(queries.places), published.queries)
    evaluation = evaluate(database, queries, encoder, recall_values=RECALL_VALUES, strict=True)
    recalls = [100 * entry["recall"] for entry in evaluation.recall().values()]
    return evaluation, [recall - wanted for recall, wanted in zip(recalls, published.recalls, strict=True)]


def check_model(encoder: PlaceEncoder) -> None:
    """Raise ValueError unless the model has the published form."""
    config = encoder.model.config
    if config.projection_dim != PROJECTION_DIM:
        raise ValueError(
            f"The published recalls are those of descriptors that a PCA reduced to {PROJECTION_DIM} numbers, this model has "
            f"{config.projection_dim or 'no projection'}. `d2vpr fit-projection MODEL PHOTOS --dim {PROJECTION_DIM}` fits it."
        )
    if config.use_cross_image_encoder:
        raise ValueError("The published recalls are those of a model without cross-image encoder; this model has one.")
    if encoder.processor.size != SIZE:
        raise ValueError(f"The published recalls are those of photos of 224x224, this model takes {encoder.processor.size}.")


def check_count(side: str, count: int, published: int | None) -> None:
    """Raise ValueError for another variant of a data set, whose recalls would differ by points."""
    if published is not None and count != published:
        raise ValueError(f"The published recalls are those of {published:,} photos as {side}, this data set has {count:,}.")


def main() -> None:
    """Evaluate and print; exit with status 1 if the recalls differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, choices=PUBLISHED)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    published = PUBLISHED[arguments.dataset]
    encoder = PlaceEncoder(arguments.model, batch_size=arguments.batch_size)
    evaluation, differences = reproduce(encoder, arguments.photos, published)
    print(evaluation.to_text())
    for limit, wanted, difference in zip(RECALL_VALUES, published.recalls, differences, strict=True):
        print(f"R@{limit}: {wanted + difference:.1f} here, {wanted:.1f} published, {difference:+.1f}")
    sys.exit(int(max(map(abs, differences)) > TOLERANCE))


if __name__ == "__main__":
    main()
