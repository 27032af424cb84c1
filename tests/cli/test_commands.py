"""The command line as a whole: indexing and searching, errors, help."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from tests.command_line import run, run_program
from tests.photos import save, save_row


@pytest.fixture
def photos(tmp_path):
    return save_row(tmp_path / "photos")


def test_command_line_end_to_end(tiny_folder, photos, tmp_path):
    index, plot = tmp_path / "index", tmp_path / "plots" / "matches.png"
    status, out, err = run_program("index", photos, "--model", tiny_folder, "--out", index)
    assert status == 0, err
    assert "9 photos, 9 with a position (from: names)" in out and "Indexed 9 photos" in out
    query = save(tmp_path / "q.jpg", 4)
    status, out, err = run_program("search", index, query, photos, "--top-k", 2, "--json", "--plot", plot)
    assert status == 0, err
    results = json.loads(out)
    assert [entry["query"] for entry in results] == [str(query), *map(str, sorted(photos.iterdir()))]
    best = results[0]["matches"][0]
    assert best["score"] == best["similarity"] and best["heading"] == 40.0
    assert (best["rank"], best["utm_east"], best["path"]) == (1, 544400.0, str(sorted(photos.iterdir())[4]))
    assert Image.open(plot).width > 500
    before = query.read_bytes()
    status, out, err = run("search", index, query, "--plot", query)
    assert status == 1 and "is one of the photos" in err and out == "" and query.read_bytes() == before
    status, out, err = run("search", index, query)
    assert status == 0 and f"{query}\n    1   1.0000  @544400.00" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{tmp}/nowhere", "--out", "{tmp}/i"], "There is no folder"),
        (["index", "{tmp}/empty", "--out", "{tmp}/i"], "No photo in"),
        (["index", "{photos}", "--out", "{tmp}/full"], "exists already and is not an index"),
        (["index", "{photos}", "--out", "{tmp}/i", "--model", "{tmp}/nowhere"], "There is no model folder"),
        (["index", "{photos}", "--out", "{tmp}/i", "--model", "{tmp}/empty"], "has no config.json"),
        (["search", "{tmp}/empty", "{photos}"], "is not an index"),
        (["index", "{photos}", "--out", "{tmp}/i", "--model", ""], "The model's name is empty"),
        (["convert", "{tmp}/nowhere.pth", "{tmp}/m"], "There is no file"),
    ],
)
def test_errors_are_one_line_and_status_1(photos, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "full" / "a.jpg", 0)
    status, _, err = run(*[argument.format(tmp=tmp_path, photos=photos) for argument in arguments])
    assert status == 1
    assert err.startswith("d2vpr: ") and message in err and "Traceback" not in err


def test_empty_arguments_are_not_the_current_folder():
    """An unset shell variable gives an empty argument, and an empty path would be the current folder."""
    for arguments in (["search", "index", ""], ["index", "", "--out", "x"], ["index", "x", "--out", ""]):
        status, _, err = run(*arguments)
        assert status == 2 and "the path is empty" in err


def test_search_fails_if_no_query_can_be_read(tiny_folder, photos, tmp_path):
    assert run("index", photos, "--model", tiny_folder, "--out", tmp_path / "index")[0] == 0
    status, out, err = run("search", tmp_path / "index", tmp_path / "gone.jpg", "--json")
    assert status == 1
    assert json.loads(out)[0]["error"] == "no such file"
    assert "None of the queries could be read" in err


def test_version_and_help():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, "0.1.0")
    help_text = CliRunner().invoke(app, ["--help"]).output
    listed = re.findall(r"^  ([a-z-]+)  ", help_text.partition("--help")[2], flags=re.MULTILINE)
    assert listed == [
        *("index", "add", "remove", "watch", "embed", "merge", "info", "check-map", "verify", "repair", "compact"),
        *("search", "localize", "calibrate", "pairs", "export-descriptors", "export-index", "evaluate", "compare"),
        *("models", "convert", "fit-projection", "export", "card-onnx", "import-hub"),
        *("simulate", "places", "demo", "space", "serve", "doctor", "push", "push-space"),
    ]
