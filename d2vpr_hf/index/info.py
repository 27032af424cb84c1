"""Information about an index, as `d2vpr info` prints it."""

from typing import Any

from d2vpr_hf.index.derived_store import has_store, is_fresh
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import FORMAT_VERSION
from d2vpr_hf.stores import COMPRESSIONS, LOCAL_STORE, estimate


def index_info(folder: IndexFolder) -> dict[str, Any]:
    """Return the information about an index as JSON values."""
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
        **_store_info(folder),
        **_estimate_stores(folder),
        "calibrated": manifest.calibration is not None,
    }


def _store_info(folder: IndexFolder) -> dict[str, Any]:
    """Return the chosen vector store, and its lag: the number of rows that were added or removed since it was built."""
    return {
        "compression": folder.manifest.compression,
        "store": folder.manifest.service or LOCAL_STORE,
        "store_uri": folder.manifest.store_uri,
        "store_is_fresh": is_fresh(folder.store, folder.manifest) if has_store(folder.manifest) else None,
        "store_lag": None if folder.store is None else folder.store.lag,
    }


def _estimate_stores(folder: IndexFolder) -> dict[str, Any]:
    """Return the bytes that a search scans, and the milliseconds that it takes, with each compression."""
    width = folder.manifest.settings.descriptor_dim
    estimates = {compression: estimate(folder.count, width, compression) for compression in COMPRESSIONS}
    return {
        "scanned_bytes": {compression: store.scanned_bytes for compression, store in estimates.items()},
        "estimated_ms": {compression: round(1000 * store.latency_seconds, 1) for compression, store in estimates.items()},
    }
