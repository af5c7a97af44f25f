"""What goes into a model, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mmpo.matrix import gathered
from mmpo.types.evidence import Evidence, Tensors


@dataclass(frozen=True)
class Tokens(Tensors):
    """N sequences on one row of S tokens, without padding: a tree is a prompt and, behind it, the responses to it.

    A sequence is the prompt of its tree and one response; the responses of a tree do not see each other. Where prompts
    are shared there is one tree a datum, else one tree a response.

    Attributes:
        input_ids: [S].
        position_ids: [S] place of each token in its own sequence.
        trees: for each tree (tokens of the prompt, tokens of each response ...); they sum to S.
        slot: [N] position of each sequence in the flattened [B * K] grid.
        lengths: [N] number of response tokens.
        first, last: [N] where the first and the last token of each sequence stand on the row.
        scored: [M] where the response tokens stand that have something before them, sequence by sequence.
        before: [M] where the token before each of them stands.
        sequence: [M] the sequence that each of them belongs to.
        pad_id: the padding token, for readers that pad.
        extra: further model inputs of shape [S], such as token_type_ids.
        opening: [M] bool, scored tokens that belong to the own prompt of their response; None where none has one.
        marked: [M] bool, scored tokens that carry the difference (see ``About.marks``); None where nothing is marked.
    """

    input_ids: Tensor
    position_ids: Tensor
    trees: tuple[tuple[int, ...], ...]
    slot: Tensor
    lengths: Tensor
    first: Tensor
    last: Tensor
    scored: Tensor
    before: Tensor
    sequence: Tensor
    pad_id: int
    extra: dict[str, Tensor] = field(default_factory=dict)
    opening: Tensor | None = None
    marked: Tensor | None = None


@dataclass(frozen=True)
class Batch(Tensors):
    """B prompts with their responses as tokens and the evidence about them.

    ``ref_logps`` [B, K] holds the reference's log-probability of each response where it is already known.
    """

    ids: tuple[str, ...]
    tokens: Tokens
    evidence: Evidence
    ref_logps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PerToken(Tensors):
    """What a policy says of each of the M scored tokens, in fp32.

    Attributes:
        cell: [M] place of the token's response in the flattened [B * K] grid.
        shape: (B, K).
        logps: [M] log-probs of the tokens.
        ref_logps: [M] those of the reference, without gradient, where there is one.
        opening: [M] bool, tokens of a response's own prompt, which ``Reading.logps`` leaves out.
        marked: [M] bool, tokens that carry the difference between the answers.
        probed: what the ``Probe``s of the method found at each token, by name, [M].
        weights: weights of the tokens that a learned head gives, by name, [M].
    """

    cell: Tensor
    shape: tuple[int, int]
    logps: Tensor
    ref_logps: Tensor | None
    opening: Tensor
    marked: Tensor
    probed: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_ratio(self) -> Tensor:
        """[M] log pi - log ref of each token."""
        if self.ref_logps is None:
            raise ValueError("this reading has no reference at the tokens; the method needs it")
        return self.logps - self.ref_logps

    def sum(self, values: Tensor) -> Tensor:
        """[M] values of tokens -> [B, K] sums over the tokens of each response."""
        return gathered(values, self.cell, self.shape)

    def answers(self, values: Tensor) -> Tensor:
        """[M] values of tokens -> [B, K] sums over each answer, its own prompt left out."""
        return self.sum(values.masked_fill(self.opening, 0.0))

    def answer_means(self, values: Tensor) -> Tensor:
        """[M] values of tokens -> [B, K] means over the tokens of each answer, 0 where it has none."""
        return self.answers(values) / self.answers(torch.ones_like(values)).clamp_min(1)


@dataclass(frozen=True)
class Reading(Tensors):
    """What a model says of each response, in fp32; a field that the model cannot give is ``None``.

    Attributes:
        mask: [B, K] bool, the responses that exist.
        logps: [B, K] log pi(y|x), summed over the tokens of the response.
        ref_logps: [B, K] log ref(y|x), likewise, without gradient.
        lengths: [B, K] number of response tokens.
        rewards: [B, K] explicit rewards of a reward model.
        outputs: [B, K, D] all outputs of a reward model that has several.
        statistics: further sums over the scored tokens, each [B, K] without gradient, where they were asked for, and
            the number of these "tokens".
        tokens: the same at each token, where the method asks.
        peer_rewards: [B, K] what the other one of two models that are trained together says, without gradient.
        errors: [B, K] errors per sample of a model without log-probs, such as a diffusion model's denoising error.
        features: [B, K, H] the last hidden state of each response.
        view: [B, K, H] the same under another draw of dropout.
        anchors: [B, K, H] features that a frozen encoder gives it, without gradient.
        heads: what learned heads say of each response, by name, [B, K, ...].
        of_prompt: what learned heads say of each prompt, by name, [B, ...].
        who: [B] int64, number of the voice whose view each row is to give, 0 for anybody's; None where rows are data
            and not what one voice said of them.
        tables: learned numbers that belong to no datum, by name: tables of ``Part.tables``, and memories.
    """

    mask: Tensor
    logps: Tensor | None = None
    ref_logps: Tensor | None = None
    lengths: Tensor | None = None
    rewards: Tensor | None = None
    outputs: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)
    tokens: PerToken | None = None
    peer_rewards: Tensor | None = None
    errors: Tensor | None = None
    features: Tensor | None = None
    view: Tensor | None = None
    anchors: Tensor | None = None
    heads: dict[str, Tensor] = field(default_factory=dict)
    of_prompt: dict[str, Tensor] = field(default_factory=dict)
    who: Tensor | None = None
    tables: dict[str, Tensor] = field(default_factory=dict)

    def repeat(self, n: int) -> Reading:
        """The same reading ``n`` times, one after the other: B -> n B. The tables stay one, and tokens are left out."""
        if n == 1:
            return replace(self, tokens=None)
        again = replace(self, tokens=None)._map(lambda t: t.repeat(n, *[1] * (t.dim() - 1)))
        return replace(again, tables=self.tables)

    def require(self, name: str) -> Tensor:
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"this reading has no {name}; the method needs it")
        return value

    @property
    def per_token(self) -> PerToken:
        if self.tokens is None:
            raise ValueError("this reading has no tokens; the method needs them")
        return self.tokens


class Reader(Protocol):
    """Asks a model what it thinks of a batch."""

    def __call__(self, model: Any, batch: Batch) -> Reading: ...
