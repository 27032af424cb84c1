"""docs/troubleshooting.md: each message that it explains is still one of the code."""

import ast
import re

import pytest

from tests.docs.snippets import ROOT, load_script

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`+)(.+?)\1 \| ", PAGE, re.MULTILINE)
MESSAGES = [text.strip() for _, text in ROWS]


@pytest.fixture(scope="module")
def message_page():
    return load_script("message_page")


@pytest.fixture(scope="module")
def texts(message_page):
    """All texts of the code."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in message_page.python_files()]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)]
    return {message_page.text_of(node) for node in nodes}


def test_the_page_has_the_usual_messages():
    assert len(MESSAGES) >= 30


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message, texts):
    """A message with new words would not be found by a reader who searches for it."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)
    assert any(pattern.search(text) for text in texts)


def test_every_raised_message_is_listed(message_page):
    (page,) = message_page.message_page().values()
    assert page.count("\n- ") > 700 and "is being changed by another process" in page
