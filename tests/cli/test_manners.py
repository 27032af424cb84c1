"""Manners of all commands: patterns of files, `--quiet`, exit statuses, and one line after Ctrl-C."""

import re
import signal
from contextvars import ContextVar
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.cli.endings import STATUSES, continuation
from d2vpr_hf.cli.options import expand_patterns
from d2vpr_hf.cli.terminal import progress_bar
from d2vpr_hf.utils.interrupts import InterruptedBySignalError
from tests.command_line import run, run_program
from tests.photos import save, save_row

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_patterns_become_files(tmp_path):
    """cmd.exe expands nothing, and a pattern in quotes reaches the program on every shell."""
    for name in ("b.jpg", "a.jpg", "c.png", "deep/d.jpg", "x[1].jpg"):
        save(tmp_path / name, 1)
    names = [path.name for path in expand_patterns([tmp_path / "*.jpg", tmp_path / "c.png"])]
    assert names == ["a.jpg", "b.jpg", "x[1].jpg", "c.png"]
    assert [path.name for path in expand_patterns([tmp_path / "**" / "?.jpg"])] == ["a.jpg", "b.jpg", "d.jpg"]
    assert expand_patterns([tmp_path / "x[1].jpg"]) == [tmp_path / "x[1].jpg"]  # a file that exists is not a pattern
    assert expand_patterns(None) is None and expand_patterns([tmp_path / "gone[1.jpg"]) == [tmp_path / "gone[1.jpg"]
    with pytest.raises(typer.BadParameter, match="no file matches"):
        expand_patterns([tmp_path / "*.gif"])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manners")
    save_row(folder / "photos")
    assert run("index", folder / "photos", "--out", folder / "index")[0] == 0
    return folder / "index"


def test_commands_take_patterns(index, tmp_path):
    for seed in (3, 4):
        save(tmp_path / f"{seed}.jpg", seed)
    status, out, _ = run("search", index, f"{tmp_path}/*.jpg", "--top-k", 1)
    assert status == 0 and re.findall(r"(\d)\.jpg\n", out) == ["3", "4"]
    status, _, err = run("search", index, f"{tmp_path}/*.gif")
    assert status == 2 and "no file matches" in err


def test_quiet_leaves_results_and_errors(index, tmp_path):
    """A script wants the answer alone; the skipped photo and the notice on the embedded model are notices."""
    photos = tmp_path / "photos"
    save_row(photos)
    (photos / "bad.jpg").write_bytes(b"no photo")
    assert run_program("index", photos, "--positions", "exif", "--out", tmp_path / "index", "--quiet") == (0, "", "")
    query = save(tmp_path / "q.jpg", 4)
    loud, quiet = (run_program("search", index, query, "--top-k", 1, *words) for words in ((), ("--quiet",)))
    assert quiet == (0, loud[1], "") and str(query) in quiet[1]
    status, out, err = run_program("search", index, tmp_path / "gone.jpg", "--quiet")
    assert status == 1 and err == "d2vpr: None of the queries could be read.\n" and "no such file" in out


def test_every_command_has_quiet():
    for name, command in typer.main.get_command(app).commands.items():
        assert "--quiet" in [option for parameter in command.params for option in parameter.opts], name


@pytest.mark.parametrize(
    ("words", "position", "completed"), [("d2vpr ser", 1, ["serve"]), ("d2vpr search i --format ge", 4, ["geojson"])]
)
def test_words_are_completed(words, position, completed):
    environment = {"_D2VPR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    assert CliRunner().invoke(app, [], prog_name="d2vpr", env=environment).output.split() == completed


def test_the_page_lists_the_exit_statuses():
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", PAGE, re.MULTILINE))
    assert rows == {str(number): text for number, text in STATUSES.items()}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("info", "INDEX"), 0),
        (("--help",), 0),
        (("info", "NOWHERE"), 1),
        (("search", "INDEX", "NOWHERE"), 1),
        (("search", "INDEX", "--top-k", "0", "NOWHERE"), 2),
        (("search", "INDEX", "--unknown"), 2),
        (("unknown",), 2),
        ((), 2),
    ],
)
def test_exit_statuses(index, tmp_path, words, status):
    names = {"INDEX": index, "NOWHERE": tmp_path / "nowhere"}
    assert run(*[names.get(word, word) for word in words])[0] == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_that_names_the_way_on(index, monkeypatch, number):
    def interrupt(name):
        raise InterruptedBySignalError(number)

    monkeypatch.setattr("d2vpr_hf.cli.indexes.open_index", interrupt)
    status, out, err = run("info", index)
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert (status, out, err) == (128 + number, "", f"d2vpr: stopped by {name}. The same command begins again.\n")


def test_a_note_of_the_work_comes_before_the_general_sentence():
    interrupt = InterruptedBySignalError()
    assert "not stored yet" in continuation("index", interrupt)
    interrupt.add_note("4 of 9 photos are stored in i. The same command encodes the others.")
    assert continuation("index", interrupt) == "4 of 9 photos are stored in i. The same command encodes the others."


@pytest.mark.parametrize(("total", "words"), [(100, "left"), (None, "passed")])
def test_progress_tells_the_time_on_a_terminal_only(monkeypatch, capsys, total, words):
    from rich.console import Console

    with progress_bar("Encoding", total) as progress:
        progress(50)
    assert capsys.readouterr().err == ""  # not a terminal
    monkeypatch.setattr(Console, "is_terminal", True)
    with progress_bar("Encoding", total) as progress:
        progress(50)
    err = capsys.readouterr().err
    assert "Encoding" in err and re.search(rf"(\d:\d\d|-:--)\S* {words}", err)
    monkeypatch.setattr("d2vpr_hf.cli.terminal.is_quiet", ContextVar("quiet", default=True))
    with progress_bar("Encoding", total) as progress:
        progress(50)
    assert capsys.readouterr().err == ""
