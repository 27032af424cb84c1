"""hloc loads the extractor by its name, as its version 1.4 does, and stores the descriptors of the encoder.

hloc is not in a package index, so that a small package with its interface stands for it: `dynamic_load` and `BaseModel` take
the same arguments, and require the same attributes and methods of an extractor.
"""

import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.bridges.hloc import hloc_configuration
from tests.photos import save

BASE_MODEL = """
    import importlib
    import inspect

    from torch import nn


    class BaseModel(nn.Module):
        default_conf = {}
        required_inputs = []

        def __init__(self, conf):
            super().__init__()
            self.conf = {**self.default_conf, **conf}
            self._init(self.conf)

        def forward(self, data):
            assert set(self.required_inputs) <= set(data)
            return self._forward(data)


    def dynamic_load(root, name):
        module = importlib.import_module(f"{root.__name__}.{name}")
        classes = [
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == module.__name__ and issubclass(value, BaseModel)
        ]
        assert len(classes) == 1
        return classes[0]
"""


@pytest.fixture
def hloc(tmp_path, monkeypatch):
    """Make the stand-in importable, and return its `dynamic_load` and its package of extractors."""
    files = {
        "hloc/__init__.py": "",
        "hloc/extractors/__init__.py": "",
        "hloc/utils/__init__.py": "",
        "hloc/utils/base_model.py": textwrap.dedent(BASE_MODEL),
    }
    for name, text in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = set(sys.modules)
    import hloc.extractors
    from hloc.utils.base_model import dynamic_load

    yield dynamic_load, hloc.extractors
    for name in {name for name in sys.modules if name.partition(".")[0] == "hloc"} - before:
        del sys.modules[name]


def test_the_extractor_gives_the_descriptors_of_the_encoder(hloc, tiny_folder, tmp_path):
    """Also for a second configuration in one process, and without a loss by the division of bytes by 255."""
    dynamic_load, extractors = hloc
    photo = save(tmp_path / "photo.png", 3)
    expected = PlaceEncoder(tiny_folder).encode([photo]).descriptors
    image = np.asarray(Image.open(photo), np.float32).transpose(2, 0, 1)[None] / 255.0
    for _ in range(2):
        configuration = hloc_configuration(str(tiny_folder), batch_size=2)
        assert configuration["preprocessing"] == {} and configuration["output"] == "global-feats-d2vpr"
        extractor = dynamic_load(extractors, configuration["model"]["name"])(configuration["model"]).eval()
        with torch.no_grad():
            output = extractor({"image": torch.from_numpy(image)})
        assert output.keys() == {"global_descriptor"}
        np.testing.assert_allclose(output["global_descriptor"].numpy(), expected, atol=1e-6)
    assert len([folder for folder in extractors.__path__ if "hloc_extractors" in folder]) == 1


def test_the_embedded_model_is_the_default(hloc):
    dynamic_load, extractors = hloc
    configuration = hloc_configuration()
    extractor = dynamic_load(extractors, configuration["model"]["name"])(configuration["model"])
    assert extractor.encoder.descriptor_dim == 2688


def test_a_missing_hloc_is_an_error_that_says_where_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "hloc", None)
    with pytest.raises(ImportError, match="install it from https"):
        hloc_configuration()
