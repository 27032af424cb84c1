"""All forms of a time mean the seconds they should, and a text in another form is never a number."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2vpr_hf.index.place_rows import PendingPlaces, PhotoFile, PlaceRows
from d2vpr_hf.index.search import rows_before
from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import within_time
from d2vpr_hf.places.timestamps import to_day, to_seconds
from d2vpr_hf.readers.at_names import place_from_name

DAY = 86_400.0
MAY = 1_714_521_600.0  # 2024-05-01T00:00:00Z
NOON = MAY + DAY / 2
HALF_PAST = NOON + 1800


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
        ("99999999", 99999999.0),  # no date of these centuries, so seconds
        ("1970/01/02 00:00:01", 86401.0),
        ("1970.01.02", 86400.0),
        ("1714566600250", 1714566600.25),  # thousandths
        (1714566600250000000, 1714566600.25),
        ("1970-02", 31 * 86400.0),
        ("197002", 31 * 86400.0),
        ("2025", 2025.0),  # a robot's clock, not a year
    ],
)
def test_timestamps_of_every_form_are_read_as_seconds(timestamp, seconds):
    assert to_seconds(timestamp) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        # `@` names
        ("20240501_12", NOON),
        ("20240501_1230", HALF_PAST),
        ("20240501_123015", HALF_PAST + 15),
        ("202405011230", HALF_PAST),
        ("20240501123000250", HALF_PAST + 0.25),
        # names that cameras and recorders give
        ("20240501_123000250", HALF_PAST + 0.25),
        ("20240501-123000", HALF_PAST),
        ("2024-05-01-12-30-00", HALF_PAST),
        ("2024-05-01_12-30-00", HALF_PAST),
        ("2024-05-01T12-30-00", HALF_PAST),
        # Mapillary
        ("2024_05_01_12_30_00_250", HALF_PAST + 0.25),
        ("2024_05_01_12_30_00", HALF_PAST),
        ("2024_05_01", MAY),
        # spreadsheets, screenshots and programs that do not fill up numbers
        ("2024/5/1 12:30", HALF_PAST),
        ("2024-5-1T9:05:00Z", MAY + 9 * 3600 + 300),
        ("2024:5:1 12:30:00.5", HALF_PAST + 0.5),
        ("2024.5.1", MAY),
        ("2024-05-01 12.30.00", HALF_PAST),
        ("2024-05-01_12.30.00.250", HALF_PAST + 0.25),
        ("2024-05-01-12:30:00", HALF_PAST),
        ("2024.05.01-12.30.00", HALF_PAST),
        # databases, robots and data sets
        ("2024-05-01 12:30:00.0000000 +00:00", HALF_PAST),
        ("1418381798086398", 1418381798.086398),  # Oxford RobotCar
        ("1403636579763555584", 1403636579.763555584),  # EuRoC
        ("2011-09-26 13:02:25.964389445", 1317042145.964389445),  # KITTI
        # ISO 8601
        ("2024-05-01T12", NOON),
        ("2024-05-01T12+02", NOON - 7200),
        ("2024-05-01T12-03", NOON + 3 * 3600),  # a zone, not minutes
        ("2024-05-01 12:30:00 +0530", HALF_PAST - 5.5 * 3600),
        ("2024-05-01t12:30:00z", HALF_PAST),
        ("2024-05-01 12:30:00 UTC", HALF_PAST),
        ("2024-05-01T12:30:00,5-00:30", HALF_PAST + 0.5 + 1800),
        ("2024-05-01T12:30:00.123456789Z", HALF_PAST + 0.123456789),
        ("20240501T123000Z", HALF_PAST),
        ("20240501T1230", HALF_PAST),
        ("2024-W18-3T12:30", HALF_PAST),
        ("2024W183", MAY),
        ("2024-W18", MAY - 2 * DAY),
        # EXIF
        ("2024:05:01 12:30:00+09:00", HALF_PAST - 9 * 3600),
        ("2024:05:01 12:30:00.25-03:30", HALF_PAST + 0.25 + 3.5 * 3600),
        ("2024:05:01 12:30:00Z", HALF_PAST),
        ("2024:05:01 12:30:00\0", HALF_PAST),
        # ends of days and seconds
        ("2024-04-30T24:00", MAY),
        ("2024:04:30 24:00:00", MAY),
        ("2016-12-31T23:59:60Z", 1_483_228_800.0),
        ("2017-01-01T05:29:60.5+05:30", 1_483_228_800.5),
        # beyond the seconds that 32 bits count
        ("1900-01-01", -25_567 * DAY),
        ("1969-12-31T23:59:58.5Z", -1.5),
        ("2038-01-19T03:14:08Z", 2.0**31),
        ("2100-02-28T24:00:00Z", 4_107_542_400.0),  # 2100 has no February 29
        # numbers
        ("1714566600250000", 1714566600.25),
        ("1.714566600e9", HALF_PAST),
        ("1.71456660025E+18", HALF_PAST + 0.25),
        ("1.036224e-01", 0.1036224),  # KITTI's times.txt
        ("1e-05", 1e-5),
        ("1714566600,25", HALF_PAST + 0.25),  # a decimal comma
        ("-86400.5", -86400.5),
        ("2024050112", 2_024_050_112.0),  # ten digits are seconds: of 2034
        ("20240501.0", MAY),  # a column with gaps, written as floats
        ("20240501.5", 20_240_501.5),
        ("202405.000", 202_405.0),
        ("202405.5", 202_405.5),
        ("202413.0", 202_413.0),
        (" 1714566600 ", HALF_PAST),
        (np.float32(12.5), 12.5),
        (np.int64(12), 12.0),
        # Python and numpy
        (datetime(2024, 5, 1, 12, 30), HALF_PAST),
        (datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=2))), HALF_PAST - 7200),
        (date(2024, 5, 1), MAY),
        (np.datetime64("2024-05-01T12:30:00.250"), HALF_PAST + 0.25),
        (np.datetime64("2024"), MAY - 121 * DAY),  # a year, not seconds
        # months
        ("2024:05", MAY),
        ("1899-12", -25_598 * DAY),
    ],
)
def test_each_form_means_its_moment(timestamp, seconds):
    assert to_seconds(timestamp) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "timestamp",
    [None, np.datetime64("NaT"), "", "spring", "nan", "inf", "2015-13-01", math.nan, math.inf, -math.inf, 1e30, True],
)
def test_texts_that_are_not_times_give_nan(timestamp):
    assert math.isnan(to_seconds(timestamp))


@pytest.mark.parametrize(
    "text",
    [
        # what `float` reads
        "1_000", "1_714_566_600", "infinity", "-inf", "NaN", "1714566600_", "١٧١٤٥٦٦٦٠٠", "１７１４", "+5", ".5", "5.", "1e400",
        "0x10", "12e5", "2024e1",
        # dates that do not exist
        "20240230", "20249901", "20230229", "19000229", "20240501_25", "20240501_1260", "20240501_123061", "202413",
        "197013", "202405012460", "20240501246000", "2024-05-01T24:01", "2024-05-01T12:30:60", "2016-12-31T22:59:60Z",
        "2024:13:01 00:00:00", "2024-W54-1", "2024_02_30_12_30_00_000", "2024-05-01T12:30:00+24:00",
        "2024-05-01T12:30:00+02:60",
        # a month in a column with gaps, or a clock's seconds
        "202405.0", "190012.0",
        # clocks that were never set
        "0000:00:00 00:00:00", "00000000", "00000000000000", "0000-00-00", "0001-01-01T00:00:00", "9999-12-31",
        "    :  :     :  :  ",
        # the order of day and month is not known
        "01/05/2024", "1.5.2024", "05-01-2024", "01052024_12", "5/1/24", "24/5/1",
        # other texts
        "2024-05-01T", "2024-05-", "2024-05-01Z+", "2024-05:01", "2024-05-01 12:30 PM", "2024-05-01T12:30:00[Europe/Berlin]",
        "2024-05-01T12:30:00 CET", "2024-05-01+02:00", "2024-05-011230", "2024-122", "May 2024", "noon", "12:30",
        "20240501_", "20240501_1", "20240501_12300", "2024-05-01T12:30:00.", "20240501T12:30:00Zulu", "000123", "12,345",
        "1,714,566,600", "99999999999999", "2024-5-011230", "2024-05-01-05:00", "2024-05-01 12.30", "2024/5/1 9", "2024_5_1",
    ],
)  # fmt: skip
def test_a_text_in_no_form_is_never_a_time(text):
    assert math.isnan(to_seconds(text))


INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31, 23, 59, 59), timezones=st.just(UTC))
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)
FORMS = {  # by their resolution in seconds, in UTC
    DAY: [
        "%Y-%m-%d",
        "%Y%m%d",
        "%Y:%m:%d",
        "%Y/%m/%d",
        "%G-W%V-%u",
        "%GW%V%u",
        "%Y%m%d.0",
    ],
    3600.0: [
        "%Y%m%d_%H",
        "%Y-%m-%dT%H",
        "%Y%m%dT%HZ",
    ],
    60.0: [
        "%Y%m%d_%H%M",
        "%Y%m%d%H%M",
        "%Y-%m-%d %H:%M",
        "%Y_%m_%d_%H_%M",
    ],
    1.0: [
        "%Y%m%d_%H%M%S",
        "%Y%m%d%H%M%S",
        "%Y:%m:%d %H:%M:%S",
        "%Y.%m.%d %H:%M:%S",
        "%Y%m%dT%H%M%SZ",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d-%H-%M-%S",
        "%Y-%m-%d %H:%M:%S UTC",
    ],
    1e-3: [
        "%Y_%m_%d_%H_%M_%S_{ms}",
        "%Y%m%d%H%M%S{ms}",
        "%Y%m%d_%H%M%S{ms}",
        "%Y:%m:%d %H:%M:%S.{ms}",
    ],
    1e-6: [
        "%Y-%m-%dT%H:%M:%S.%fZ",
        "%Y-%m-%dT%H:%M:%S,%f",
        "%Y%m%dT%H%M%S.%fZ",
    ],
}


@given(INSTANTS)
def test_an_instant_is_the_same_in_every_form(instant):
    exact = (instant - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
    for resolution, form in ((resolution, form) for resolution, forms in FORMS.items() for form in forms):
        text = instant.strftime(form.replace("{ms}", f"{instant.microsecond // 1000:03d}"))
        assert -1e-6 <= exact - to_seconds(text) < resolution + 1e-6, text
    day, clock = f"{instant.year}/{instant.month}/{instant.day}", f"{instant.hour}:{instant.minute:02d}"
    for text, resolution in ((day, DAY), (f"{day} {clock}", 60.0), (f"{day.replace('/', '-')} {clock}:{instant:%S.%f}", 1e-6)):
        assert -1e-6 <= exact - to_seconds(text) < resolution + 1e-6, text
    for moment in (instant, instant.replace(tzinfo=None), np.datetime64(instant.replace(tzinfo=None))):
        assert to_seconds(moment) == pytest.approx(exact, abs=1e-6)
    for unit in (1, 1e3, 1e6, 1e9):
        number = round(exact * unit)
        if unit == 1 or abs(exact) >= 1.1e11 / 1e3:  # nearer to 1970, thousandths look like seconds
            assert to_seconds(number) == pytest.approx(exact, abs=max(0.6 / unit, 1e-6))
            is_like_a_date = str(number)[:2] in ("19", "20", "21") and len(str(number)) in (6, 8, 12, 14, 17)
            assert is_like_a_date or to_seconds(str(number)) == to_seconds(number)
            assert to_seconds(f"{float(number):.12e}") == pytest.approx(exact, abs=max(0.6 / unit, 1e-2))


@given(INSTANTS, OFFSETS)
def test_an_instant_is_the_same_on_the_clocks_of_all_zones(instant, minutes):
    zone = timezone(timedelta(minutes=minutes))
    local = (instant.replace(year=min(max(instant.year, 1901), 2198))).astimezone(zone)
    exact = local.timestamp()
    sign, (hours, rest) = "+" if minutes >= 0 else "-", divmod(abs(minutes), 60)
    for offset in (f"{sign}{hours:02d}:{rest:02d}", f"{sign}{hours:02d}{rest:02d}", f" {sign}{hours:02d}{rest:02d}"):
        for form in ("%Y:%m:%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y%m%dT%H%M%S.%f"):
            assert to_seconds(local.strftime(form) + offset) == pytest.approx(exact, abs=1e-6)
    assert to_day(local.isoformat()) == to_day(local.strftime("%Y%m%d"))  # the written day


@given(st.text(st.sampled_from("0123456789-:_/. TZ+eE,"), max_size=24))
def test_any_text_is_a_time_of_the_age_of_photographs_or_unknown(text):
    """No text raises an error, and none becomes a time that no photo has."""
    assert not abs(to_seconds(text)) >= 1e10  # True for NaN too
    assert math.isnan(to_seconds(text)) == (to_day(text) == "")


# ---- uses of times

SAME_MOMENT = [
    "20240501_123000",
    "20240501_1230",
    "2024_05_01_12_30_00_000",
    "2024:05:01 21:30:00+09:00",
    "20240501T123000Z",
    "1714566600",
    "1714566600000",
    "1.7145666e9",
    "2024-05-01T12:30:00",
    "202405011230",
]
A_MINUTE_LATER = [
    "20240501_123100",
    "20240501_1231",
    "2024_05_01_12_31_00_000",
    "2024:05:01 21:31:00+09:00",
    "20240501T123100Z",
    "1714566660",
    "1714566660000",
    "1.71456666e9",
    "2024-05-01T12:31:00",
    "202405011231",
]
NO_TIMES = ["1_714_566_600", "01/05/2024", "20240230", "0000:00:00 00:00:00", None]


def rows_of(times):
    pending = PendingPlaces()
    places = [Place(str(number), timestamp=time) for number, time in enumerate(times)]
    pending.extend(places, [PhotoFile()] * len(times))
    return PlaceRows([pending])


@pytest.mark.parametrize(("moment", "later"), list(zip(SAME_MOMENT, A_MINUTE_LATER, strict=True)))
def test_intervals_are_seconds_in_each_form(moment, later):
    rows = rows_of([*SAME_MOMENT, *A_MINUTE_LATER])
    count = len(SAME_MOMENT)
    for seconds, expected in ((60, [True] * count + [False] * count), (61, [False] * 2 * count), (0, [True] * 2 * count)):
        assert rows_before(rows, seconds, later).tolist() == expected
    assert rows_before(rows, 1, moment).tolist() == [False] * 2 * count
    assert rows_before(rows_of([moment, later]), 60, None).tolist() == [True, False]  # the latest time is that of the query
    for places in (rows, list(rows)):  # rows of an index keep their seconds
        assert within_time(places, moment, moment).tolist() == [True] * count + [False] * count
        assert within_time(places, later).tolist() == [False] * count + [True] * count
        assert within_time(places, None, moment).tolist() == [True] * count + [False] * count


def test_unknown_times_are_old_enough_and_in_no_interval():
    rows = rows_of([*NO_TIMES, "20240501_123000"])
    assert rows_before(rows, 5, "20240501_123001").tolist() == [True] * len(NO_TIMES) + [False]
    assert within_time(rows, "1900-01-01", "2199-12-31").tolist() == [False] * len(NO_TIMES) + [True]


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_an_interval_that_is_no_age_is_refused(seconds):
    """NaN seconds would have excluded nothing."""
    with pytest.raises(ValueError, match="exclude_last_seconds` of 0 or more"):
        rows_before(rows_of(["12"]), seconds, 13)


@pytest.mark.parametrize("text", ["20240230", "1_000", "01/05/2024", "tomorrow", "2024-05-01T25:00"])
def test_limits_that_are_no_times_are_refused(text):
    for limits in ((text, None), (None, text)):
        with pytest.raises(ValueError, match="Expected a time such as"):
            within_time([], *limits)
    with pytest.raises(ValueError, match="Expected a time in seconds"):
        rows_before(rows_of(["12"]), 1, text)


@pytest.mark.parametrize(
    ("times", "num_days"),
    [
        ((*SAME_MOMENT, *A_MINUTE_LATER), 1),
        (("20240501_2359", "20240502_0001"), 2),
        (("2024-05-01T23:30:00-08:00", "2024-05-01T08:00:00-08:00"), 1),  # of two days in UTC
        (("2024_05_01_00_00_00_000", "2024-05-01T00:30:00+09:00"), 1),
        (("1714521600", "2024050112"), 2),  # seconds of 2024 and of 2034
        ((date(2024, 5, 1), datetime(2024, 5, 1, 23), np.datetime64("2024-05-01T01"), 1714521600.5, "2024/5/1 9:05"), 1),
        ((datetime(2024, 5, 1, 23, tzinfo=timezone(timedelta(hours=-8))), "20240501"), 1),  # the next day in UTC
        (("2020123112345", "2020123199999"), 1),  # thousandths of 2034, whatever date their digits spell
    ],
)
def test_days_are_those_that_the_clock_showed(times, num_days):
    assert len({to_day(time) for time in times}) == num_days


@pytest.mark.parametrize("text", [*NO_TIMES, "noon", "2024:05:01 99:00:00"])
def test_an_unknown_time_has_no_day(text):
    assert to_day(text) == ""


@pytest.mark.parametrize(
    ("time", "timestamp", "seconds"),
    [
        ("2019", "2019-01", 1_546_300_800.0),
        ("201606", "201606", 1_464_739_200.0),
        ("20240501", "20240501", MAY),
        ("20240501_12", "20240501_12", NOON),
        ("20240501_123000", "20240501_123000", HALF_PAST),
        ("", None, math.nan),
    ],
)
def test_the_time_of_a_name_has_its_right_parts_optional(time, timestamp, seconds):
    """A bare year in a name is a year; elsewhere four digits are the seconds of a clock."""
    folder = Path("photos")
    place = place_from_name(folder / f"@544388@4172758@10@S@@@@@@@@@{time}@@.jpg", folder)
    assert place.timestamp == timestamp
    assert to_seconds(place.timestamp) == pytest.approx(seconds, nan_ok=True)
