"""Upload an index to the Hugging Face Hub: it names a model that other people can load, and no folder of this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from d2vpr_hf.hub.cards import check_license, is_replaceable
from d2vpr_hf.hub.index_cards import IndexFacts, make_index_card
from d2vpr_hf.hub.index_models import (
    PublicModel,
    check_model_to_push,
    find_public_model,
    push_model_of_index,
    warn_of_private_model,
)
from d2vpr_hf.hub.place_tables import write_place_table, write_thumbnail_table
from d2vpr_hf.hub.uploads import check_repository_name, check_visibility, explained_errors, upload_files
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.hub import INDEX_FILES, TABLE_FILES, THUMBNAIL_SIZE
from d2vpr_hf.index.manifest import MANIFEST, Manifest
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.utils.confirmed_names import confirm

logger = logging.getLogger(__name__)

_CARD = "README.md"
_ABSOLUTE = r"^(/|[A-Za-z]:[\\/])"  # a path on POSIX or Windows


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
        license: The Hub's identifier of the data set's licence, such as `"cc-by-4.0"`; `None` for that of the card there.
        thumbnails: Whether to upload thumbnails of the photos.
        thumbnail_size: Longer side of thumbnails in pixels.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.
        progress: Called with the number of thumbnails just made.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: If other people could not load the model, the index is damaged, the data set there is not an index, or
            thumbnails are wanted and no photo can be read.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token, or there is none.
    """
    check_repository_name(name)
    check_license(license)
    if model is not None and push_model is not None:
        raise ValueError("Give either `model` or `push_model`: the model is on the Hub, or it is uploaded.")
    if thumbnail_size < 1:
        raise ValueError(f"Expected a `thumbnail_size` of at least 1 pixel, got {thumbnail_size}.")
    if model_name := push_model or (model or "").partition("@")[0]:
        confirm("models", model_name)
    opened = index if isinstance(index, PlaceIndex) else PlaceIndex.open(index)
    _check_repository(name, private, token)
    with opened.unchanged() as manifest, tempfile.TemporaryDirectory() as scratch:
        if problems := opened.verify():
            raise ValueError("\n".join([f"The index {opened.folder} is damaged; nothing was uploaded:", *problems]))
        if push_model is None:
            public_model = find_public_model(manifest.settings, model, token)
        else:
            model_source = check_model_to_push(manifest.settings, push_model)
        table = opened.places.to_table()
        _warn_of_paths(table)
        if thumbnails:
            photo_folder = manifest.settings.photo_folder
            tables, num_thumbnails = _write_thumbnails(table, Path(scratch), photo_folder, thumbnail_size, progress)
        else:
            tables, num_thumbnails = write_place_table(table, Path(scratch)), None
        if push_model is not None:  # once nothing else can fail here
            public_model = push_model_of_index(model_source, push_model, private, token)
        files: dict[str, Path | bytes] = {file.name: opened.folder / file.name for file in manifest.files}
        files |= {f"{Path(TABLE_FILES).parent}/{file.name}": file for file in tables}
        files[MANIFEST] = _public_manifest(manifest, public_model).to_text().encode()
        facts = IndexFacts(name, manifest.settings, public_model, table, license, num_thumbnails)
        card = _choose_card(facts, opened.folder / _CARD, _card_on_hub(name, token))
        if card is not None:
            files[_CARD] = card.encode()
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


def _check_repository(name: str, private: bool | None, token: str | None) -> None:
    """Raise ValueError if a data set on the Hub has another visibility, or files that an index would replace and is none."""
    with explained_errors(name):
        try:
            information = HfApi(token=token).dataset_info(name)
        except RepositoryNotFoundError:
            return
    check_visibility(name, information.private, private)
    files = [file.rfilename for file in information.siblings or []]
    replaced = [file for file in files if any(fnmatch(file, pattern) for pattern in (*INDEX_FILES, TABLE_FILES))]
    if replaced and MANIFEST not in files:
        raise ValueError(
            f"The data set {name} on the Hub is not an index, and has {replaced[0]}, which an index would replace. Give "
            "another name."
        )


def _write_thumbnails(
    table: pa.Table, folder: Path, photo_folder: Path, size: int, progress: Callable[[int], None] | None
) -> tuple[list[Path], int]:
    """Write the table of places with thumbnails; return its files and the number of thumbnails.

    Raises:
        ValueError: If no photo can be read.
    """
    tables, skipped = write_thumbnail_table(table, folder, photo_folder, size, progress)
    count = table.num_rows - len(skipped)
    if skipped and not count:
        path, reason = next(iter(skipped.items()))
        raise ValueError(
            f"None of the {len(skipped)} photos can be read for thumbnails, such as {photo_folder / path}: {reason}. "
            "Leave `thumbnails` out, or upload the index where its photos are."
        )
    report_skipped(skipped, table.num_rows, strict=False, source="Thumbnails")
    return tables, count


def _public_manifest(manifest: Manifest, model: PublicModel) -> Manifest:
    """Return a manifest without what is private to this machine, and with the name of a model that others can load."""
    settings = replace(manifest.settings, model_name=model.name, model_revision=model.revision, photo_folder=Path())
    return replace(manifest, settings=settings, skipped={}, store_uri=None, service=None, service_data=())


def _warn_of_paths(table: pa.Table) -> None:
    """Log a warning if photos are named by absolute paths, as those that were added from outside the photo folder."""
    paths = table.column("path")
    absolute = paths.filter(pc.match_substring_regex(paths, _ABSOLUTE))
    if len(absolute):
        logger.warning(
            "%d of %d photos are outside the photo folder, and their whole paths become public, such as %s.",
            len(absolute),
            len(paths),
            absolute[0].as_py(),
        )


def _choose_card(facts: IndexFacts, local: Path, on_hub: Path | None) -> str | None:
    """Return the card to upload; `None` if a person wrote the one on the Hub, which stays.

    Raises:
        ValueError: If a licence is given, and the card of a person has another one.
    """
    from d2vpr_hf.hub.model_cards import set_license
    from d2vpr_hf.pretrained.stated_facts import stated_license

    for path in (local, on_hub):
        text = path.read_text(encoding="utf-8", errors="replace") if path is not None and path.is_file() else None
        if text is not None and not is_replaceable(text):
            if facts.license is not None:
                set_license(text, facts.license)  # raises
            return text if path == local else None
        if text is not None and facts.license is None:
            facts = replace(facts, license=stated_license(text))
    return make_index_card(facts)


def _card_on_hub(name: str, token: str | None) -> Path | None:
    """Download the card of a data set; return `None` if there is none."""
    with explained_errors(name):
        try:
            return Path(hf_hub_download(name, _CARD, repo_type="dataset", token=token))
        except (RepositoryNotFoundError, EntryNotFoundError):
            return None
