"""After any sequence of changes, an index holds the rows of a plain list."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from d2vpr_hf.index import PhotoFile, PlaceIndex, derived_store
from d2vpr_hf.places import Place
from tests.index.workers import begin

DIM = 4


class IndexAndList(RuleBasedStateMachine):
    """An index with shards of four rows, and a list of the paths and descriptors that it must hold."""

    @initialize(dtype=st.sampled_from(["float16", "float32"]), lag=st.sampled_from([0, 3, 4096]))
    def start(self, dtype, lag):
        """A vector store is built again after each change, after some, or never."""
        self.scratch = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(derived_store, "LAG_ROWS", lag)
        self.index = begin(self.scratch / "index", descriptor_dim=DIM, shard_size=4, dtype=dtype)
        self.rows = []
        self.number = 0
        self.readers = []

    def new_rows(self, count):
        numbers = range(self.number, self.number + count)
        self.number += count
        vectors = [np.random.default_rng(number).integers(-3, 4, DIM).astype(np.float32) for number in numbers]
        places = [Place(f"{number}.jpg", 1.0, float(number)) for number in numbers]
        return [(place.path, vector) for place, vector in zip(places, vectors, strict=True)], np.stack(vectors), places

    @rule(count=st.integers(1, 9))
    def add(self, count):
        made, vectors, places = self.new_rows(count)
        self.index.add(vectors, places)
        self.rows += made

    @rule(compression=st.sampled_from([None, "none", "half", "int8", "bits"]))
    def compress(self, compression):
        """So few rows are all candidates: every store must find what exact search finds."""
        self.index.build_store(compression)

    @rule(count=st.integers(1, 4), data=st.data())
    def upsert(self, count, data):
        made, vectors, places = self.new_rows(count)
        gone = data.draw(st.sets(st.sampled_from([path for path, _ in self.rows]))) if self.rows else set()
        self.index.upsert(vectors, places, [PhotoFile("hash", 3, 4)] * count, removed=gone)
        self.rows = [row for row in self.rows if row[0] not in gone] + made

    @rule(count=st.integers(1, 6), data=st.data())
    def update(self, count, data):
        """Some rows are new, others replace rows with the same paths, also in several shards."""
        made, vectors, places = self.new_rows(count)
        old = data.draw(st.lists(st.sampled_from([path for path, _ in self.rows]), unique=True)) if self.rows else []
        renamed = [replace(place, path=path) for path, place in zip(old, places, strict=False)] + places[len(old) :]
        self.index.update(vectors, renamed)
        gone = {place.path for place in renamed}
        self.rows = [row for row in self.rows if row[0] not in gone]
        self.rows += [(place.path, vector) for place, (_, vector) in zip(renamed, made, strict=True)]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.sets(st.sampled_from([path for path, _ in self.rows]), min_size=1))
        assert self.index.remove(gone) == len(gone)
        self.rows = [row for row in self.rows if row[0] not in gone]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def amend(self, data):
        """Several shards of rows at once: each step moves rows, so that later ones have other numbers than before."""
        paths = data.draw(st.lists(st.sampled_from([path for path, _ in self.rows]), min_size=1, unique=True))
        self.index.flush()
        self.index.amend([Place(path, 9.0, 9.0) for path in paths], [PhotoFile()] * len(paths))
        vectors = dict(self.rows)
        self.rows = [row for row in self.rows if row[0] not in paths] + [(path, vectors[path]) for path in paths]

    @rule()
    def flush(self):
        self.index.flush()

    @rule()
    def compact(self):
        self.index.compact()

    @rule()
    def open_again(self):
        self.index.close()
        self.index = PlaceIndex.open(self.scratch / "index")

    @rule()
    def read_meanwhile(self):
        """A reader that opens the index now sees what is stored now, whatever happens later."""
        reader = PlaceIndex.open(self.scratch / "index")
        self.readers.append((reader, [path for path, _ in self.rows][: len(reader)]))

    @invariant()
    def same_rows(self):
        assert [place.path for place in self.index.places] == [path for path, _ in self.rows]
        assert [self.index.places[row].path for row in range(len(self.rows))] == [path for path, _ in self.rows]
        vectors = np.array([vector for _, vector in self.rows]).reshape(-1, DIM)
        assert np.array_equal(self.index.descriptors[:], vectors) and len(self.index) == len(self.rows)
        query = np.arange(DIM, dtype=np.float32)
        expected = np.argsort(((vectors - query) ** 2).sum(1), kind="stable")[:5]
        assert [match.row for match in self.index.search(query, 5)[0]] == expected.tolist()

    @invariant()
    def readers_are_not_disturbed(self):
        for reader, paths in self.readers:
            assert reader.places.column("path") == paths and len(reader.descriptors[:]) == len(paths)

    def teardown(self):
        if hasattr(self, "index"):
            self.patch.undo()
            self.index.close()
            assert PlaceIndex.open(self.scratch / "index").verify() == []
            shutil.rmtree(self.scratch)


IndexAndList.TestCase.settings = settings(max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck))
TestIndexAndList = IndexAndList.TestCase
