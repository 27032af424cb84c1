"""The program `d2vpr`: its commands, in the groups and the order of `d2vpr --help`."""

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from d2vpr_hf import __version__
from d2vpr_hf.cli import (
    demo,
    doctor,
    evaluation,
    exchange,
    hub,
    import_hub,
    indexes,
    known_models,
    localization,
    map_check,
    models,
    onnx_cards,
    photos,
    searches,
    serve,
    space,
    watch,
)
from d2vpr_hf.cli.flags import CommandError, FlagCommand
from d2vpr_hf.cli.option_groups import spread_groups
from d2vpr_hf.cli.terminal import echo
from d2vpr_hf.utils.interrupts import SignalHandler, raise_interrupted

_COMMANDS = {
    "Make an index": (indexes.index, indexes.add, indexes.remove, watch.watch, indexes.embed, indexes.merge),
    "Inspect and maintain an index": (
        indexes.info,
        map_check.check_map,
        indexes.verify,
        indexes.repair,
        indexes.compact,
    ),
    "Find where photos were taken": (searches.search, localization.localize, localization.calibrate),
    "Exchange with other programs": (exchange.pairs, exchange.export_descriptors, exchange.export_index),
    "Evaluate": (evaluation.evaluate, evaluation.compare),
    "Choose and make models": (
        known_models.models,
        models.convert,
        models.fit_projection,
        models.export,
        onnx_cards.card_onnx,
        import_hub.import_hub,
    ),
    "Make photos and places": (photos.simulate, photos.places),
    "Try it and show it": (demo.demo, space.space, serve.serve, doctor.doctor),
    "Share it on the Hugging Face Hub": (hub.push, space.push_space),
}


class _Program(TyperGroup):
    """The program, whose help lists the commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each group of commands under its title; typer does so only in boxes drawn by rich."""
        name_width = max(map(len, self.commands))
        help_width = formatter.width - name_width - 4  # two blanks before the name and two after it
        for title, functions in _COMMANDS.items():
            names = [function.__name__.replace("_", "-") for function in functions]
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{name:{name_width}}", self.commands[name].get_short_help_str(help_width)) for name in names]
                )


app = typer.Typer(
    cls=_Program,
    help="Visual place recognition with D²-VPR: where was this photo taken?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _functions in _COMMANDS.values():
    for _function in _functions:
        app.command(cls=FlagCommand)(spread_groups(_function))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line.

    A mistake that the user can correct is a message on stderr and exit status 1. Ctrl-C and SIGTERM are KeyboardInterrupt in
    the commands, which end with status 130 and 143; a second signal ends the program at once.
    """
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # of Pillow, which opens such photos nevertheless
    try:
        with SignalHandler(raise_interrupted):
            app()
    except CommandError as error:
        sys.stderr.write(f"d2vpr: {error}\n")
        sys.exit(1)
