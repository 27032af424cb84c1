"""Tables that commands write into pages of docs/, between two markers."""

from pathlib import Path

from d2vpr_hf.utils.atomic_files import store_file


def write_page(page: Path, text: str, name: str) -> None:
    """Replace the lines between the two markers of a page that have a name.

    Raises:
        ValueError: If the page does not have both markers.
    """
    start, end = markers(name)
    content = page.read_text(encoding="utf-8")
    if content.count(start) != 1 or content.count(end) != 1:
        raise ValueError(f"{page} needs the lines {start} and {end}, once each; the table is written between them.")
    before, rest = content.split(start)
    after = rest.split(end)[1]
    store_file(page, lambda path: path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8"))


def markers(name: str) -> tuple[str, str]:
    """Return the lines before and after a table that a command writes."""
    return f"<!-- table of {name} -->", f"<!-- end of the table of {name} -->"
