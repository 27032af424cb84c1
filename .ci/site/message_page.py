"""Make the page of all error messages for the documentation, from the code itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIABLE = "…"
_FOLDERS = ("d2vpr_hf", "modeling", "training")
_SHORTEST = 20  # characters of a message; shorter ones are parts of others


def message_page() -> dict[str, str]:
    """Return the text of the page by its path in the documentation."""
    rooms: dict[str, list[str]] = {}
    for path in python_files():
        room = "/".join(path.relative_to(ROOT).parts[:-1][:2])
        rooms.setdefault(room, []).extend(raised_messages(path))
    lines = [
        "# All messages\n",
        f"*Made from the code when the documentation is built.* Errors that the code raises, by room; {VARIABLE} stands for",
        "values. Each says what to do; [troubleshooting](troubleshooting.md) explains the usual ones, and",
        "[architecture](architecture.md) has the subject of each room.\n",
    ]
    for room, messages in rooms.items():
        if messages:
            lines += [f"## {room}\n", *(f"- {_plain(message)}" for message in dict.fromkeys(messages)), ""]
    return {"messages.md": "\n".join(lines)}


def python_files() -> list[Path]:
    """Return the files of the package, sorted."""
    return sorted(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py"))


def raised_messages(path: Path) -> Iterator[str]:
    """Yield the messages of the `raise` statements of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            message = text_of(node.exc.args[0])
            if len(message.replace(VARIABLE, "")) >= _SHORTEST:
                yield message


def text_of(node: ast.AST) -> str:
    """Return the text of an expression, in which values that only a run knows are one character."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return VARIABLE


def _plain(message: str) -> str:
    """Return a message as text of a page: names between backticks stay code, signs of HTML and links are escaped."""
    parts = " ".join(message.split()).split("`")
    escaped = [
        part if i % 2 else part.replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*").replace("_", "\\_")
        for i, part in enumerate(parts)
    ]
    return "`".join(escaped)
