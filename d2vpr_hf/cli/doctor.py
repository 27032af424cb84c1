"""The command that examines this installation."""

from __future__ import annotations

import json

import typer

from d2vpr_hf.cli.options import JsonOption
from d2vpr_hf.cli.terminal import echo, hush_transformers


def doctor(as_json: JsonOption = False) -> None:
    """Examine this installation, and test it.

    Versions, processor, backends, GPU and Hub cache, and a test of some seconds with the embedded model. The status is 1 if a
    part that is installed does not work.
    """
    from d2vpr_hf.doctor import examine

    hush_transformers()
    examination = examine()
    echo(json.dumps(examination.to_dict(), indent=2) if as_json else examination.to_text())
    if examination.problems:
        raise typer.Exit(1)
