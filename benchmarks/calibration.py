"""Reliability of confidences on Gridtown, with three in ten queries outside the map.

    python benchmarks/calibration.py [--descriptor HOG] [--tiers easy standard] [--image-size 64] [--out build/calibration]

The labelled queries are those of one city of 1,000 places, ten at each place. The calibration is fitted to a random half of
them and tested on the other half. The map lacks the eastern end of the city, so that three in ten queries were taken outside
it. Confidences and radii are also tested on a second city of the same size, with eight queries at each place and the same gap.
A query is "answered" if its confidence, or its similarity, reaches the threshold that gave a precision of 95 % on the fitted
half. A second table shows calibrations with fewer labelled photos. Photos are rendered to `build/gridtown` once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from baselines import METHODS, Descriptors, Photos
from gridtown_tiers import load, render
from numpy.typing import NDArray

from d2vpr_hf.evaluation.confidence import precision_curve
from d2vpr_hf.gridtown import TierName
from d2vpr_hf.index import Match
from d2vpr_hf.localization import (
    PositionEstimate,
    Reliability,
    estimate_position,
    fit_calibration,
    judge_calibration,
)
from d2vpr_hf.localization.consensus import FEATURES, NUM_MATCHES
from d2vpr_hf.localization.plots import plot_precision_coverage, plot_reliability
from d2vpr_hf.places import Place
from d2vpr_hf.stores.exact import exact_search, similarity

OUTSIDE = 0.3
PRECISION = 0.95
FEW, DRAWS = (100, 250, 1000), 10  # numbers of labelled photos, and of draws for each
CITY, OTHER_CITY = (9001, 1000, 10), (9002, 1000, 8)  # seed, places, queries at each place
Labelled = tuple[list[PositionEstimate], list[Place]]


def locate(folders: tuple[Path, Path], encode: Callable[[Photos], Descriptors]) -> Labelled:
    """Search the western part of a city with all its queries; return estimates and true places."""
    (photos, places), (queries, truths) = (load(folder) for folder in folders)
    east = np.array([place.utm_east for place in places])
    mapped = np.flatnonzero(east <= np.quantile(east, 1 - OUTSIDE))
    distances, rows = exact_search(encode(queries), encode(photos)[mapped], NUM_MATCHES)
    estimates = [
        estimate_position(_matches([places[mapped[row]] for row in near], similarities))
        for near, similarities in zip(rows.tolist(), similarity(distances).tolist(), strict=True)
    ]
    return [estimate for estimate in estimates if estimate is not None], truths


def _matches(places: list[Place], similarities: list[float]) -> list[Match]:
    pairs = zip(places, similarities, strict=True)
    return [Match(rank, 0, place, Path(), similarity) for rank, (place, similarity) in enumerate(pairs, 1)]


def measure(tier: TierName, encode: Callable[[Photos], Descriptors], size: int) -> tuple[list[str], Reliability]:
    """Fit and test on one tier; return the rows of a table, and the reliability on the tested half."""
    city, second_city = (
        locate(render(tier, seed, argparse.Namespace(places=places, queries=queries, image_size=size)), encode)
        for seed, places, queries in (CITY, OTHER_CITY)
    )
    order = np.random.default_rng(0).permutation(len(city[0]))
    fitted, tested = (_choose(city, rows) for rows in np.array_split(order, 2))
    calibration = fit_calibration(*fitted)
    threshold = calibration.threshold(PRECISION)
    least_similarity = _similarity_threshold(fitted)
    judged = {
        name: judge_calibration(calibration, *side) for name, side in (("same city", tested), ("other city", second_city))
    }
    rows = [_row(f"{tier}, {name}", reliability, threshold, least_similarity) for name, reliability in judged.items()]
    return [*rows, "", *_few(fitted, tested)], judged["same city"]


def _few(fitted: Labelled, tested: Labelled) -> list[str]:
    """Fit to a few labelled photos, drawn at random; return a table of how often radii hold, means over all draws."""
    lines = [
        "| labelled photos | answers within their 90 % radius (all queries) | median radius, answered |",
        "| --- " * 3 + "|",
    ]
    rng = np.random.default_rng(1)
    for count in FEW:
        numbers = []
        for _ in range(DRAWS):
            calibration = fit_calibration(*_choose(fitted, rng.permutation(len(fitted[0]))[:count]))
            reliability = judge_calibration(calibration, *tested)
            answered = reliability.confidences >= calibration.threshold(PRECISION)
            inside = reliability.errors <= reliability.radii
            numbers.append((100 * inside[answered].mean(), 100 * inside.mean(), np.median(reliability.radii[answered])))
        answers, all_queries, radius = np.nanmean(numbers, axis=0)
        lines.append(f"| {count:,} | {answers:.1f} % ({all_queries:.1f} %) | {radius:.1f} m |")
    return lines


def _choose(labelled: Labelled, rows: NDArray[np.int64]) -> Labelled:
    estimates, truths = labelled
    return [estimates[row] for row in rows], [truths[row] for row in rows]


def _similarity_threshold(labelled: Labelled) -> float:
    """Return the least threshold on the similarity of the best match that reaches the precision."""
    reliability = judge_calibration(fit_calibration(*labelled), *labelled)
    curve = precision_curve(reliability.similarities, reliability.correct, int(reliability.correct.sum()))
    reached = np.flatnonzero(curve.precision >= PRECISION)
    return float(curve.thresholds[reached[-1]]) if len(reached) else np.inf


def _row(name: str, reliability: Reliability, threshold: float, least_similarity: float) -> str:
    answered = reliability.confidences >= threshold
    inside = f"{100 * (reliability.errors <= reliability.radii)[answered].mean():.1f} %" if answered.any() else "none"
    cells = [
        f"{len(reliability.correct):,}",
        f"{100 * reliability.correct.mean():.1f} %",
        f"{reliability.expected_calibration_error:.3f}",
        f"{reliability.brier:.3f} ({reliability.base_brier:.3f})",
        f"{inside} ({100 * reliability.radius_coverage:.1f} %)",
        f"{np.median(reliability.radii[answered]):.1f} m" if answered.any() else "none",
        _answered(reliability, answered),
        _answered(reliability, reliability.similarities >= least_similarity),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _answered(reliability: Reliability, accepted: NDArray[np.bool_]) -> str:
    return f"{100 * accepted.mean():.1f} % ({100 * reliability.correct[accepted].mean():.1f} %)" if accepted.any() else "none"


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptor", choices=list(METHODS), default="HOG")
    parser.add_argument("--tiers", nargs="+", type=TierName, default=[TierName.EASY, TierName.STANDARD])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("build/calibration"), help="Folder for the pictures.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.descriptor}; features: {', '.join(FEATURES)}\n")
    print(
        "| queries | number | correct | calibration error | Brier (of the base rate) "
        "| answers within their 90 % radius (all queries) | median radius, answered "
        "| answered (correct of them) | by similarity alone |"
    )
    print("| --- " * 9 + "|")
    for tier in arguments.tiers:
        rows, tested = measure(tier, METHODS[arguments.descriptor], arguments.image_size)
        print("\n".join(rows), flush=True)
        plot_reliability(tested).savefig(arguments.out / f"reliability_{tier}.png", dpi=110)
        plot_precision_coverage(tested).savefig(arguments.out / f"precision_coverage_{tier}.png", dpi=110)


if __name__ == "__main__":
    main()
