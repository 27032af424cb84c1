"""The commits of models on the Hub. Importing this module loads no library."""

from pathlib import Path

from d2vpr_hf.encoders.known_graphs import OTHER_NAMES, known_repository
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE
from d2vpr_hf.pretrained.model_files import CONFIG_NAME
from d2vpr_hf.utils.hub_ids import is_hub_id


def pin_revision(name: str | Path | None, revision: str | None = None) -> str | None:
    """Return the commit of a model on the Hub that a branch or tag is at now, so that all its files are of one commit.

    Args:
        name: A local folder or a Hub id; `None` or `"embedded"` for the model in this package.
        revision: Branch, tag or commit; `None` for the main branch.

    Returns:
        The commit; `None` for a model in a folder. If neither the Hub nor the cache has the model, the revision is returned
        unchanged: loading the model raises the error.

    Raises:
        ValueError: If a model in a folder is given with a revision.
    """
    if name is None or name == EMBEDDED_NAME or Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"{name or EMBEDDED_NAME} is not on the Hub and has no `revision`. Leave it out.")
        return None
    if isinstance(name, Path) or not is_hub_id(name):
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    row = known_repository(name)
    published = () if row is None or row.onnx is None else (row.onnx.name, *OTHER_NAMES)
    for file_name in (CONFIG_NAME, CARD_FILE, *published):
        try:
            folder = Path(hf_hub_download(name, file_name, revision=revision)).parent
            return folder.name  # the cache has a folder for each commit
        except EntryNotFoundError:
            continue
        except (OSError, ValueError):
            return revision
    return revision
