"""Title and rights of a model are found without opening it, and without torch."""

import subprocess
import sys

import pytest

from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.pretrained.find_facts import find_facts
from tests.conftest import hub_cache, save_folder, tiny_model


def test_facts_of_a_model_come_from_its_card_or_the_table(tmp_path):
    folder = save_folder(tiny_model(), tmp_path / "model")
    assert find_facts(str(folder)) == ModelFacts("D²-VPR")
    (folder / "README.md").write_text("---\nlicense: mit\ndatasets: [user/streets]\n---\n")
    assert find_facts(str(folder)) == ModelFacts("D²-VPR", license="mit", training_data="user/streets")
    assert find_facts("facebook/dinov2-small") == find_known("facebook/dinov2-small").facts
    assert find_facts("embedded").license == "Apache-2.0"
    (folder / "config.json").write_text("{")
    assert find_facts(str(folder)) is None


def test_facts_of_a_model_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    folder = save_folder(tiny_model(), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub_cache(tmp_path / "cache", "user/tiny", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert find_facts("user/tiny", "0" * 40).license == "mit"
    assert find_facts("user/other") is find_facts(None) is find_facts("no name of a model/at/all") is None


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("GSV-Cities, street photos", ["GSV-Cities (CC BY-NC-ND 4.0)"]),
        ("SF-XL; GSV-Cities", ["SF-XL", "GSV-Cities"]),
        ("mine", []),
    ],
)
def test_training_data_with_terms_are_a_question(data, names):
    question = ModelFacts("a", training_data=data).question
    assert (question is None) == (not names) and all(name in question for name in names)


def test_finding_facts_loads_no_torch():
    code = "import sys, d2vpr_hf.pretrained.find_facts as room; room.find_facts('user/none'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
