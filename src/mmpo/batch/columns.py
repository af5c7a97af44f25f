"""An example as flat lists of numbers, and back to the bit.

What is empty takes no room: votes of which there are none, gaps that nobody stated, responses of which none has a role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpo.batch.example import Example
from mmpo.batch.tokenize import Encoded
from mmpo.errors import UserError, nearest
from mmpo.types import ROLES, Evidence, Voices

Flat = Mapping[str, NDArray[Any]]
"""The values of one example by column, [n] each; a column that it leaves out is empty for it."""

COLUMNS: dict[str, Any] = {
    "tokens": np.int32,  # of the prompt, then of each response
    "lengths": np.int32,  # of the prompt and of each response
    "cuts": np.int32,  # of the prompt and of each response
    "moved": np.int8,  # present where the boundary moved
    "openings": np.int32,
    "marks": np.int32,  # the number of marked tokens of each response
    "marked": np.int32,  # their places, response by response
    "roles": np.int8,  # of each response: 0, or 1 + its number in ROLES
    "quality": np.float32,
    "weight": np.float32,
    "votes": np.float32,
    "stated": np.float32,
    "contrasts": np.float32,
    "contrast_p": np.float32,
    "contrast_weight": np.float32,
    "who": np.int32,
    "who_quality": np.float32,
    "who_votes": np.float32,
    "who_stated": np.float32,
    "who_weight": np.float32,
}


ZERO, NAN = np.array([0, np.nan], np.float32).view(np.int32)
"""The bits of what stands where nothing was said."""

SHARED = 4096
"""Numbers of the largest constant tensor that examples share."""


def flat(example: Example) -> dict[str, NDArray[Any]]:
    """An example as columns, the reference log-probs left out. Raises UserError for a role that nobody knows."""
    encoded, said = example.encoded, example.evidence
    voices = said.voices
    values: dict[str, Any] = {
        "tokens": list(chain(encoded.prompt, *encoded.responses)),
        "lengths": [len(encoded.prompt), *map(len, encoded.responses)],
        "cuts": [encoded.prompt_cut, *encoded.response_cut],
        "moved": [1] * encoded.boundary_moved,
        "openings": encoded.openings,
        "marks": list(map(len, encoded.marks)),
        "marked": list(chain(*encoded.marks)),
        "roles": _role_codes(encoded.id, said.roles),
        "quality": said.quality,
        "weight": said.weight,
        "votes": _unless(said.votes, ZERO),
        "stated": _unless(said.stated, NAN),
        "contrasts": said.contrasts,
        "contrast_p": said.contrast_p,
        "contrast_weight": said.contrast_weight,
    }
    if voices is not None:
        values |= {
            "who": voices.who,
            "who_quality": voices.quality,
            "who_votes": _unless(voices.votes, ZERO),
            "who_stated": _unless(voices.stated, NAN),
            "who_weight": voices.weight,
        }
    return {name: np.asarray(value, COLUMNS[name]).reshape(-1) for name, value in values.items() if value is not None}


def _unless(values: Tensor, fill: np.int32) -> NDArray[np.float32] | None:
    """The values, or None where all of them are the fill, to the bit."""
    found: NDArray[np.float32] = values.numpy()
    return None if (found.view(np.int32) == fill).all() else found


def _role_codes(name: str, roles: Mapping[str, Tensor]) -> NDArray[np.int8] | None:
    if not roles:
        return None
    for role in roles.keys() - set(ROLES):
        raise UserError(f"{name}: unknown role {role!r}. {nearest(role, ROLES)}")
    return sum((1 + ROLES.index(role)) * mask.numpy().astype(np.int8) for role, mask in roles.items())  # type: ignore[return-value]


def whole(name: str, at: Flat, ref_logps: Tensor | None = None) -> Example:
    """The example that ``flat`` was given, to the bit."""
    return Example(encoded(name, at), _evidence(at), ref_logps)


def encoded(name: str, at: Flat) -> Encoded:
    tokens, lengths, cuts = (at[column].tolist() for column in ("tokens", "lengths", "cuts"))
    texts = _parts(tokens, lengths)
    return Encoded(
        id=name,
        prompt=texts[0],
        responses=texts[1:],
        prompt_cut=cuts[0],
        response_cut=tuple(cuts[1:]),
        boundary_moved="moved" in at,
        openings=tuple(at["openings"].tolist()) if "openings" in at else (),
        marks=_parts(at["marked"].tolist() if "marked" in at else [], at["marks"].tolist()) if "marks" in at else (),
    )


def _parts(values: Sequence[int], lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    ends = list(accumulate(lengths, initial=0))
    return tuple(tuple(values[a:b]) for a, b in pairwise(ends))


def _evidence(at: Flat) -> Evidence:
    k = len(at["lengths"]) - 1
    square = (1, k, k)

    def found(column: str, *shape: int) -> Tensor | None:
        return torch.from_numpy(at[column].copy()).view(shape) if column in at else None

    def said(column: str, fill: float, *shape: int) -> Tensor:
        values = found(column, *shape)
        return _constant(fill, shape) if values is None else values

    return Evidence(
        mask=_constant(True, (1, k)),
        quality=said("quality", torch.nan, 1, k),
        stated=said("stated", torch.nan, *square),
        votes=said("votes", 0.0, *square),
        weight=said("weight", 0.0, *square),
        voices=_voices(at, k, said) if "who" in at else None,
        roles=_roles(at["roles"]) if "roles" in at else {},
        contrasts=found("contrasts", 1, -1, k),
        contrast_p=found("contrast_p", 1, -1),
        contrast_weight=found("contrast_weight", 1, -1),
    )


def _voices(at: Flat, k: int, said: Callable[..., Tensor]) -> Voices:
    a = len(at["who"])
    return Voices(
        torch.from_numpy(at["who"].astype(np.int64))[None],
        said("who_quality", torch.nan, 1, a, k),
        said("who_votes", 0.0, 1, a, k, k),
        said("who_stated", torch.nan, 1, a, k, k),
        said("who_weight", 0.0, 1, a, k, k),
    )


def _constant(value: float | bool, shape: tuple[int, ...]) -> Tensor:
    """Nobody writes into evidence, so that one such tensor serves all examples."""
    return _full(value, shape) if prod(shape) <= SHARED else torch.full(shape, value)


_full = lru_cache(256, typed=True)(lambda value, shape: torch.full(shape, value))


def _roles(codes: NDArray[np.int8]) -> dict[str, Tensor]:
    return {ROLES[code - 1]: torch.from_numpy(codes == code)[None] for code in dict.fromkeys(codes.tolist()) if code}
