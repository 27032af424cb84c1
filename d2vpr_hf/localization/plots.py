"""Plots of a calibration's reliability. The plot functions return the figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2vpr_hf.evaluation.confidence import precision_curve
from d2vpr_hf.figures import QUERY, UNKNOWN, new_figure, save_figure
from d2vpr_hf.localization.reliability import BINS, Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("reliability.png", "precision_coverage.png")


def save_plots(reliability: Reliability, out: str | Path) -> list[Path]:
    """Write both plots into a folder and return their files."""
    paths = [Path(out) / name for name in FILES]
    for path, figure in zip(paths, (plot_reliability(reliability), plot_precision_coverage(reliability)), strict=True):
        save_figure(figure, path)
    return paths


def plot_reliability(reliability: Reliability) -> Figure:
    """Draw the share of correct positions over the confidence, and below it a histogram of the confidences."""
    figure = new_figure((5.2, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    bins = np.array(reliability.bins())
    axes.plot([0, 1], [0, 1], color=UNKNOWN, linestyle="--", linewidth=1)
    axes.plot(bins[:, 0], bins[:, 1], "o-", color=QUERY, markersize=5)
    axes.set(ylabel="share of correct positions", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_title(
        f"{len(reliability.correct)} queries: calibration error {reliability.expected_calibration_error:.3f}\n"
        f"Brier score {reliability.brier:.3f}, of the base rate {reliability.base_brier:.3f}"
    )
    counts.bar(bins[:, 0], bins[:, 2], width=0.5 / BINS, color=QUERY)
    counts.set(xlabel="confidence", ylabel="queries")
    for axis in (axes, counts):
        axis.grid(alpha=0.3)
    return figure


def plot_precision_coverage(reliability: Reliability) -> Figure:
    """Draw precision over coverage, for thresholds on the confidence and for thresholds on the similarity."""
    figure = new_figure((6.2, 4.6), layout="constrained")
    axes = figure.subplots()
    curves = (
        ("confidence", reliability.confidences, QUERY),
        ("similarity of the best match", reliability.similarities, UNKNOWN),
    )
    for label, values, colour in curves:
        curve = precision_curve(values, reliability.correct, int(reliability.correct.sum()))
        axes.step(100 * curve.coverage, 100 * curve.precision, where="post", color=colour, linewidth=1.8, label=label)
    axes.axhline(95, color="black", linewidth=0.7, linestyle=":")
    axes.set(xlabel="coverage: accepted queries / %", ylabel="precision: correct queries of the accepted / %")
    axes.set(xlim=(0, 102), ylim=(-3, 103))
    axes.set_title(f"{len(reliability.correct)} queries, {100 * reliability.correct.mean():.1f} % correct")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
