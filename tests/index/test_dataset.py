"""An index as a data set: the same places, descriptors and neighbours."""

import numpy as np
import pytest

from d2vpr_hf.index import PhotoFile, PlaceIndex
from d2vpr_hf.places import Place
from tests.index.workers import begin

DIM = 8


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=["float16", "float32"])
def index(request, tmp_path) -> PlaceIndex:
    """Several shards with a removed row, and rows that are not stored yet."""
    made = begin(tmp_path / "index", descriptor_dim=DIM, shard_size=8, dtype=request.param)
    places = [Place(f"{number}.jpg", 48.0 + number / 100, 11.0, timestamp=1000.0 + number) for number in range(30)]
    made.upsert(unit_rows(8, 0), places[:8], [PhotoFile()] * 8)
    made.upsert(unit_rows(8, 1), places[8:16], [PhotoFile()] * 8)
    made.remove(["3.jpg", "9.jpg"])
    made.add(unit_rows(14, 2)[:5], places[16:21])
    return made


def test_a_data_set_finds_the_neighbours_of_the_index(index):
    dataset = index.to_dataset()
    assert len(dataset) == len(index) == 19 and dataset.features["descriptor"].length == DIM
    assert dataset["path"][:] == [place.path for place in index.places]
    assert dataset["latitude"][:] == [place.latitude for place in index.places]
    np.testing.assert_array_equal(np.array(dataset["descriptor"][:]), np.asarray(index.descriptors))
    for query in unit_rows(20, 5):
        scores, examples = dataset.get_nearest_examples("descriptor", query, 5)
        [matches] = index.search(query, 5)
        assert examples["path"] == [match.place.path for match in matches]
        np.testing.assert_allclose(1 - scores / 2, [match.similarity for match in matches], atol=1e-3)


def test_a_user_may_add_another_index(index):
    dataset = index.to_dataset(searchable=False)
    assert dataset.list_indexes() == []
    dataset.add_faiss_index("descriptor", index_name="graph", string_factory="HNSW16")
    query = index.descriptors[7].astype(np.float32)
    assert dataset.get_nearest_examples("graph", query, 1)[1]["path"] == [index.places[7].path]


def test_descriptors_stay_mapped(index, monkeypatch):
    """A data set of a large map must not copy it: the column has the memory of the files."""
    monkeypatch.setattr("d2vpr_hf.stores.descriptors.MappedDescriptors.take", None)
    chunks = index.to_dataset(searchable=False).data.column("descriptor").chunks
    assert sum(map(len, chunks)) == len(index)


def test_an_empty_index_is_an_empty_data_set(tmp_path):
    dataset = begin(tmp_path / "index", descriptor_dim=DIM).to_dataset()
    assert len(dataset) == 0 and set(dataset.column_names) >= {"path", "latitude", "descriptor"}
