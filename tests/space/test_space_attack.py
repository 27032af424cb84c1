"""The benchmark that attacks the Space compares answers: rounding is not an error, another photo's answer is."""

import pytest

pytest.importorskip("gradio_client")
from benchmarks.space_attack import is_same

EXPECTED = [("a", 0.9), ("b", 0.8), ("c", 0.7996), ("d", 0.5)]


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (EXPECTED, True),
        ([("a", 0.90001), ("c", 0.7998), ("b", 0.7997), ("d", 0.5)], True),  # b and c changed places
        ([("a", 0.9), ("b", 0.8), ("c", 0.7996), ("e", 0.5004)], True),  # e is as similar as the last one
        ([("a", 0.9), ("b", 0.8), ("c", 0.7996)], False),
        ([("b", 0.9), ("a", 0.8), ("c", 0.7996), ("d", 0.5)], False),  # a and b have each other's similarity
        ([("x", 0.9), ("b", 0.8), ("c", 0.7996), ("d", 0.5)], False),
        ([("a", 0.9), ("b", 0.8), ("c", 0.7996), ("e", 0.6)], False),
        ([], False),
    ],
)
def test_answers_are_the_same_up_to_rounding(answer, same):
    assert is_same(answer, EXPECTED) is same
    assert is_same([], [])
