"""The documentation site, checked without mkdocs: its navigation, and the pages that are made when it is built."""

import pytest
import typer
import yaml

import d2vpr_hf
from d2vpr_hf.cli import app
from tests.docs.snippets import ROOT, load_script

MADE = {"index.md", "changes.md", "contributing.md", "code_of_conduct.md", "security.md", "messages.md", "commands/", "python/"}


class _Loader(yaml.SafeLoader):
    """A loader that takes tags of mkdocs for their values."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def entries(section):
    """Yield the pages of a part of the navigation."""
    if isinstance(section, str):
        yield section
    else:
        for part in section.values() if isinstance(section, dict) else section:
            yield from entries(part)


@pytest.fixture(scope="module")
def settings():
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def test_the_navigation_has_every_page_once(settings):
    """A page that the navigation lacks is an error of the strict build, which only one job of CI makes."""
    listed = list(entries(settings["nav"]))
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*") if path.suffix in (".md", ".ipynb")}
    assert len(listed) == len(set(listed))
    assert set(listed) - MADE == pages and set(listed) >= MADE


def test_a_wrong_link_fails_the_build(settings):
    assert settings["strict"] and set(settings["validation"]["links"].values()) == {"warn"}


def test_the_pages_of_commands_have_every_command_and_option():
    pages = load_script("command_pages").command_pages()
    text = "\n".join(pages.values())
    for name, command in typer.main.get_command(app).commands.items():
        assert text.count(f"## `d2vpr {name}`\n") == 1
        section = text.split(f"## `d2vpr {name}`\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert f"<code>{parameter.opts[0]}" in section, f"{name} {parameter.opts}"


def test_the_pages_of_python_have_every_public_name():
    pages = load_script("reference_pages").reference_pages()
    names = [line.removeprefix("::: d2vpr_hf.") for text in pages.values() for line in text.splitlines() if line[:4] == "::: "]
    assert sorted(names) == sorted(d2vpr_hf.__all__)
    assert all(f"[`{name}`]" in pages["python/index.md"] for name in d2vpr_hf.__all__)
