"""Find title and rights of a model by its name, without opening it. Importing this module loads no torch."""

from d2vpr_hf.model_info.encoder_card import CARD_FILE, read_card
from d2vpr_hf.model_info.encoder_entry import ENCODER_KEY, EncoderEntry
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.pretrained.model_files import CONFIG_NAME, OWN_TITLES, fetch_file
from d2vpr_hf.pretrained.stated_facts import CARD_NAME, stated_facts
from d2vpr_hf.utils.bounded_files import parse_json

_EXPORT_FILE = "export.json"


def find_facts(name: str | None, revision: str | None = None) -> ModelFacts | None:
    """Return the facts about a model that its folder, the Hub's cache or the table of known encoders states.

    The Hub is not asked.

    Args:
        name: Folder or Hub id, or `"embedded"`; `None` for a model that was never saved.
        revision: Commit of a model on the Hub.

    Returns:
        The facts; `None` if the model is neither known nor on this machine.
    """
    if name is None:
        return None
    if (known := find_known(name)) is not None:
        return known.facts
    try:
        return _read_facts(name, revision)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # a damaged file: opening the model names it
        return None


def _read_facts(name: str, revision: str | None) -> ModelFacts | None:
    if (path := fetch_file(name, CARD_FILE, revision, download=False)) is not None:
        return read_card(path.parent).facts
    if (path := fetch_file(name, _EXPORT_FILE, revision, download=False)) is not None:
        entry = parse_json(path.read_text(encoding="utf-8")).get(ENCODER_KEY)
        return None if entry is None else EncoderEntry.from_dict(entry).facts
    if (path := fetch_file(name, CONFIG_NAME, revision, download=False)) is None:
        return None
    model_type = str(parse_json(path.read_text(encoding="utf-8")).get("model_type"))
    card = fetch_file(name, CARD_NAME, revision, download=False)
    stated = stated_facts("" if card is None else card.read_text(encoding="utf-8", errors="replace"))
    title = OWN_TITLES.get(model_type, f"a model of type {model_type}")
    return ModelFacts(title, stated.license, stated.training_data)
