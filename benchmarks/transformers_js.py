"""Compare descriptors of transformers.js under Node.js with those of the model, photo by photo.

`make node` installs the packages of npm. Then: python benchmarks/transformers_js.py --photos PHOTOS [--precision int8]
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.export import export
from d2vpr_hf.readers import find_photos

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "build" / "node" / "node_modules"


def describe_by_node(model: Path, photos: Sequence[Path], work: Path) -> dict[str, Any]:
    """Run describe.mjs, and return its results."""
    script = work / "describe.mjs"
    shutil.copy(Path(__file__).with_name("describe.mjs"), script)
    if not (work / "node_modules").exists():
        (work / "node_modules").symlink_to(PACKAGES)
    out = work / "descriptors.json"
    done = subprocess.run(
        ["node", script, model.parent, model.name, out, *photos], cwd=work, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"Node.js failed:\n{done.stderr[-1000:]}")
    return json.loads(out.read_text(encoding="utf-8")) | {"log": done.stdout + done.stderr}


def main() -> None:
    """Print the smallest cosine for each way of running the graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    photos = [path.resolve() for path in find_photos(options.photos)]
    expected = PlaceEncoder(options.model, device="cpu").encode(photos).descriptors
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        settings = ExportOptions("transformers-js", options.precision)
        export(options.model, work / "model", settings, photos=options.photos if options.precision == "int8" else None)
        results = describe_by_node(work / "model", photos, work)
    for way in ("plain", "pooled", "wasm"):
        found = np.array(results[way])
        cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        print(f"{way}: smallest cosine {cosines.min():.7f} of {len(photos)} photos")


if __name__ == "__main__":
    main()
