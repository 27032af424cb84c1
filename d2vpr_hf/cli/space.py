"""Commands that run and publish the Gradio Space."""

from __future__ import annotations

import importlib.util
import os
import runpy
from pathlib import Path
from typing import Annotated

import typer

from d2vpr_hf.cli.options import parse_model, parse_path
from d2vpr_hf.cli.terminal import echo

_IndexOption = Annotated[
    str | None,
    typer.Option("--index", parser=parse_model, metavar="INDEX", help="Index folder or Hub id. Default: a simulated town."),
]
_SpaceModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        parser=parse_model,
        metavar="MODEL",
        help="Model folder or Hub id. Default: the model of the index, or `embedded`, the small model included here.",
    ),
]


def space(
    model: _SpaceModelOption = None,
    index: _IndexOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the web page.")] = 7860,
) -> None:
    """Run the Space, a web page for searching, on this machine.

    It shows where a photo was taken, and why. The first run renders a town and indexes it.
    """
    from d2vpr_hf.hub.space_files import find_space_folder

    if importlib.util.find_spec("gradio") is None:
        raise ImportError('The Space needs Gradio: pip install "d2vpr-hf[demo]".')
    os.environ |= _variables(model, index) | {"GRADIO_SERVER_PORT": str(port)}
    runpy.run_path(str(find_space_folder() / "app.py"), run_name="__main__")


def push_space(
    name: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Space on the Hugging Face Hub; it is created if there is none.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Hub id, or `embedded`. Default: the model of the index, or `embedded`."),
    ] = None,
    index: Annotated[
        str | None, typer.Option("--index", metavar="INDEX", help="Hub id of the index. Default: a simulated town.")
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FILE", help="Wheel of this package. Default: the files of this installation."),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            metavar="HARDWARE",
            help="Such as `cpu-basic`, or `zero-a10g` for ZeroGPU. Default: that of the Space, or the Hub's choice.",
        ),
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME",
            help="Environment variable to copy to the Space as a secret, such as `HF_TOKEN`. Repeatable.",
        ),
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new Space.")] = None,
) -> None:
    """Publish the Space on the Hugging Face Hub.

    This package is uploaded with it. Model and index are loaded from the Hub, in their present revisions.
    """
    from d2vpr_hf.hub.push_space import push_space as run

    unset = [secret for secret in secrets or [] if not os.environ.get(secret)]
    if unset:
        raise ValueError(f"`--secret {unset[0]}` copies the environment variable {unset[0]}, which is not set. Set it first.")
    values = {secret: os.environ[secret] for secret in secrets or []}
    url = run(name, model=model, index=index, wheel=wheel, hardware=hardware, secrets=values, private=private)
    echo(url)


def _variables(model: str | None, index: str | None) -> dict[str, str]:
    """Return the environment variables that the Space reads."""
    variables = {"D2VPR_MODEL": model, "D2VPR_INDEX": index}
    return {name: value for name, value in variables.items() if value is not None}
