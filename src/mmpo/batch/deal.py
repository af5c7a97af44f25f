"""Which prompts a process reads in each step."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler


class Deal(BatchRebalanceSampler):
    """The prompts of each step, dealt out to processes and accumulation steps, each about as many tokens.

    A step takes the next ``per_step`` prompts in an order that depends on the seed and the epoch alone, however many
    processes share it. Each prompt is dealt once: where the last step has fewer of them than there are shares, some
    shares are empty. (To the Trainer this is a BatchRebalanceSampler, since it leaves the batches of one as they are.)

    Args:
        costs: tokens of each prompt.
        per_step: prompts of a step, over all processes and accumulation steps.
        processes, process: how many share a step, and which of them this is.
        parts: accumulation steps.
        seed: of the order; None takes the prompts as they stand.
        drop_last: leave out a last step that has fewer prompts.
    """

    def __init__(
        self,
        costs: Sequence[int] | np.ndarray,
        per_step: int,
        *,
        processes: int = 1,
        process: int = 0,
        parts: int = 1,
        seed: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.costs = np.asarray(costs)
        self.per_step, self.parts = per_step, parts
        self.processes, self.process = processes, process
        self.seed, self.drop_last, self.epoch = seed, drop_last, 0

    @property
    def sampler(self) -> Deal:
        """Under this name accelerate finds whom to tell the epoch, also where a resume skips the first batches."""
        return self

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for step in range(len(self) // self.parts):
            chosen = order[step * self.per_step : (step + 1) * self.per_step]
            shares = dealt(self.costs[chosen].tolist(), self.processes * self.parts)
            for share in shares[self.process :: self.processes]:
                yield [int(chosen[n]) for n in share]

    def __len__(self) -> int:
        steps, rest = divmod(len(self.costs), self.per_step)
        return (steps + (rest > 0 and not self.drop_last)) * self.parts

    def _order(self) -> np.ndarray:
        if self.seed is None:
            return np.arange(len(self.costs))
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(len(self.costs), generator=draw).numpy()


def dealt(costs: Sequence[int], shares: int) -> list[list[int]]:
    """Indices in so many shares of about the same cost, the costliest share first; each in the order of the costs.

    The costliest goes first, to the share that has least (Graham 1969, LPT: within 4/3 of the best).
    """
    heap: list[tuple[int, int]] = [(0, share) for share in range(shares)]
    out: list[list[int]] = [[] for _ in range(shares)]
    for n in sorted(range(len(costs)), key=lambda n: costs[n], reverse=True):
        load, share = heap[0]
        out[share].append(n)
        heapq.heapreplace(heap, (load + costs[n], share))
    order = sorted(heap, key=lambda one: (-one[0], one[1]))
    return [sorted(out[share]) for _, share in order]
