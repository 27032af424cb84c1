"""Compare the published weights with their published recalls: `make reproduce MODEL=my-d2vpr-4096 DATASET=pitts30k PHOTOS=DIR`.

    d2vpr convert finetune_no_encoder.pth my-d2vpr
    d2vpr fit-projection my-d2vpr pitts30k/images --dim 4096 --sample 16384 --out my-d2vpr-4096
    python benchmarks/reproduce.py --model my-d2vpr-4096 --dataset pitts30k --photos pitts30k/images/test

`--photos` is the data set in any layout that `d2vpr evaluate --data` reads; `--layout` chooses one of several. The published
recalls are quoted from the authors: no cross-image encoder, and PCA to 4096 numbers, fitted to at most 16,384 photos of all of
Pitts30k, its test part included. The exit status is 1 if a recall differs by more than 0.3 points.

The published code reads folders of `@` names, as VPR-datasets-downloader writes them. Its Nordland is therefore the variant of
27,592 queries, in which the 25 m of the mock metres are 10 frames; recalls of the variant with 2,760 queries and 1 frame are
those of another task. Its MSLS-val has about 740 queries; that these are the official ones is presumed.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate_data_set
from d2vpr_hf.readers.data_sets import LAYOUTS, DataSet, read_data_set

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
    "pitts250k": Published((94.4, 98.3, 98.9), 83_952, 8_280),
    "msls-val": Published((90.7, 95.4, 96.4), 18_871, 740),
    "sped": Published((86.0, 92.9, 94.1), 607, 607),
    "amstertime": Published((49.1, 70.7, 76.1), 1_231, 1_231),
    "nordland": Published((77.1, 88.6, 91.9), 27_592, 27_592),
}


def reproduce(
    encoder: PlaceEncoder, photos: Path, published: Published, layout: str | None = None
) -> tuple[Evaluation, list[float]]:
    """Evaluate as published; return the evaluation, and each recall minus the published one in points.

    Raises:
        ValueError: If the model or the photos differ from those of the published recalls.
    """
    check_model(encoder)
    data_set = choose_queries(read_data_set(photos, layout), published)
    evaluation = evaluate_data_set(data_set, encoder, recall_values=RECALL_VALUES, strict=True)[0]
    recalls = [100 * entry["recall"] for entry in evaluation.recall().values()]
    return evaluation, [recall - wanted for recall, wanted in zip(recalls, published.recalls, strict=True)]


def check_model(encoder: PlaceEncoder) -> None:
    """Raise ValueError unless the model has the published form."""
    config = encoder.model.config
    if config.projection_dim != PROJECTION_DIM:
        raise ValueError(
            f"The published recalls are those of descriptors that a PCA reduced to {PROJECTION_DIM} numbers, this model has "
            f"{config.projection_dim or 'no projection'}. `d2vpr fit-projection MODEL PHOTOS "
            f"--dim {PROJECTION_DIM} --sample 16384` fits it."
        )
    if config.use_cross_image_encoder:
        raise ValueError("The published recalls are those of a model without cross-image encoder; this model has one.")
    if encoder.processor.size != SIZE:
        raise ValueError(f"The published recalls are those of photos of 224x224, this model takes {encoder.processor.size}.")


def choose_queries(data_set: DataSet, published: Published) -> DataSet:
    """Return the data set with the query set of the published recalls.

    Raises:
        ValueError: If its numbers of photos are those of another variant, whose recalls would differ by points.
    """
    names = data_set.query_set_names
    name = next((name for name in names if data_set.num_queries(name) == published.queries), names[0])
    try:
        check_count("database", data_set.num_database, published.database)
        check_count("queries", data_set.num_queries(name), published.queries)
    except ValueError as error:
        raise ValueError(f"{error} It is {data_set}.") from error
    return data_set.choose_queries([name])


def check_count(side: str, count: int, published: int | None) -> None:
    """Raise ValueError for another variant of a data set, whose recalls would differ by points."""
    if published is not None and count != published:
        raise ValueError(f"The published recalls are those of {published:,} photos as {side}, this data set has {count:,}.")


def main() -> None:
    """Evaluate and print; exit with status 1 if the recalls differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, choices=PUBLISHED)
    parser.add_argument("--photos", required=True, type=Path, metavar="ROOT")
    parser.add_argument("--layout", choices=[layout.name for layout in LAYOUTS])
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    published = PUBLISHED[arguments.dataset]
    encoder = PlaceEncoder(arguments.model, batch_size=arguments.batch_size)
    evaluation, differences = reproduce(encoder, arguments.photos, published, arguments.layout)
    print(evaluation.to_text())
    for limit, wanted, difference in zip(RECALL_VALUES, published.recalls, differences, strict=True):
        print(f"R@{limit}: {wanted + difference:.1f} here, {wanted:.1f} published, {difference:+.1f}")
    sys.exit(int(max(map(abs, differences)) > TOLERANCE))


if __name__ == "__main__":
    main()
