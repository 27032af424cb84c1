"""Read the timestamps of photos, which have many forms, as seconds since 1970.

The parser is strict: a text in any other form, or a date that does not exist, is an unknown time and never a number. The table
in docs/formats.md lists the forms.
"""

import functools
import math
import re
from datetime import date
from numbers import Real
from typing import Literal

import numpy as np

# The patterns have `[0-9]` and not `\d`, which also matches digits of other scripts.
_DATE = (
    r"(?P<year>[0-9]{4})(?P<separator>[-:/._]|(?<=(?:19|20|21)[0-9]{2}))"  # without a separator, only from 1900 to 2199
    r"(?P<month>[0-9]{2}|(?<=[-:/.])[0-9])(?P=separator)(?P<day>[0-9]{2}|(?<=[-:/.])[0-9](?![0-9]))"  # also `2024/5/1`
)
_WEEK = r"(?P<week_year>[0-9]{4})(?P<dash>-?)W(?P<week>[0-9]{2})(?:(?P=dash)(?P<weekday>[1-7]))?"
_JOIN = (
    r"(?:[Tt_ ]"
    r"|-(?=[0-9]{2}(?P<mark>[-:.])[0-9]{2}(?P=mark)[0-9]{2}|[0-9]{6})"  # `2024-05-01-12-30-00`
    r"|(?<=[0-9]{8})(?=[0-9]{4}))"  # `20240501123000`; ten digits are seconds
)
_TIME = (
    r"(?P<hour>[0-9]{2}|[0-9](?=:))(?:"
    r"(?P<colon>[:_]|-(?=[0-9]{2}-[0-9]{2})|\.(?=[0-9]{2}\.[0-9]{2})|)(?P<minute>[0-9]{2})"  # `12-03` is an hour and a zone
    r"(?:(?P=colon)(?P<second>[0-9]{2})"
    r"(?:[.,](?P<fraction>[0-9]+)|(?:_|(?<=[0-9]{6}))(?P<thousandths>[0-9]{3}))?)?)?"
)
_ZONE = (
    r" ?(?:[Zz]|UTC|GMT"
    r"|(?P<sign>[+-])(?P<zone_hour>[0-9]{2})(?::?(?P<zone_minute>[0-9]{2})(?::?(?P<zone_second>[0-9]{2}))?)?)"
)
_FLOAT = r"(?:(?<=[0-9]{8})\.0)?"  # programs write whole numbers so if their column has gaps: `20240501.0`
_MOMENT = re.compile(rf"(?:{_DATE}|{_WEEK})(?:{_JOIN}{_TIME}(?:{_ZONE})?)?{_FLOAT}")
_MONTH = re.compile(r"([0-9]{4})(?:[-:/_]|(?<=(?:19|20|21)[0-9]{2}))([0-9]{2})")
_MONTH_OR_SECONDS = re.compile(r"(?:19|20|21)[0-9]{2}(?:0[1-9]|1[0-2])\.0")  # a month in a column with gaps, or a clock's time
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
    r"|[1-9][0-9]{3,},[0-9]+"  # a decimal comma; `12,345` may be thousands
    r"|[0-9](?:\.[0-9]+[eE][+-]?|[eE][+-])[0-9]{1,2})"
)
_SHORT_NUMBER = re.compile(r"[0-9]{1,8}(?:\.[0-9]+)?")
_YEAR = re.compile(r"(?:19|20|21)[0-9]{2}(?:\.0)?")
_SERIALS = range(25_569, 73_051)  # days since 1900 that are dates from 1970 to 2099

_UNITS = (1.0, 1e3, 1e6, 1e9)  # of a second
_TOO_FAR = 1e10  # seconds; all times of photos are nearer to 1970, between 1653 and 2286
_SECONDS_A_DAY = 86_400
_CACHE_SIZE = 4096  # texts and days; photos of one month or day have equal ones

Timestamp = str | float | date | np.datetime64  # a datetime is a date too
_UNKNOWN = (math.nan, math.nan)


def to_seconds(timestamp: Timestamp | None) -> float:
    """Read a time as seconds since 1970; NaN if it cannot be read.

    These forms are read; times without a zone are in UTC, and a time before 1653 or after 2286 is unknown:
    - ISO 8601: `2024-05-01`, `2024-05-01T12:30:00+02:00`, `20240501T103000.25Z`, `2024-W18-3`; also with a blank for `T`.
    - EXIF: `2024:05:01 12:30:00`, with the zone behind it `2024:05:01 12:30:00+02:00`; also with slashes or dots in the date.
    - Spreadsheets that begin with the year: `2024/5/1 9:05`. Screenshots: `2024-05-01 12.30.00`.
    - `@` names: `20240501`, `20240501_12`, `20240501_1230`, `20240501_123000`, `20240501123000`.
    - Mapillary: `2024_05_01_12_30_00_000`.
    - Months, which mean their beginning: `2024-05`, `202405`.
    - Seconds as a number or text: `1714566600.25`. A number from 10¹¹ on counts thousandths of a second, from 10¹⁴ on
      millionths, and from 10¹⁷ on billionths.
    - Dates and times of Python and numpy, with or without a zone.

    A text of 6, 8, 12, 14 or 17 digits that begins with 19, 20 or 21 is a date, and unknown if there is no such date; from 8
    digits on it may end in `.0`. `202405.0` is unknown, as it may be a month or seconds. Other numbers are seconds, also
    `2024`: only the readers know whether it is a year.
    """
    return _read_any(timestamp)[0]


def date_text(moment: date | np.datetime64) -> str:
    """Return a date, or date and time, of Python, pandas or numpy in ISO 8601; `"NaT"` for the unknown time of the last two."""
    if isinstance(moment, np.datetime64):
        return str(moment + np.timedelta64(0, "D"))  # in days at least: four digits would be seconds
    return moment.isoformat()


def clock_or_date(text: str | None) -> Literal["seconds", "year", "serial", "date"] | None:
    """Return how a short number is read as a time, for warnings of a wrong reading; `None` for other texts and long numbers.

    `"seconds"` are those of clocks that begin at 0, `"year"` and `"serial"` are numbers that are read as seconds although they
    may be a year or a spreadsheet's count of days since 1900, and `"date"` are the six or eight digits of a month or day.
    """
    text = (text or "").strip()
    if not _SHORT_NUMBER.fullmatch(text) or math.isnan(to_seconds(text)):
        return None
    number = float(text)
    if to_seconds(text) != number:
        return "date"
    if _YEAR.fullmatch(text):
        return "year"
    return "serial" if int(number) in _SERIALS else "seconds"


def to_day(timestamp: Timestamp | None) -> str:
    """Return a text that is equal for times of one day: the written day, or the UTC day of seconds; empty if it is unknown.

    A month counts as its first day.
    """
    clock = _read_any(timestamp)[1]
    return "" if math.isnan(clock) else str(math.floor(clock / _SECONDS_A_DAY))


def _read_any(timestamp: Timestamp | None) -> tuple[float, float]:
    """Return a time of any type as [`_read`] does."""
    if isinstance(timestamp, date | np.datetime64):
        timestamp = date_text(timestamp)
    if isinstance(timestamp, str):
        return _read(timestamp)
    if isinstance(timestamp, Real) and not isinstance(timestamp, bool):
        seconds = _scale(float(timestamp))
        return seconds, seconds
    return _UNKNOWN


@functools.lru_cache(_CACHE_SIZE)
def _read(text: str) -> tuple[float, float]:
    """Return a time in seconds since 1970, and the same for the clock that wrote it, which decides its day."""
    text = text.strip(" \t\r\n\0")
    if match := _MOMENT.fullmatch(text):
        return _moment(match)
    if match := _MONTH.fullmatch(text):
        seconds = _day(match[1], match[2], "01")
    elif _NUMBER.fullmatch(text) and not _MONTH_OR_SECONDS.fullmatch(text):
        seconds = _scale(float(text.replace(",", ".")))
    else:
        return _UNKNOWN
    return seconds, seconds


def _moment(match: re.Match[str]) -> tuple[float, float]:
    day = _day(match["year"], match["month"], match["day"]) if match["year"] else _week_day(match)
    if match["hour"] is None:
        return day, day
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    fraction = float(f"0.{match['fraction'] or match['thousandths'] or 0}")
    offset = _offset(match) if match["sign"] else 0
    clock = day + 3600 * hour + 60 * minute + second
    seconds = clock - offset
    ends_day = (minute, second, fraction) == (0, 0, 0) if hour == 24 else hour < 24  # 24:00 is the next day's beginning
    is_leap = second == 60 and seconds % _SECONDS_A_DAY == 0  # 23:59:60 in UTC, the same second as the next day's first
    if not (ends_day and minute < 60 and (second < 60 or is_leap) and abs(seconds) < _TOO_FAR):
        return _UNKNOWN
    return seconds + fraction, clock + fraction


def _offset(match: re.Match[str]) -> float:
    """Return the seconds by which the clock of a zone is ahead of UTC; NaN if it is a day or more."""
    hour, minute, second = (int(match[name] or 0) for name in ("zone_hour", "zone_minute", "zone_second"))
    if hour >= 24 or minute >= 60 or second >= 60:
        return math.nan
    seconds = 3600 * hour + 60 * minute + second
    return -seconds if match["sign"] == "-" else seconds


@functools.lru_cache(_CACHE_SIZE)
def _day(year: str, month: str, day: str) -> float:
    try:
        return _beginning(date(int(year), int(month), int(day)))
    except ValueError:
        return math.nan


def _week_day(match: re.Match[str]) -> float:
    try:
        return _beginning(date.fromisocalendar(int(match["week_year"]), int(match["week"]), int(match["weekday"] or 1)))
    except ValueError:
        return math.nan


def _beginning(day: date) -> float:
    seconds = float((day.toordinal() - date(1970, 1, 1).toordinal()) * _SECONDS_A_DAY)
    return seconds if abs(seconds) < _TOO_FAR else math.nan


def _scale(number: float) -> float:
    """Return seconds for a number of seconds, or of thousandths, millionths or billionths of a second; NaN for others."""
    if not math.isfinite(number):
        return math.nan
    unit = next((unit for unit in _UNITS if abs(number) < unit * 1e11), math.inf)
    seconds = number / unit
    return seconds if unit < math.inf and abs(seconds) < _TOO_FAR else math.nan
