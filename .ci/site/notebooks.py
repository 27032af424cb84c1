"""Run notebooks and store their outputs, without paths, times and settings of the machine: `make notebooks`."""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MACHINE = re.compile(r"(/[\w.-]+)*/(site-packages|tmp|home|root|Users)\b[^\s:'\"]*")  # absolute paths in outputs


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder, and return it with clean outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = KERNEL
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress, warnings
            cell.outputs = [_clean(output) for output in outputs]
    return notebook


def _clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "text" in output:
        output.text = MACHINE.sub("...", output.text)
    return output


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(run_notebook(Path(name)), name)
        print(f"{name}: run")
