"""A network by its name, from one of several `libraries`: weights from anywhere, a new head, layers in groups."""

from food101_fast.models.backbone import Backbone
from food101_fast.models.build import build_model, check_sizes
from food101_fast.models.layers import head_of, heads_of, layer_groups
from food101_fast.models.libraries import inputs_of
from food101_fast.models.locations import check_weights
from food101_fast.models.weights import Loaded, load_file, load_weights

__all__ = [
    "Backbone",
    "Loaded",
    "build_model",
    "check_sizes",
    "check_weights",
    "head_of",
    "heads_of",
    "inputs_of",
    "layer_groups",
    "load_file",
    "load_weights",
]
