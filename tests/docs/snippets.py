"""The bash and python blocks of a page, run from top to bottom in a folder with small photos, models and a Hub on localhost."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.command_line import run

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND_END = ("&&", "||", ";", "|")

# Commands that no page's test runs, by their beginning, and the reason. A page may have more of them: see its test.
NOT_RUN = {
    "pip install": "needs a package index; CI installs the package",
    "make": "the targets of the Makefile are jobs of CI",
    "d2vpr space": "serves a page until it is stopped; tests/space/test_app.py starts it",
    "accelerate launch": "trains for minutes; tests/training/test_runs.py trains with these recipes",
}


@dataclass(frozen=True)
class Snippet:
    """A block of a page: its language, its text, and its first line."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def load_script(name: str) -> ModuleType:
    """Import a script of .ci/site/ by its path."""
    specification = importlib.util.spec_from_file_location(name, ROOT / ".ci" / "site" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def read_snippets(page: str) -> list[Snippet]:
    """Return all blocks of a page that name a language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Snippet(page, text[: block.start()].count("\n") + 2, block[1], block[2]) for block in BLOCK.finditer(text)]


def shell_commands(text: str) -> list[list[str]]:
    """Return the commands of a bash block as lists of words, without comments and output files."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in COMMAND_END:
                commands += [words] if words else []
                words = []
            elif words[-1:] == [">"]:
                words.pop()  # the file of the output
            else:
                words.append(word)
    return commands


class PageRun:
    """Runs the blocks of a page in the current folder.

    Attributes:
        not_run: Commands and python blocks that are not run, by their first words, with the reason.
        replaced: Commands that run in another form, by their whole text.
        ran: Number of commands and python blocks that ran.
        used: Beginnings of `not_run` and texts of `replaced` that the page has.
    """

    def __init__(self, not_run: dict[str, str] | None = None, replaced: dict[str, str] | None = None) -> None:
        self.not_run = NOT_RUN | (not_run or {})
        self.replaced = replaced or {}
        self.ran = 0
        self.used: set[str] = set()
        self._names: dict[str, object] = {"__name__": "snippet"}

    def run(self, page: str) -> None:
        """Run all blocks; a python block's output must be the text of a following block of the language `text`."""
        printed = ""
        for snippet in read_snippets(page):
            if snippet.language == "bash":
                for words in shell_commands(snippet.text):
                    self._run_command(snippet, words)
            elif snippet.language == "python":
                printed = self._run_python(snippet) if not self._is_listed(snippet.text.split()) else ""
            elif snippet.language == "text":
                assert printed == snippet.text, f"{snippet.place} is printed as:\n{printed}"

    def _run_command(self, snippet: Snippet, words: list[str]) -> None:
        text = shlex.join(words)
        if self._is_listed(words):
            return
        if text in self.replaced:
            self.used.add(text)
            words = shlex.split(self.replaced[text])
        assert words[0] == "d2vpr", (
            f"{snippet.place}: `{text}` is neither a command of d2vpr nor in the list of commands not run"
        )
        status, output, errors = run(*words[1:])
        assert status == 0, f"{snippet.place}: `{text}` ends with {status}:\n{output[-2000:]}\n{errors[-2000:]}"
        self.ran += 1

    def _is_listed(self, words: list[str]) -> bool:
        """Return whether a command or a python block begins as one that is not run."""
        beginnings = [beginning for beginning in self.not_run if words[: len(beginning.split())] == beginning.split()]
        self.used.update(beginnings)
        return bool(beginnings)

    def _run_python(self, snippet: Snippet) -> str:
        output = io.StringIO()
        code = compile("\n" * (snippet.line - 1) + snippet.text, os.fspath(ROOT / snippet.page), "exec")
        with contextlib.redirect_stdout(output):
            try:
                exec(code, self._names)
            except Exception as error:
                raise AssertionError(f"{snippet.place}:\n{traceback.format_exc(limit=-3)}") from error
        self.ran += 1
        return output.getvalue()
