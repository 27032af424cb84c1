"""The command that demonstrates indexing, searching and evaluating."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.options import parse_path
from d2vpr_hf.cli.terminal import echo, hush_transformers, notice, progress_bar, results_text


def demo(
    out: Annotated[
        Path, typer.Option("--out", parser=parse_path, metavar="FOLDER", help="Folder for photos, index and pictures.")
    ],
) -> None:
    """Simulate a town, index it, search and evaluate it.

    It needs no network: the model is the small one in this package.
    """
    from d2vpr_hf.demo import NUM_PHOTOS, run_demo

    hush_transformers()
    notice("Rendering a simulated town, then encoding its photos.")
    with progress_bar("Encoding", NUM_PHOTOS) as progress:
        result = run_demo(out, progress=progress)
    echo(results_text(result.results))
    echo(result.evaluation.to_text())
    notice(f"Simulated streets of the easy tier. Pictures: {', '.join(map(str, result.pictures))}")
