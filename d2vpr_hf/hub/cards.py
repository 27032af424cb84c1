"""Rules for all cards: the mark of cards that this package writes and may replace, and licences."""

import re
from pathlib import Path

# a card without it was written by a person and stays
CARD_MARK = "<!-- Written by d2vpr-hf, which replaces it; take this line out to keep your own words. -->"
_PACKAGE = Path(__file__).parents[1]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def is_replaceable(card: str) -> bool:
    """Return whether a card was written by this package."""
    return CARD_MARK in card


def check_license(license_id: str | None) -> None:
    """Raise ValueError unless a licence has the form of the Hub's identifiers; the Hub itself checks it against its list."""
    if license_id == "other":
        raise ValueError(
            "The Hub's licence `other` needs a name and a link. Write `license: other`, `license_name` and `license_link` into "
            "the head of README.md, and leave `license` out."
        )
    if license_id is not None and not _LICENSE.fullmatch(license_id):
        raise ValueError(f"Expected the Hub's identifier of a licence, such as `mit` or `cc-by-4.0`, got {license_id!r}.")


def license_metadata(license_name: str | None, base_model: str | None = None) -> dict[str, str | None]:
    """Return the head of a card about a licence: `license`, and for one without an identifier its name and a link.

    Args:
        license_name: An SPDX identifier, or the name of another licence such as `"DINOv3 License"`; `None` if none is stated.
        base_model: Hub id of the model that has the licence; its page is the link.
    """
    identifier = None if license_name is None else license_name.lower()
    if identifier is None or _LICENSE.fullmatch(identifier):
        return {"license": identifier}
    link = None if base_model is None else f"https://huggingface.co/{base_model}"
    return {"license": "other", "license_name": identifier.replace(" ", "-"), "license_link": link}


def citation_of(arxiv: str | None) -> str:
    """Return the reference to a paper on arXiv, for a model whose BibTeX entry this package does not have."""
    return "" if arxiv is None else f"[arXiv {arxiv}](https://arxiv.org/abs/{arxiv})"


def find_license_file() -> Path | None:
    """Return the licence of this package, Apache-2.0, in an installation, a source tree or a Space; `None` if it is missing."""
    installed = _PACKAGE.parent.glob("d2vpr_hf-*.dist-info/licenses/LICENSE")
    return next((path for path in (*installed, _PACKAGE.parent / "LICENSE") if path.is_file()), None)
