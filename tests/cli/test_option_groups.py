"""Groups of options: the signature that typer reads, and the values that the command gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from d2vpr_hf.cli.option_groups import spread_groups


@dataclass
class Size:
    height: Annotated[int, typer.Option(help="Rows.")] = 2
    width: Annotated[int, typer.Option(help="Columns.")] = 3


@dataclass
class WideSize(Size):
    width: Annotated[int, typer.Option(help="Many columns.")] = 300


def draw(name: str, *, before: bool = False, size: Size, colour: str = "red") -> None:
    """Draw."""
    typer.echo(f"{name} {before} {size} {colour}")


def draw_wide(*, size: WideSize) -> None:
    typer.echo(f"{size}")


def invoke(command, *arguments):
    app = typer.Typer(rich_markup_mode=None)
    app.command()(spread_groups(command))
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x"], "x False Size(height=2, width=3) red"),
        (["x", "--width", "7", "--before", "--colour", "blue"], "x True Size(height=2, width=7) blue"),
    ],
)
def test_a_command_gets_its_groups(arguments, expected):
    assert invoke(draw, *arguments).output.strip() == expected


def test_a_group_changes_a_field_of_another():
    """The field keeps its place among the options, with the new default and help."""
    assert invoke(draw_wide).output.strip() == "WideSize(height=2, width=300)"
    text = invoke(draw_wide, "--help").output
    assert text.index("--height") < text.index("Many columns") and "Columns." not in text


def test_the_options_of_a_group_take_its_place():
    text = invoke(draw, "--help").output
    assert (
        text.index("Draw.") < text.index("--before") < text.index("--height") < text.index("--width") < text.index("--colour")
    )
    assert "Rows.  [default: 2]" in text


def test_values_of_a_wrong_type_are_refused():
    result = invoke(draw, "x", "--width", "many")
    assert result.exit_code == 2 and "--width" in result.output
