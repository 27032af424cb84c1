"""The notebooks run from top to bottom, and nothing of the machine that ran them is stored in them."""

import contextlib
import io
import json
import re

import pytest

from tests.docs.snippets import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
RUN_IN_MINUTES = {"distil_a_tiny_model", "first_map"}
SIZE = 400_000  # bytes of a notebook with its pictures


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_machine_is_stored(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert path.stat().st_size < SIZE
    assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|usr|Users|opt|work)/", text)
    assert (
        set(notebook["metadata"]) == {"kernelspec", "language_info"} and notebook["metadata"]["kernelspec"]["name"] == "python3"
    )
    assert all(cell["metadata"] == {} for cell in notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored(path):
    """Readers of the site see outputs; a cell that was changed without `make notebooks` has none."""
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in RUN_IN_MINUTES else (), id=path.stem) for path in NOTEBOOKS],
)
def test_the_cells_run(path, tmp_path, monkeypatch):
    """By plain Python, without a kernel: `make notebooks` runs them by Jupyter's client."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cell for cell in read(path)["cells"] if cell["cell_type"] == "code"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number + 1}", "exec"), names)


@pytest.mark.slow
def test_jupyter_runs_a_notebook(tmp_path):
    """The way of `make notebooks`, with the library."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "explain_a_match.ipynb", as_version=4)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
