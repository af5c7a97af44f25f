"""A student model: how probably an answer is True, of any causal language model, from the log-probs of two tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmpo.batch import Collator, Example, encode_all
from mmpo.batch.collate import READ_TOKENS
from mmpo.batch.reading import Ids
from mmpo.data.components import Question
from mmpo.data.outcomes import token_probability
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.models.policy import token_readings
from mmpo.types import Datum, Judgement

SAID = ("True", "False")


@dataclass(frozen=True)
class StudentModel:
    """Answers questions by True or False: p = softmax over the two of their next-token logits (arXiv 2503.06424).

    Both words are read behind the question, which is computed once; with a chat template they open the assistant's
    turn. Of words that are several tokens, the first in which they differ is read.
    """

    scorer: Scorer

    @classmethod
    def load(cls, name: str, **how: Any) -> StudentModel:
        """The student of a model folder or hub id; ``how`` as in ``Scorer.load``. Raises UserError for no policy."""
        return cls(Scorer.load(name, read_as="log_prob", **how))

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question], batch_tokens: int = READ_TOKENS) -> list[float]:
        """The probability of True for each, in batches of like length, with a progress bar.

        Raises:
            UserError: a question that leaves no room for an answer, with its row.
        """
        read = self.scorer
        kept, cuts = encode_all([self._datum(n, q) for n, q in enumerate(questions)], read.tokenizer, read.limits)
        if cuts.prompts_cut:
            tqdm.write(f"the student: {cuts.summary()}")
        apart = [_apart(datum, *encoded.responses) for datum, encoded in kept]
        examples = [Example.of(datum, encoded) for datum, encoded in kept]
        collator = Collator.of(read.tokenizer, shared=read.layout == "shared")
        device = next(read.model.parameters()).device
        read.model.eval()
        found = torch.empty(len(examples), 2)
        for chunk in tqdm(collator.chunks(examples, batch_tokens), desc="asking the student", unit="batch"):
            tokens = collator.batch([examples[n] for n in chunk]).to(device).tokens
            further = torch.tensor([apart[n] for n in chunk], device=device).repeat_interleave(2)
            at = _first_scored(tokens.sequence) + further
            found[chunk] = token_readings(read.model, tokens).logps[at].view(-1, 2).float().cpu()
        return [float(p) for p in token_probability(found.numpy(), 0, 1)]

    def _datum(self, n: int, question: Question) -> Datum:
        # Plain text goes on with a space; a turn of a chat has no use for one.
        said = SAID if self.scorer.tokenizer.chat_template else tuple(f" {word}" for word in SAID)
        return Datum(str(n), question.text, said, judgements=(Judgement(0, 1, p=1.0),), source=question.source)


def _apart(datum: Datum, true: Ids, false: Ids) -> int:
    """The first token in which two answers differ. What stands before it says nothing of which it will be."""
    for n, (a, b) in enumerate(zip(true, false, strict=False)):
        if a != b:
            return n
    raise UserError(f"{datum.source}: the question leaves no room for {' or '.join(SAID)}; give more --max-length")


def _first_scored(sequence: Tensor) -> Tensor:
    """Where the first token of each sequence stands among the scored ones: [M] sorted -> [N]."""
    new = torch.ones_like(sequence, dtype=torch.bool)
    new[1:] = sequence[1:] != sequence[:-1]
    return new.nonzero()[:, 0]
