"""The comparisons of a data set, flat: what the model says and what people say of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mmpo.batch import evidence
from mmpo.data.texts import key, words
from mmpo.errors import UserError
from mmpo.matrix import between
from mmpo.targets import Hard, Votes
from mmpo.types import Datum, Evidence

Floats = NDArray[np.float64]
ID = np.dtype([("datum", object), ("i", np.int64), ("j", np.int64)])

_AT_ONCE = 256
"""Data padded to one K at a time, so that a few long lists do not blow up the rest."""


@dataclass(frozen=True)
class Comparisons:
    """N unordered comparisons i < j; every field is an array [N].

    Attributes:
        m: the model's margin of i over j; sigmoid(m) is its probability.
        p: the share of people who prefer i, in [0, 1], a tie counting one half.
        weight: weight of the comparison, positive.
        gap: graded gap of i over j on the scale of the source, NaN where nothing was graded.
        group: number of the prompt; comparisons of one prompt are resampled together.
        length_i, length_j: lengths of the two responses, NaN where unknown.
        subset: the subset of the datum, "" where it has none.
        ids: records (datum, i, j).
    """

    m: Floats
    p: Floats
    weight: Floats
    gap: Floats
    group: NDArray[np.int64]
    length_i: Floats
    length_j: Floats
    subset: NDArray[Any]
    ids: NDArray[Any]

    def __post_init__(self) -> None:
        sizes = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"fields of different lengths: {sizes}")
        self._refuse(~np.isfinite(self.m), "the model's margin is not a finite number; check the model's rewards")
        self._refuse(~((self.p >= 0) & (self.p <= 1)), "the share of people is not between 0 and 1")
        self._refuse(~(self.weight > 0), "the weight is not positive; leave the comparison out instead")

    def _refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        if wrong.any():
            datum, i, j = self.ids[int(wrong.argmax())]
            raise UserError(f"{datum}, responses {i} and {j}: {why} ({int(wrong.sum())} of {len(wrong)} comparisons)")

    def __len__(self) -> int:
        return len(self.m)

    def where(self, mask: NDArray[np.bool_]) -> Comparisons:
        """The comparisons that a mask [N] selects."""
        return Comparisons(**{f.name: getattr(self, f.name)[mask] for f in fields(self)})

    @classmethod
    def from_matrices(
        cls,
        p: Tensor,
        m: Tensor,
        *,
        gap: Tensor | None = None,
        lengths: Tensor | None = None,
        ids: Sequence[str] | None = None,
        group: ArrayLike | None = None,
        subset: Sequence[str] | None = None,
    ) -> Comparisons:
        """The entries above the diagonal of P and M [B, K, K] wherever P has mass; P_ij + P_ji is the weight.

        ``gap`` is [B, K, K], ``lengths`` [B, K], ``ids``, ``group`` and ``subset`` [B]; without ``group`` each row is
        a prompt.
        """
        p, m = p.detach().double(), m.detach().double()
        total = p + p.mT
        b, i, j = (k.cpu() for k in torch.triu(total != 0, diagonal=1).nonzero(as_tuple=True))
        names = np.arange(len(p)).astype(str) if ids is None else np.asarray(ids, dtype=object)
        groups = np.arange(len(p)) if group is None else np.asarray(group)
        subsets = np.asarray([""] * len(p) if subset is None else subset, dtype=object)

        def at(values: Tensor | None, *index: Tensor) -> Floats:
            if values is None:
                return np.full(len(b), np.nan)
            return values.detach().cpu().double()[index].numpy()

        found = np.empty(len(b), dtype=ID)
        found["datum"], found["i"], found["j"] = names[b.numpy()], i.numpy(), j.numpy()
        return cls(
            m=at(m, b, i, j),
            p=at(p / total, b, i, j),
            weight=at(total, b, i, j),
            gap=at(gap, b, i, j),
            group=groups[b.numpy()],
            length_i=at(lengths, b, i),
            length_j=at(lengths, b, j),
            subset=subsets[b.numpy()],
            ids=found,
        )

    @classmethod
    def from_data(
        cls, data: Sequence[Datum], said: Sequence[ArrayLike], lengths: Sequence[Sequence[float]] | None = None
    ) -> Comparisons:
        """The comparisons of data whose responses a model has read.

        ``said`` is what the model says of each datum: [K] rewards, or [K, K] margins where it compares answers without
        giving each a reward. ``lengths`` defaults to the number of characters. Data with the same prompt share a group.
        Raises UserError where these and the responses differ in number, or where a compared response has no reward.
        """
        rows = [np.asarray(row, dtype=float) for row in said]
        if lengths is None:
            lengths = [[len(words(response)) for response in datum.responses] for datum in data]
        _check_sizes(data, rows, "rewards")
        _check_sizes(data, lengths, "lengths")
        prompts: dict[str, int] = {}
        group = [prompts.setdefault(key(datum.prompt), len(prompts)) for datum in data]
        parts = []
        for some in _chunks(len(data)):
            heard = evidence(data[some])
            k = heard.mask.shape[1]
            p, gap = people(heard)
            parts.append(
                cls.from_matrices(
                    p,
                    torch.from_numpy(np.stack([_padded_margins(row, k) for row in rows[some]])),
                    gap=gap,
                    lengths=_padded(lengths[some], k),
                    ids=[datum.id for datum in data[some]],
                    group=group[some],
                    subset=[datum.subset or "" for datum in data[some]],
                )
            )
        if not parts:
            raise UserError("there are no prompts to compare responses of; check the data and its split")
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def people(said: Evidence) -> tuple[Tensor, Tensor]:
    """What people say, P and the graded gap [B, K, K]: the share of votes, and who is better where nobody voted."""
    nothing = torch.zeros_like(said.weight)
    p = torch.where(said.vote_share.isnan(), Hard()(said, nothing), Votes()(said, nothing))
    graded = ~(between(said.quality).isnan() & said.stated.isnan())
    return p, torch.where(graded, said.gap, torch.nan)


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE))


def _padded(rows: Sequence[Sequence[float]], k: int) -> Tensor:
    out = torch.full((len(rows), k), torch.nan, dtype=torch.float64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values, dtype=torch.float64)
    return out


def margins(row: Floats) -> Floats:
    """[K] rewards -> [K, K] margins s_i - s_j; margins stay what they are."""
    return row[:, None] - row[None, :] if row.ndim == 1 else row


def _padded_margins(row: Floats, k: int) -> Floats:
    own = margins(row)
    return np.pad(own, (0, k - len(own)), constant_values=np.nan)


def _check_sizes(data: Sequence[Datum], values: Sequence[Any], name: str) -> None:
    if len(values) != len(data):
        raise UserError(f"{len(values)} rows of {name} for {len(data)} prompts; give one row for each")
    for datum, row in zip(data, values, strict=True):
        k = len(datum.responses)
        if np.shape(row) not in ((k,), (k, k)):
            where = datum.source or datum.id
            raise UserError(f"{where}: {len(row)} {name} for {len(datum.responses)} responses; give one for each")
