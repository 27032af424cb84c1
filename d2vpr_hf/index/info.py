"""What an index says of itself."""

from typing import Any

from d2vpr_hf.index.derived_store import has_store, is_fresh
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import FORMAT_VERSION
from d2vpr_hf.stores import COMPRESSIONS, LOCAL_STORE, estimate


def index_info(folder: IndexFolder) -> dict[str, Any]:
    """Say what an index is, in values that JSON has."""
    manifest = folder.manifest
    return {
        "format_version": FORMAT_VERSION,
        **manifest.settings.to_dict(),
        "count": folder.count,
        "with_position": sum(place.has_position for place in folder.places),
        "removed": sum(len(shard.removed) for shard in manifest.shards),
        "shards": len(manifest.shards),
        "bytes": sum(file.size for file in manifest.files),
        "complete": manifest.complete,
        "left_out": manifest.skipped,
        **_describe_store(folder),
        **_estimate_stores(folder),
        "calibrated": manifest.calibration is not None,
    }


def _describe_store(folder: IndexFolder) -> dict[str, Any]:
    """Say how rows are searched: whether the store is fresh, and how many rows came or went since it was built."""
    needed = has_store(folder.manifest)
    return {
        "compression": folder.manifest.compression,
        "store": folder.manifest.service or LOCAL_STORE,
        "store_uri": folder.manifest.store_uri,
        "store_is_fresh": is_fresh(folder.store, folder.manifest) if needed else None,
        "store_lag": None if folder.store is None else folder.store.lag,
    }


def _estimate_stores(folder: IndexFolder) -> dict[str, Any]:
    """Say what searches of so many rows take with each compression: bytes that are scanned, and milliseconds a query."""
    estimates = [estimate(folder.count, folder.manifest.settings.descriptor_dim, word) for word in COMPRESSIONS]
    return {
        "scanned_bytes": {one.compression: one.scanned_bytes for one in estimates},
        "estimated_ms": {one.compression: round(1000 * one.latency_seconds, 1) for one in estimates},
    }
