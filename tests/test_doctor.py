"""The examination of an installation: what it reports, the problems that it names, and its exit status."""

import importlib
import json

import pytest

from d2vpr_hf import __version__, doctor
from d2vpr_hf.doctor import Examination, Finding
from tests.command_line import run


@pytest.fixture(scope="module")
def examination():
    return doctor.examine()


def test_an_installation_without_faults(examination):
    sections = examination.to_dict()["sections"]
    assert sections["program"]["d2vpr-hf"] == __version__ and sections["libraries"]["numpy"]
    assert sections["backends"]["torch"] is True and sections["self-test"]["passed"] is True
    assert "embedded" in sections["hub"]["usable offline"] and sections["processor"]["cores in use"] >= 1
    assert examination.problems == [], examination.to_text()
    json.dumps(examination.to_dict())


def test_the_text_has_a_line_for_each_finding(examination):
    lines = examination.to_text().splitlines()
    assert len([line for line in lines if line.startswith("  ")]) == len(examination.findings)
    assert lines[-1] == "No problem." and "Self-test:" in lines


def test_values_and_problems_as_text():
    findings = (Finding("a", "x", True), Finding("a", "yy", None, "it is away. Bring it."), Finding("b", "z", ["p", "q"]))
    assert Examination(findings).to_text() == "\n".join(
        ["A:", "  x   yes", "  yy  -", "", "B:", "  z   p, q", "", "Problem with yy: it is away. Bring it."]
    )


def test_a_library_that_cannot_be_imported_is_a_problem(monkeypatch):
    def broken(name):
        raise {"away": ModuleNotFoundError("No module named 'away'", name="away")}.get(name, OSError("wrong ELF class"))

    monkeypatch.setattr(importlib, "import_module", broken)
    assert doctor._try_import("away") == (None, None)
    works, problem = doctor._try_import("here")
    assert works is False and "wrong ELF class" in problem


def test_no_token_is_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    findings = doctor._hub()
    assert {finding.name: finding.value for finding in findings}["logged in"] is True and "SECRET" not in str(findings)


def test_the_status_tells_a_script_of_problems(monkeypatch):
    for problem, status in ((None, 0), ("it is broken. Mend it.", 1)):
        monkeypatch.setattr(doctor, "examine", lambda problem=problem: Examination((Finding("a", "x", 1, problem),)))
        assert run("doctor")[0] == status
        assert json.loads(run("doctor", "--json")[1])["sections"] == {"a": {"x": 1}}
