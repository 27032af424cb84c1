"""Pages for users: every block runs, or is named here with the reason why it does not; CI's job `docs` runs the slow ones."""

import pytest

from tests.docs.snippets import ROOT, PageRun

AUTHORS_FILE = "needs the authors' file; tests/test_convert.py converts files of its shapes"
UPLOADS = "uploads; tests/hub uploads models, indexes and Spaces to a Hub on localhost"
EXPORTS = "takes a minute; tests/backends/test_export.py exports"
DATA_SET = "needs photos of a public data set; tests/evaluation/test_data_sets.py evaluates drawn ones"
CLIENT = "needs a Space; tests/space/test_app.py starts one"

GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guides").glob("*.md"))
LONG = {"docs/quick_tour.md", "docs/guides/evaluate_like_a_paper.md"}
PAGES = [
    pytest.param(page, marks=pytest.mark.slow if page in LONG else ())
    for page in ("docs/faq.md", "docs/quick_tour.md", *GUIDES)
]
NOT_RUN = {  # page: commands by their beginning, or lines of python blocks, and the reason
    "docs/faq.md": {"ffmpeg": "another program", "exiftool": "another program"},
    "docs/quick_tour.md": {
        "d2vpr convert": AUTHORS_FILE,
        "d2vpr push": UPLOADS,
        "d2vpr push-space": UPLOADS,
        "d2vpr index --dataset": "needs a data set on the Hub; tests/readers reads one",
        "d2vpr export": EXPORTS,
    },
    "docs/guides/deploy.md": {"d2vpr export": EXPORTS, "d2vpr search my-index query.jpg --model my-graph": EXPORTS},
    "docs/guides/evaluate_like_a_paper.md": {"d2vpr evaluate --data": DATA_SET},
    "docs/guides/publish_a_space.md": {
        "d2vpr push": UPLOADS,
        "d2vpr push-space": UPLOADS,
        "from gradio_client": CLIENT,
    },
    "docs/guides/retrieval_service.md": {"d2vpr serve": "serves until it is stopped; tests/service starts it"},
    "docs/guides/robot.md": {"d2vpr export": EXPORTS, "d2vpr localize drive-map query.jpg --model my-graph": EXPORTS},
}

REPLACED = {  # page: commands that run in another form, because the workshop's photos are 100 m apart
    "docs/guides/train_and_distil.md": {
        "d2vpr places PHOTOS --cell 10 --heading 30 --out places.csv": (
            "d2vpr places PHOTOS --cell 1000 --heading 360 --min-photos 4 --out places.csv"
        )
    },
}


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, workshop):
    """A renamed option, or a function with other arguments, would leave a reader with an error."""
    run = PageRun(NOT_RUN.get(page), REPLACED.get(page))
    run.run(page)
    assert {*NOT_RUN.get(page, {}), *REPLACED.get(page, {})} <= run.used, (
        "a command that the page does not have need not be listed"
    )
