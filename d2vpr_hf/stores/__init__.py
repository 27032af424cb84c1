"""Vector stores, which search descriptors. A local store is chosen by its compression: `none`, `half`, `int8` or `bits`."""

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.protocol import Estimate, LocalStore, RemoteStore, StoreInfo, VectorStore
from d2vpr_hf.stores.registry import (
    COMPRESSIONS,
    LOCAL_STORE,
    SERVICES,
    STORES,
    Compression,
    StoreWord,
    build_store,
    check_compression,
    check_store_files,
    estimate,
    open_store,
    remote_store,
)

__all__ = [
    "COMPRESSIONS",
    "LOCAL_STORE",
    "SERVICES",
    "STORES",
    "Compression",
    "Descriptors",
    "Estimate",
    "LocalStore",
    "RemoteStore",
    "StoreInfo",
    "StoreWord",
    "VectorStore",
    "build_store",
    "check_compression",
    "check_store_files",
    "estimate",
    "open_store",
    "remote_store",
]
