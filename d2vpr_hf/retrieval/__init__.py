"""From photos to an index, and from a query to its matches."""

from d2vpr_hf.retrieval.answer_formats import format_answers
from d2vpr_hf.retrieval.compatibility import check_encoder, index_settings
from d2vpr_hf.retrieval.export_descriptors import export_descriptors
from d2vpr_hf.retrieval.given_descriptors import DescriptorReport, index_descriptors, search_descriptors
from d2vpr_hf.retrieval.image_pairs import PairReport, pair_descriptors, pair_index, pair_queries
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from d2vpr_hf.retrieval.search_photos import SearchResult, iterate_search, search_photos
from d2vpr_hf.retrieval.updates import UpdateReport

__all__ = [
    "DescriptorReport",
    "PairReport",
    "SearchResult",
    "UpdateReport",
    "add_photos",
    "check_encoder",
    "export_descriptors",
    "format_answers",
    "index_descriptors",
    "index_photos",
    "index_settings",
    "iterate_search",
    "pair_descriptors",
    "pair_index",
    "pair_queries",
    "remove_photos",
    "search_descriptors",
    "search_photos",
]
