"""The public names of the package and their modules, in the order of use.

Type checkers read this file instead of `__init__.py`, which reads it too and imports a name when it is first used.
"""

# ruff: noqa: I001 - the order is that of `d2vpr_hf.__all__`

from d2vpr_hf.pretrained.loading import load_model as load_model
from d2vpr_hf.pretrained.loading import load_image_processor as load_image_processor
from d2vpr_hf.encoders.load_teacher import load_teacher as load_teacher
from d2vpr_hf.encoders.place_encoder import PlaceEncoder as PlaceEncoder
from d2vpr_hf.encoders import EncodedPhotos as EncodedPhotos
from d2vpr_hf.model_info.known_models import known_models as known_models
from d2vpr_hf.model_info.known_models import KnownModel as KnownModel
from d2vpr_hf.onnx_cards import card_onnx as card_onnx
from d2vpr_hf.index import PlaceIndex as PlaceIndex
from d2vpr_hf.places import Place as Place
from d2vpr_hf.readers import read_places as read_places
from d2vpr_hf.readers import read_gsv_cities as read_gsv_cities
from d2vpr_hf.readers.data_sets import read_data_set as read_data_set
from d2vpr_hf.readers import load_places as load_places
from d2vpr_hf.readers import to_dataset as to_dataset
from d2vpr_hf.readers import group_places as group_places
from d2vpr_hf.readers import PlaceGrid as PlaceGrid
from d2vpr_hf.readers import write_places as write_places
from d2vpr_hf.retrieval import index_photos as index_photos
from d2vpr_hf.retrieval import add_photos as add_photos
from d2vpr_hf.retrieval import remove_photos as remove_photos
from d2vpr_hf.retrieval import UpdateReport as UpdateReport
from d2vpr_hf.retrieval.fuse_places import fuse_places as fuse_places
from d2vpr_hf.retrieval import search_photos as search_photos
from d2vpr_hf.stores.exact import exact_search as exact_search
from d2vpr_hf.stores import build_store as build_store
from d2vpr_hf.localization import localize_photos as localize_photos
from d2vpr_hf.localization import calibrate as calibrate
from d2vpr_hf.localization import Localization as Localization
from d2vpr_hf.localization import Calibration as Calibration
from d2vpr_hf.map_check import check_map as check_map
from d2vpr_hf.projection import fit_projection as fit_projection
from d2vpr_hf.evaluation import evaluate as evaluate
from d2vpr_hf.evaluation import evaluate_data_set as evaluate_data_set
from d2vpr_hf.evaluation import evaluate_descriptors as evaluate_descriptors
from d2vpr_hf.evaluation import Evaluation as Evaluation
from d2vpr_hf.evaluation import PhotoSet as PhotoSet
from d2vpr_hf.evaluation import PositiveRule as PositiveRule
from d2vpr_hf.evaluation import compare_evaluations as compare_evaluations
from d2vpr_hf.convert import convert_weights as convert_weights
from d2vpr_hf.convert import convert_to_published as convert_to_published
from d2vpr_hf.gridtown import simulate as simulate
from d2vpr_hf.gridtown import make_town as make_town
from d2vpr_hf.gridtown import Town as Town
from d2vpr_hf.gridtown import draw_photo as draw_photo
from d2vpr_hf.gridtown import Variation as Variation
from d2vpr_hf.modeling import D2VPRConfig as D2VPRConfig
from d2vpr_hf.modeling import D2VPRModel as D2VPRModel
from d2vpr_hf.modeling import D2VPRModelOutput as D2VPRModelOutput
from d2vpr_hf.modeling import D2VPRImageProcessor as D2VPRImageProcessor
from d2vpr_hf.modeling import CricaVPRConfig as CricaVPRConfig
from d2vpr_hf.modeling import CricaVPRModel as CricaVPRModel
from d2vpr_hf.modeling import CricaVPRModelOutput as CricaVPRModelOutput

__all__: list[str]
__version__: str
