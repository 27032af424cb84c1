"""Links of all pages: files exist, and headings have the names that links to them use. No address on the network is opened."""

import re
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "spaces" / "README.md"]
LINK = re.compile(r"\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^()\s]+)\)")
CODE = re.compile(r"^( *```.*?^ *```|``[^`].*?``|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.MULTILINE)
NAMED = re.compile(r'<a (?:id|name)="([^"]+)"')


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them, but none that two headings have: sites number these."""
    blocks = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    names = NAMED.findall(blocks)
    for heading in HEADING.findall(blocks):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        names.append(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return {name for name in names if names.count(name) == 1}


def links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))


def _has_heading(page: Path, anchor: str) -> bool:
    return page.suffix == ".md" and anchor in anchors(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """A page that moved, or a heading with new words, would leave readers with a dead link."""
    broken = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.is_relative_to(ROOT) and target.exists()
        if not is_there or (anchor and not _has_heading(target, anchor)):
            broken.append(link)
    assert not broken


def test_the_checker_finds_links_and_headings():
    text = "# A `b`, c's [d](e.md)!\n\n```bash\n# no heading\n```\n## Ünd 2-3\n"
    assert anchors(text) == {"a-b-cs-d", "ünd-2-3"}
    assert len(links(ROOT / "README.md")) > 25
