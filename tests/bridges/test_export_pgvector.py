"""A table of PostgreSQL that an index was exported to gives the answers of the index, with filters too."""

import numpy as np
import pytest

from d2vpr_hf.bridges.export_index import export_index
from d2vpr_hf.bridges.postgres_search import search_table
from d2vpr_hf.places import PlaceFilter
from tests.bridges.conftest import DIM, unit_rows
from tests.bridges.test_export_index import QUERIES, check_metadata
from tests.postgres_server import running_postgres

psycopg = pytest.importorskip("psycopg")

FILTERS = [
    None,
    PlaceFilter(near=(48.5, 179.9, 50_000.0)),
    PlaceFilter(box=(48.0, 179.6, 49.0, -179.9), heading=(10.0, 120.0)),
    PlaceFilter(since="2024-05-10", until="2024-05-20"),
]


@pytest.fixture(scope="module")
def server():
    with running_postgres() as server:
        yield server


def test_the_table_gives_the_answers_of_the_index(server, index):
    counts = []
    export_index(index, "pgvector", uri=server.uri, overwrite=True, progress=counts.append)
    assert sum(counts) == 98
    for where in FILTERS:
        allowed = None if where is None else where.allowed(index.places)
        assert allowed is None or 5 < allowed.sum() < 98
        matches = index.search(QUERIES, 5, allowed=allowed)
        results = search_table(server.uri, "places", QUERIES, 5, where=where)
        assert [[row["row"] for row in rows] for rows in results] == [[match.row for match in row] for row in matches]
        for rows, row in zip(results, matches, strict=True):
            assert [result["path"] for result in rows] == [match.place.path for match in row]
            np.testing.assert_allclose([it["similarity"] for it in rows], [match.similarity for match in row], atol=1e-6)
    with psycopg.connect(server.uri) as connection:
        (comment,) = connection.execute("SELECT obj_description('places'::regclass)::json -> 'd2vpr'").fetchone()
        check_metadata(comment, index)
        rows = connection.execute("SELECT path, heading, condition, timestamp FROM places ORDER BY row").fetchall()
    assert rows == [(place.path, place.heading, place.condition, place.timestamp) for place in index.places]


@pytest.mark.parametrize("index", ["float16"], indirect=True)
def test_tables_of_others_and_wrong_names_are_refused(server, index):
    export_index(index, "pgvector", uri=server.uri, table="twice")
    with pytest.raises(FileExistsError, match="`overwrite=True`"):
        export_index(index, "pgvector", uri=server.uri, table="twice")
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE precious (a int)")
    with pytest.raises(FileExistsError, match="did not write"):
        export_index(index, "pgvector", uri=server.uri, table="precious", overwrite=True)
    with pytest.raises(ValueError, match="table name of small letters"):
        export_index(index, "pgvector", uri=server.uri, table='x"; DROP TABLE precious; --')
    with pytest.raises(ValueError, match="There is no table nothing"):
        search_table(server.uri, "nothing", unit_rows(1, 0), 3)
    with pytest.raises(ValueError, match="expected 25 dimensions, not 24"):
        search_table(server.uri, "twice", np.ones(DIM + 1, np.float32), 3)
