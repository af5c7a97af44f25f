"""What the model says: Reading -> the reward s [B, K] of each response, and M_ij = s_i - s_j."""

from mmpo.scores.biased import Biased
from mmpo.scores.errors import BoundedError
from mmpo.scores.gaussian import GaussianReward
from mmpo.scores.groups import GlobalMixture, Hedged, OfGroup, Routed, RoutedMixture
from mmpo.scores.lists import AnchoredMeanLogProb
from mmpo.scores.peers import PeerReviewed
from mmpo.scores.people import IdealDirection, IdealPoint
from mmpo.scores.routed import RoutedVoices
from mmpo.scores.sequence import Given, LogOdds, LogProb, LogRatio, MeanLogProb, MeanLogRatio, ScaledReference
from mmpo.scores.skew import GatedSkew, SkewSymmetric
from mmpo.scores.tokens import (
    ActivationLogRatio,
    Extrapolated,
    JointLogRatio,
    MarkedLogRatio,
    WeightedLogRatio,
    opening_log_ratio,
)
from mmpo.scores.voices import PerVoice, WeightedVoices
from mmpo.types import Score

__all__ = [
    "KINDS",
    "ActivationLogRatio",
    "AnchoredMeanLogProb",
    "Biased",
    "BoundedError",
    "Extrapolated",
    "GatedSkew",
    "GaussianReward",
    "Given",
    "GlobalMixture",
    "Hedged",
    "IdealDirection",
    "IdealPoint",
    "JointLogRatio",
    "LogOdds",
    "LogProb",
    "LogRatio",
    "MarkedLogRatio",
    "MeanLogProb",
    "MeanLogRatio",
    "OfGroup",
    "PeerReviewed",
    "PerVoice",
    "Routed",
    "RoutedMixture",
    "RoutedVoices",
    "ScaledReference",
    "SkewSymmetric",
    "WeightedLogRatio",
    "WeightedVoices",
    "opening_log_ratio",
]

KINDS: dict[str, type[Score]] = {
    kind.__name__: kind
    for kind in (
        LogRatio,
        MeanLogRatio,
        LogProb,
        MeanLogProb,
        AnchoredMeanLogProb,
        LogOdds,
        ScaledReference,
        Given,
        PeerReviewed,
        PerVoice,
        WeightedVoices,
        IdealPoint,
        IdealDirection,
        SkewSymmetric,
        GatedSkew,
        GaussianReward,
        Routed,
        RoutedMixture,
        RoutedVoices,
        GlobalMixture,
        OfGroup,
        Hedged,
    )
}
"""The scores by name, so that a saved run can say how its model is to be read."""
