"""Licence and training data that a model card states. Importing this module loads no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2vpr_hf.pretrained.model_files import fetch_file
from d2vpr_hf.utils.bounded_files import parse_yaml

CARD_NAME = "README.md"

_HEAD = re.compile(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)
_TRAINED_ON = re.compile(r"^\| trained on \| (.+?) \|$", re.MULTILINE)  # a row of the cards that this package writes


@dataclass(frozen=True)
class StatedFacts:
    """Licence, by the Hub's identifier or its own name, and training data; `None` where a card states none."""

    license: str | None = None
    training_data: str | None = None


def stated_license(text: str) -> str | None:
    """Return the licence in the head of a card, by the Hub's identifier; `None` if there is none or it is `unknown`.

    Raises:
        ValueError: If the head cannot be read.
    """
    license_id = _read_head(text).get("license")
    return None if license_id in (None, "unknown") else str(license_id)


def stated_facts(text: str) -> StatedFacts:
    """Return the facts of a card; nothing of a head that cannot be read."""
    try:
        license_id, head = stated_license(text), _read_head(text)
    except ValueError:
        license_id, head = None, {}
    row = _TRAINED_ON.search(text)
    datasets = head.get("datasets") or []
    names = [datasets] if isinstance(datasets, str) else datasets
    return StatedFacts(
        license=str(head.get("license_name", license_id)) if license_id == "other" else license_id,
        training_data=row[1] if row is not None else ", ".join(map(str, names)) or None,
    )


def find_card(name: str | Path | None, revision: str | None = None) -> str | None:
    """Return the card of a model, from its folder or the Hub; `None` if it has none, or it cannot be downloaded now.

    Args:
        name: Folder or Hub id; `None` for a model in memory only.
        revision: Branch, tag or commit of a model on the Hub.
    """
    path = fetch_file(name, CARD_NAME, revision) if name else None
    return None if path is None else path.read_text(encoding="utf-8", errors="replace")


def _read_head(text: str) -> dict[str, Any]:
    match = _HEAD.match(text)
    try:
        values = parse_yaml(match[1]) if match is not None else None
    except ValueError as error:
        raise ValueError(f"The head of README.md, between its lines of three hyphens, cannot be read: {error}") from error
    return values if isinstance(values, dict) else {}
