"""Messages of the command line name flags in place of the library's parameters."""

import logging

import pytest
import typer
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.cli.flags import CommandError, name_flags
from tests.command_line import run


def parameters_of(command):
    return {parameter.name: parameter for parameter in typer.main.get_command(app).commands[command].params}


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("index", "Give `overwrite=True`.", "Give `--overwrite`."),
        ("index", "Give `batch_size=8`, or omit `dtype`.", "Give `--batch-size 8`, or omit `--dtype`."),
        ("index", 'Give `backend="torch", precision="fp32"`.', "Give `--backend torch --backend-precision fp32`."),
        ("index", 'Give `uri="http://HOST:19530"`.', "Give `--uri http://HOST:19530`."),
        ("index", "Give `split=...`, or other `photos`.", "Give `--split SPLIT`, or other `PHOTOS`."),
        ("index", 'Give `columns={"image": "photo", "latitude": LAT}`.', "Give `--column image=photo --column latitude=LAT`."),
        ("export", "Give `photos=...`.", "Give `--photos PHOTOS`."),
        ("export", 'Give `format="openvino"`.', "Give `--format openvino`."),
        ("convert", 'Give `target="student"`, `changes={"depth": 3}`.', "Give `--as student`, `--set depth=3`."),
        ("evaluate", "Give `cross_image_encoder=False`.", "Give `--no-cross-image-encoder`."),
        ("evaluate", "Give `recall_values=[1, 5]`.", "Give `--recall-values 1,5`."),
        ("localize", 'Give `num_workers=2, precision="bf16"`.', "Give `--workers 2 --backend-precision bf16`."),
        ("evaluate", 'Give `save_descriptors="my folder"`.', "Give `--save-descriptors 'my folder'`."),
    ],
)
def test_flags_replace_parameters(command, message, expected):
    """A user of the command line cannot type `overwrite=True`."""
    assert name_flags(message, parameters_of(command)) == expected


@pytest.mark.parametrize(
    "message",
    [
        "`d2vpr index PHOTOS --out INDEX --overwrite` builds one.",
        "Give `--overwrite`.",
        "Give `overwrite=True`.",  # of another command
        "overwrite=True and model, without backticks",
        "Give `strict=False`.",  # no flag says this
        "Search `PlaceIndex.open(index)` or `**model`, or `3`.",
        "",
    ],
)
def test_everything_else_stays(message):
    assert name_flags(message, parameters_of("search")) == message


def test_errors_of_a_command_name_flags(monkeypatch, tmp_path):
    """The original error stays as the cause of the error with flags."""

    def fail(path, options):
        raise FileExistsError("Give `strict=True`.")

    monkeypatch.setattr("d2vpr_hf.readers.read_places", fail)
    error = CliRunner().invoke(app, ["places", str(tmp_path)]).exception
    assert isinstance(error, CommandError) and isinstance(error.__cause__, FileExistsError)
    status, _, err = run("places", tmp_path)
    assert (status, err) == (1, "d2vpr: Give `--strict`.\n")


def test_errors_steer_no_terminal(monkeypatch, tmp_path):
    """Files of other people may have names of any characters."""

    def fail(path, options):
        raise ValueError("The file has no tensor a\x1b[2J\x1b]0;title\x07\u202eb.\nIt has c.")

    monkeypatch.setattr("d2vpr_hf.readers.read_places", fail)
    status, _, err = run("places", tmp_path)
    assert (status, err) == (1, "d2vpr: The file has no tensor a\\x1b[2J\\x1b]0;title\\x07\\u202eb.\nIt has c.\n")


def test_warnings_of_a_command_name_flags(monkeypatch, tmp_path):
    def warn(path, options):
        logging.getLogger("d2vpr_hf").warning("Omit `%s`.", "strict")
        raise ValueError("no photos")

    monkeypatch.setattr("d2vpr_hf.readers.read_places", warn)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own; with them, the command line adds none
    assert run("places", tmp_path)[2] == "Omit `--strict`.\nd2vpr: no photos\n"
