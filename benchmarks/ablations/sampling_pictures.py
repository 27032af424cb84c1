"""Draw the positions at which the students of some rows read features: `python -m benchmarks.ablations.sampling_pictures`.

Rows of the picture are rows of the table, with seed 0; columns are queries of the standard tier; colours are levels of regions.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.ablations.report import DOCS
from benchmarks.ablations.rows import ROWS, Row
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import PhotoRegions, explain_match
from d2vpr_hf.figures import save_figure
from d2vpr_hf.readers import find_photos, open_photo

SHOWN = ("full", "no_offsets", "no_scales", "corrected_sampling")
NUM_PHOTOS = 4
_COLOURS = {"medium": "#ff9d2e", "small": "#35c3ff"}


def draw(work: Path) -> Figure:
    """Draw the rows that have a trained student."""
    photos = find_photos(next(iter(sorted((work / "towns").iterdir()))) / "queries" / "standard")
    chosen = photos[:: max(1, len(photos) // NUM_PHOTOS)][:NUM_PHOTOS]
    rows = [(row, model) for row in ROWS if row.name in SHOWN and (model := _last(work, row)).exists()]
    figure = Figure(figsize=(2.6 * len(chosen), 2.8 * len(rows)), layout="constrained")
    for line, (row, model) in zip(figure.subplots(len(rows), len(chosen), squeeze=False), rows, strict=True):
        encoder = PlaceEncoder(str(model))
        levels = [region["level"] for region in encoder.model.config.regions]
        for axes, photo in zip(line, chosen, strict=True):
            axes.imshow(np.asarray(open_photo(photo)))
            _scatter(axes, explain_match(encoder, photo, photo).query, levels)
        line[0].set_ylabel(row.title, fontsize=8)
    return figure


def _last(work: Path, row: Row) -> Path:
    number, stage = len(row.stages) - 1, row.stages[-1]
    return work / "runs" / f"{row.name}-0" / f"{number}-{stage.script}" / "last"


def _scatter(axes, regions: PhotoRegions, levels: list[str]) -> None:
    colours = [_COLOURS[levels[region - 1]] for region in regions.region]
    axes.scatter(*regions.points.T, s=7, c=colours, edgecolors="black", linewidths=0.3)
    axes.set(xticks=[], yticks=[])


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/ablations"))
    save_figure(draw(parser.parse_args().work.resolve()), DOCS / "images" / "ablations_samples.png")


if __name__ == "__main__":
    main()
