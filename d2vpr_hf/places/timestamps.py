"""Read the timestamps of photos, which have many forms, as seconds since 1970."""

import math
import re
from datetime import UTC, datetime

_DATE = re.compile(r"^(\d{4})([:/.])(\d\d)\2(\d\d)(?= |$)")
_DAY = re.compile(r"((?:19|20)\d\d)([-:/.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])")
_DIGITS = re.compile(r"^(\d{8})(\d{6})?$")
_MONTH = re.compile(r"^((?:19|20|21)\d\d)-?(0[1-9]|1[0-2])$")
_TOO_LATE = 1e11  # seconds until the year 5138, or thousandths since 1973
_SECONDS_A_DAY = 86_400


def to_seconds(timestamp: str | float | None) -> float:
    """Read a time as seconds since 1970; NaN if it cannot be read.

    These forms are read; times without a zone are in UTC:
    - ISO 8601: `2024-05-01`, `2024-05-01T12:30:00+02:00`.
    - EXIF: `2024:05:01 12:30:00`, also with slashes or dots in the date.
    - Digits of `@` names that are a date: `20240501`, `20240501123000`.
    - Months of GSV-Cities and `@` names, which mean the beginning of the month: `2024-05`, `202405`.
    - Seconds as a number or text: `1714566600.25`. A number beyond the year 5138 is read as thousandths, millionths or
      billionths of a second.
    """
    if not isinstance(timestamp, str):
        return math.nan if timestamp is None else _scale(float(timestamp))
    text = _MONTH.sub(r"\1-\2-01", timestamp.strip())
    if _DIGITS.match(text):
        return _first_known(_moment(_DIGITS.sub(r"\1T\2", text).removesuffix("T")), _number(text))
    return _first_known(_number(text), _moment(_DATE.sub(r"\1-\3-\4", text)))


def to_day(timestamp: str | None) -> str:
    """Return a text that is equal for times of one day: the written day, or the UTC day of seconds; empty without a time.

    A month counts as its first day. A text that cannot be read counts as a day that is equal only to the same text.
    """
    day = _DAY.match(timestamp or "")
    seconds = to_seconds(day[0] if day else timestamp)
    return timestamp or "" if math.isnan(seconds) else str(math.floor(seconds / _SECONDS_A_DAY))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return _scale(number) if math.isfinite(number) else math.nan


def _scale(number: float) -> float:
    """Return seconds for a number of seconds, or of thousandths, millionths or billionths of a second."""
    while math.isfinite(number) and abs(number) >= _TOO_LATE:
        number /= 1000
    return number


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _first_known(first: float, second: float) -> float:
    return second if math.isnan(first) else first
