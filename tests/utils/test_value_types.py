"""Values from JSON are checked against annotations: a wrong type would be a traceback, or a wrong number, much later."""

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from d2vpr_hf.utils.value_types import check_types, has_type, wrong_keys


class Side(TypedDict):
    count: int
    path: NotRequired[str | None]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (2**63, int, False),
        (1, float, True),
        (10**400, float, False),
        (float("nan"), float, False),
        (None, str | None, True),
        ("metres", Literal["metres", "degrees"], True),
        ([], Literal["metres"], False),
        ([1.5, 2], list[float], True),
        ([1.5, "2"], list[float], False),
        ([70, 70], tuple[int, int], True),
        ([70], tuple[int, int], False),
        ((1, 5, 10), tuple[int, ...], True),
        ({"a": [1]}, dict[str, list[int]], True),
        ({"a": 1}, dict[str, list[int]], False),
        ({"count": 1, "more": 2}, Side, True),
        ({"path": None}, Side, False),
        (object(), Any, True),
    ],
)
def test_values_have_the_types_of_annotations(value, annotation, expected):
    assert has_type(value, annotation) is expected


def test_wrong_fields_are_named():
    @dataclass
    class Row:
        rank: int
        name: str = "x"

    check_types(Row(1))
    with pytest.raises(ValueError, match="rank of a wrong type"):
        check_types(Row("1"))
    assert wrong_keys({"path": 3}, Side) == ["count", "path"]
