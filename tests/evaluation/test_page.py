"""An evaluation as one HTML page: its numbers are those of the report, and names of files are only texts."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.evaluation.page import draw_curve, to_page
from d2vpr_hf.evaluation.report import percent
from tests.command_line import run
from tests.evaluation.test_evaluate import MeanColours
from tests.photos import at_name, save

HOSTILE = '"><img src=x onerror=alert(1)><script>'
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "small", "svg", "path", "g", "text"}
TAGS |= {"span", "figure", "img", "figcaption", "pre", "table", "tr", "th", "td"}


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Photos of six places 100 m apart with hostile names and conditions; the last query is far from the database."""
    folder = tmp_path_factory.mktemp("town")
    for i in range(6):
        save(folder / "<b>database" / at_name(544000 + 100 * i, 4172000), i)
        east = 544003 + 100 * i if i < 5 else 546000
        save(folder / "queries" / at_name(east, 4172000).replace("@@.jpg", f"@{HOSTILE}@.jpg"), i)
    return folder


@pytest.fixture(scope="module")
def evaluation(town):
    return evaluate(town / "<b>database", town / "queries", MeanColours(), recall_values=(1, 5))


def test_names_of_files_are_only_texts(evaluation):
    """A stranger's data set must not run a script in the browser of a person who looks at its page."""
    page = Page(to_page(evaluation))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = page.attributes("src")
    assert len(sources) == 6 * 5 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not page.attributes("href")
    assert any(HOSTILE in text for text in page.texts) and any("<b>database" in text for text in page.texts)
    assert "default-src 'none'" in str(page.attributes("content"))


def test_the_page_has_the_numbers_of_the_report(evaluation):
    text = to_page(evaluation)
    for values in evaluation.recall().values():
        assert f"<b>{percent(values['recall'])} %</b>" in text
    assert "<b>83.3 %</b>" in text  # five of six
    assert "5 correct queries" in text and "1 wrong queries" in text
    line = re.search(r'<path class="wrong line" d="([^"]*)"', text)[1]
    dots = re.search(r'<path class="correct dot" d="([^"]*)"', text)[1]
    assert line.count("L") == 1 and dots.count("M") == 5
    assert len(re.findall(r'<div class="example">', text)) == 6


def test_a_report_that_was_loaded_has_no_photos_and_says_so(evaluation, tmp_path):
    evaluation.save(tmp_path / "report.json")
    loaded = Evaluation.load(tmp_path / "report.json")
    text = to_page(loaded)
    assert "There are no photos" in text and "<img" not in text and '<svg class="map"' in text
    without = replace(loaded, queries=[replace(query, position=None) for query in loaded.queries])
    assert "There is no map" in to_page(without)


def test_the_curve_ends_at_the_share_of_correct_queries(evaluation):
    points = re.findall(r"H([\d.]+)V([\d.]+)", draw_curve(evaluation))
    x, y = points[-1]
    assert float(x) == 720 - 44  # all queries are accepted
    expected = np.mean([query.correct for query in evaluation.queries])
    assert (256 - float(y)) / (256 - 28) == pytest.approx(expected, abs=1e-3)


def test_a_photo_that_is_gone_is_named(town, evaluation, tmp_path):
    moved = town / "<b>database" / at_name(544000, 4172000)
    moved.rename(tmp_path / "away.jpg")
    try:
        assert "This photo is not here." in to_page(evaluation)
    finally:
        (tmp_path / "away.jpg").rename(moved)


def test_the_command_writes_a_page_and_keeps_an_existing_one(town, tiny_folder, tmp_path):
    arguments = ["evaluate", "--database", town / "<b>database", "--queries", town / "queries", "--model", tiny_folder]
    arguments += ["--page", tmp_path / "page.html"]
    status, _, err = run(*arguments)
    assert status == 0, err
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    status, _, err = run(*arguments)
    assert status == 1 and "--overwrite" in err
