"""A frozen model as an encoder of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmpo.batch import Limits
from mmpo.evaluate.probing import Representations, representations
from mmpo.models import load_tokenizer
from mmpo.models.load import load_encoder
from mmpo.types import Datum

LONGEST = 1024
"""Tokens of prompt and answer that are read where the tokenizer names no limit of its own."""


@dataclass(frozen=True)
class Embedder:
    """Data of one answer each -> embeddings [N, d], the hidden state at the end of prompt and answer; of an encoder,
    at its first token.

    Attributes:
        model: any model of transformers, without its head; it is read on padded rows.
        tokenizer: that of the model.
        limits: how long prompts and answers may be.
    """

    model: Any
    tokenizer: Any
    limits: Limits

    @classmethod
    def load(
        cls, name: str, *, max_length: int | None = None, dtype: str = "float32", trust_remote_code: bool = False
    ) -> Embedder:
        """The embedder of a model folder or hub id: an encoder, a language model or a reward model.

        Raises UserError where the model cannot be loaded.
        """
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
        model = load_encoder(name, tokenizer, dtype, trust_remote_code)
        model.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
        return cls(model, tokenizer, Limits(max_length or min(LONGEST, tokenizer.model_max_length)))

    def __call__(self, data: Sequence[Datum]) -> Representations:
        return representations(self.model, self.tokenizer, data, self.limits)
