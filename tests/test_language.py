"""The house's rule of language: plain English for readers whose second language it is.

`python tests/test_language.py PATH ...` lists the offences in some files or folders.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("d2vpr_hf", "modeling", "training", "spaces", "benchmarks", "tests")
PAGES = ("README.md", "CHANGELOG.md", "docs", "spaces/README.md")
HISTORY = ("LOG.md",)  # entries stay as they were written

FIRST_WORDS = re.compile(r"(What|Where|How|Which|Who|Why|Say|Says|Tell|Tells|Give|Gives|Number|Name|Names)\b")
BANNED = {
    "anew": "again, or a new one",
    "so many": "the number",
    "in force": "current",
    "nobody": "no one thing: name it",
    "somebody": "name who",
    "whoever": "name who",
    "asked of": "name the requirement",
    "as it is": "unchanged",
    "as it was": "unchanged",
    "as they are": "unchanged",
    "as they were": "unchanged",
    "lies": "is, stands",
    "lie in": "are in",
    "goes": "continues, is removed, is written",
    "is no": "is not a",
    "are no": "are not",
    "left out": "skipped",
    "leave out": "omit, skip",
    "beside": "next to",
    "shall": "must, will",
}
BANNED_PHRASE = re.compile(  # "there is no file" and "it is no longer" are plain English; "this is no file" is not
    rf"(?<!\bthere )\b({'|'.join(map(re.escape, BANNED))})\b(?! longer| more than| less than)", re.IGNORECASE
)
VAGUE = {"found", "known", "kept", "told", "asked", "one", "other", "own"}


def python_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (path,) if path.suffix == ".py" else sorted(path.rglob("*.py"))


def pages(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        found = (path,) if path.suffix == ".md" else sorted(path.rglob("*.md"))
        yield from (page for page in found if page.name not in HISTORY)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text, node


def summary_offences(path: Path) -> Iterator[str]:
    for line, text, node in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        first = FIRST_WORDS.match(text)
        if first:
            yield f"{path}:{line}: a summary begins with {first[0]!r}: {text.splitlines()[0]}"
        returns = getattr(node, "returns", None)
        is_property = any(getattr(mark, "id", "") == "property" for mark in getattr(node, "decorator_list", ()))
        if isinstance(returns, ast.Name) and returns.id == "bool" and not is_property and not text.startswith("Return whether"):
            yield f"{path}:{line}: a boolean function's summary begins with 'Return whether': {text.splitlines()[0]}"


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield comments, docstrings and messages with their lines; a string without a blank is a name, not a sentence."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            for number, text in enumerate(token.string.splitlines()):
                yield token.start[0] + number, text


def phrase_offences(path: Path) -> Iterator[str]:
    lines = texts(path) if path.suffix == ".py" else enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    for line, text in lines:
        for phrase in BANNED_PHRASE.finditer(text):
            advice = BANNED[phrase[1].lower()]
            yield f"{path}:{line}: {phrase[1]!r} (better: {advice}): {text.strip()}"


def local_offences(path: Path) -> Iterator[str]:
    """Yield locals that name nothing and are read more than a line below their assignment."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in VAGUE]
        for name in sorted({node.id for node in names}):
            lines = [node.lineno for node in names if node.id == name]
            first = min((node.lineno for node in names if node.id == name and isinstance(node.ctx, ast.Store)), default=None)
            if first is not None and max(lines) > first + 1:
                yield f"{path}:{first}: the local {name!r} names nothing and lives {max(lines) - first} lines"


def parallel_offences(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
            count = len(node.targets[0].elts)
            if count > 2:
                yield f"{path}:{node.lineno}: a parallel assignment of {count} targets"


CHECKS = (summary_offences, phrase_offences, local_offences, parallel_offences)


def tree_files() -> list[Path]:
    return list(python_files([ROOT / folder for folder in FOLDERS]))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_rule_of_language_holds_in_code(check):
    offences = [offence for path in tree_files() if path != Path(__file__) for offence in check(path)]
    assert not offences, "\n".join(offences)


def test_the_rule_of_language_holds_in_pages():
    offences = [offence for page in pages([ROOT / name for name in PAGES]) for offence in phrase_offences(page)]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (summary_offences, 'def f():\n    """Say what it is."""\n'),
        (summary_offences, 'def f() -> bool:\n    """Tell it."""\n'),
        (summary_offences, 'def f() -> bool:\n    """Check it."""\n'),
        (phrase_offences, "x = 1  # the file lies there\n"),
        (phrase_offences, 'raise ValueError("it is no folder")\n'),
        (phrase_offences, 'raise ValueError("there is no file, and it is no folder")\n'),
        (local_offences, "def f():\n    found = 1\n    x = 2\n    return found\n"),
        (parallel_offences, "a, b, c = 1, 2, 3\n"),
    ],
)
def test_the_rule_catches(tmp_path, check, code):
    """Each check finds an offence of its kind: a check that finds nothing would hold nothing."""
    (tmp_path / "code.py").write_text(code)
    assert len(list(check(tmp_path / "code.py"))) >= 1


if __name__ == "__main__":
    given = [Path(path) for path in sys.argv[1:]] or [ROOT / folder for folder in FOLDERS]
    listed = [offence for path in python_files(given) for check in CHECKS for offence in check(path)]
    written = pages([path for path in given if path.is_dir() or path.suffix == ".md"])
    listed += [offence for page in written for offence in phrase_offences(page)]
    print("\n".join(listed))
    sys.exit(bool(listed))
