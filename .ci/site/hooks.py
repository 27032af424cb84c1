"""Hooks of mkdocs: pages that are made when the site is built, and links to files of the repository outside docs/."""

import logging
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path.insert(0, os.fspath(Path(__file__).parent))

from command_pages import command_pages  # noqa: E402 - mkdocs loads this file by its path
from message_page import message_page  # noqa: E402
from reference_pages import reference_pages  # noqa: E402

logger = logging.getLogger("mkdocs.plugins.d2vpr")  # warnings of this logger fail a strict build

# pages of the site that are files at the top of the repository
_TOP_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
}
_SOURCES = {site: name for name, site in _TOP_PAGES.items()}
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^()\s]+)\)")
_ITEM_AFTER_TABLE = re.compile(r"^( *\|.*\|\n)(?=- )", re.MULTILINE)
_FENCED = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_GENERATED: dict[str, str] = {}  # texts of the pages of commands and of the Python reference, by path
_PACKAGE = ROOT / "build" / "site-package"


def on_config(config: Any) -> Any:
    """List the generated pages in the navigation, and link the package's folders as an installation has them.

    mkdocstrings reads the files of the package, and does not follow the mapping of folders in pyproject.toml.
    """
    _GENERATED.update(command_pages() | reference_pages() | message_page())
    for section in config.nav:
        for entry in next(iter(section.values())):
            for title, value in entry.items() if isinstance(entry, dict) else ():
                if isinstance(value, str) and value.endswith("/"):
                    entry[title] = [path for path in _GENERATED if path.startswith(value)]
    shutil.rmtree(_PACKAGE, ignore_errors=True)
    (_PACKAGE / "d2vpr_hf").mkdir(parents=True)
    for path in [*(ROOT / "d2vpr_hf").iterdir(), ROOT / "modeling", ROOT / "training"]:
        (_PACKAGE / "d2vpr_hf" / path.name).symlink_to(path)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of commands, of the Python reference, and of files at the top of the repository."""
    top = {site: (ROOT / name).read_text(encoding="utf-8") for name, site in _TOP_PAGES.items()}
    for path, text in (_GENERATED | top).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point relative links of a page to the site, or to the repository for files that are not pages of the site.

    A list continues after a table as on GitHub; Python-Markdown would take its next items for text.
    """
    source = page.file.src_uri
    original = _SOURCES.get(source, f"docs/{source}")

    def point(link: re.Match[str]) -> str:
        return _pointed(link, source, original, config, files)

    parts = _FENCED.split(_ITEM_AFTER_TABLE.sub(r"\1\n", markdown))  # each second part is a block of code
    return "".join(part if i % 2 else _LINK.sub(point, part) for i, part in enumerate(parts))


def _pointed(link: re.Match[str], source: str, original: str, config: Any, files: Any) -> str:
    """Return a link of a page with an address that the site has."""
    text, address = link.groups()
    path, mark, anchor = address.partition("#")
    if not path or re.match(r"[a-z][a-z0-9+.-]*:", address):
        return link[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(original), path))
    site = _TOP_PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if site is not None and files.get_file_from_path(site) is not None:
        relative = posixpath.relpath(site, posixpath.dirname(source) or ".")
        return f"{text}({relative}{mark}{anchor})"
    if not (ROOT / target).exists() and files.get_file_from_path(target) is None:
        logger.warning("%s links to %s, which does not exist", original, address)
    if config.repo_url:
        return f"{text}({config.repo_url.rstrip('/')}/blob/main/{target}{mark}{anchor})"
    return text[1:-1]  # without the repository's address, its files cannot be linked to


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Drop the brackets around names of code in docstrings, which editors show as links."""
    return re.sub(r"\[(<code>[^<>]+</code>)\]", r"\1", content)
