"""Imports of optional libraries."""

import os
import subprocess
import sys

import pytest

from d2vpr_hf.utils.optional_imports import import_without_reports

PROGRAM = """
import sys
from {module} import {function}
{function}{arguments}
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__, "openvino_telemetry" in sys.modules)
"""


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("d2vpr_hf.utils.optional_imports", "import_extra", '("openvino", "openvino")'),
        ("d2vpr_hf.doctor", "_try_import", '("openvino")'),
    ],
)
def test_openvino_reports_nothing(module, function, arguments, tmp_path):
    """Its own import sends an event to a server, and writes an id of the user into the home folder."""
    pytest.importorskip("openvino_telemetry")
    program = PROGRAM.format(module=module, function=function, arguments=arguments)
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"], done.stderr
    assert not (tmp_path / "intel").exists()


def test_the_package_for_reports_can_be_imported_afterwards(tmp_path, monkeypatch):
    """Hidden during the import of its library only, and after an import that failed too."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("d2vpr_hf.utils.optional_imports._REPORTERS", {"maker_library": "maker_reports"})
    (tmp_path / "maker_reports.py").write_text("")
    (tmp_path / "maker_library.py").write_text("import maker_reports")
    with pytest.raises(ImportError, match="maker_reports"):
        import_without_reports("maker_library")
    assert __import__("maker_reports")
