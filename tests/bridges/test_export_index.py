"""Exported rows are those of the index, and searched by the database itself they give the answers of the index."""

import importlib.util
import json
import logging
import sys
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from d2vpr_hf.bridges.export_index import TARGETS, export_index
from d2vpr_hf.cli import choices
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import Place
from tests.bridges.conftest import DIM, unit_rows
from tests.command_line import run
from tests.index.workers import begin

QUERIES = unit_rows(12, 99)
KML = "{http://www.opengis.net/kml/2.2}"


def expected_rows(index, k=5):
    return [[match.row for match in matches] for matches in index.search(QUERIES, k)]


def check_metadata(metadata, index):
    assert metadata["fingerprint"] == index.settings.fingerprint and metadata["rows"] == len(index) == 98
    assert metadata["metric"] == "l2" and metadata["descriptor_dim"] == DIM


def test_the_command_line_has_the_targets_of_the_library():
    assert get_args(choices.IndexTarget) == TARGETS


def test_parquet_has_the_rows(index, tmp_path):
    counts = []
    assert export_index(index, "parquet", out=tmp_path / "places.parquet", progress=counts.append) == 98 == sum(counts)
    table = pq.read_table(tmp_path / "places.parquet")
    check_metadata(json.loads(table.schema.metadata[b"d2vpr"]), index)
    assert table.column_names[:2] == ["row", "path"] and table.column_names[-1] == "descriptor"
    assert table["row"].to_pylist() == list(range(98))
    assert table["path"].to_pylist() == [place.path for place in index.places]
    assert table["heading"].to_pylist() == [place.heading for place in index.places]
    np.testing.assert_array_equal(np.stack(table["descriptor"].to_numpy()), np.asarray(index.descriptors))


def test_lancedb_finds_the_rows_of_the_index(index, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    out = tmp_path / "places.lance"
    assert export_index(index, "lancedb", out=out) == 98
    with pytest.raises(FileExistsError, match="`overwrite=True`"):
        export_index(index, "lancedb", out=out)
    assert export_index(index, "lancedb", out=out, overwrite=True) == 98
    database = lancedb.connect(out)
    table = database.open_table("places")
    check_metadata(json.loads(table.schema.metadata[b"d2vpr"]), index)
    for query, rows, matches in zip(QUERIES, expected_rows(index), index.search(QUERIES, 5), strict=True):
        results = table.search(query, vector_column_name="descriptor").limit(5).to_list()
        assert [result["row"] for result in results] == rows
        assert [result["path"] for result in results] == [match.place.path for match in matches]
        similarities = [1 - result["_distance"] / 2 for result in results]
        np.testing.assert_allclose(similarities, [match.similarity for match in matches], atol=1e-3)
    database.create_table("precious", data=[{"a": 1}])
    with pytest.raises(FileExistsError, match="did not write"):
        export_index(index, "lancedb", out=out, table="precious", overwrite=True)
    assert database.open_table("precious").count_rows() == 1


def test_qdrant_finds_the_rows_of_the_index(index, tmp_path):
    """Also with a filter, in a folder without a server."""
    client_library = pytest.importorskip("qdrant_client")
    models = client_library.models
    out = tmp_path / "qdrant"
    assert export_index(index, "qdrant", out=out) == 98
    with pytest.raises(FileExistsError, match="`overwrite=True`"):
        export_index(index, "qdrant", out=out)
    assert export_index(index, "qdrant", out=out, overwrite=True) == 98
    client = client_library.QdrantClient(path=str(out))
    check_metadata(client.get_collection("places").config.metadata["d2vpr"], index)
    for query, rows, matches in zip(QUERIES, expected_rows(index), index.search(QUERIES, 5), strict=True):
        points = client.query_points("places", query=query.tolist(), limit=5).points
        assert [point.id for point in points] == rows
        assert [point.payload["path"] for point in points] == [match.place.path for match in matches]
    since = index.places.seconds >= 1_715_000_000
    rows = [[match.row for match in matches] for matches in index.search(QUERIES, 5, allowed=since)]
    newer = models.Filter(must=[models.FieldCondition(key="seconds", range=models.Range(gte=1_715_000_000))])
    for query, expected in zip(QUERIES, rows, strict=True):
        points = client.query_points("places", query=query.tolist(), limit=5, query_filter=newer).points
        assert [point.id for point in points] == expected
    point = client.retrieve("places", [0])[0]
    assert "location" not in point.payload and "heading" not in point.payload  # not known
    client.create_collection("precious", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    with pytest.raises(ConnectionError, match="cannot be used"):  # this process has the folder open
        export_index(index, "qdrant", out=out, table="precious", overwrite=True)
    client.close()
    with pytest.raises(FileExistsError, match="did not write"):
        export_index(index, "qdrant", out=out, table="precious", overwrite=True)


def test_a_qdrant_that_does_not_answer_is_named(index):
    pytest.importorskip("qdrant_client")
    with pytest.raises(ConnectionError, match=r"Qdrant at http://127.0.0.1:9 cannot be used"):
        export_index(index, "qdrant", uri="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="QDRANT_API_KEY"):
        export_index(index, "qdrant", uri="http://user:secret@127.0.0.1:9")


@pytest.mark.parametrize("index", ["float16"], indirect=True)
def test_points_on_a_map_are_those_with_degrees(index, tmp_path, caplog):
    with_degrees = [(row, place) for row, place in enumerate(index.places) if place.latitude is not None]
    with caplog.at_level(logging.WARNING):
        for format in ("geojson", "kml", "gpx"):
            assert export_index(index, format, out=tmp_path / f"map.{format}") == len(with_degrees) == 84
    assert caplog.text.count("14 of 98 places have no latitude and longitude") == 3
    features = json.loads((tmp_path / "map.geojson").read_text())["features"]
    assert [(feature["properties"]["row"], feature["properties"]["path"]) for feature in features] == [
        (row, place.path) for row, place in with_degrees
    ]
    assert features[0]["geometry"]["coordinates"] == [with_degrees[0][1].longitude, with_degrees[0][1].latitude]
    document = ElementTree.parse(tmp_path / "map.kml").getroot()[0]
    assert [mark.findtext(f"{KML}name") for mark in document] == [place.path for _, place in with_degrees]
    assert len(ElementTree.parse(tmp_path / "map.gpx").getroot()) == 84


@pytest.mark.parametrize(
    ("to", "options", "match"),
    [
        ("parquet", {}, "needs `out`, got neither"),
        ("parquet", {"uri": "http://localhost"}, "needs `out`, got `uri`"),
        ("qdrant", {}, "needs `out` or `uri`, got neither"),
        ("qdrant", {"uri": "http://localhost", "out": "x"}, "got `out` and `uri`"),
        ("geojson", {"out": "x", "table": "t"}, "has no `table='t'`"),
        ("csv", {"out": "x"}, "Expected `to` as one of parquet"),
    ],
)
@pytest.mark.parametrize("index", ["float16"], indirect=True)
def test_wrong_destinations_are_refused(index, to, options, match):
    with pytest.raises(ValueError, match=match):
        export_index(index, to, **options)


@pytest.mark.parametrize(
    ("to", "module", "options"),
    [
        ("lancedb", "lancedb", {"out": "places.lance"}),
        ("qdrant", "qdrant_client", {"out": "qdrant"}),
        ("pgvector", "psycopg", {"uri": "postgresql://localhost/maps"}),
    ],
)
@pytest.mark.parametrize("index", ["float16"], indirect=True)
def test_a_missing_library_is_named_with_its_extra(index, monkeypatch, to, module, options):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match=rf'pip install "d2vpr-hf\[{to}\]"'):
        export_index(index, to, **options)


def test_the_command_writes_and_names_its_flags(tmp_path):
    with begin(tmp_path / "index", descriptor_dim=DIM) as made:
        made.add(unit_rows(3, 0), [Place(f"{number}.jpg", 48.0, 11.0) for number in range(3)])
    status, out, _ = run("export-index", tmp_path / "index", "--to", "parquet", "--out", tmp_path / "a.parquet")
    assert status == 0 and "Wrote 3 of 3 rows" in out
    assert len(pq.read_table(tmp_path / "a.parquet")) == len(PlaceIndex.open(tmp_path / "index")) == 3
    status, _, err = run("export-index", tmp_path / "index", "--to", "parquet", "--out", tmp_path / "a.parquet")
    assert status == 1 and "--overwrite" in err
    status, _, err = run("export-index", tmp_path / "index", "--to", "kml")
    assert status == 1 and "--out" in err
