"""Means over the batches of a logging window or an evaluation, read from the P and M of the loss itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from mmpo.matrix import between
from mmpo.types import Evidence, Outcome, Reading

Fraction: TypeAlias = tuple[Tensor, Tensor]
"""What to sum, and what to divide the sum by: [B, ...] each, one row a prompt."""

Totals: TypeAlias = dict[str, list[float]]
"""By name the sums of a, b, a^2, a b, b^2 over prompts, and how many prompts have any b."""

EMPTY: Mapping[str, Fraction] = MappingProxyType({})

KEPT = "targets/kept"
"""The share of the comparisons that the target leaves in; logged where it is not all of them."""

OF_TOKENS = {"entropy": "entropy", "hits": "mean_token_accuracy"}
"""The statistics of a reading that are means over tokens, and what trackers call them."""


def right(m: Tensor) -> Tensor:
    """1 where a margin is above 0, 1/2 where it is 0, else 0. Nothing is copied to the device, which would wait."""
    return (1 + m.sign()) / 2


def majority(p: Tensor) -> Tensor:
    """Who won each comparison: 1 for the winner's entry, 1/2 to both in a tie, 0 elsewhere. [B, K, K] -> the same."""
    said = (p != 0) | (p.mT != 0)
    return torch.where(said, right(p - p.mT), 0.0)


class Mean(float):
    """A ratio of sums over prompts that knows its standard error, infinite of fewer than two ``prompts``."""

    error: float
    prompts: int

    @classmethod
    def of(cls, a: float, b: float, aa: float, ab: float, bb: float, prompts: float) -> Mean:
        """From the sums of a, b, a^2, a b and b^2 over the prompts, by linearisation: prompts are independent, the
        comparisons of one prompt are not. Where there was nothing to divide by, the sum is 0 as well."""
        mean = cls(a / (b or 1.0))
        mean.error, mean.prompts = math.inf, int(prompts)
        if prompts > 1:
            spread = max(aa - 2 * mean * ab + mean * mean * bb, 0.0)
            mean.error = math.sqrt(spread * prompts / (prompts - 1)) / abs(b)
        return mean


@dataclass
class Tally:
    """Sums since the last ``flush``; the keys are those that trackers know from the field.

    ``rewards/chosen`` and ``rewards/rejected`` average the model's reward over the winners and losers of all
    comparisons, ``rewards/margins`` their difference, ``rewards/accuracies`` the share the model orders like the
    majority, ties counting half; a score that counts losers for less (``scores.Biased``) is read without that bias.
    ``logps/...`` do the same for log-probabilities, and so does whatever a score has watched. ``entropy`` and
    ``mean_token_accuracy`` are means over the tokens of answers, where they are read. The majority is that of the
    people, whatever the method makes of it.

    The sums stay on the device, and nothing waits for it before ``means``.
    """

    sums: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """By the names that came together, [names, 6]: the sums of a, b, a^2, a b, b^2 over prompts, and how many prompts
    have any b."""

    @torch.no_grad()
    def add(
        self, outcome: Outcome, evidence: Evidence, reading: Reading, further: Mapping[str, Fraction] = EMPTY
    ) -> None:
        """Add a batch, and ``further`` numbers of it: by name, what to sum and what to divide the sum by."""
        answers = ~sum(evidence.roles.values(), torch.zeros_like(evidence.mask))
        won, lead = majority(outcome.said), between(outcome.rewards)
        comparisons, data = won.sum((-1, -2)), torch.ones_like(outcome.losses)
        found = {
            "rewards/margins": (won * lead, comparisons),
            "rewards/accuracies": (won * right(lead), comparisons),
        }
        sides = {"rewards": outcome.rewards, **({} if reading.logps is None else {"logps": reading.logps})}
        for name, value in {**sides, **outcome.watched}.items():
            found[f"{name}/chosen"] = won.sum(-1) * value, comparisons
            found[f"{name}/rejected"] = won.sum(-2) * value, comparisons
        stated, kept = ((x != 0).logical_or(x.mT != 0) for x in (outcome.said, outcome.p))
        found[KEPT] = (stated & kept).float() / 2, comparisons
        for name, term in outcome.terms.items():
            found[f"terms/{name}"] = term, torch.ones_like(term)
        for name in reading.statistics.keys() & OF_TOKENS.keys():
            found[OF_TOKENS[name]] = reading.statistics[name] * answers, reading.statistics["tokens"] * answers
        self._add({**found, **further, "loss": (outcome.losses, data)}, len(data))

    def _add(self, found: Mapping[str, Fraction], prompts: int) -> None:
        dtype = torch.promote_types(found["loss"][0].dtype, torch.float32)
        done: dict[int, Tensor] = {}

        def each(x: Tensor) -> Tensor:
            """Sums over the comparisons or answers of a prompt; many numbers are divided by the same."""
            if id(x) not in done:
                rows = x.flatten(1).sum(-1, dtype=dtype) if x.dim() > 1 else x.to(dtype)
                # Of several models read at once, the rows stand one model after the other.
                done[id(x)] = rows if len(rows) == prompts else rows.view(-1, prompts).sum(0)
            return done[id(x)]

        a, b = (torch.stack([each(fraction[side]) for fraction in found.values()]) for side in (0, 1))
        sums = torch.stack([x.sum(-1, dtype=dtype) for x in (a, b, a * a, a * b, b * b, b != 0)], -1)
        names = tuple(found)
        self.sums[names] = self.sums[names] + sums if names in self.sums else sums

    def means(self, gather: Callable[[Totals], list[Totals]] = lambda own: [own]) -> dict[str, Mean]:
        """The means so far. ``gather`` gives the totals of all processes, some of which may have read nothing."""
        totals: Totals = {}
        # Moved before they are widened: some accelerators have no float64.
        own = [zip(names, table.cpu().double().tolist(), strict=True) for names, table in self.sums.items()]
        _add_up(totals, chain(*own))
        joined: Totals = {}
        for part in gather(totals):
            _add_up(joined, part.items())
        means = {name: Mean.of(*joined[name]) for name in sorted(joined)}
        return {name: mean for name, mean in means.items() if name != KEPT or mean < 1}

    def flush(self, gather: Callable[[Totals], list[Totals]] = lambda own: [own]) -> dict[str, Mean]:
        """The means, and a fresh start."""
        means = self.means(gather)
        self.sums = {}
        return means


def _add_up(totals: Totals, further: Iterable[tuple[str, list[float]]]) -> None:
    for name, row in further:
        totals[name] = [a + b for a, b in zip(totals.get(name, [0.0] * len(row)), row, strict=True)]
