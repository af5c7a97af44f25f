"""What people say: Evidence (and the detached M) -> P."""

from mmpo.targets.graded import BradleyTerry, Hard
from mmpo.targets.minnorm import MinNorm
from mmpo.targets.noise import Flip, SmoothUnsure, Unflip
from mmpo.targets.posterior import Posterior
from mmpo.targets.ranked import LambdaRank, MinGap, Neighbours
from mmpo.targets.selected import SmallLoss
from mmpo.targets.votes import Votes
from mmpo.targets.worst import Maximin, Worst

__all__ = [
    "BradleyTerry",
    "Flip",
    "Hard",
    "LambdaRank",
    "Maximin",
    "MinGap",
    "MinNorm",
    "Neighbours",
    "Posterior",
    "SmallLoss",
    "SmoothUnsure",
    "Unflip",
    "Votes",
    "Worst",
]
