"""Information about an index, as `d2vpr info` prints it."""

from typing import Any

from d2vpr_hf.index.derived_store import has_store, is_fresh
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import FORMAT_VERSION, IndexSettings
from d2vpr_hf.stores import COMPRESSIONS, LOCAL_STORE
from d2vpr_hf.stores import estimate as estimate_store


def index_info(folder: IndexFolder) -> dict[str, Any]:
    """Return the information about an index as JSON values."""
    manifest = folder.manifest
    width = manifest.settings.descriptor_dim
    estimates = {compression: estimate_store(folder.count, width, compression) for compression in COMPRESSIONS}
    return {
        "format_version": FORMAT_VERSION,
        **manifest.settings.to_dict(),
        **_model_facts(manifest.settings),
        "count": folder.count,
        "with_position": sum(place.has_position for place in folder.places),
        "removed": sum(len(shard.removed) for shard in manifest.shards),
        "shards": len(manifest.shards),
        "bytes": sum(file.size for file in manifest.files),
        "complete": manifest.complete,
        "left_out": manifest.skipped,
        "compression": manifest.compression,
        "store": manifest.service or LOCAL_STORE,
        "store_uri": manifest.store_uri,
        "store_is_fresh": is_fresh(folder.store, manifest) if has_store(manifest) else None,
        "store_lag": None if folder.store is None else folder.store.lag,
        "scanned_bytes": {compression: estimate.scanned_bytes for compression, estimate in estimates.items()},
        "estimated_ms": {compression: round(1000 * estimate.latency_seconds, 1) for compression, estimate in estimates.items()},
        "calibrated": manifest.calibration is not None,
        "fused_places": None if manifest.fusion is None else str(manifest.fusion),
    }


def _model_facts(settings: IndexSettings) -> dict[str, Any]:
    """Return title and rights of the model, as far as its folder, the Hub's cache or the table of known encoders has them."""
    from d2vpr_hf.pretrained.find_facts import find_facts

    facts = find_facts(settings.model_name, settings.model_revision)
    if facts is None:
        return {"model_title": None, "model_license": None, "model_training_data": None}
    values = {"model_title": facts.title, "model_license": facts.license, "model_training_data": facts.training_data}
    return values | ({} if facts.question is None else {"model_question": facts.question})
