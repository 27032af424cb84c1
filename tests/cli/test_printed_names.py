"""No name of a file and no text from a file steers the terminal, or feigns a line."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import d2vpr_hf.cli
from d2vpr_hf.cli.terminal import print_answers
from d2vpr_hf.readers import Remark
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.search_photos import SearchResult
from tests.command_line import run
from tests.photos import save

ODD = "a\x1b]0;PWNED\x07\x1b[31m\x9b2Jb\u202ec\nd2vpr: all fine"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    save(folder / f"{ODD}.jpg", 1, format="JPEG")
    (folder / f"bad{ODD}.jpg").write_bytes(b"no photo")
    (folder / f"raw{ODD}.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    return folder


@pytest.mark.parametrize("answer_format", ["table", "json", "jsonl"])
def test_names_of_photos_steer_no_terminal(photos, tmp_path, answer_format):
    """A name can set a terminal's title, clear it, colour lines, or look like a line of the program."""
    texts = [run("index", photos, "--out", tmp_path / "index", "--model", "embedded")]
    query = next(path for path in photos.iterdir() if path.name.startswith("a"))
    for command in ("search", "localize"):
        texts.append(run(command, tmp_path / "index", query, photos / "gone\x1b[2J.jpg", "--format", answer_format))
    if answer_format == "table":
        texts += [run("info", tmp_path / "index"), run("places", photos, "--out", tmp_path / "p.csv"), run("verify", photos)]
        texts.append(run("remove", tmp_path / "index", "no\x1b[2J.jpg"))
    for _, out, err in texts:
        assert not STEERING.search(out + err)
        assert "\nd2vpr: all fine" not in out
    assert "\\x1b" in texts[1][1] or "\\u001b" in texts[1][1]


def test_warnings_name_each_skipped_photo_in_one_line(caplog):
    report_skipped({ODD: "a reason\n  good.jpg: fine"}, 2, strict=False)
    assert len(caplog.messages[0].splitlines()) == 2 and not STEERING.search(caplog.text)
    assert not STEERING.search(str(Remark("skipped", "files", 1, ODD)))


@pytest.mark.parametrize("answer_format", ["csv", "geojson", "gpx"])
def test_tables_for_programs_are_escaped_on_a_terminal_only(answer_format, monkeypatch):
    """A program that reads a file must get the name of the photo, and not another one."""
    result = SearchResult(Path(ODD), [], "no photo\x1b[2J")
    for is_terminal in (True, False):
        text = io.StringIO()
        text.isatty = lambda is_terminal=is_terminal: is_terminal
        with contextlib.redirect_stdout(text):
            print_answers([result], answer_format, str)
        assert not (is_terminal and STEERING.search(text.getvalue()))
        if answer_format == "csv" and not is_terminal:
            assert ODD in text.getvalue()


_PRINTING = re.compile(r"typer\.s?echo|(?<![.\w])(?<!def )print\(|sys\.stdout\.write|rich\.print")


def test_one_function_prints_everything():
    """A command that prints by itself would print what a terminal obeys."""
    for path in Path(d2vpr_hf.cli.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "terminal.py":
            assert not _PRINTING.search(text), path.name
