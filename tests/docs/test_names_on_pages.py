"""All pages: commands and options that they name exist, and python blocks import names that exist. Nothing is run."""

import ast
import importlib
import re
import shlex

import pytest
import typer

from d2vpr_hf.cli import app
from tests.docs.snippets import ROOT, read_snippets, shell_commands

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
OLD_PAGES = {"docs/LOG.md"}  # a diary: it may name options that are gone
FORMAT_NAME = "d2vpr evaluation"  # of reports, not a command
INLINE = re.compile(r"`(d2vpr [a-z][^`\n]*)`")
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for name, command in COMMANDS.items()
}


def named_commands(page):
    """Yield the words of the commands of `d2vpr` in the blocks and lines of a page."""
    for snippet in read_snippets(page):
        if snippet.language == "bash":
            yield from (words for words in shell_commands(snippet.text) if words[0] == "d2vpr")
    texts = INLINE.findall((ROOT / page).read_text(encoding="utf-8"))
    for text in [text for text in texts if text != FORMAT_NAME]:
        try:
            yield shlex.split(text)
        except ValueError:  # a quotation mark in prose
            yield text.split()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OLD_PAGES])
def test_commands_and_options_exist(page):
    """A page that names a command of an earlier version would send its reader to an error."""
    wrong = []
    for words in named_commands(page):
        if len(words) > 1 and re.fullmatch(r"[a-z][a-z-]+", words[1]):
            options = OPTIONS.get(words[1], set())
            given = [word.partition("=")[0] for word in words[2:] if re.match(r"--[a-z]", word)]
            if words[1] not in OPTIONS or not set(given) <= options:
                wrong.append(shlex.join(words))
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_import_names_that_exist(page):
    for snippet in read_snippets(page):
        if snippet.language == "python":
            for node in ast.walk(ast.parse(snippet.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2vpr_hf":
                    try:
                        module = importlib.import_module(node.module)
                    except ModuleNotFoundError as error:
                        if "my" in (error.name or ""):  # modules that a recipe tells to write
                            continue
                        raise
                    missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                    assert not missing, f"{snippet.place}: {node.module} has no {missing}"


def test_the_search_finds_commands():
    found = [words[1] for words in named_commands("docs/quick_tour.md")]
    assert {"simulate", "index", "push", "evaluate", "places"} <= set(found)
