"""Self-tests of a run before its first step: would this recipe train what it says?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mmpo.batch import Example
from mmpo.evaluate.health.signs import saturated
from mmpo.models import PolicyReader, packed
from mmpo.run.setup import Setup
from mmpo.types import Batch, Datum, Evidence, Reading

TOLERANCE = 1e-4
LOOSE = 2e-2
"""For half precision, where a log-prob of a few hundred nats is exact to about 1 in 256."""

SAMPLE = 4096
"""Prompts whose targets are looked at."""


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed, what was measured, and the mend where it failed."""

    name: str
    passed: bool
    measured: str
    mend: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL' if self.fatal else 'note'} {self.name}: {self.measured}" + (
            "" if self.passed else f" -> {self.mend}"
        )


@torch.no_grad()
def examine(setup: Setup, prompts: int = 4) -> list[Finding]:
    """Run every check on a few prompts, in evaluation mode. The model is left as it was."""
    model, was_training = setup.model, setup.model.training
    model.eval()
    try:
        with setup.autocast:
            batch = _batch(setup, setup.examples[:prompts])
            reading = setup.reader(model, batch)
            findings = [_boundary(setup), _finite(reading), _alone(setup, reading, prompts)]
            if "ref" in setup.method.needs:
                findings.append(_reference_is_start(setup, batch, reading))
            if batch.ref_logps is not None and isinstance(setup.reader, PolicyReader):
                findings.append(_cache_is_live(setup, batch, reading))
            findings += _targets(setup)
        return findings
    finally:
        model.train(was_training)


def _batch(setup: Setup, examples: Sequence[Example]) -> Batch:
    return setup.collator.batch(examples).to(next(setup.model.parameters()).device)


def _tolerance(setup: Setup) -> float:
    return TOLERANCE if _full(setup) else LOOSE


def _full(setup: Setup) -> bool:
    """Whether the model is read in full precision."""
    return next(setup.model.parameters()).dtype == torch.float32 and not isinstance(setup.autocast, torch.autocast)


def _scale(values: torch.Tensor) -> float:
    return max(1.0, float(values.abs().max()))


def _boundary(setup: Setup) -> Finding:
    cuts = setup.record["tokens"]
    moved, first = cuts["boundaries_moved"], cuts["first_moved"]
    return Finding(
        "prompt boundary tokenised alike",
        not moved,
        f"{moved} of {cuts['prompts']} prompts end differently alone than before their responses"
        + (f" (first: {first})" if moved else ""),
        "end prompts on a token boundary (a newline, or a chat template that renders the prompt the same way)",
        fatal=False,
    )


def _finite(reading: Reading) -> Finding:
    values = _said(reading)
    return Finding(
        "finite numbers",
        bool(values.isfinite().all()),
        f"largest magnitude {float(values.abs().max()):.4g}",
        "look at the model's weights and dtype",
    )


def _alone(setup: Setup, reading: Reading, prompts: int) -> Finding:
    """Neither neighbours nor padding may change what the model says: the shortest response of each prompt alone, on the
    path that every model can take, against all together."""
    # Of a reader of several models, the rows of the first.
    examples = setup.examples[:prompts]
    shortest = [min(range(len(e.encoded.responses)), key=lambda i: len(e.encoded.responses[i])) for e in examples]
    with packed.set_aside(setup.model):
        alone = torch.cat(
            [
                _said(setup.reader(setup.model, _single(setup, e, i)))[:1]
                for e, i in zip(examples, shortest, strict=True)
            ]
        )
    together = _said(reading)[range(len(examples)), shortest]
    gap = float((together - alone[:, 0]).abs().max()) / _scale(alone)
    return Finding(
        "together = alone",
        gap <= _tolerance(setup),
        f"largest relative difference {gap:.1e}",
        "the model ignores its attention mask, or reads padding; check pad_token, or take layout: padded. In half "
        "precision rounding alone can do it",
        fatal=_full(setup),
    )


def _single(setup: Setup, example: Example, i: int) -> Batch:
    """One response of an example as a batch without padding; what people said of it is not needed."""
    encoded = example.encoded.only(i)
    return _batch(setup, [Example.of(Datum(encoded.id, "", ("",)), encoded)])


def _said(reading: Reading) -> torch.Tensor:
    """[B, K] what the model says of each response."""
    if reading.outputs is not None:
        return reading.outputs.mean(-1)
    return reading.rewards if reading.rewards is not None else reading.require("logps")


def _reference_is_start(setup: Setup, batch: Batch, reading: Reading) -> Finding:
    evidence = _informed(setup, batch.evidence)
    outcome = setup.method(evidence, reading)
    start = setup.method.score(_as_reference(reading))
    at_zero = setup.method.objective(outcome.p, start, evidence).mean()
    largest = float((outcome.m - start).abs().max())
    bare = outcome.loss - sum(term.mean() for term in outcome.terms.values())
    gap = abs(float(bare - at_zero))
    ln2 = f", ln 2 = {math.log(2):.6f}" if abs(float(at_zero) - math.log(2)) < 1e-6 else ""
    equal = gap <= _tolerance(setup) * _scale(at_zero) and largest <= _tolerance(setup) * _scale(
        reading.require("logps")
    )
    return Finding(
        "policy = reference at the start",
        equal,
        f"first loss {float(bare):.6f}, expected {float(at_zero):.6f}{ln2}",
        "the reference differs from the model that training starts from; check reference, dropout and dtype",
        fatal=setup.record["reference"] != "given",
    )


def _informed(setup: Setup, evidence: Evidence) -> Evidence:
    """The evidence with what the method remembers before the first step."""
    memory = setup.method.memory(setup.voices)
    return replace(evidence, memory={name: value.to(evidence.mask.device) for name, value in memory.items()})


def _as_reference(reading: Reading) -> Reading:
    """What would be read if the reference were exactly the policy."""
    tokens = reading.tokens
    same = None if tokens is None else replace(tokens, ref_logps=tokens.logps)
    return replace(reading, ref_logps=reading.require("logps"), tokens=same)


def _cache_is_live(setup: Setup, batch: Batch, reading: Reading) -> Finding:
    live = setup.reader(setup.model, replace(batch, ref_logps=None)).require("logps")
    cached = reading.require("ref_logps")
    gap = float((live - cached)[reading.mask].abs().max()) / _scale(live)
    return Finding(
        "cached = live reference",
        gap <= _tolerance(setup),
        f"largest relative difference {gap:.1e}",
        "the cache belongs to other weights or texts; compute it anew",
    )


def _targets(setup: Setup) -> list[Finding]:
    """Whether soft targets are still soft, and a note where one is no probability; of large data on an even sample."""
    counts, lowest = [0, 0], 0.0
    examples = sampled(setup.examples)
    for example in examples:
        p = setup.method.target(_informed(setup, example.evidence), torch.zeros_like(example.evidence.weight))
        said = example.evidence.compared
        lowest = min(lowest, float(p.min()))
        share = (p / example.evidence.weight.where(said, torch.ones_like(p)))[said]
        counts[0] += int(saturated(share).sum()) // 2
        counts[1] += int(said.sum()) // 2
    part = counts[0] / max(counts[1], 1)
    of = "" if len(examples) == len(setup.examples) else f" (of a sample of {len(examples)} prompts)"
    soft = {"grades", "votes"} & setup.method.target.needs
    kept = Finding(
        "targets keep their grades",
        not soft or part < 0.5,
        f"{part:.0%} of {counts[1]} targets are above 0.99{of}" + ("" if soft else " (hard targets by choice)"),
        "gamma is too large for these grades: lower it, use gamma: auto, or shape.rescale: log1p",
        fatal=False,
    )
    if lowest >= 0:
        return [kept]
    beyond = Finding(
        "targets are probabilities",
        False,
        f"the lowest is {lowest:.3g}{of}, so the loss has no lower bound and margins may grow without end",
        "watch rewards/margins, and lower eps where they run away; cdpo has the same idea with a bound",
        fatal=False,
    )
    return [kept, beyond]


def sampled(examples: Sequence[Example]) -> Sequence[Example]:
    """All examples, or so many of them at even distances that looking at each takes a second."""
    if len(examples) <= SAMPLE:
        return examples
    return [examples[n * len(examples) // SAMPLE] for n in range(SAMPLE)]
