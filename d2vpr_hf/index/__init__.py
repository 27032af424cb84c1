"""PlaceIndex: descriptors and places in a folder that can be inspected, searched and changed, and that survives a crash."""

from d2vpr_hf.index.commits import UpdateState
from d2vpr_hf.index.derived_store import check_store
from d2vpr_hf.index.folders import check_free, check_out, is_index
from d2vpr_hf.index.manifest import FORMAT_VERSION, SHARD_SIZE, DamagedIndexError, IndexSettings, UnfinishedPortion
from d2vpr_hf.index.place_index import PlaceIndex
from d2vpr_hf.index.place_rows import PhotoFile
from d2vpr_hf.index.search import Match
from d2vpr_hf.index.verification import Repair, repair_index, verify_index

__all__ = [
    "FORMAT_VERSION",
    "SHARD_SIZE",
    "DamagedIndexError",
    "IndexSettings",
    "Match",
    "PhotoFile",
    "PlaceIndex",
    "Repair",
    "UnfinishedPortion",
    "UpdateState",
    "check_free",
    "check_out",
    "check_store",
    "is_index",
    "repair_index",
    "verify_index",
]
