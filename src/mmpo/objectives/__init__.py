"""The price of disagreement: (P, M) -> loss [B]."""

from mmpo.objectives.lists import GapPlackettLuce, ListNet, ListOdds, PlackettLuce, WorstPair
from mmpo.objectives.nonconvex import Mistake, ModulatedLogRatio, ReverseKL
from mmpo.objectives.nothing import Nothing
from mmpo.objectives.pairs import GapLogistic, GapSquared, GapWeighted, Hinge, Logistic, Squared, Steeper, Times

__all__ = [
    "GapLogistic",
    "GapPlackettLuce",
    "GapSquared",
    "GapWeighted",
    "Hinge",
    "ListNet",
    "ListOdds",
    "Logistic",
    "Mistake",
    "ModulatedLogRatio",
    "Nothing",
    "PlackettLuce",
    "ReverseKL",
    "Squared",
    "Steeper",
    "Times",
    "WorstPair",
]
