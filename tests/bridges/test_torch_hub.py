"""torch.hub gives models whose output is the descriptor, also from a clone that is not installed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.photos import save

ROOT = Path(__file__).parents[2]
LOAD = """
    import sys

    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # the clone is not installed
    import numpy as np
    import torch

    root, folder, pixels, out = sys.argv[1:]
    images = torch.from_numpy(np.load(pixels))
    own = torch.hub.load(root, "d2vpr", folder, source="local")
    tiny = torch.hub.load(root, "d2vpr_tiny", source="local")
    with torch.no_grad():
        np.savez(out, own=own(images), tiny=tiny(images))
    assert not own.training and sys.modules["d2vpr_hf.modeling"].__file__.startswith(root)
    hubconf = torch.hub._import_module("hubconf", root + "/hubconf.py")
    entries = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
    assert entries == ["d2vpr", "d2vpr_tiny"], entries  # the list of torch.hub.list
    try:
        torch.hub.load(root, "d2vpr", folder + "-missing", source="local")
    except FileNotFoundError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the files of the repository that torch.hub needs, as a clone has them."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("hubconf.py", "d2vpr_hf", "modeling"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_torch_hub_gives_the_descriptors_of_the_encoder(clone, tiny_folder, tmp_path):
    photos = [save(tmp_path / f"{number}.png", number) for number in range(2)]
    pixels = D2VPRImageProcessor.from_pretrained(tiny_folder)([str(photo) for photo in photos], return_tensors="np")
    np.save(tmp_path / "pixels.npy", pixels["pixel_values"])
    command = [sys.executable, "-c", textwrap.dedent(LOAD), clone, tiny_folder, tmp_path / "pixels.npy", tmp_path / "out.npz"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "out.npz")
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    np.testing.assert_allclose(results["own"], expected, atol=1e-6)
    assert results["tiny"].shape == (2, 2688)
    assert "There is no model" in done.stdout


def test_sides_that_are_not_whole_patches_are_refused():
    model = torch.hub.load(str(ROOT), "d2vpr_tiny", source="local")
    with pytest.raises(ValueError, match="multiples of 14"):
        model(torch.zeros(1, 3, 100, 100))
