"""Licence and training data of models of this package come from their cards."""

from dataclasses import replace

import pytest

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.model_info.known_models import EMBEDDED
from d2vpr_hf.pretrained.stated_facts import StatedFacts, find_card, stated_facts, stated_license
from tests.conftest import save_folder, tiny_cricavpr, tiny_model


@pytest.mark.parametrize(
    ("card", "facts"),
    [
        ("---\nlicense: mit\n---\n# A model\n", StatedFacts("mit")),
        ("---\nlicense: unknown\n---\n", StatedFacts()),
        ("---\nlicense: other\nlicense_name: my-terms\nlicense_link: x\n---\n", StatedFacts("my-terms")),
        ("---\nlicense: other\n---\n", StatedFacts("other")),
        ("---\r\nlicense: mit\r\n---\r\n# Windows\r\n", StatedFacts("mit")),
        ("---\ndatasets:\n- user/streets\n- user/roads\n---\n", StatedFacts(None, "user/streets, user/roads")),
        ("---\ndatasets: user/streets\n---\n| trained on | streets of Bern |\n", StatedFacts(None, "streets of Bern")),
        ("# No head\n", StatedFacts()),
        ("---\nlicense: [mit\n---\n", StatedFacts()),
        ("---\n- a list\n---\n", StatedFacts()),
        ("", StatedFacts()),
    ],
)
def test_facts_of_a_card(card, facts):
    assert stated_facts(card) == facts


def test_a_head_that_cannot_be_read_is_an_error_before_an_upload():
    with pytest.raises(ValueError, match=r"The head of README\.md"):
        stated_license("---\nlicense: [mit\n---\n")


def test_the_embedded_model_names_its_licence_and_its_training_data():
    facts = PlaceEncoder("embedded").facts
    assert (facts.license, facts.arxiv) == ("Apache-2.0", "2511.12528")
    assert "MobileNetV2 of ImageNet" in facts.training_data
    assert replace(facts, num_parameters=EMBEDDED.num_parameters) == EMBEDDED.facts
    assert facts.num_parameters == pytest.approx(EMBEDDED.num_parameters, abs=60_000)


def test_a_model_of_this_package_has_the_facts_of_its_card(tmp_path):
    folder = save_folder(tiny_cricavpr(), tmp_path / "model")
    assert (PlaceEncoder(folder).facts.license, PlaceEncoder(folder).facts.training_data) == (None, None)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n\n| trained on | GSV-Cities |\n")
    facts = PlaceEncoder(folder).facts
    assert (facts.title, facts.license, facts.training_data) == ("CricaVPR", "cc-by-4.0", "GSV-Cities")


def test_a_model_in_memory_has_no_card(tmp_path):
    """Weights that were changed after loading are not those that the card of the folder describes."""
    encoder = PlaceEncoder(save_folder(tiny_model(), tmp_path / "model"))
    assert PlaceEncoder(tiny_model(), encoder.processor).facts.license is None
    assert find_card(None) is None and find_card("") is None and find_card(tmp_path / "missing") is None
