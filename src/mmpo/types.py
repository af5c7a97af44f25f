"""The nouns of the house, in the order a datum walks: Datum, Evidence, Batch, Reading, Method, Outcome.

Shapes use B (prompts), K (responses to a prompt), N (sequences in a batch), S (all their tokens on one row), M (the
tokens of them that are scored), T (tokens of the longest sequence), V (vocabulary) and H (hidden size). Entry (i, j) of
any [B, K, K] tensor reads "i over j".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self, TypeAlias

import torch
from torch import Tensor

from mmpo.matrix import between

Message: TypeAlias = Mapping[str, Any]
Text: TypeAlias = "str | Sequence[Message]"
"""A prompt or a response: plain text, or chat messages ``[{"role": ..., "content": ...}, ...]``."""


# ---------------------------------------------------------------------------------------------- the text room


@dataclass(frozen=True, slots=True)
class Judgement:
    """One statement about two responses of a prompt.

    ``p`` is the probability (or share of votes) that ``first`` is better than ``second``, a tie counting one half;
    ``count`` says how many votes ``p`` stands for. ``gap`` is a stated difference in quality, on the scale of the
    source, positive where ``first`` is better; a statement has ``p``, ``gap`` or both.
    """

    first: int
    second: int
    p: float | None = None
    count: float = 1.0
    gap: float | None = None
    weight: float = 1.0
    annotator: str | None = None


@dataclass(frozen=True, slots=True)
class Datum:
    """A prompt, its K distinct responses, and everything that people or judges said about them.

    Attributes:
        id: unique in its source.
        prompt: plain text or chat messages.
        responses: K texts.
        grades: one number a response, higher is better, comparable within the datum; ``None`` for an ungraded one.
        pairs: the graded pairs that are compared; ``None`` means all of them.
        judgements: pairwise statements.
        annotator_grades: what each annotator gave, ``{annotator: (grade of response 0, ...)}``.
        weight: multiplies every comparison of the datum.
        split: the split that the source assigns, where it has one.
        source: file and row, for messages.
        ranked: the grades are ranks turned into numbers, so only their order was stated.
    """

    id: str
    prompt: Text
    responses: tuple[Text, ...]
    grades: tuple[float | None, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    judgements: tuple[Judgement, ...] = ()
    annotator_grades: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    weight: float = 1.0
    split: str | None = None
    source: str = ""
    ranked: bool = False


# ---------------------------------------------------------------------------------------------- on tensors


@dataclass(frozen=True)
class Tensors:
    """A record of tensors that moves between devices as one."""

    def _map(self, change: Callable[[Any], Any]) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor | Tensors):
                return change(value)
            if isinstance(value, dict):
                return {k: apply(v) for k, v in value.items()}
            return value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, *args: Any, **kwargs: Any) -> Self:
        return self._map(lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        return self._map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Evidence(Tensors):
    """What people said, on tensors.

    Attributes:
        mask: [B, K] bool, the responses that exist.
        quality: [B, K] grades, NaN where a response has none.
        stated: [B, K, K] gaps stated for a pair and not for a response, antisymmetric, NaN where there is none.
        votes: [B, K, K] votes for i over j, a tie counting one half to each side.
        weight: [B, K, K] symmetric weight of each comparison, 0 where the pair was never compared.
    """

    mask: Tensor
    quality: Tensor
    stated: Tensor
    votes: Tensor
    weight: Tensor

    @property
    def compared(self) -> Tensor:
        """[B, K, K] bool, the pairs somebody compared."""
        return self.weight != 0

    @property
    def labels(self) -> Tensor:
        """[B, K, K] bool, the comparisons of which only the winner is known: one whole vote, no grades, no gap."""
        total = self.votes + self.votes.mT
        whole = (self.votes == 0) | (self.votes == total / 2) | (self.votes == total)
        return self.compared & whole & (total <= 1) & between(self.quality).isnan() & self.stated.isnan()

    @property
    def vote_share(self) -> Tensor:
        """[B, K, K] share of votes for i over j, NaN where nobody voted."""
        total = self.votes + self.votes.mT
        return torch.where(total > 0, self.votes / total.clamp_min(torch.finfo(total.dtype).tiny), torch.nan)

    @property
    def gap(self) -> Tensor:
        """[B, K, K] graded gap of i over j, antisymmetric, 0 where nothing was stated.

        The difference of the grades; where the responses have none, the gap stated for the pair; where there is
        none either, the vote margin ``2 share - 1``.
        """
        gap = between(self.quality)
        gap = torch.where(gap.isnan(), self.stated, gap)
        gap = torch.where(gap.isnan(), 2 * self.vote_share - 1, gap)
        return gap.nan_to_num(nan=0.0)


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
class Reading(Tensors):
    """What a model says of each response, in fp32; a field that the model cannot give is ``None``.

    Attributes:
        mask: [B, K] bool, the responses that exist.
        logps: [B, K] log pi(y|x), summed over the tokens of the response.
        ref_logps: [B, K] log ref(y|x), likewise, without gradient.
        lengths: [B, K] number of response tokens.
        rewards: [B, K] explicit rewards of a reward model.
        statistics: further sums over the scored tokens, each [B, K] without gradient, where they were asked for, and
            the number of these "tokens".
    """

    mask: Tensor
    logps: Tensor | None = None
    ref_logps: Tensor | None = None
    lengths: Tensor | None = None
    rewards: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def require(self, name: str) -> Tensor:
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"this reading has no {name}; the method needs it")
        return value


# ---------------------------------------------------------------------------------------------- the parts


class Part:
    """A named part of a method: a frozen dataclass that states its equation and what it needs.

    ``needs`` holds any of: "logps", "ref", "lengths", "rewards" (of the model), "grades", "votes" and "offset" (a
    graded gap read as an additive margin; of the evidence).
    """

    @property
    def needs(self) -> frozenset[str]:
        """What must be there before the part can run; most parts state it as a plain class attribute."""
        return frozenset()

    @property
    def equation(self) -> str:
        """The part as one line of mathematics, with its numbers filled in."""
        raise NotImplementedError


class Target(Part):
    """What people say."""

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        """Evidence and the detached M [B, K, K] -> P [B, K, K]; P_ij + P_ji is the weight of the comparison."""
        raise NotImplementedError


class Score(Part):
    """What the model says."""

    def rewards(self, reading: Reading) -> Tensor:
        """Reading -> the reward s [B, K] of each response."""
        raise NotImplementedError

    def __call__(self, reading: Reading) -> Tensor:
        """Reading -> M [B, K, K], M_ij = s_i - s_j."""
        return between(self.rewards(reading))


class Objective(Part):
    """The price of disagreement."""

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        """P and M, both [B, K, K] -> loss [B]. The evidence serves the few prices whose offset it states."""
        raise NotImplementedError


class Regularizer(Part):
    """A further term of the loss."""

    def __call__(self, p: Tensor, reading: Reading) -> Tensor:
        """P [B, K, K] and the reading -> [B]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Outcome:
    """A method's verdict on a batch: the scalar loss, the [B] losses, P, M and the rewards s behind M."""

    loss: Tensor
    losses: Tensor
    p: Tensor
    m: Tensor
    rewards: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """target x score x objective x regularizers: L = < P, l(M) > + sum_r c_r R_r.

    A frozen record that prints as its recipe; ``dataclasses.replace(method, target=...)`` is a new method.
    """

    target: Target
    score: Score
    objective: Objective
    regularizers: tuple[tuple[float, Regularizer], ...] = ()

    def __call__(self, evidence: Evidence, reading: Reading) -> Outcome:
        m = self.score(reading)
        p = self.target(evidence, m.detach())
        terms = {type(r).__name__.lower(): c * r(p, reading) for c, r in self.regularizers}
        losses = self.objective(p, m, evidence) + sum(terms.values())
        return Outcome(losses.mean(), losses, p, m, self.score.rewards(reading), terms)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.target, self.score, self.objective, *(r for _, r in self.regularizers))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def task(self) -> str:
        return "reward" if "rewards" in self.needs else "policy"

    @property
    def equation(self) -> str:
        lines = [self.target.equation, self.score.equation, self.objective.equation]
        lines += [f"+ {c:g} * {r.equation}" for c, r in self.regularizers]
        return "\n".join(lines)


class Reader(Protocol):
    """Asks a model what it thinks of a batch."""

    def __call__(self, model: Any, batch: Batch) -> Reading: ...
