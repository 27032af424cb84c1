"""The example of docs/bridges.md writes a recording of Rerun that has the answers."""

import pytest

from d2vpr_hf import PlaceEncoder, index_photos
from tests.docs.snippets import PageRun, read_snippets
from tests.photos import save_row

rerun = pytest.importorskip("rerun")


def test_the_example_writes_a_recording(tmp_path, monkeypatch, tiny_folder):
    for name in ("PHOTOS", "QUERIES"):
        save_row(tmp_path / name)
    index_photos(tmp_path / "PHOTOS", tmp_path / "my-index", PlaceEncoder(tiny_folder))
    monkeypatch.chdir(tmp_path)
    [snippet] = [snippet for snippet in read_snippets("docs/bridges.md") if "import rerun" in snippet.text]
    PageRun()._run_python(snippet)
    rerun.disconnect()
    content = (tmp_path / "drive.rrd").read_bytes()
    assert content.startswith(b"RRF2") and all(name in content for name in (b"/map/photos", b"/camera", b"/map/estimate"))
