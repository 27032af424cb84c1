"""A model, an index and a Space go to the Hub; another user has the same answers from them on another machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf import PlaceEncoder
from tests import command_line
from tests.conftest import save_folder, tiny_model
from tests.hub_server import TOKEN
from tests.photos import save, save_row

DESCRIBE = """
import json, sys, datasets, huggingface_hub, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
assert "d2vpr_hf" not in sys.modules
processor = AutoImageProcessor.from_pretrained("user/model", trust_remote_code=True)
model = AutoModel.from_pretrained("user/model", trust_remote_code=True).eval()
with torch.inference_mode():
    descriptor = model(**processor(Image.open("query.jpg"), return_tensors="pt")).pooler_output[0].tolist()
places = datasets.load_dataset("user/map", split="train")["path"][:]
print(json.dumps([descriptor, places, huggingface_hub.snapshot_download("user/where", repo_type="space")]))
"""
ASK_THE_SPACE = """
import json, os, runpy, sys
from pathlib import Path
sys.path.insert(0, os.environ["SPACE"])  # as Python does for `python app.py`
import d2vpr_hf
assert Path(d2vpr_hf.__file__).is_relative_to(os.environ["SPACE"]), d2vpr_hf.__file__
app = runpy.run_path(os.environ["SPACE"] + "/app.py")
opened = app["open_space"](app["read_settings"]())
query = Path("query.jpg").resolve()
files = app["Files"](app["Visitors"](query.parent), frozenset({query}))
answer = app["Endpoints"](opened.photo_map, files).search([str(query)], [3])[0][0]
print(json.dumps(answer))
from d2vpr_hf.cli import main
main()
"""


class Stranger:
    """Another user on another machine: a Python with the libraries and without this package, an own cache, an empty folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        libraries = next((folder / "venv" / "lib").glob("python3*/site-packages")) / "libraries.pth"
        folders = [path for path in sys.path if path.endswith("site-packages")]
        libraries.write_text("\n".join(folders))  # .pth files inside these folders, as of editable installs, have no effect
        self.folder = folder / "home"
        self.folder.mkdir()
        self.python = folder / "venv" / "bin" / "python"
        self.environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1"} | environment

    def run(self, code: str, *arguments: str, **variables: str) -> str:
        """Run a program, and return its output."""
        done = subprocess.run(
            [self.python, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def d2vpr(*arguments) -> str:
    """Run a command in this process, and return its output."""
    status, out, errors = command_line.run(*arguments)
    assert status == 0, errors
    return out


def ranking(matches, key: str = "path") -> list[tuple[str, float]]:
    """Return the names of matched photos, without folders, and their similarities."""
    return [(Path(match[key]).name, round(match["score"], 4)) for match in matches]


@pytest.mark.parametrize("private", [pytest.param(False, marks=pytest.mark.slow), True])
def test_another_user_gets_the_same_answers(hub, tmp_path, private):
    """Nothing on the Hub may depend on a folder of the machine that uploaded it, and private repositories need a token only."""
    mine = tmp_path / "mine"
    photos, query = save_row(mine / "photos"), save(tmp_path / "query.jpg", 100)
    save_folder(tiny_model(), mine / "model")
    d2vpr("index", photos, "--model", mine / "model", "--out", mine / "map")
    expected = json.loads(d2vpr("search", mine / "map", query, "--top-k", 3, "--json"))[0]["matches"]
    descriptor = PlaceEncoder(mine / "model").encode([query]).descriptors[0]

    visibility = "--private" if private else "--public"
    d2vpr("push", mine / "model", "user/model", visibility)
    d2vpr("push", mine / "map", "user/map", "--model", "user/model", "--thumbnails", visibility)
    d2vpr("push-space", "user/where", "--index", "user/map", visibility)
    shutil.rmtree(mine)
    assert not hub.unknown_requests

    stranger = Stranger(tmp_path, hub.environment(tmp_path / "cache", TOKEN if private else None))
    shutil.move(query, stranger.folder)
    same_descriptor, places, space = json.loads(stranger.run(DESCRIBE))
    assert np.allclose(same_descriptor, descriptor, atol=1e-5)
    assert len(places) == 9

    variables = {key: str(value) for key, value in hub.repositories["spaces", "user/where"].variables.items()}
    command = ("search", "user/map", "query.jpg", "--top-k", "3", "--json")
    answer, _, searched = stranger.run(ASK_THE_SPACE, *command, SPACE=space, **variables).partition("\n")
    assert ranking(json.loads(answer)["matches"], "photo") == ranking(expected)
    assert ranking(json.loads(searched)[0]["matches"]) == ranking(expected)
