"""Every parser meets damaged files: a few inputs of each target, and the inputs that once had a wrong outcome."""

from pathlib import Path

import pytest

from tests.fuzz.run import draw_input, execute, prepared_target
from tests.fuzz.targets import TARGETS, Prepared, WrongAnswerError

INPUTS = Path(__file__).parent / "inputs"
EXECUTIONS = 24


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_have_right_outcomes(name):
    with prepared_target(name) as prepared:
        for seed in prepared.seeds:
            prepared.run(seed)
        count = 2 if prepared.is_slow else EXECUTIONS
        outcomes = {number: execute(prepared, draw_input(name, prepared, number)) for number in range(count)}
        stored = {path.name: execute(prepared, path.read_bytes()) for path in sorted((INPUTS / name).glob("*"))}
    assert {number: outcome for number, outcome in {**outcomes, **stored}.items() if outcome} == {}


def test_stored_inputs_belong_to_targets():
    """A target that is renamed would leave its inputs behind, and they would not be run again."""
    assert {path.name for path in INPUTS.iterdir()} <= set(TARGETS)


def test_an_input_depends_on_its_number_alone(tmp_path):
    """Otherwise a wrong outcome could not be shown again by its number."""
    prepared = TARGETS["csv_tables"](tmp_path)
    inputs = [draw_input("csv_tables", prepared, number) for number in (3, 4, 3)]
    assert inputs[0] == inputs[2] != inputs[1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("damaged"), None),
        (KeyError("x"), "KeyError in no frame of the package: \"'x'\""),
        (WrongAnswerError("rows"), "WrongAnswerError in no frame of the package: 'rows'"),
    ],
)
def test_only_right_exceptions_are_right_outcomes(error, outcome):
    def run(content):
        raise error

    assert execute(Prepared([b""], run), b"") == outcome
