"""sentence-transformers gives the model's descriptors; the files by which it loads a model are saved next to the weights."""

import json
import os
import textwrap

import numpy as np
import pytest
import torch

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.modeling import D2VPRImageProcessor, D2VPRModel
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.photos import save
from tests.warm_python import LIBRARIES, WarmPython

FILES = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
PARTS = {
    "plain": {},
    "projected": {"projection_dim": 7},
    "normalised projection": {"projection_dim": 7, "normalize_projection": True},
}


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(
    ("part", "similarity"), [("plain", "cosine"), ("projected", "euclidean"), ("normalised projection", "cosine")]
)
def test_the_files_are_saved_with_the_model(part, similarity, tmp_path):
    """Projected descriptors are not normalised, so that their cosine is not the order of their L2 distances."""
    model = tiny_model(**PARTS[part])
    model.save_pretrained(tmp_path)
    assert all((tmp_path / name).is_file() for name in FILES)
    assert read(tmp_path, "1_Pooling/config.json")["word_embedding_dimension"] == model.config.descriptor_dim
    assert read(tmp_path, "config_sentence_transformers.json")["similarity_fn_name"] == similarity
    types = [module["type"] for module in read(tmp_path, "modules.json")]
    assert all(name.startswith("sentence_transformers.") for name in types)  # others need code that it would have to trust
    method = read(tmp_path, "sentence_bert_config.json")["modality_config"]["image"]["method"]
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        assert torch.equal(getattr(model, method)(images)[:, 0], model(images).pooler_output)


def test_the_embedded_model_has_the_files(tmp_path):
    D2VPRModel.from_pretrained(EMBEDDED_MODEL).save_pretrained(tmp_path)
    assert all(read(EMBEDDED_MODEL, name) == read(tmp_path, name) for name in FILES)


def test_a_projection_that_is_added_later_is_counted(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_model(projection_dim=7).save_pretrained(tmp_path)
    assert read(tmp_path, "1_Pooling/config.json")["word_embedding_dimension"] == 7


def test_a_folder_that_sentence_transformers_saved_is_left_alone(tmp_path):
    """It saves its settings, then this model, then the list of modules, which may have more of them."""
    settings = {"__version__": {"sentence_transformers": "6.2.0"}, "prompts": {"query": "here: "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    tiny_model().save_pretrained(tmp_path)
    assert read(tmp_path, "config_sentence_transformers.json") == settings
    assert not (tmp_path / "modules.json").exists()


ENCODE = """
    import sys
    if sys.argv[1] == "alone":
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "d2vpr_hf":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hide())
    else:
        import d2vpr_hf.modeling
    import numpy as np
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    folder, photo, out = sys.argv[2:]
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    image = Image.open(photo)
    model.save_pretrained(out)
    again = SentenceTransformer(out, trust_remote_code=True, device="cpu")
    assert (again.encode(photo) == model.encode(photo)).all() and again.get_embedding_dimension() == 672
    results = dict(
        image=model.encode(image), path=model.encode(photo), three=model.encode([image, photo, image], batch_size=2),
        similarity=model.similarity(model.encode(image), model.encode(image)), dimension=model.get_embedding_dimension(),
    )
    np.savez(out + "/results.npz", **results)
    try:
        model.encode("a red house")
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A process that has imported sentence-transformers, with its own cache of saved code."""
    pytest.importorskip("sentence_transformers", minversion="5.4")
    environment = {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules")), "HF_HUB_OFFLINE": "1"}
    return WarmPython(f"{LIBRARIES}, sentence_transformers", dict(os.environ) | environment)


@pytest.mark.parametrize("make", [tiny_model, tiny_cricavpr])
@pytest.mark.parametrize("package", ["alone", "installed"])
def test_sentence_transformers_gives_the_descriptors(warm, make, package, tmp_path):
    """Also by the saved code alone, and from a folder that it saved itself. Text is an error, and not an average of tokens."""
    model = make(use_cross_image_encoder=False)
    folder, out = save_folder(model, tmp_path / "model"), tmp_path / "saved"
    photo = save(tmp_path / "photo.png", 0)
    done = warm.run(textwrap.dedent(ENCODE), package, folder, photo, out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Modality 'text' is not supported" in done.stdout
    with torch.no_grad():
        pixels = D2VPRImageProcessor.from_pretrained(folder)(str(photo), return_tensors="pt")
        expected = model(**pixels).pooler_output[0].numpy()
    np.testing.assert_allclose(PlaceEncoder(folder).encode([photo]).descriptors[0], expected, atol=1e-6)
    results = np.load(out / "results.npz")
    assert results["dimension"] == len(expected)
    assert results["similarity"] == pytest.approx(1, abs=1e-5)
    for descriptors in (results["image"], results["path"], *results["three"]):
        np.testing.assert_allclose(descriptors, expected, atol=1e-6)
