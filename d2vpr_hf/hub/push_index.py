"""Upload an index to the Hugging Face Hub: it names a model that other people can load, and no folder of this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from d2vpr_hf.hub.cards import is_replaceable
from d2vpr_hf.hub.index_cards import IndexFacts, make_index_card
from d2vpr_hf.hub.index_models import PublicModel, find_public_model, push_model_of_index, warn_of_private_model
from d2vpr_hf.hub.place_tables import write_place_table, write_thumbnail_table
from d2vpr_hf.hub.uploads import check_repository_name, explained_errors, upload_files
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.hub import INDEX_FILES, TABLE_FILES, THUMBNAIL_SIZE
from d2vpr_hf.index.manifest import MANIFEST, Manifest
from d2vpr_hf.readers.skipped import report_skipped

logger = logging.getLogger(__name__)

_CARD = "README.md"


def push_index(
    index: PlaceIndex | str | Path,
    name: str,
    *,
    model: str | None = None,
    push_model: str | None = None,
    private: bool | None = None,
    license: str | None = None,
    thumbnails: bool = False,
    thumbnail_size: int = THUMBNAIL_SIZE,
    commit_message: str = "Upload a PlaceIndex",
    token: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Upload an index to a data set repository in one commit, which replaces an earlier index and its thumbnails there.

    The index itself does not change. The manifest on the Hub differs: it names the model as other people load it, at a commit,
    and neither the folder of the photos, nor the photos that were skipped, nor the address of a service. Photos are not
    uploaded, but the positions and names of all of them. A card is written, unless a person wrote the `README.md` in the folder
    of the index, which is then uploaded, or the one on the Hub, which then stays.

    Args:
        index: The index, or its folder.
        name: The data set, such as `"user/my-index"`; it is created if there is none.
        model: Hub id of the model, `"user/model"` or `"user/model@revision"`, for an index that was built with a folder. It
            must make the same descriptors.
        push_model: Hub id that the model is uploaded to first.
        private: Whether new repositories are private; `None` for the account's default.
        license: The Hub's identifier of the data set's licence, such as `"cc-by-4.0"`.
        thumbnails: Whether to upload thumbnails of the photos.
        thumbnail_size: Longer side of thumbnails in pixels.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.
        progress: Called with the number of thumbnails just made.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: If other people could not load the model, or thumbnails are wanted and no photo can be read.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token, or there is none.
    """
    check_repository_name(name)
    if model is not None and push_model is not None:
        raise ValueError("Give either `model` or `push_model`: the model is on the Hub, or it is uploaded.")
    if thumbnail_size < 1:
        raise ValueError(f"Expected a `thumbnail_size` of at least 1 pixel, got {thumbnail_size}.")
    opened = index if isinstance(index, PlaceIndex) else PlaceIndex.open(index)
    with opened.unchanged() as manifest, tempfile.TemporaryDirectory() as scratch:
        public_model = (
            find_public_model(manifest.settings, model, token)
            if push_model is None
            else push_model_of_index(manifest.settings, push_model, private, token)
        )
        _warn_of_paths(opened)
        table, folder = opened.places.to_table(), Path(scratch)
        num_thumbnails = None
        if thumbnails:
            photo_folder = manifest.settings.photo_folder
            tables, skipped = write_thumbnail_table(table, folder, photo_folder, thumbnail_size, progress)
            num_thumbnails = table.num_rows - len(skipped)
            if skipped and not num_thumbnails:
                path, reason = next(iter(skipped.items()))
                raise ValueError(
                    f"None of the {len(skipped)} photos can be read for thumbnails, such as {photo_folder / path}: {reason}. "
                    "Leave `thumbnails` out, or upload the index where its photos are."
                )
            report_skipped(skipped, table.num_rows, strict=False, source="Thumbnails")
        else:
            tables = write_place_table(table, folder)
        files: dict[str, Path | bytes] = {file.name: opened.folder / file.name for file in manifest.files}
        files |= {f"{Path(TABLE_FILES).parent}/{file.name}": file for file in tables}
        files[MANIFEST] = _public_manifest(manifest, public_model).to_text().encode()
        if _is_written_by_a_person(opened.folder / _CARD):
            files[_CARD] = opened.folder / _CARD
        elif not _is_written_by_a_person(_card_on_hub(name, token)):
            facts = IndexFacts(name, manifest.settings, public_model, table, license, num_thumbnails)
            files[_CARD] = make_index_card(facts).encode()
        url = upload_files(
            name,
            files,
            kind="dataset",
            stale=[*INDEX_FILES, TABLE_FILES],
            private=private,
            commit_message=commit_message,
            token=token,
        )
    warn_of_private_model(public_model, name, token)
    return url


def _public_manifest(manifest: Manifest, model: PublicModel) -> Manifest:
    """Return a manifest without what is private to this machine, and with the name of a model that others can load."""
    settings = replace(manifest.settings, model_name=model.name, model_revision=model.revision, photo_folder=Path())
    return replace(manifest, settings=settings, skipped={}, store_uri=None, service=None)


def _warn_of_paths(index: PlaceIndex) -> None:
    """Log a warning if photos are named by absolute paths, as those that were added from outside the photo folder."""
    absolute = [path for path in index.places.column("path") if Path(path).is_absolute()]
    if absolute:
        logger.warning(
            "%d of %d photos are outside the photo folder, and their whole paths become public, such as %s.",
            len(absolute),
            len(index),
            absolute[0],
        )


def _card_on_hub(name: str, token: str | None) -> Path | None:
    """Download the card of a data set; return `None` if there is none."""
    with explained_errors(name):
        try:
            return Path(hf_hub_download(name, _CARD, repo_type="dataset", token=token))
        except (RepositoryNotFoundError, EntryNotFoundError):
            return None


def _is_written_by_a_person(card: Path | None) -> bool:
    """Return whether there is a card without the mark of this package."""
    return card is not None and card.is_file() and not is_replaceable(card.read_text(encoding="utf-8", errors="replace"))
