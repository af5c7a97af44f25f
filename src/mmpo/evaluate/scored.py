"""What a model says of data, from anybody's view or from that of one voice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpo.batch import Vocabulary
from mmpo.data.pairs import answers
from mmpo.errors import UserError, nearest
from mmpo.matrix import between
from mmpo.types import Datum, Reading, Score

Floats = NDArray[np.float64]


def compares(score: Score) -> bool:
    """Whether M is more than differences of rewards, so that a model is read as margins."""
    own = "outputs" in score.needs and type(score).__call__ is not Score.__call__
    return own or "preference" in score.needs


def rows_of(reading: Reading, rows: Tensor, who: Tensor | None = None) -> Reading:
    """These rows [N] of a reading, any of them more than once, as the voices with these numbers [N] see them."""
    picked = replace(reading, tables={}, tokens=None)._map(lambda value: value[rows])
    return replace(picked, tables=reading.tables, who=who)


@dataclass(frozen=True)
class Views:
    """The readings of a model that was asked once, so that they can be scored again from any voice's view.

    Attributes:
        score: how they are scored.
        parts: each with the places of its data in the whole, and their reading on the CPU.
        data: all data, whose answers were read.
        vocabulary: the voices that the model tells apart; None where it tells nobody apart.
    """

    score: Score
    parts: Sequence[tuple[Sequence[int], Reading]]
    data: Sequence[Datum]
    vocabulary: Vocabulary | None = None

    @cached_property
    def known(self) -> Vocabulary | None:
        """The voices of which the model has a view of their own; None where it has one view for all."""
        if self.vocabulary is None:
            return None
        names = list(self.vocabulary.numbers)
        return self.vocabulary if self.score.apart or self.facet_names == names else None

    def number(self, voice: str) -> int:
        """The number of a voice in the model's vocabulary. Raises UserError where the model does not know it."""
        if self.known is None:
            raise UserError(f"{voice}: the model has one view for all; it tells no voices apart")
        if voice not in self.known.numbers:
            kind, names = self.known.kind.removesuffix("s"), list(self.known.numbers)
            hint = nearest(voice, names, names[:5] if len(names) > 10 else None)
            room = self.score.has_room(len(self.known))
            place = "; mmpo adapt places a new one by a few comparisons" if room else ""
            raise UserError(f"the model knows no {kind} {voice!r}. {hint.removesuffix('.')}{place}")
        return self.known.numbers[voice]

    @cached_property
    def facets(self) -> list[Floats] | None:
        """The reward of each response by each facet of the score, [K, D] each; None where it is one reward alone."""
        found = [self.score.facets(reading) for _, reading in self.parts]
        if any(x is None for x in found) or not found:
            return None
        return self._whole((x for x in found if x is not None), math.nan)

    @property
    def facet_names(self) -> list[str]:
        """The names of the facets."""
        n = 0 if not self.facets else self.facets[0].shape[-1]
        return self.score.named(n, [] if self.vocabulary is None else list(self.vocabulary.numbers))

    @cached_property
    def weights(self) -> list[Floats] | None:
        """How much each facet counts for each datum in anybody's view, [D] each; None where they are not weighted."""
        if self.facets is None:
            return None
        out: list[Floats] = [np.empty(0)] * len(self.data)
        for places, reading in self.parts:
            found = self.score.weights(reading)
            if found is None:
                return None
            rows = found.expand(len(places), -1).detach().double().numpy()
            for place, row in zip(places, rows, strict=True):
                out[place] = row
        return out if self.parts else None

    def m(self, reading: Reading) -> Tensor:
        """The margins [B, K, K] of a reading, or of ``rows`` of one."""
        return self.score(reading) if compares(self.score) else between(self.score.rewards(reading))

    def rewards(self, who: int | None = None) -> list[list[float]]:
        """[K] each, of anybody's view or that of the voice with this number; NaN beside the answers."""
        return [row.tolist() for row in self._whole(map(self.score.rewards, self._seen_by(who)), math.nan)]

    def margins(self, who: int | None = None) -> list[Floats] | None:
        """[K, K] each, of a model that compares; else None."""
        if not compares(self.score):
            return None
        out: list[Floats] = [np.empty(0)] * len(self.data)
        for (places, _), m in zip(self.parts, map(self.score, self._seen_by(who)), strict=True):
            for place, square in zip(places, m.detach().double().numpy(), strict=True):
                kept, k = answers(self.data[place]), len(self.data[place].responses)
                out[place] = np.full((k, k), math.nan)
                out[place][np.ix_(kept, kept)] = square[: len(kept), : len(kept)]
        return out

    def lengths(self) -> list[list[float]]:
        """[K] each, in tokens, 0 beside the answers."""
        found = self._whole((reading.require("lengths") for _, reading in self.parts), 0.0)
        return [row.tolist() for row in found]

    def _seen_by(self, who: int | None) -> Iterator[Reading]:
        for places, reading in self.parts:
            yield reading if who is None else replace(reading, who=torch.full((len(places),), who))

    def _whole(self, found: Iterable[Tensor], nothing: float) -> list[Floats]:
        """[B, K, ...] of answers for each part -> [K, ...] of all responses for each datum."""
        out: list[Floats] = [np.empty(0)] * len(self.data)
        for (places, _), said in zip(self.parts, found, strict=True):
            for place, row in zip(places, said.detach().double().numpy(), strict=True):
                kept = answers(self.data[place])
                out[place] = np.full((len(self.data[place].responses), *row.shape[1:]), nothing)
                out[place][kept] = row[: len(kept)]
        return out


@dataclass(frozen=True)
class Scored:
    """What a model says of each datum, and what the limits cut.

    Attributes:
        data: the data that were read.
        rewards: [K] each, NaN for responses beside the answers.
        lengths: [K] each, in tokens.
        cuts: what the limits cut.
        margins: [K, K] each, of a model that compares responses without giving each a reward; ``rewards`` then holds
            the mean margin of each response over those of its prompt.
        shortened: of each datum, whether the limits cut its prompt or a response; empty where that is not known.
        views: the readings behind these numbers, by which they are found for other voices.
    """

    data: list[Datum]
    rewards: list[list[float]]
    lengths: list[list[float]]
    cuts: dict[str, Any]
    margins: list[Floats] | None = None
    shortened: Sequence[bool] = ()
    views: Views | None = None

    @property
    def said(self) -> Sequence[Any]:
        """What comparisons are made of: [K, K] margins where the model has no rewards, else [K] rewards."""
        return self.rewards if self.margins is None else self.margins

    @property
    def facets(self) -> list[Floats] | None:
        """The reward of each response by each group, attribute or prototype, [K, D] each; None for one reward alone."""
        return None if self.views is None else self.views.facets

    @property
    def facet_names(self) -> list[str]:
        """The D names of the facets."""
        return [] if self.views is None else self.views.facet_names

    @property
    def weights(self) -> list[Floats] | None:
        """How much each facet counts for each datum in anybody's view, [D] each; None where they are not weighted."""
        return None if self.views is None else self.views.weights

    @property
    def voices(self) -> list[str]:
        """The voices that the model knows apart, by name."""
        known = None if self.views is None else self.views.known
        return [] if known is None else list(known.numbers)

    def view(self, voice: str) -> Scored:
        """The same, as this voice sees it. Raises UserError for a voice that the model does not know."""
        if self.views is None:
            raise UserError(f"{voice}: the model has one view for all; it tells no voices apart")
        number = self.views.number(voice)
        return replace(self, rewards=self.views.rewards(number), margins=self.views.margins(number))
