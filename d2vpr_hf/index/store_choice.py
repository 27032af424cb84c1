"""Who searches the rows of an index: a store in its folder, or Milvus."""

from dataclasses import replace
from typing import Literal, get_args

from d2vpr_hf.index.manifest import Manifest
from d2vpr_hf.stores import Compression, check_compression
from d2vpr_hf.stores.milvus import check_uri

StoreWord = Literal["faiss", "milvus"]
STORES: tuple[StoreWord, ...] = get_args(StoreWord)


def check_store(store: str | None, uri: str | None, compression: str | None) -> None:
    """Raise ValueError unless these words choose how rows are searched; `None` leaves what is chosen."""
    check_compression(compression or "none")
    if store not in (None, *STORES):
        raise ValueError(f"Expected a store of {', '.join(STORES)}, got {store!r}.")
    if store == "milvus" and uri is None:
        raise ValueError("Milvus needs to know where: give `--uri places.db` or `--uri http://HOST:19530`.")
    if uri is not None and store != "milvus":
        raise ValueError("A URI is Milvus's: give `--store milvus` with `--uri`.")
    if uri is not None:
        check_uri(uri)


def with_store(manifest: Manifest, compression: Compression | None, store: str | None, uri: str | None) -> Manifest:
    """Return a manifest that notes how rows are to be searched; `None` leaves what it notes.

    Raises:
        ValueError: If there is no such compression or store, or they do not go together.
    """
    check_store(store, uri, compression)
    known = None if store == "faiss" else manifest.store_uri
    chosen = check_uri(uri) if uri else known
    if compression not in (None, "none") and chosen is not None:
        raise ValueError(f"Milvus compresses by itself: leave out `--compression {compression}`, or give `--store faiss`.")
    return replace(manifest, compression=compression or manifest.compression, store_uri=chosen)
