"""The command that shows the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.options import parse_path
from d2vpr_hf.cli.terminal import hush_transformers, results_text


def demo(
    out: Annotated[Path, typer.Option("--out", parser=parse_path, metavar="FOLDER", help="Folder for photos, index and plot.")],
) -> None:
    """Draw a few streets, index them and search them: the main job offline, with the model in this package."""
    from d2vpr_hf.demo import run_demo

    hush_transformers()
    result = run_demo(out)
    typer.echo(results_text(result.results))
    typer.echo(result.summary)


__all__ = ["demo"]
