"""Everything learned: Batch -> Reading."""

from mmpo.models.load import load_policy, load_reward_model, load_tokenizer
from mmpo.models.policy import PolicyReader, Reference
from mmpo.models.reference import AdapterOff, FrozenCopy, cache_reference
from mmpo.models.reward import RewardReader

__all__ = [
    "AdapterOff",
    "FrozenCopy",
    "PolicyReader",
    "Reference",
    "RewardReader",
    "cache_reference",
    "load_policy",
    "load_reward_model",
    "load_tokenizer",
]
