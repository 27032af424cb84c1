"""The demonstration runs offline in an empty folder and writes its plots."""

import os

from d2vpr_hf.demo import NUM_SHOWN, run_demo
from d2vpr_hf.readers import read_places


def test_the_demonstration_finds_places_and_writes_plots(tmp_path, monkeypatch):
    """An untrained model would find one place in eight by chance."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # a second process for rendering would import torch again
    result = run_demo(tmp_path, num_places=8)
    assert len(result.results) == NUM_SHOWN and all(len(search.matches) == 4 for search in result.results)
    assert result.evaluation.recall()["recall@1"]["recall"] > 0.5
    assert (
        all(picture.stat().st_size > 10_000 for picture in result.pictures) and result.pictures[0] == tmp_path / "matches.png"
    )
    table = read_places(tmp_path / "town" / "images" / "test" / "database")
    assert (len(table.places), table.num_positions, table.source) == (8 * 4, 8 * 4, "names")
    again = run_demo(tmp_path, num_places=8)
    assert again.evaluation.recall() == result.evaluation.recall()
