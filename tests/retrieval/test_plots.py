"""The plot must show the results of the search."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from d2vpr_hf.figures import check_plot_file, save_figure
from d2vpr_hf.index import Match
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.plots import plot_search
from d2vpr_hf.retrieval.search_photos import SearchResult
from tests.photos import at_name, save


def match(rank, path, east):
    return Match(rank, rank, Place(path.name, utm_east=east, utm_north=4172758.0, utm_zone="10S"), path, 1 - rank / 10)


def frame(axis):
    return to_hex(axis.spines["left"].get_edgecolor())


def test_frames_and_titles_show_distances(tmp_path):
    """Green within 25 m, red beyond, grey where the query's position is not known; unreadable photos say so."""
    near, far = save(tmp_path / "near.jpg", 1), save(tmp_path / "far.jpg", 2)
    labelled = save(tmp_path / at_name(544000, 4172758), 1)
    unlabelled = save(tmp_path / "unknown.jpg", 1)
    matches = [match(1, near, 544024.0), match(2, far, 544026.0)]
    figure = plot_search(
        [
            SearchResult(labelled, matches),
            SearchResult(unlabelled, [*matches, match(3, tmp_path / "gone.jpg", 0.0)]),
            SearchResult(tmp_path / "gone.jpg", [], "no such file"),
        ]
    )
    first, second, third = (figure.axes[row * 4 : row * 4 + 4] for row in range(3))
    assert [frame(axis) for axis in first[:3]] == ["#1f5fbf", "#2e9e4f", "#c8373a"]
    assert "0.900 · 24 m" in first[1].get_title() and "0.800 · 26 m" in first[2].get_title()
    assert not first[3].axison
    assert [frame(axis) for axis in second[1:]] == ["#9a9a9a"] * 3
    assert "m" not in second[1].get_title().split("\n")[1]
    assert [text.get_text() for text in second[3].texts] == ["no such file"]
    assert third[0].get_title() == "query\ngone.jpg" and third[0].texts[0].get_text() == "no such file"
    save_figure(figure, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_long_names_fit_their_cells_and_many_queries_are_cut(tmp_path, caplog):
    """Captions stay within their cells and distinguish names; a picture that is too tall is cut, with a warning."""
    names = [save(tmp_path / f"{'a very long name ' * 5}{i:02d}.jpg", i) for i in range(62)]
    figure = plot_search([SearchResult(name, [match(1, name, 0.0)]) for name in names])
    assert "first 60 of 62 queries" in caplog.text
    titles = {axis.get_title() for axis in figure.axes}
    assert len(titles) == 2 * 60 and len(figure.axes) == 2 * 60
    figure.set_size_inches(5.2, 150, forward=False)
    renderer = figure.canvas.get_renderer()
    boxes = [axis.title.get_window_extent(renderer) for axis in figure.axes[:2]]
    assert boxes[0].x1 < boxes[1].x0 and boxes[1].x1 < figure.bbox.x1


def test_photos_of_16_bits_are_not_drawn_white(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    drawn = plot_search([SearchResult(tmp_path / "deep.png", [])]).axes[0].images[0].get_array()
    assert 100 < drawn.mean() < 155


def test_a_plot_never_replaces_a_photo(tmp_path):
    query, photo = save(tmp_path / "q.jpg", 1), save(tmp_path / "photos" / "deep" / "a.jpg", 2)
    for path in (query, photo):
        with pytest.raises(ValueError, match="is one of the photos"):
            check_plot_file(path, photos=[query, tmp_path / "photos"])
    check_plot_file(tmp_path / "photos" / "new.jpg", photos=[query, tmp_path / "photos"])


@pytest.mark.parametrize("name", ["noending", "plot.xyz", "folder.png"])
def test_plot_files_without_a_known_ending_are_refused(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"Cannot write a plot to .*\.png"):
        check_plot_file(tmp_path / name)
