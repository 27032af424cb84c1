"""Recall against the width of descriptors: the first numbers of a model's, and a PCA of another's to the same widths.

    python -m benchmarks.descriptor_widths MATRYOSHKA PLAIN --fit PHOTOS --database DIR --queries DIR [--dims 64 128 256 512]

MATRYOSHKA is a student with `matryoshka_dims`, PLAIN one without a projection. The PCA is fitted to PHOTOS, which should be
other photos than those that are searched. It prints a table in Markdown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.encoders.prefix_model import prefix
from d2vpr_hf.evaluation import PositiveRule
from d2vpr_hf.evaluation.part_evaluation import Choices, evaluate_selections
from d2vpr_hf.evaluation.photo_selection import select_photos
from d2vpr_hf.projection import ProjectionFit
from d2vpr_hf.readers import PlaceTable, read_places

DIMS = (64, 128, 256, 512)
_AT_ONCE = 256

Descriptors = NDArray[np.float32]


def main() -> None:
    """Encode all photos once by each model, and print recall@1 at every width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matryoshka")
    parser.add_argument("plain")
    parser.add_argument("--fit", type=Path, required=True)
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    arguments = parser.parse_args()
    tables = read_places(arguments.database), read_places(arguments.queries)
    print(widths_table(arguments.matryoshka, arguments.plain, read_places(arguments.fit), tables, arguments.dims))


def widths_table(
    matryoshka: str, plain: str, fit: PlaceTable, tables: tuple[PlaceTable, PlaceTable], dims: Sequence[int]
) -> str:
    """Return a Markdown table of recall@1 in per cent: a line for each width, and one for whole descriptors."""
    encoder = PlaceEncoder(plain)
    fitted = ProjectionFit(encoder.descriptor_dim)
    for start in range(0, len(fit.places), _AT_ONCE):
        fitted.add(encoder.encode([fit.photo(place) for place in fit.places[start : start + _AT_ONCE]]).descriptors)
    components = fitted.components(max(dims))
    whole, first = _encode(encoder, tables), _encode(PlaceEncoder(matryoshka), tables)
    lines = [
        f"| numbers | first of {Path(matryoshka).name}: R@1, % | PCA of {Path(plain).name}: R@1, % | int8 bytes |",
        "| --- | --- | --- | --- |",
    ]
    for dim in dims:
        projected = [(side - components.mean) @ components.components[:dim].T for side in whole]
        cut = [prefix(side, dim) for side in first]
        lines.append(f"| {dim} | {_recall(tables, cut):.1f} | {_recall(tables, projected):.1f} | {dim} |")
    widths = f"{first[0].shape[1]} and {whole[0].shape[1]}"
    return "\n".join([*lines, f"| all: {widths} | {_recall(tables, first):.1f} | {_recall(tables, whole):.1f} | |"])


def _encode(encoder: PlaceEncoder, tables: tuple[PlaceTable, PlaceTable]) -> list[Descriptors]:
    """Return the descriptors of database and queries, none of which may be unreadable."""
    return [encoder.encode([table.photo(place) for place in table.places]).descriptors for table in tables]


def _recall(tables: tuple[PlaceTable, PlaceTable], descriptors: Sequence[Descriptors]) -> float:
    selections = select_photos(*tables, PositiveRule())
    sides = [(selection, side[selection.rows]) for selection, side in zip(selections, descriptors, strict=True)]
    evaluation = evaluate_selections(sides[0], sides[1], None, Choices(PositiveRule(), True, "", (1,)))
    return 100 * float(evaluation.recall()["recall@1"]["recall"])


if __name__ == "__main__":
    main()
