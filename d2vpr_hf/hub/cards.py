"""The mark of cards that this package writes and may replace; a card without it was written by a person and stays."""

CARD_MARK = "<!-- Written by d2vpr-hf, which replaces it; take this line out to keep your own words. -->"


def is_replaceable(card: str) -> bool:
    """Return whether a card was written by this package."""
    return CARD_MARK in card
