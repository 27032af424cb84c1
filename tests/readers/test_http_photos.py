"""Photos at http addresses are fetched with what the package installs."""

import http.server
import threading

import pytest
from datasets import Dataset

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.readers import UnreadablePhotoError, load_places, open_photo
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.photos import draw, jpeg

PHOTOS = {"/a.jpg": jpeg(1), "/b.jpg": jpeg(2)}


class _Photos(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = PHOTOS.get(self.path)
        self.send_response(500 if self.path == "/broken.jpg" else 404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def do_HEAD(self):
        self.send_error(405)  # as some servers of photos do

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Photos)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_photos_are_fetched(address):
    assert open_photo(f"{address}/a.jpg").size == draw(1).size


def test_addresses_in_a_data_set_are_indexed(address, tmp_path):
    """Two rows; the photo of a third one does not exist and is counted as skipped."""
    addresses = [f"{address}/{name}" for name in ("a.jpg", "b.jpg", "gone.jpg")]
    Dataset.from_dict({"image": addresses, "latitude": [1.0, 2.0, 3.0], "longitude": [4.0, 5.0, 6.0]}).to_parquet(
        tmp_path / "rows.parquet"
    )
    encoder = PlaceEncoder()
    index, report = index_photos(load_places(tmp_path / "rows.parquet"), tmp_path / "index", encoder)
    assert [place.latitude for place in index.places] == [1.0, 2.0]
    assert list(report.skipped.values()) == ["no such file"]
    assert index.descriptors[1] @ encoder.encode(f"{address}/b.jpg").descriptors[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("source", "reason"),
    [("{}/gone.jpg", "no such file"), ("{}/broken.jpg", "fetched .*500"), ("http://127.0.0.1:1/a.jpg", "fetched .*connect")],
)
def test_the_reason_of_a_failure_is_named(address, source, reason):
    with pytest.raises(UnreadablePhotoError, match=reason):
        open_photo(source.format(address))
