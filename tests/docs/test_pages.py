"""Pages for users: every block of them runs, or is named here with the reason why it does not."""

from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, PageRun, read_snippets
from tests.photos import save

AUTHORS_FILE = "needs the authors' file; tests/test_convert.py converts files of its shapes"

PAGES = ["docs/faq.md", "docs/quick_tour.md"]
NOT_RUN = {  # page: commands by their beginning, and the reason
    "docs/faq.md": {"ffmpeg": "another program", "exiftool": "another program"},
    "docs/quick_tour.md": {
        "d2vpr convert": AUTHORS_FILE,
        "d2vpr push": "uploads; tests/hub/test_push_model.py and test_push_index.py do so",
        "d2vpr push-space": "uploads; tests/hub/test_push_space.py does so",
        "d2vpr index --dataset": "needs a data set on the Hub; tests/readers reads one",
        "d2vpr export": "takes a minute; tests/backends/test_export.py exports",
        "d2vpr calibrate": "needs a larger town, in which some answers are wrong; tests/localization calibrates",
    },
}


@pytest.fixture
def page_files(workshop) -> Path:
    """Add the files that only some pages name."""
    for i in range(3):
        save(workshop / "frames" / f"{i:06d}.jpg", i)
    return workshop


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, page_files):
    """A renamed option, or a function with other arguments, would leave a reader with an error."""
    run = PageRun(NOT_RUN.get(page))
    run.run(page)
    commands = [snippet for snippet in read_snippets(page) if snippet.language in ("bash", "python")]
    assert run.ran or all(snippet.language == "text" for snippet in commands)
    assert set(NOT_RUN.get(page, {})) <= run.used, "a command that the page does not have need not be listed"


def test_every_page_with_blocks_for_users_is_run():
    guides = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guides").glob("*.md"))
    assert set(guides) <= set(PAGES)
