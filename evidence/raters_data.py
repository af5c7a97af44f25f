"""The votes of a study of raters on tensors, and what each seed holds out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evidence.frozen import held_out, vectors
from mmpo.batch import Vocabulary, evidence
from mmpo.data.texts import words
from mmpo.types import Datum, Evidence, Voices

NAMED = 20
"""Training labels from which on a rater is told apart; those with fewer are anybody."""
ENOUGH = 20
"""Held-out votes that it takes to measure a rater alone."""
Embed = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Texts -> the embedding of each distinct one."""
UNSEEN = 1 / 3
"""The share of the raters with enough labels whom training does not hear, at least one."""
TEST, VALID = 0.25, 0.2
"""The share of the groups that is held out, and that of the others which says when to stop."""


@dataclass(frozen=True)
class Panel:
    """N data of K responses, what R voices voted, and the features of all.

    Attributes:
        said: the evidence, voices numbered from 1 in the order of ``names``.
        names: of the voices.
        groups: [N], which data are held out together.
        items: [I, W] features of each distinct response to a prompt.
        prompts: [Q, H] features of each distinct prompt.
        item: [N, K] which of the items each response is; 0 for padding.
        asked: [N] which of the prompts.
    """

    said: Evidence
    names: tuple[str, ...]
    groups: tuple[str, ...]
    items: Tensor
    prompts: Tensor
    item: Tensor
    asked: Tensor

    @classmethod
    def of(cls, data: Sequence[Datum], group: Callable[[Datum], str], embed: Embed = vectors) -> Panel:
        """A response is described by its embedding, and by the product of that with the embedding of its prompt."""
        vocabulary = Vocabulary.of("annotators", data)
        texts = [(words(d.prompt), [words(r) for r in d.responses]) for d in data]
        of = embed([text for asked, said in texts for text in (asked, *said)])
        prompts = {asked: n for n, asked in enumerate(dict.fromkeys(asked for asked, _ in texts))}
        pairs = {key: n for n, key in enumerate(dict.fromkeys((asked, r) for asked, said in texts for r in said))}
        item = torch.zeros(len(data), max(len(said) for _, said in texts), dtype=torch.long)
        for row, (asked, said) in zip(item, texts, strict=True):
            row[: len(said)] = torch.tensor([pairs[asked, r] for r in said])
        return cls(
            said=evidence(data, vocabulary),
            names=tuple(vocabulary.numbers),
            groups=tuple(map(group, data)),
            items=torch.stack([torch.cat((of[r], of[r] * of[asked])) for asked, r in pairs]),
            prompts=torch.stack([of[asked] for asked in prompts]),
            item=item,
            asked=torch.tensor([prompts[asked] for asked, _ in texts]),
        )

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def voices(self) -> Voices:
        assert self.said.voices is not None
        return self.said.voices

    @cached_property
    def cast(self) -> Tensor:
        """[N, A] how many votes each voice cast on each datum."""
        return (self.voices.votes.sum((-1, -2)) * (self.voices.who > 0)).round().long()

    def labels(self, inside: Tensor) -> Tensor:
        """[1 + R] votes of each voice on the data that a mask [N] selects."""
        who = self.voices.who.clamp_min(0)
        count = torch.zeros(1 + len(self.names), dtype=torch.long)
        return count.index_add(0, who.flatten(), (self.cast * inside[:, None]).flatten())


def at(said: Evidence, rows: Tensor) -> Evidence:
    """The evidence of some data, [n]; the memory stays one."""

    def some(t: Any) -> Any:
        return t._map(some) if isinstance(t, Voices) else t[rows]

    return replace(said._map(some), memory=said.memory)


def heard(panel: Panel, number: Tensor, inside: Tensor, only: Tensor | None = None) -> tuple[Evidence, Tensor]:
    """What some voices said of some data, and which data are left, [n].

    ``number`` [1 + R] is the number that each voice is to have, -1 for those who are not heard; ``inside`` is a mask
    [N], and ``only`` one of single votes, [N, A, K, K]. Who is heard shares the weight of a comparison alike.
    """
    voices = panel.voices
    votes = voices.votes if only is None else voices.votes * only
    there = (voices.who > 0) & (votes.sum((-1, -2)) > 0) & inside[:, None]
    who = torch.where(there, number[voices.who.clamp_min(0)], -1)
    left = (who >= 0).any(1).nonzero().squeeze(1)
    votes = votes[left] * (who[left] >= 0)[..., None, None]
    spoke = ((votes + votes.mT) > 0).to(votes.dtype)
    times = spoke.sum(1)
    nothing = torch.full_like(votes, torch.nan)
    share = spoke / times.clamp_min(1)[:, None]
    told = Voices(who[left], torch.full_like(voices.quality[left], torch.nan), votes, nothing, share)
    return replace(at(panel.said, left), votes=votes.sum(1), weight=(times > 0).to(votes.dtype), voices=told), left


# ---------------------------------------------------------------------------------------------- one seed


@dataclass(frozen=True)
class Split:
    """What one seed trains on.

    Attributes:
        train, valid, test: [N] bool.
        number: [1 + R] of each voice in training: from 1 where it is told apart, 0 where it is anybody, -1 where it
            is not heard.
        unseen: the voices that training does not hear, by their numbers in the panel.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    number: Tensor
    unseen: tuple[int, ...]

    @property
    def told_apart(self) -> int:
        return int(self.number.max())

    @property
    def named(self) -> Tensor:
        """[1 + R] bool, the voices that training tells apart."""
        return self.number > 0


def split(panel: Panel, seed: int) -> Split:
    """Groups are held out, of the others some say when to stop; of the voices with enough labels some are not heard."""
    away = held_out(panel.groups, seed, TEST)
    others = sorted({g for g, out in zip(panel.groups, away, strict=True) if not out})
    stopping = dict(zip(others, held_out(others, seed, VALID), strict=True))
    test = torch.tensor(away)
    valid = torch.tensor([stopping.get(g, False) for g in panel.groups])
    train = ~test & ~valid
    known, measured = panel.labels(train), panel.labels(test)
    able = [n for n in range(1, 1 + len(panel.names)) if known[n] >= NAMED and measured[n] >= ENOUGH]
    unseen = sorted(random.Random(seed).sample(able, max(1, round(UNSEEN * len(able)))))
    number = torch.zeros(1 + len(panel.names), dtype=torch.long)
    number[unseen] = -1
    apart = ((known >= NAMED) & (number == 0)).nonzero().squeeze(1)
    number[apart] = torch.arange(1, 1 + len(apart))
    return Split(train, valid, test, number, tuple(unseen))


def few(panel: Panel, split: Split, labels: int, seed: int) -> Tensor:
    """[N, A, K, K] bool, symmetric: so many votes of each unseen voice, drawn from the training data."""
    rng = torch.Generator().manual_seed(seed)
    votes = panel.voices.votes
    chosen = torch.zeros_like(votes, dtype=torch.bool)
    given = ((votes + votes.mT) > 0).triu(1) & split.train[:, None, None, None]
    for who in split.unseen:
        spots = (given & (panel.voices.who == who)[..., None, None]).nonzero()
        drawn = spots[torch.randperm(len(spots), generator=rng)[:labels]]
        chosen[tuple(drawn.T)] = True
    return chosen | chosen.mT
