"""Metrics in the text format of Prometheus (exposition format 0.0.4). Safe to use from threads."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, for each combination of labels."""

    kind = "counter"

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._values: dict[_Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add an amount to the number of these labels."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def lines(self) -> list[str]:
        """Return a line for each combination of labels."""
        with self._lock:
            return [f"{self.name}{_label_text(labels)} {_number(value)}" for labels, value in sorted(self._values.items())]


class Gauge:
    """A number that is read when the metrics are.

    Args:
        name: Its name.
        text: Its description.
        read: Returns the number.
    """

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text = name, text
        self._read = read

    def lines(self) -> list[str]:
        """Return the line of the number."""
        return [f"{self.name} {_number(self._read())}"]


class Histogram:
    """Numbers of values up to each of some bounds, for each combination of labels, with the sum of the values."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.text = name, text
        self._bounds = tuple(bounds)
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, **labels: str) -> None:
        """Count a value."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
            counts[bisect_left(self._bounds, value)] += 1
            self._sums[key] = self._sums.get(key, 0.0) + value

    def lines(self) -> list[str]:
        """Return the lines of the buckets, the sum and the number of values."""
        lines = []
        with self._lock:
            for labels, counts in sorted(self._counts.items()):
                total = 0
                for bound, count in zip((*map(_number, self._bounds), "+Inf"), counts, strict=True):
                    total += count
                    lines.append(f"{self.name}_bucket{_label_text((*labels, ('le', bound)))} {total}")
                lines.append(f"{self.name}_sum{_label_text(labels)} {_number(self._sums[labels])}")
                lines.append(f"{self.name}_count{_label_text(labels)} {total}")
        return lines


def exposition(metrics: Sequence[Counter | Gauge | Histogram]) -> str:
    """Return metrics as the text that Prometheus reads."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
    return "\n".join(lines) + "\n"


def _label_text(labels: _Labels) -> str:
    texts = [f'{name}="{_escaped(value)}"' for name, value in labels]
    return f"{{{','.join(texts)}}}" if texts else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
