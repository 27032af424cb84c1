"""Facts about a repository are read from its files, and nothing of it is executed."""

import sys
from pathlib import Path

import pytest

from d2vpr_hf.import_hub.import_hub import plan_import
from d2vpr_hf.import_hub.inspection import inspect_code, recognise_license

HUBCONF = """
dependencies = ["torch", "no_such_library.part"]
import torch
from models.net import make_small as small
_helper = torch.nn.Linear(1, 1)
raise SystemExit("executed")

def model(width=3):
    return torch.hub.load("facebookresearch/dinov2:main", "dinov2_vits14")

class _Private: ...
"""


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_entries_dependencies_and_other_repositories_are_read(tmp_path: Path) -> None:
    code = _write(tmp_path, {"hubconf.py": HUBCONF, "models/net.py": "import os", "broken.py": "def (", "README.md": ""})
    inspection = inspect_code(code)
    assert inspection.entries == ("small", "model")
    assert inspection.dependencies == ("torch", "no_such_library.part")
    assert inspection.missing_dependencies == ["no_such_library.part"]
    assert inspection.repositories == ("facebookresearch/dinov2",)
    assert inspection.python_files == ("broken.py", "hubconf.py", "models/net.py")
    assert (inspection.license_file, inspection.license, inspection.num_files) == (None, None, 4)
    assert "models.net" not in sys.modules
    with pytest.raises(ValueError, match=r"no entry 'large'. It has: small, model"):
        inspection.check_entry("large")


def test_entries_may_come_from_a_star_import(tmp_path: Path) -> None:
    inspection = inspect_code(_write(tmp_path, {"hubconf.py": "from models import *"}))
    inspection.check_entry("anything")
    assert inspection.dependencies == ()


def test_code_without_hubconf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no hubconf\.py at its top"):
        inspect_code(_write(tmp_path, {"models/hubconf.py": ""}))
    with pytest.raises(ValueError, match="not valid Python"):
        inspect_code(_write(tmp_path, {"hubconf.py": "def ("}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT License\n\nPermission is hereby granted, free of charge, to any person", "MIT"),
        ("                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007", "GPL-3.0"),
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 3 ... GNU GENERAL PUBLIC LICENSE Version 3", "LGPL-3.0"),
        ("Attribution-NonCommercial-NoDerivatives 4.0 International", "CC-BY-NC-ND-4.0"),
        ("GNU GENERAL PUBLIC LICENSE Version 3 ... under version 3 of the GNU Affero General Public License", "GPL-3.0"),
        ("Redistribution and use in source and binary forms ... Neither the name of the copyright holder", "BSD-3-Clause"),
        ("All rights reserved.", None),
    ],
)
def test_licences_are_recognised_by_their_text(tmp_path: Path, text: str, expected: str | None) -> None:
    assert recognise_license(text) == expected
    inspection = inspect_code(_write(tmp_path, {"hubconf.py": "", "LICENSE.md": text}))
    assert (inspection.license_file, inspection.license) == ("LICENSE.md", expected)


def test_deep_code_and_odd_names_are_read(tmp_path: Path) -> None:
    """Code may be written to break its readers: 20,000 nested calls, names that steer a terminal, packages that are paths."""
    deep = "x = a" + ".b()" * 20_000
    hubconf = f"dependencies = ['', '../evil', 'torch\\x1b[2J', 'torch']\ndef model(): ...\n{deep}\n"
    inspection = inspect_code(_write(tmp_path, {"hubconf.py": "def model(): ...", "net.py": hubconf, "\x1b[2J.py": ""}))
    assert inspection.repositories == ()
    (tmp_path / "hubconf.py").write_text("dependencies = ['', '../evil', 'torch\\x1b[2J', 'torch']\ndef model(): ...\n")
    plan = plan_import(f"{tmp_path}:model")
    assert plan.code.inspection.dependencies == ("torch",)
    assert "\x1b" not in plan.to_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_names_of_files_feign_no_lines_and_steer_no_terminal(tmp_path: Path) -> None:
    _write(tmp_path, {"hubconf.py": HUBCONF, "net\nLicence of the code: MIT\x1b[2J\u202e.py": "", "net\udcff.py": ""})
    lines = plan_import(f"{tmp_path}:model").to_text().splitlines()
    assert [line for line in lines if line.startswith("Licence of the code: ")] == [
        "Licence of the code: none stated: without one, no one may use the code"
    ]
    assert r"net\nLicence of the code: MIT\x1b[2J\u202e.py" in "".join(lines)
    assert r"net\udcff.py" in "".join(lines)


def test_a_dependency_that_is_no_package_is_missing_or_there(tmp_path: Path) -> None:
    inspection = inspect_code(_write(tmp_path, {"hubconf.py": "dependencies = ['__main__', 'no_such_package_here']\n"}))
    assert inspection.missing_dependencies == ["no_such_package_here"]
