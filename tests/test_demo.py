"""The demonstration runs offline from nothing, and its picture shows what was found."""

from d2vpr_hf.demo import NUM_PLACES, NUM_QUERIES, draw_view, run_demo
from d2vpr_hf.readers import read_places


def test_demo(tmp_path):
    result = run_demo(tmp_path)
    assert len(result.results) == NUM_QUERIES and all(len(r.matches) == 4 for r in result.results)
    assert "never trained" in result.summary and f"{NUM_PLACES} drawn scenes" in result.summary
    assert (tmp_path / "matches.png").stat().st_size > 50_000
    table = read_places(tmp_path / "database")
    assert (len(table.places), table.num_positions, table.source) == (NUM_PLACES, NUM_PLACES, "names")


def test_demo_can_run_twice(tmp_path):
    assert run_demo(tmp_path).summary == run_demo(tmp_path).summary


def test_views_are_drawn_alike_every_time():
    assert draw_view(3, 1).tobytes() == draw_view(3, 1).tobytes() != draw_view(4, 1).tobytes()
