"""The demonstration: a simulated town is indexed, searched and evaluated offline with the embedded model."""

import os
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.encoders import Progress
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.evaluation.plots import save_plots
from d2vpr_hf.figures import check_plot_file, save_figure
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers import find_photos
from d2vpr_hf.retrieval.plots import plot_search
from d2vpr_hf.retrieval.search_photos import SearchResult, search_photos

NUM_PLACES = 60
NUM_PHOTOS = NUM_PLACES * (4 + 5)  # four views of each place, and five queries
TEST_CITY = 9001  # a seed that no model is trained on
NUM_SHOWN = 6
_TIER = "easy"
_PHOTOS = Path("images") / "test"


@dataclass(frozen=True)
class DemoResult:
    """The results of the demonstration.

    Attributes:
        results: Search results of some queries.
        evaluation: Evaluation of all queries.
        pictures: Files of the plots.
    """

    results: list[SearchResult]
    evaluation: Evaluation
    pictures: list[Path]


def run_demo(out: str | Path, num_places: int = NUM_PLACES, progress: Progress | None = None) -> DemoResult:
    """Render a town into `out`, index its database, evaluate it with all queries, and plot the results.

    Args:
        out: Output folder; a town that is already in the folder is used again.
        num_places: Number of places in the town.
        progress: Called with the number of photos that were just encoded.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    out = Path(out)
    matches = out / "matches.png"
    check_plot_file(matches)
    town = out / "town"
    if not town.exists():
        simulate(town, num_places, TEST_CITY, tier=_TIER, workers=min(2, os.cpu_count() or 1))
    database, queries = town / _PHOTOS / "database", town / _PHOTOS / "queries"
    encoder = PlaceEncoder()
    evaluation = evaluate(database, queries, encoder, save_descriptors=out / "index", overwrite=True, progress=progress)
    photos = find_photos(queries)
    shown = photos[:: max(1, len(photos) // NUM_SHOWN)][:NUM_SHOWN]
    results = search_photos(PlaceIndex.open(out / "index" / "database"), shown, encoder, top_k=4)
    save_figure(plot_search(results), matches)
    return DemoResult(results, evaluation, [matches, *save_plots(evaluation, out / "pictures")])
