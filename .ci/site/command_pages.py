"""Make the pages of the command line for the documentation, from the commands themselves."""

import re
from typing import Any

import typer
from typer.testing import CliRunner

from d2vpr_hf.cli import app

_INTRODUCTION = """# Commands

*Made from the commands when the documentation is built. `d2vpr COMMAND --help` prints the same.*

Output, exit statuses, completion of words and Ctrl-C: [the command line](../cli.md).
"""


def command_pages() -> dict[str, str]:
    """Return the text of each page by its path in the documentation, the overview first."""
    program: Any = typer.main.get_command(app)
    overview = [_INTRODUCTION]
    pages = {"commands/index.md": ""}
    for title, names in _groups():
        path = f"{_slug(title)}.md"
        overview += [f"## [{title}]({path})\n", "| command | |", "| --- | --- |"]
        sections = [f"# {title}\n"]
        for name in names:
            command = program.commands[name]
            overview.append(f"| [`d2vpr {name}`]({path}#d2vpr-{name}) | {_cell(command.help.splitlines()[0])} |")
            sections.append(_command_section(name, command))
        overview.append("")
        pages[f"commands/{path}"] = "\n".join(sections)
    return pages | {"commands/index.md": "\n".join(overview)}


def _groups() -> list[tuple[str, list[str]]]:
    """Return the titles and commands of `d2vpr --help`, in its order."""
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    sections = re.findall(r"^(\S.*):\n((?:  .*\n?)+)", text, flags=re.MULTILINE)
    groups = [(title, re.findall(r"^  ([a-z][\w-]*) ", rows, flags=re.MULTILINE)) for title, rows in sections]
    return [(title, names) for title, names in groups if names]


def _command_section(name: str, command: Any) -> str:
    """Return the section of a command: its usage, its description, and tables of its arguments and options."""
    context = typer.Context(command, info_name=f"d2vpr {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `d2vpr {name}`\n", f"```text\nd2vpr {name} {usage}\n```\n", _description(command.help)]
    records = [(parameter, parameter.get_help_record(context)) for parameter in command.params]
    for title, kind in (("argument", "argument"), ("option", "option")):
        rows = [record for parameter, record in records if parameter.param_type_name == kind and record is not None]
        if rows:
            lines += [f"| {title} | |", "| --- | --- |"]
            lines += [f"| {_names(names)} | {_cell(text)} |" for names, text in rows]
            lines.append("")
    return "\n".join(lines)


def _names(names: str) -> str:
    """Return the names and values of an option as code; a table would take a bar for the end of a cell."""
    return "<br>".join(
        f"<code>{part.strip().replace('|', '&#124;').replace('<', '&lt;')}</code>" for part in names.split(", --")
    )


def _description(text: str) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text).replace("\b", "") + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;").replace("\n", " ")


def _slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")


if __name__ == "__main__":
    for page, content in command_pages().items():
        print(f"---- {page}\n{content}")
