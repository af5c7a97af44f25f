"""Segments -> tensors: the steps of all segments on one row, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpo.batch.collate import by_cost
from mmpo.batch.statements import evidence
from mmpo.data.segments import SegmentDatum
from mmpo.matrix import gathered
from mmpo.types import Evidence, Tensors

READ_STEPS = 65_536
"""Steps of a micro-batch where nobody says."""


@dataclass(frozen=True)
class SegmentBatch(Tensors):
    """B data of K segments with N steps in all, and the evidence about them.

    Attributes:
        ids: of the data.
        observations: [N, D].
        actions: [N] choices or [N, A] numbers.
        cell: [N] place of the step's segment in the flattened [B * K] grid.
        time: [N] number of the step in its segment, from 0.
        evidence: what was said about the segments.
    """

    ids: tuple[str, ...]
    observations: Tensor
    actions: Tensor
    cell: Tensor
    time: Tensor
    evidence: Evidence

    def __len__(self) -> int:
        return len(self.ids)

    def sum(self, values: Tensor) -> Tensor:
        """[N] values of steps -> [B, K] sums over the steps of each segment, in fp32."""
        b, k = self.evidence.mask.shape
        return gathered(values.float(), self.cell, (b, k))


@dataclass(frozen=True)
class SegmentCollator:
    """Data -> ``{"batch": (SegmentBatch, ...)}``, the micro-batches of a step of training.

    ``micro_batch_steps``: a micro-batch holds at most so many steps, or one datum.
    """

    micro_batch_steps: int = READ_STEPS

    def __call__(self, data: Sequence[SegmentDatum]) -> dict[str, tuple[SegmentBatch, ...]]:
        chunks = by_cost(self.costs(data).tolist(), self.micro_batch_steps)
        return {"batch": tuple(self.batch([data[n] for n in chunk]) for chunk in chunks)}

    def costs(self, data: Sequence[SegmentDatum]) -> NDArray[np.int64]:
        """[N], the steps that each datum takes on a row."""
        return np.array([sum(map(len, datum.segments)) for datum in data], np.int64)

    def batch(self, data: Sequence[SegmentDatum]) -> SegmentBatch:
        """One row of all the steps, and what was said about them."""
        said = evidence([datum.said for datum in data])
        k = said.mask.shape[1]
        segments = list(chain.from_iterable(datum.segments for datum in data))
        lengths = [len(segment) for segment in segments]
        cells = [b * k + place for b, datum in enumerate(data) for place in range(len(datum.segments))]
        return SegmentBatch(
            ids=tuple(datum.said.id for datum in data),
            observations=torch.from_numpy(np.concatenate([segment.observations for segment in segments])),
            actions=torch.from_numpy(np.concatenate([segment.actions for segment in segments])),
            cell=torch.tensor(cells).repeat_interleave(torch.tensor(lengths)),
            time=torch.cat([torch.arange(length) for length in lengths]),
            evidence=said,
        )
