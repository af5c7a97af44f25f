"""Measuring: agreement and calibration of what the model says, M, with what people say, P."""

from mmpo.evaluate.agreement import accuracy, agreement, brier, nll
from mmpo.evaluate.calibration import Reliability, ece, reliability
from mmpo.evaluate.comparisons import Comparisons
from mmpo.evaluate.summary import summarise

__all__ = [
    "Comparisons",
    "Reliability",
    "accuracy",
    "agreement",
    "brier",
    "ece",
    "nll",
    "reliability",
    "summarise",
]
