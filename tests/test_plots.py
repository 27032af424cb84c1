"""What the plot says must be what was found."""

from matplotlib.colors import to_hex

from d2vpr_hf.index import Match
from d2vpr_hf.jobs import SearchResult
from d2vpr_hf.plots import plot_search, save_figure
from d2vpr_hf.readers import Place
from tests.photos import at_name, save


def match(rank, path, east):
    return Match(rank, rank, Place(path.name, utm_east=east, utm_north=4172758.0, utm_zone="10S"), path, 1 - rank / 10)


def frame(axis):
    return to_hex(axis.spines["left"].get_edgecolor())


def test_frames_and_distances(tmp_path):
    """Green within 25 m, red beyond, grey where the query's position is not known; unreadable photos say so."""
    near, far = save(tmp_path / "near.jpg", 1), save(tmp_path / "far.jpg", 2)
    known = save(tmp_path / at_name(544000, 4172758), 1)
    unknown = save(tmp_path / "unknown.jpg", 1)
    matches = [match(1, near, 544024.0), match(2, far, 544026.0)]
    figure = plot_search(
        [
            SearchResult(known, matches),
            SearchResult(unknown, [*matches, match(3, tmp_path / "gone.jpg", 0.0)]),
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
    assert third[0].get_title() == "gone.jpg: no such file"
    save_figure(figure, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
