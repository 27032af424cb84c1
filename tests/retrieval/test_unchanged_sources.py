"""Indexing the same photos again keeps all rows and changes no byte, whatever their source and the forms of its values."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2vpr_hf.readers import load_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.index.workers import BytesEncoder, contents
from tests.photos import gps_exif, jpeg, save

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class SourceEncoder(BytesEncoder):
    """An encoder of the bytes of any source of a photo."""

    def _read(self, photo):
        self.seen.append(str(photo)[:20])
        return photo if isinstance(photo, bytes) else photo.read_bytes()


def names(folder):
    values = [("10@S", "", "201606"), ("10@s", "360", "20240501_12"), ("@", "-90", "2019"), ("33@T", "12.5", "20240230")]
    for number, (zone, heading, time) in enumerate(values):
        save(folder / f"@{544388.51 + number}@4172758.2@{zone}@@@pano@@{heading}@@@@{time}@night@.jpg", number)
    save(folder / "@@@@@89.5@10@@@@@@@@@.jpg", 9)
    return folder


def table(folder, header, *lines):
    for number in range(len(lines)):
        save(folder / f"{number}.jpg", number)
    rows = [f"{number}.jpg{line}" for number, line in enumerate(lines)]
    (folder / "places.csv").write_text("\n".join([f"path{header}", *rows, ""]), encoding="utf-8")
    return folder


def degrees(folder):
    lines = ",51.5,-0.1,-90,20240501_12", ",-33.85,151.2,360,yesterday", ",0,0,,2024", ",89.9,179.9999999,1e-20,1714566600"
    return table(folder, ",lat,lon,heading,time", *lines)


def metres(folder):
    return table(
        folder, ",easting,northing,utm_zone", ",544388,4172758,10 s", ",544388,4172758,10S", ",300000,6250000,56 south"
    )


def commas(folder):
    return table(folder, ";lat;lon;time", ";51,5;-0,1;2024/5/1 9:05", ";-16,8;180,0;2024-05-01T12:00:00+0530")


def local(folder):
    return table(folder, ",x,y,z,yaw,frame,timestamp", ",1,2,3,4,hall,12.5", ",-1,0,,,,20240501120000250")


def metadata(folder):
    save(folder / "a.jpg", 1, exif=gps_exif(-33.85, 151.2, 359.996))
    save(folder / "b.jpg", 2, exif=gps_exif(60.0, 5.0))
    save(folder / "c.jpg", 3)
    sidecar = {"photoTakenTime": {"timestamp": "1714566600"}, "geoData": {"latitude": 48.1, "longitude": -11.5}}
    (folder / "c.jpg.json").write_text(json.dumps({"title": "c.jpg"} | sidecar))
    save(folder / "d.jpg", 4)
    return folder


def columns(count=3):
    return {
        "image": [{"path": f"{row}.jpg", "bytes": jpeg(row)} for row in range(count)],
        "latitude": np.float32([51.5, -33.85, 0.1][:count]),
        "longitude": [-0.1, 151.2, 9.0][:count],
        "heading": [-90, 360, None][:count],
    }


def saved(folder, streaming=False, **values):
    path = folder / "rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns() | values), path)
    return load_places(path, streaming=streaming)


SOURCES = {
    "names": names,
    "degrees": degrees,
    "metres": metres,
    "decimal commas": commas,
    "a local frame": local,
    "metadata": metadata,
    "dates": lambda folder: saved(folder, timestamp=[20240501, 20240502, None]),
    "zones": lambda folder: saved(folder, timestamp=pa.array([NOON, None, NOON], pa.timestamp("ns", "Asia/Kolkata"))),
    "a stream": lambda folder: saved(folder, streaming=True, timestamp=pa.array([NOON] * 3, pa.timestamp("ms"))),
}


@pytest.mark.parametrize("source", SOURCES)
def test_photos_of_any_source_are_kept_byte_for_byte(tmp_path, source):
    SOURCES[source](tmp_path / "photos")
    first, report = index_photos(read_again(source, tmp_path), tmp_path / "index", SourceEncoder(), shard_size=2)
    assert report.added == len(first) > 1
    before, places = contents(tmp_path / "index"), list(first.places)
    for _ in range(2):
        encoder = SourceEncoder()
        again, report = index_photos(read_again(source, tmp_path), tmp_path / "index", encoder)
        assert (report.added, report.changed, report.kept, report.removed) == (0, 0, len(places), 0)
        assert not encoder.seen and contents(tmp_path / "index") == before and list(again.places) == places


def read_again(source, tmp_path):
    return SOURCES[source](tmp_path / "photos") if source in ("dates", "zones", "a stream") else tmp_path / "photos"
