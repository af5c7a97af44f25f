"""What people say: Evidence (and the detached M) -> P."""

from mmpo.targets.graded import BradleyTerry, Hard
from mmpo.targets.noise import Flip, Unflip
from mmpo.targets.votes import Votes

__all__ = ["BradleyTerry", "Flip", "Hard", "Unflip", "Votes"]
