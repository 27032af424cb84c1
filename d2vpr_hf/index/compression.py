"""The vector store of an index: derived from its stored rows, and used while it is there and fits them."""

import logging
from pathlib import Path

from d2vpr_hf.descriptors import Descriptors
from d2vpr_hf.index import durable_files
from d2vpr_hf.index.manifest import Manifest, store_folder
from d2vpr_hf.stores import VectorStore, build_store, open_store

logger = logging.getLogger(__name__)


def has_store(manifest: Manifest) -> bool:
    """Tell whether searching these rows takes a store: not where none was asked for, or nothing is stored."""
    return manifest.compression != "none" and manifest.count > 0


def open_rows_store(folder: Path, manifest: Manifest, descriptors: Descriptors) -> VectorStore | None:
    """Open the store of exactly these rows, `None` if it is not there. One that is damaged is logged and counts as none."""
    path = folder / store_folder(manifest)
    if not has_store(manifest) or not path.exists():
        return None
    try:
        return open_store(path, descriptors)
    except (ValueError, OSError) as error:
        logger.warning("The search is exact: %s `d2vpr index` and `d2vpr compact` build the store anew.", error)
        return None


def build_rows_store(folder: Path, manifest: Manifest, descriptors: Descriptors) -> None:
    """Build the store of these rows, in place of a damaged one.

    Raises:
        OSError: If the disk is full or the folder cannot be written to.
    """
    store = build_store(descriptors, manifest.compression)
    durable_files.store_folder(folder, store_folder(manifest), store.save)


__all__ = ["build_rows_store", "has_store", "open_rows_store"]
