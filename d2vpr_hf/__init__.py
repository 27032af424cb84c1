"""Visual place recognition with D²-VPR: given photos with known positions and a new photo, say where it was taken.

Names are imported when they are first touched, so that `import d2vpr_hf` costs nothing.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

# In the repository root Python finds this folder before the installed package; its subpackages `modeling` and `training`
# are then found through the installation.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"

_HOME = {
    "Calibration": "localization",
    "CricaVPRConfig": "modeling",
    "CricaVPRModel": "modeling",
    "CricaVPRModelOutput": "modeling",
    "D2VPRConfig": "modeling",
    "D2VPRImageProcessor": "modeling",
    "D2VPRModel": "modeling",
    "D2VPRModelOutput": "modeling",
    "EncodedPhotos": "encoder",
    "Evaluation": "evaluation",
    "PhotoSet": "evaluation",
    "Localization": "localization",
    "Place": "places",
    "PlaceEncoder": "encoder",
    "PlaceGrid": "readers",
    "PlaceIndex": "index",
    "PositiveRule": "evaluation",
    "Town": "gridtown",
    "Variation": "gridtown",
    "build_store": "stores",
    "calibrate": "localization",
    "compare_evaluations": "evaluation",
    "convert_to_published": "convert",
    "convert_weights": "convert",
    "draw_photo": "gridtown",
    "evaluate": "evaluation",
    "evaluate_descriptors": "evaluation",
    "UpdateReport": "retrieval",
    "add_photos": "retrieval",
    "exact_search": "stores.exact",
    "fit_projection": "projection",
    "group_places": "readers",
    "index_photos": "retrieval",
    "load_image_processor": "pretrained.loading",
    "load_model": "pretrained.loading",
    "load_places": "readers",
    "load_teacher": "pretrained.teachers",
    "localize_photos": "localization",
    "make_town": "gridtown",
    "read_gsv_cities": "readers",
    "read_places": "readers",
    "remove_photos": "retrieval",
    "search_photos": "retrieval",
    "simulate": "gridtown",
    "to_dataset": "readers",
    "write_places": "readers",
}

if TYPE_CHECKING:
    from d2vpr_hf.convert import convert_to_published as convert_to_published
    from d2vpr_hf.convert import convert_weights as convert_weights
    from d2vpr_hf.encoder import EncodedPhotos as EncodedPhotos
    from d2vpr_hf.encoder import PlaceEncoder as PlaceEncoder
    from d2vpr_hf.evaluation import Evaluation as Evaluation
    from d2vpr_hf.evaluation import PhotoSet as PhotoSet
    from d2vpr_hf.evaluation import PositiveRule as PositiveRule
    from d2vpr_hf.evaluation import compare_evaluations as compare_evaluations
    from d2vpr_hf.evaluation import evaluate as evaluate
    from d2vpr_hf.evaluation import evaluate_descriptors as evaluate_descriptors
    from d2vpr_hf.gridtown import Town as Town
    from d2vpr_hf.gridtown import Variation as Variation
    from d2vpr_hf.gridtown import draw_photo as draw_photo
    from d2vpr_hf.gridtown import make_town as make_town
    from d2vpr_hf.gridtown import simulate as simulate
    from d2vpr_hf.index import PlaceIndex as PlaceIndex
    from d2vpr_hf.localization import Calibration as Calibration
    from d2vpr_hf.localization import Localization as Localization
    from d2vpr_hf.localization import calibrate as calibrate
    from d2vpr_hf.localization import localize_photos as localize_photos
    from d2vpr_hf.modeling import CricaVPRConfig as CricaVPRConfig
    from d2vpr_hf.modeling import CricaVPRModel as CricaVPRModel
    from d2vpr_hf.modeling import CricaVPRModelOutput as CricaVPRModelOutput
    from d2vpr_hf.modeling import D2VPRConfig as D2VPRConfig
    from d2vpr_hf.modeling import D2VPRImageProcessor as D2VPRImageProcessor
    from d2vpr_hf.modeling import D2VPRModel as D2VPRModel
    from d2vpr_hf.modeling import D2VPRModelOutput as D2VPRModelOutput
    from d2vpr_hf.places import Place as Place
    from d2vpr_hf.pretrained.loading import load_image_processor as load_image_processor
    from d2vpr_hf.pretrained.loading import load_model as load_model
    from d2vpr_hf.pretrained.teachers import load_teacher as load_teacher
    from d2vpr_hf.projection import fit_projection as fit_projection
    from d2vpr_hf.readers import PlaceGrid as PlaceGrid
    from d2vpr_hf.readers import group_places as group_places
    from d2vpr_hf.readers import load_places as load_places
    from d2vpr_hf.readers import read_gsv_cities as read_gsv_cities
    from d2vpr_hf.readers import read_places as read_places
    from d2vpr_hf.readers import to_dataset as to_dataset
    from d2vpr_hf.readers import write_places as write_places
    from d2vpr_hf.retrieval import UpdateReport as UpdateReport
    from d2vpr_hf.retrieval import add_photos as add_photos
    from d2vpr_hf.retrieval import index_photos as index_photos
    from d2vpr_hf.retrieval import remove_photos as remove_photos
    from d2vpr_hf.retrieval import search_photos as search_photos
    from d2vpr_hf.stores import build_store as build_store
    from d2vpr_hf.stores.exact import exact_search as exact_search


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [  # noqa: RUF022 - the order of use
    "load_model",
    "load_image_processor",
    "PlaceEncoder",
    "EncodedPhotos",
    "PlaceIndex",
    "Place",
    "read_places",
    "read_gsv_cities",
    "load_places",
    "to_dataset",
    "group_places",
    "PlaceGrid",
    "write_places",
    "index_photos",
    "add_photos",
    "remove_photos",
    "UpdateReport",
    "search_photos",
    "exact_search",
    "build_store",
    "localize_photos",
    "calibrate",
    "Localization",
    "Calibration",
    "fit_projection",
    "evaluate",
    "evaluate_descriptors",
    "Evaluation",
    "PhotoSet",
    "PositiveRule",
    "compare_evaluations",
    "convert_weights",
    "convert_to_published",
    "load_teacher",
    "simulate",
    "make_town",
    "Town",
    "draw_photo",
    "Variation",
    "D2VPRConfig",
    "D2VPRModel",
    "D2VPRModelOutput",
    "D2VPRImageProcessor",
    "CricaVPRConfig",
    "CricaVPRModel",
    "CricaVPRModelOutput",
]
