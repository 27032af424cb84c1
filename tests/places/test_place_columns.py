"""Columns of many places have the values that the functions of single places give."""

import numpy as np
import pytest

from d2vpr_hf.evaluation.indexed_photos import IndexColumns
from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.places.place import LOCAL_FRAME, with_degrees
from d2vpr_hf.places.place_columns import ColumnTexts, PlaceColumns, take_texts
from d2vpr_hf.stores.descriptors import SelectedDescriptors

PLACES = [
    Place("s north", utm_east=544000.0, utm_north=4172000.0, utm_zone="10S"),
    Place("s south", utm_east=544000.0, utm_north=8172000.0, utm_zone="10S"),
    Place("s by latitude", -30.0, 153.0, utm_east=500000.0, utm_north=6681000.0, utm_zone="56S"),
    Place("from the equator", utm_east=500000.0, utm_north=-10000.0, utm_zone="33 south"),
    Place("letter", utm_east=500000.0, utm_north=5000000.0, utm_zone="33T"),
    Place("far from a zone", utm_east=0.0, utm_north=25.0, utm_zone="33T"),
    Place("no zone", utm_east=12.0, utm_north=25.0),
    Place("degrees", 48.1, 11.5, heading=90.0),
    Place("local", x=1.0, y=2.0, z=3.0, frame="hall", yaw=5.0),
    Place("local without a height", x=1.0, y=2.0, condition="night"),
    Place("degrees too", 48.2, 11.6, x=1.0, y=2.0, frame="roof"),
    Place("nowhere"),
]


def names_of(codes, names):
    return [names[code] if code >= 0 else None for code in codes.tolist()]


def test_frames_of_columns_equal_those_of_single_places():
    columns = PlaceColumns(PLACES)
    frames = [flat_coordinates(place) for place in PLACES]
    is_local = [[name for name in each if name.startswith(LOCAL_FRAME)] for each in frames]
    is_utm = [[name for name in each if not name.startswith(LOCAL_FRAME)] for each in frames]
    assert names_of(*columns.local_frames) == [(each or [None])[0] for each in is_local]
    assert names_of(*columns.utm_frames) == [(each or [None])[0] for each in is_utm]
    assert columns.has_position.tolist() == [place.has_position for place in PLACES]
    degrees = [(each.latitude, each.longitude) for each in map(with_degrees, PLACES)]
    assert np.allclose(columns.degrees, np.array(degrees, np.float64), equal_nan=True)


def test_columns_of_an_index_equal_those_of_its_places(tmp_path):
    settings = IndexSettings(model_name=None, fingerprint="f" * 64, descriptor_dim=2, projection_dim=None, shard_size=5)
    with PlaceIndex.create(tmp_path / "index", settings) as index:
        index.add(np.tile(np.float32([1, 0]), (len(PLACES), 1)), PLACES)
    index = PlaceIndex.open(tmp_path / "index")
    columns, expected = IndexColumns(index.places), PlaceColumns(list(index.places))
    for name in ("latitude", "utm_east", "x", "z", "heading", "yaw"):
        assert np.array_equal(columns.numbers(name), expected.numbers(name), equal_nan=True)
    for name in ("utm_zone", "frame"):
        assert names_of(*columns.codes(name)) == names_of(*expected.codes(name))
    assert list(columns.paths) == expected.paths and columns.paths[2:9:3] == expected.paths[2:9:3]
    assert isinstance(columns.paths, ColumnTexts) and columns.paths[-1] == "nowhere"
    rows = np.array([7, 2, 11])
    assert list(take_texts(columns.paths, rows)) == take_texts(expected.paths, rows)
    assert np.array_equal(columns.degrees, expected.degrees, equal_nan=True)
    assert names_of(*columns.utm_frames) == names_of(*expected.utm_frames)


def test_selected_descriptors_are_rows_of_all():
    descriptors = np.arange(20, dtype=np.float32).reshape(10, 2)
    selected = SelectedDescriptors(descriptors, np.array([1, 4, 9]))
    assert (len(selected), selected.shape, selected.dtype) == (3, (3, 2), np.float32)
    assert np.array_equal(selected[1:], descriptors[[4, 9]])
    assert np.array_equal(selected.take(np.array([2, 0])), descriptors[[9, 1]])


def test_a_zone_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="bad: expected a UTM zone"):
        PlaceColumns([Place("bad", utm_east=1.0, utm_north=2.0, utm_zone="99Q")]).utm_frames  # noqa: B018
