"""The program `d2vpr`: its commands in the order of `d2vpr --help`, and how it ends."""

import sys
import warnings
from typing import Annotated

import typer

from d2vpr_hf import __version__
from d2vpr_hf.cli import demo, evaluation, indexes, localization, models, photos, searches, space
from d2vpr_hf.cli.flags import CommandError, FlagCommand
from d2vpr_hf.cli.option_groups import spread_groups

_COMMANDS = (
    indexes.index,
    indexes.embed,
    indexes.merge,
    indexes.add,
    indexes.remove,
    indexes.info,
    indexes.verify,
    indexes.repair,
    indexes.compact,
    searches.search,
    localization.calibrate,
    localization.localize,
    evaluation.evaluate,
    evaluation.compare,
    models.convert,
    models.fit_projection,
    models.export,
    photos.places,
    photos.simulate,
    demo.demo,
    space.space,
    space.push_space,
)

app = typer.Typer(
    help="Visual place recognition with D²-VPR: where was this photo taken?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in _COMMANDS:
    app.command(cls=FlagCommand)(spread_groups(_command))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. A mistake that the user can correct is a message on stderr and exit status 1."""
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's, of photos it opens all the same
    try:
        app()
    except CommandError as error:
        sys.stderr.write(f"d2vpr: {error}\n")
        sys.exit(1)
