"""The card of a model: limits of its weights, and its recalls on photos that it was not chosen by."""

import numpy as np

from d2vpr_hf.evaluation import PhotoSet, PositiveRule, evaluate_descriptors
from d2vpr_hf.hub.model_cards import CardFacts, make_card
from tests.conftest import tiny_model

FACTS = CardFacts("A model.", "mit", "MIT.", "photos", limits="Photos of the night are often missed.")


def evaluation(hits):
    """Make an evaluation of one query at each of several places; `hits` are the ones that are found."""
    places = np.arange(len(hits), dtype=np.float64)
    photos = PhotoSet(np.column_stack([1000 * places, places]), frames=places.astype(np.int64))
    database = np.eye(len(hits), dtype=np.float32)
    queries = np.array([database[number if hit else number - 1] for number, hit in enumerate(hits)])
    return evaluate_descriptors(database, queries, photos, photos, PositiveRule(frame_tolerance=0), recall_values=(1,))


def test_a_card_has_the_limits_and_a_line_for_each_set():
    sets = {"corridor": evaluation([True, True, False, False]), "walks": evaluation([True, True])}
    text = str(make_card(tiny_model(), FACTS, "here", (112, 112), sets=sets))
    limits = text.split("## Limits")[1].split("## Measured")[0]
    assert "Photos of the night are often missed.\n\nA match is" in limits and "No number" not in limits
    lines = text.split("## Measured on other photos")[1].split("## Licence")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[2].startswith("| corridor | 4 | within 0 frames | 50.0 | ") and table[3].startswith("| walks | 2 |")
    assert len(table) == 4 and lines[lines.index(table[3]) + 1] == ""


def test_a_card_without_sets_says_that_nothing_was_measured():
    text = str(make_card(tiny_model(), CardFacts("A model.", "mit", "MIT.", "photos"), "here", (112, 112)))
    assert "No number\non this page was measured" in text and "## Measured" not in text
    assert "\n\nA match is" in text and "often missed" not in text


def test_validation_has_a_title_of_its_own_next_to_sets():
    measured = evaluation([True, False])
    both = str(make_card(tiny_model(), FACTS, "here", (112, 112), measured, sets={"corridor": measured}))
    alone = str(make_card(tiny_model(), FACTS, "here", (112, 112), measured))
    assert "\n## Measured in validation\n" in both and "\n## Measured\n" in alone
