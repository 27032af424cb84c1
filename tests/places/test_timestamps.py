"""All forms of a time mean the seconds they should."""

import math

import pytest

from d2vpr_hf.places.timestamps import to_seconds


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("1403636579.5", 1403636579.5),
        (12, 12.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01 01:00:00+01:00", 0.0),
        ("1970:01:02 00:00:00", 86400.0),
        ("1970-01-01T00:00:00Z", 0.0),
        ("19700102", 86400.0),
        ("19700102000001", 86401.0),
        ("99999999", 99999999.0),  # no date, so seconds
        ("1970/01/02 00:00:01", 86401.0),
        ("1970.01.02", 86400.0),
        ("1714566600250", 1714566600.25),  # thousandths
        (1714566600250000000, 1714566600.25),
        ("1970-02", 31 * 86400.0),
        ("197002", 31 * 86400.0),
        ("197013", 197013.0),  # no month, so seconds
        ("2025", 2025.0),  # a robot's clock, not a year
    ],
)
def test_timestamps_of_every_form_are_read_as_seconds(timestamp, seconds):
    assert to_seconds(timestamp) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("timestamp", [None, "", "spring", "nan", "inf", "2015-13-01"])
def test_texts_that_are_not_times_give_nan(timestamp):
    assert math.isnan(to_seconds(timestamp))
