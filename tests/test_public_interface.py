"""Public names, their keyword parameters, commands and options: none of an earlier commit is lost by a move or a new name."""

import importlib
import inspect
import json
from pathlib import Path

import pytest
import typer

import d2vpr_hf
from d2vpr_hf.cli import app

OLD = json.loads((Path(__file__).parent / "data" / "version_0_1" / "interface.json").read_text())


@pytest.mark.parametrize("name", OLD["names"])
def test_a_public_name_is_still_there(name):
    parameters = inspect.signature(getattr(d2vpr_hf, name)).parameters if OLD["names"][name] else {}
    assert name in d2vpr_hf.__all__ and set(OLD["names"][name]) <= set(parameters)


@pytest.mark.parametrize("name", OLD["commands"])
def test_a_command_still_has_its_options(name):
    command = typer.main.get_command(app).commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(OLD["commands"][name]) <= options


@pytest.mark.parametrize("name", ["find_photos", "open_photo"])
def test_a_function_is_still_in_the_module_that_callers_name(name):
    assert getattr(importlib.import_module("d2vpr_hf.readers.photos"), name) is getattr(d2vpr_hf.readers, name)
