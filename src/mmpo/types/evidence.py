"""What people said, on tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from mmpo.matrix import between


@dataclass(frozen=True)
class Tensors:
    """A record of tensors that moves between devices as one."""

    def _map(self, change: Callable[[Any], Any]) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor | Tensors):
                return change(value)
            if isinstance(value, dict):
                return {k: apply(v) for k, v in value.items()}
            return value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, *args: Any, **kwargs: Any) -> Self:
        return self._map(lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        return self._map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Voices(Tensors):
    """Who said what, on tensors. A voice is a person, an attribute, or the data set that a datum comes from.

    Attributes:
        who: [B, A] number of each voice in its vocabulary, 0 for one without a name, -1 for nobody.
        quality: [B, A, K] the grades that each gave, NaN where none.
        votes: [B, A, K, K] the votes of each.
        stated: [B, A, K, K] the gaps that each stated, NaN where none.
        weight: [B, A, K, K] each one's share in the weight of a comparison; they sum to it over A.
    """

    who: Tensor
    quality: Tensor
    votes: Tensor
    stated: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Evidence(Tensors):
    """What people said, on tensors.

    Attributes:
        mask: [B, K] bool, the responses that exist.
        quality: [B, K] grades, NaN where a response has none.
        stated: [B, K, K] gaps stated for a pair and not for a response, antisymmetric, NaN where there is none.
        votes: [B, K, K] votes for i over j, a tie counting one half to each side.
        weight: [B, K, K] symmetric weight of each comparison, 0 where the pair was never compared.
        voices: who said it, where the method asks.
        roles: [B, K] bool for each role (see ``About``), the responses that have it.
        contrasts: [B, C, K] coefficients of combined rewards, where there are any.
        contrast_p: [B, C] the probability that the combination is positive.
        contrast_weight: [B, C] weight of each contrast, 0 for padding.
        memory: what the method has learned about people and data in earlier steps (see ``Part.memory``).
    """

    mask: Tensor
    quality: Tensor
    stated: Tensor
    votes: Tensor
    weight: Tensor
    voices: Voices | None = None
    roles: dict[str, Tensor] = field(default_factory=dict)
    contrasts: Tensor | None = None
    contrast_p: Tensor | None = None
    contrast_weight: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mask)

    def repeat(self, n: int) -> Evidence:
        """The same evidence ``n`` times, one after the other: B -> n B. The memory stays one."""
        if n == 1:
            return self

        def again(t: Any) -> Any:
            return t._map(again) if isinstance(t, Tensors) else t.repeat(n, *[1] * (t.dim() - 1))

        return replace(self._map(again), memory=self.memory)

    def role(self, name: str) -> Tensor:
        """[B, K] bool, the responses with this role."""
        return self.roles[name] if name in self.roles else torch.zeros_like(self.mask)

    def by_voice(self) -> tuple[Evidence, Tensor]:
        """What each voice said, as evidence of A * B rows, and the number of each, [A * B].

        The first voice of every datum comes first, then the second of every datum. Where nobody asked who said what, it
        is one voice without a name. A row of nobody has no weight. Contrasts are nobody's.
        """
        if self.voices is None:
            return self, torch.zeros(len(self.mask), dtype=torch.long, device=self.mask.device)
        told = {f.name: getattr(self.voices, f.name).transpose(0, 1).flatten(0, 1) for f in fields(self.voices)}
        who = told.pop("who").clamp_min(0)
        bare = replace(self, voices=None, contrasts=None, contrast_p=None, contrast_weight=None)
        return replace(bare.repeat(self.voices.who.shape[1]), **told), who

    @property
    def compared(self) -> Tensor:
        """[B, K, K] bool, the pairs somebody compared."""
        return self.weight != 0

    @property
    def labels(self) -> Tensor:
        """[B, K, K] bool, the comparisons of which only the winner is known: one whole vote, no grades, no gap."""
        total = self.votes + self.votes.mT
        whole = (self.votes == 0) | (self.votes == total / 2) | (self.votes == total)
        return self.compared & whole & (total <= 1) & between(self.quality).isnan() & self.stated.isnan()

    @property
    def vote_share(self) -> Tensor:
        """[B, K, K] share of votes for i over j, NaN where nobody voted."""
        total = self.votes + self.votes.mT
        return torch.where(total > 0, self.votes / total.clamp_min(torch.finfo(total.dtype).tiny), torch.nan)

    @property
    def gap(self) -> Tensor:
        """[B, K, K] graded gap of i over j, antisymmetric, 0 where nothing was stated.

        The difference of the grades; where the responses have none, the gap stated for the pair; where there is
        none either, the vote margin ``2 share - 1``.
        """
        gap = between(self.quality)
        gap = torch.where(gap.isnan(), self.stated, gap)
        gap = torch.where(gap.isnan(), 2 * self.vote_share - 1, gap)
        return gap.nan_to_num(nan=0.0)
