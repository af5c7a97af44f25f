"""Further terms of the loss: (P, Evidence, Reading) -> [B]."""

from mmpo.regularizers.anchored import Apart, Centred, MeanMargin, NoiseContrast, WinnersDown
from mmpo.regularizers.attributes import Regression
from mmpo.regularizers.features import Difference, FeatureAnchor, InfoNCE
from mmpo.regularizers.gaussian import MarginalLogistic, SampledLogistic, SigmaLevel
from mmpo.regularizers.imitation import BestError, Cloning, Imitation, MeanImitation, best
from mmpo.regularizers.lists import PerRival
from mmpo.regularizers.orchestration import Orchestration
from mmpo.regularizers.roles import Contrasts, DegreeClassification, LogisticRationale, Rationale, RolloutKL
from mmpo.regularizers.router import RouterEntropy
from mmpo.regularizers.tokens import (
    ChiSquareImitation,
    ExpectedAdvantage,
    HellingerImitation,
    ReferenceKL,
    Sparsity,
    TeacherKL,
)

__all__ = [
    "Apart",
    "BestError",
    "Centred",
    "ChiSquareImitation",
    "Cloning",
    "Contrasts",
    "DegreeClassification",
    "Difference",
    "ExpectedAdvantage",
    "FeatureAnchor",
    "HellingerImitation",
    "Imitation",
    "InfoNCE",
    "LogisticRationale",
    "MarginalLogistic",
    "MeanImitation",
    "MeanMargin",
    "NoiseContrast",
    "Orchestration",
    "PerRival",
    "Rationale",
    "ReferenceKL",
    "Regression",
    "RolloutKL",
    "RouterEntropy",
    "SampledLogistic",
    "SigmaLevel",
    "Sparsity",
    "TeacherKL",
    "WinnersDown",
    "best",
]
