"""The text room: a stream of Datum in, a stream of Datum out. It loads, checks and shapes data."""

from mmpo.data.check import inspect
from mmpo.data.gamma import GammaFit, fit_gamma
from mmpo.data.ledger import Dropped, Ledger
from mmpo.data.load import Loaded, load
from mmpo.data.merge import merge
from mmpo.data.pairs import pairs_of, provides
from mmpo.data.rcal import RepresentationCalibrator, calibrate_labels
from mmpo.data.scale import rescale
from mmpo.data.shape import cap_pairs, cap_responses, dedupe, shuffle_responses, split, spread, take
from mmpo.data.source import Source, by_source
from mmpo.data.strength import flip_weakest, soften_weak, strengths
from mmpo.data.write import to_row

__all__ = [
    "Dropped",
    "GammaFit",
    "Ledger",
    "Loaded",
    "RepresentationCalibrator",
    "Source",
    "by_source",
    "calibrate_labels",
    "cap_pairs",
    "cap_responses",
    "dedupe",
    "fit_gamma",
    "flip_weakest",
    "inspect",
    "load",
    "merge",
    "pairs_of",
    "provides",
    "rescale",
    "shuffle_responses",
    "soften_weak",
    "split",
    "spread",
    "strengths",
    "take",
    "to_row",
]
