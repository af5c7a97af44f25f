"""The parts of a method, and the method that is their product."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from mmpo.matrix import between, inner, pair_count
from mmpo.types.evidence import Evidence, Voices
from mmpo.types.reading import Reading

CLOSE = frozenset({"tokens", "features", "degree", "token_weights", "activation_weights"})
"""Needs beyond the log-probs of whole responses; see ``Part``."""

VOICES = ("annotators", "attributes", "subsets")
"""What voices can be; see ``Part.needs``."""


class Probe(Protocol):
    """A number for each token, from what several models say of the next one: the policy, and any of "reference",
    "teacher" and "teacher_reference"."""

    @property
    def others(self) -> tuple[str, ...]:
        """The models that the policy is compared with."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        """The policy's logits [m, V], labels [m] and the logits [m, V] of the others without gradient -> [m]."""
        ...


class Part:
    """A named part of a method: a frozen dataclass that states its equation and what it needs.

    ``needs`` holds any of

    - of the model: "logps", "ref", "lengths", "rewards", "tokens" (log-probs of single tokens), "features", "view"
      (features under another draw of dropout), "anchors", "errors", "peer" (a second model trained beside it),
      "teacher", "teacher_reference", "activation_weights" (how much the reference's activations single out a token),
      the learned heads "degree" and "token_weights", and "outputs" (several outputs of a reward model);
    - of the evidence: "grades", "votes", "offset" (a graded gap read as an additive margin), "marks", "contrasts",
      "prompts" (own prompts of the responses), "rationale", "rollout", "variant" (responses with that role), and whose
      voices are told apart: "annotators", "attributes" or "subsets" (parts of the data, such as data sets); and
      "voice_grades" (grades that these voices gave).

    A part may have weights of its own beside the model's: ``tables``, and linear heads ``on_prompt``.

    A part may keep a memory: tensors that it learns from step to step. They are checkpointed, and the same on every
    process. ``memory`` says how they begin; ``observe`` takes from a micro-batch what they learn from; ``remember``
    brings them up to date once a step, with what all micro-batches and processes observed.
    """

    listwise: ClassVar[bool] = False
    """Whether K responses are more to the part than their pairs."""

    soft: ClassVar[bool] = False
    """Whether a target says more than which response is better, so that a price of mere order would lose it."""

    coupled: ClassVar[bool] = False
    """Whether the part compares a datum with the others of its micro-batch, so that they are more than each alone."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be there before the part can run, that of the parts inside it included; most parts state it as a
        plain class attribute."""
        return frozenset().union(*(part.needs for part in inside(self)))

    @property
    def equation(self) -> str:
        """The part as one line of mathematics, with its numbers filled in."""
        raise NotImplementedError

    def check(self, method: Method) -> None:
        """Raise UserError where the part means nothing beside the other parts of a method."""

    @property
    def probes(self) -> Mapping[str, Probe]:
        """What the part wants to know of each token's distribution; ``PerToken.probed`` holds it by these names."""
        return {}

    def tables(self, voices: int) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the learned numbers that belong to no datum, by name, for so many voices, the one without a name
        included; a table of voices has a row for each. They begin as normal random numbers, a number of no shape at 0,
        and a reading holds them in ``Reading.tables``."""
        return {}

    def on_prompt(self, voices: int) -> Mapping[str, int]:
        """How many numbers each linear head gives of a prompt, by name, from the last hidden state of the prompt; a
        reading holds them in ``Reading.of_prompt``."""
        return {}

    def memory(self, voices: int) -> dict[str, Tensor]:
        """The memory at the beginning, by name, for so many voices, the one without a name included."""
        return {}

    def observe(self, evidence: Evidence, reading: Reading, m: Tensor) -> dict[str, Tensor]:
        """What a micro-batch teaches, by name of the memory, [n, ...] with any n; to be found without gradient. ``m``
        is the M that targets look at."""
        return {}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The memory after a step in which all micro-batches together observed this."""
        return {}


def inside(part: Part) -> list[Part]:
    """The parts that a part holds."""
    held: list[Any] = [getattr(part, f.name) for f in fields(part)] if is_dataclass(part) else []
    return [value for value in held if isinstance(value, Part)]


def nested(part: Part) -> Iterator[Part]:
    """A part, and all parts inside it."""
    yield part
    for inner_part in inside(part):
        yield from nested(inner_part)


class Target(Part):
    """What people say."""

    def __call__(self, evidence: Evidence, m: Tensor) -> Tensor:
        """Evidence and the detached M [B, K, K] -> P [B, K, K]; P_ij + P_ji is the weight of the comparison."""
        raise NotImplementedError

    def said(self, evidence: Evidence) -> Tensor:
        """P before the model is asked, [B, K, K]: that of the innermost target, for those that read M."""
        of = getattr(self, "of", None)
        return of.said(evidence) if isinstance(of, Target) else self(evidence, torch.zeros_like(evidence.weight))


class Score(Part):
    """What the model says."""

    def rewards(self, reading: Reading) -> Tensor:
        """Reading -> the reward s [B, K] of each response."""
        raise NotImplementedError

    def __call__(self, reading: Reading) -> Tensor:
        """Reading -> M [B, K, K], M_ij = s_i - s_j."""
        return between(self.rewards(reading))

    def seen(self, reading: Reading) -> Tensor:
        """The M that targets and memories look at, without gradient; for most scores M itself."""
        with torch.no_grad():
            return self(reading)

    apart: ClassVar[bool] = False
    """Whether the score differs from voice to voice, so that what each said is priced by its own M."""

    def outputs(self, voices: int) -> int:
        """How many outputs the reward model has, for so many voices, the one without a name included."""
        return 1

    def has_room(self, voices: int) -> bool:
        """Whether one more voice can be told apart from so many without another output, which only training gives."""
        return self.apart and self.outputs(voices) == self.outputs(voices + 1)

    def facets(self, reading: Reading) -> Tensor | None:
        """The rewards of each group, attribute or prototype that the score is made of, [B, K, D]; None where it is
        one reward alone."""
        return None

    facet: ClassVar[str] = "head"
    """What one of the facets is called, such as "group"."""

    def named(self, facets: int, voices: Sequence[str]) -> list[str]:
        """The names of so many facets, numbered from 1, for a model that knows the voices of these names."""
        return [f"{self.facet} {n}" for n in range(1, facets + 1)]

    def labels(self, outputs: int, voices: Sequence[str]) -> list[str]:
        """The names of the model's outputs, by which others find them; ``named``, where they are the facets."""
        return [f"output {n}" for n in range(1, outputs + 1)]

    def weights(self, reading: Reading) -> Tensor | None:
        """How much each of the ``facets`` counts for each prompt and voice, [B, D], or [1, D] where that is the same
        for all; None where neither weighs them."""
        return None

    def watched(self, reading: Reading) -> dict[str, Tensor]:
        """Further numbers of each response that are worth a look while training, by name, [B, K]."""
        of = getattr(self, "of", None)
        return of.watched(reading) if isinstance(of, Score) else {}

    @property
    def plain(self) -> Score:
        """The score by which the trained model is read where tokens are not marked and heads are gone."""
        return self


class Objective(Part):
    """The price of disagreement: < P, l(M) >. A price of whole lists replaces ``__call__`` instead of ``price``."""

    @property
    def falls(self) -> bool:
        """Whether the price falls with M where M = 0, so that a model without an opinion learns to agree."""
        return True

    def price(self, m: Tensor, evidence: Evidence) -> Tensor:
        """l(M), the price of each comparison: [B, K, K]. The evidence serves the few prices whose offset it states."""
        raise NotImplementedError

    def __call__(self, p: Tensor, m: Tensor, evidence: Evidence) -> Tensor:
        """P and M, both [B, K, K] -> loss [B]."""
        return inner(p, self.price(m, evidence))


class Regularizer(Part):
    """A further term of the loss."""

    def __call__(self, p: Tensor, evidence: Evidence, reading: Reading) -> Tensor:
        """P [B, K, K], the evidence and the reading -> [B]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Outcome:
    """A method's verdict on a batch: the scalar loss, the [B] losses, P, M and the rewards s behind M.

    ``said`` is what people said without the model's part in P; whether the model agrees is measured against it.
    """

    loss: Tensor
    losses: Tensor
    p: Tensor
    m: Tensor
    rewards: Tensor
    said: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    watched: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """target x score x objective x regularizers: L = < P, l(M) > + sum_r c_r R_r.

    A frozen record that prints as its recipe; ``dataclasses.replace(method, target=...)`` is a new method. With
    ``ahead`` (eta, J) the gradient of L is taken a step ahead, at theta + eta grad J, and applied at theta.
    """

    target: Target
    score: Score
    objective: Objective
    regularizers: tuple[tuple[float, Regularizer], ...] = ()
    ahead: tuple[float, Regularizer] | None = None

    def __post_init__(self) -> None:
        for part in self.all_parts:
            part.check(self)

    def heard(self, evidence: Evidence, reading: Reading) -> tuple[Evidence, Reading]:
        """Evidence and reading with a row for each voice where the score differs from voice to voice; else as they are.

        B data become A * B rows, as in ``Evidence.by_voice``. A voice has the share in a datum that its comparisons
        have, so that the losses of the rows sum to what one M for all would cost.
        """
        if not self.score.apart or reading.who is not None:
            return evidence, reading
        each, who = evidence.by_voice()
        rows = len(who) // len(evidence)
        share = pair_count(each.weight) / pair_count(evidence.weight).clamp_min(1).repeat(rows)
        each = replace(each, weight=each.weight * share[:, None, None])
        # Of each row one voice, so that targets and regularizers that ask for voices still know whose it is.
        alone = (value[:, None] for value in (who, each.quality, each.votes, each.stated, each.weight))
        each = replace(each, voices=Voices(*alone))
        return each, replace(reading.repeat(rows), who=who, tables={**reading.tables, **evidence.memory})

    def __call__(self, evidence: Evidence, reading: Reading) -> Outcome:
        data = len(evidence)
        evidence, reading = self.heard(evidence, reading)
        m = self.score(reading)
        p = self.target(evidence, self.score.seen(reading))
        terms: dict[str, Tensor] = {}
        for c, r in self.regularizers:
            name = type(r).__name__.lower()
            terms[name] = terms.get(name, 0) + c * r(p, evidence, reading)
        losses = self.objective(p, m, evidence) + sum(terms.values())
        # What single voices cost stands one voice after the other; no data have no voices either.
        losses = losses.view(-1, data).sum(0) if data else losses
        said = self.target.said(evidence)
        watched = self.score.watched(reading)
        return Outcome(losses.mean(), losses, p, m, self.score.rewards(reading), said, terms, watched)

    @property
    def parts(self) -> tuple[Part, ...]:
        further = (self.ahead[1],) if self.ahead else ()
        return (self.target, self.score, self.objective, *(r for _, r in self.regularizers), *further)

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The parts, and the parts inside them."""
        return tuple(part for outer in self.parts for part in nested(outer))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for part in self.all_parts))

    @property
    def listwise(self) -> bool:
        return any(part.listwise for part in self.all_parts)

    @property
    def coupled(self) -> bool:
        return any(part.coupled for part in self.all_parts)

    @property
    def looks_closely(self) -> bool:
        """Whether the method asks a policy for more than the log-probs of whole responses."""
        return self.task == "policy" and bool(self.probes or self.needs & CLOSE)

    @property
    def probes(self) -> dict[str, Probe]:
        return {name: c for part in self.all_parts for name, c in part.probes.items()}

    @property
    def task(self) -> str:
        return "reward" if self.needs & {"rewards", "outputs"} else "policy"

    @property
    def voices(self) -> str | None:
        """Whose voices the method tells apart by itself: one of ``VOICES``; None where it does not."""
        return next((kind for kind in VOICES if kind in self.needs), None)

    @property
    def equation(self) -> str:
        lines = [self.target.equation, self.score.equation, self.objective.equation]
        lines += [f"+ {c:g} * {r.equation}" for c, r in self.regularizers]
        lines += [f"gradient at theta + {self.ahead[0]:g} grad ({self.ahead[1].equation})"] if self.ahead else []
        return "\n".join(lines)

    def tables(self, voices: int = 1) -> dict[str, tuple[int, ...]]:
        """The shapes of what all parts learn beside the model."""
        return _by_name((part.tables(voices) for part in self.all_parts), "learn")

    def on_prompt(self, voices: int = 1) -> dict[str, int]:
        """How many numbers each head on the prompt gives."""
        return _by_name((part.on_prompt(voices) for part in self.all_parts), "read the prompt")

    def memory(self, voices: int = 1) -> dict[str, Tensor]:
        """What the method remembers, at the beginning. Raises ValueError where two parts use one name."""
        return _by_name((part.memory(voices) for part in self.all_parts), "remember")

    def observe(self, evidence: Evidence, reading: Reading) -> dict[str, Tensor]:
        """What a micro-batch teaches the memory."""
        evidence, reading = self.heard(evidence, reading)
        seen = self.score.seen(reading)
        return {name: x for part in self.all_parts for name, x in part.observe(evidence, reading, seen).items()}

    def remember(self, memory: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The memory after a step."""
        found = {name: x for part in self.all_parts for name, x in part.remember(memory, observed).items()}
        return {**memory, **found}


Value = TypeVar("Value")


def _by_name(parts: Iterable[Mapping[str, Value]], what: str) -> dict[str, Value]:
    found = [pair for part in parts for pair in part.items()]
    if len(dict(found)) < len(found):
        raise ValueError(f"two parts of the method {what} under one name: {', '.join(name for name, _ in found)}")
    return dict(found)
