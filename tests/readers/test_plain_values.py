"""Times and headings of all readers: an instant is the same from any source, and unknown times are counted."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2vpr_hf.places import Place
from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import find_photos, load_places
from d2vpr_hf.readers.at_names import place_from_name
from d2vpr_hf.readers.folder import read_photo
from d2vpr_hf.readers.plain_values import LIKE_DATES, LIKE_SERIALS, LIKE_YEARS, TURNED, WITHOUT_TIME
from d2vpr_hf.readers.registry import read_places
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.tables.csv_table import write_csv
from d2vpr_hf.readers.tables.dataset_columns import compute_columns
from tests.photos import jpeg, save

INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))
FORMS = ("%Y%m%d_%H%M%S", "%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y_%m_%d_%H_%M_%S_000", "%Y%m%d%H%M%S")


def at_name(time, heading="", number=0):
    return f"@{544388 + number}@4172758@10@S@@@@@{heading}@@@@{time}@@.jpg"


def kinds(remarks):
    return {remark.text: (remark.kind, remark.count) for remark in remarks}


@settings(max_examples=20)
@given(INSTANTS)
def test_an_instant_is_the_same_from_a_name_a_table_and_a_data_set(tmp_path_factory, instant):
    seconds = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assume(not re.fullmatch("(19|20|21)[0-9]{4}([0-9]{2})?", str(seconds)))  # in 1970 these are read as dates, see to_seconds
    texts = [instant.strftime(form) for form in FORMS]
    folder = Path("photos")
    names = [place_from_name(folder / at_name(text), folder).timestamp for text in (texts[0], texts[4])]
    table = tmp_path_factory.mktemp("table") / "places.csv"
    write_csv(table, [Place(str(row), 1.0, 2.0, timestamp=text) for row, text in enumerate(texts)], {})
    rows = [place.timestamp for place in read_places(table).places]
    cells = [*texts, instant, float(seconds), seconds * 1000 if abs(seconds) > 1e9 else str(float(seconds))]
    columns = {"latitude": [1.0] * len(cells), "longitude": [2.0] * len(cells), "timestamp": cells}
    values = compute_columns(columns, [(None, False)] * len(cells), range(len(cells)), "data/train")["timestamp"]
    assert [to_seconds(text) for text in (*names, *rows, *values)] == pytest.approx([seconds] * 15, abs=1)


def test_names_with_unknown_times_and_turned_headings_are_counted(tmp_path):
    for number, (time, heading) in enumerate([("20240501_12", "10"), ("20240230", "360"), ("noon", "-90"), ("2019", "")]):
        save(tmp_path / at_name(time, heading, number), number)
    table = read_places(tmp_path)
    assert [(place.timestamp, place.heading) for place in table.places] == [
        ("20240501_12", 10.0),
        (None, 0.0),
        (None, 270.0),
        ("2019-01", None),
    ]
    assert kinds(table.remarks) == {WITHOUT_TIME: ("skipped", 2), TURNED: ("corrected", 2)}
    single = read_photo(find_photos(tmp_path)[2])
    assert kinds(single.remarks) == {WITHOUT_TIME: ("skipped", 1), TURNED: ("corrected", 1)}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2019", "2020.0", "2024-05-01"], {LIKE_YEARS: ("assumed", 2)}),
        (["1999", "2000", "2001", "1700"], {}),  # a clock's seconds
        (["202405", "20240501", "2024-05"], {}),
        (["189959", "200001", "200002", "20240501"], {LIKE_DATES: ("assumed", 3)}),
        (["200001.000", "200002.000", "5.0"], {}),
        (["5.25", "20240501"], {LIKE_DATES: ("assumed", 1)}),
        (["45413", "45413.5", "45414.520833", "2024-05-03"], {LIKE_SERIALS: ("assumed", 3)}),
        (["45413.5", "12.5"], {}),
        (["1714566600.25", "1714566600", "000123"], {WITHOUT_TIME: ("skipped", 1)}),
    ],
)
def test_times_of_digits_that_may_mean_something_else_are_counted(tmp_path, times, expected):
    write_csv(tmp_path / "places.csv", [Place(str(row), 1.0, 2.0, timestamp=text) for row, text in enumerate(times)], {})
    table = read_places(tmp_path / "places.csv")
    assert kinds(table.remarks) == expected
    assert [place.timestamp for place in table.places] == [None if time == "000123" else time for time in times]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_data_sets_with_unknown_times_are_reported_once(tmp_path, caplog, streaming):
    count = 6
    columns = {
        "image": [{"path": f"{row}.jpg", "bytes": jpeg(row)} for row in range(count)],
        "latitude": [1.0] * count,
        "longitude": [2.0] * count,
        "heading": [-90.0, 360.0, 0.0, 45.0, 359.0, None],
        "timestamp": ["2024-05-01", "spring", "1_000", "20240501_12", None, "01/05/2024"],
    }
    features = datasets.Features(
        {name: datasets.Value("float64") for name in ("latitude", "longitude", "heading")}
        | {"image": datasets.Image(), "timestamp": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "saved")
    rows = load_places(tmp_path / "saved", streaming=streaming).remove_columns("image")
    assert [row["heading"] for row in rows] == [270.0, 0.0, 0.0, 45.0, 359.0, None]
    assert [row["timestamp"] for row in rows] == ["2024-05-01", None, None, "20240501_12", None, None]
    assert sum(f"3 {WITHOUT_TIME}" in message for message in caplog.messages) == 1
    assert sum(f"2 {TURNED}" in message for message in caplog.messages) == 1


COLUMNS = {
    "clocks without a zone": lambda times: pa.array([time.replace(tzinfo=None) for time in times], pa.timestamp("ns")),
    "summer time": lambda times: pa.array(times, pa.timestamp("us", "Europe/Berlin")),
    "an offset": lambda times: pa.array(times, pa.timestamp("ms", "+05:30")),
    "seconds": lambda times: pa.array([int(time.timestamp()) for time in times]),
    "thousandths": lambda times: pa.array([time.timestamp() * 1e3 for time in times]),
    "billionths": lambda times: pa.array([int(time.timestamp()) * 10**9 for time in times]),
    "decimals": lambda times: pa.array([Decimal(str(time.timestamp())) for time in times]),
    "digits": lambda times: pa.array([int(time.strftime("%Y%m%d%H%M%S")) for time in times]),
    "repeated texts": lambda times: pa.array([time.isoformat() for time in times]).dictionary_encode(),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
def test_an_instant_is_the_same_from_every_type_of_parquet_column(tmp_path, column, streaming):
    """Among others in the hours that summer time skips and repeats."""
    hours = ((2024, 5, 1, 12), (2024, 3, 31, 1), (2024, 10, 27, 0), (2024, 10, 27, 1), (1999, 12, 31, 23), (2040, 2, 29, 5))
    times = [datetime(*hour, 30, 15, tzinfo=UTC) for hour in hours]
    images = [{"path": f"{row}.jpg", "bytes": jpeg(row)} for row in range(len(times))]
    degrees = [1.0] * len(times)
    columns = {"image": images, "latitude": degrees, "longitude": degrees, "timestamp": COLUMNS[column](times)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    rows = load_places(tmp_path / "rows.parquet", streaming=streaming).remove_columns("image")
    assert [to_seconds(row["timestamp"]) for row in rows] == [time.timestamp() for time in times]


def test_a_heading_beyond_a_turn_is_an_error_of_its_row():
    with pytest.raises(ValueError, match=r"data/train, row 1: heading must be in \[-360, 360\] degrees, got 400"):
        compute_columns({"heading": [10.0, 400.0]}, [(None, False)] * 2, range(2), "data/train", RemarkCounter())
