"""Texts of other people stay in their lines and steer no terminal."""

from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.utils.printable import printable_line, printable_text


def test_letters_of_all_languages_remain() -> None:
    text = "Straße 北京 \u05e9\u05dc\u05d5\u05dd caf\u00e9\u00a0№ 👩\u200d🚀"
    assert printable_text(text) == printable_line(text) == text


def test_signs_that_steer_a_terminal_are_shown_as_escapes() -> None:
    """Without a trace of them, two names would look equal."""
    assert printable_text("a\x1b[2J\r\nb\u202e\tc\r\x9b\udcff") == "a\\x1b[2J\nb\\u202e\tc\\r\\x9b\\udcff"
    assert printable_line("a\x1b[2J\r\nb\u202e\tc\udcff") == r"a\x1b[2J\r\nb\u202e\tc\udcff"


def test_facts_about_a_model_are_single_lines() -> None:
    facts = ModelFacts("DINO\nLicence: MIT", license="mit\x1b[8m", training_data="photos\r\nand more", arxiv=None)
    assert (facts.title, facts.license, facts.training_data) == (
        r"DINO\nLicence: MIT",
        r"mit\x1b[8m",
        r"photos\r\nand more",
    )
