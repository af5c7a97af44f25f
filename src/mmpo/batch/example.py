"""A datum ready to be batched, and how much room many of them take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmpo.batch.statements import Vocabulary, evidence
from mmpo.batch.tokenize import Encoded
from mmpo.types import Datum, Evidence


@dataclass(frozen=True)
class Example:
    """A datum ready to be batched: its tokens, its evidence (B = 1), and [K] reference log-probs where known."""

    encoded: Encoded
    evidence: Evidence
    ref_logps: Tensor | None = None

    @classmethod
    def of(cls, datum: Datum, encoded: Encoded, voices: Vocabulary | None = None) -> Example:
        return cls(encoded, evidence([datum], voices))


class Sizes(NamedTuple):
    """Tokens of N examples: of the prompt, of all responses, and of the longest response, and the number of responses,
    each [N] int64."""

    prompt: NDArray[np.int64]
    responses: NDArray[np.int64]
    longest: NDArray[np.int64]
    k: NDArray[np.int64]


def sizes_of(examples: Sequence[Example]) -> Sizes:
    """The sizes of examples; those that lie in columns know them already."""
    known: Sizes | None = getattr(examples, "sizes", None)
    if known is not None:
        return known
    lengths = [list(map(len, example.encoded.responses)) for example in examples]
    prompts = [len(example.encoded.prompt) for example in examples]
    table = [(prompt, sum(line), max(line), len(line)) for prompt, line in zip(prompts, lengths, strict=True)]
    return Sizes(*np.array(table, np.int64).reshape(-1, 4).T)
