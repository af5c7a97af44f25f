"""From a run that is ready to start to the watch over it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mmpo.batch import Cuts, Example
from mmpo.batch.tokenize import encoding
from mmpo.data.shape import only_answers
from mmpo.data.texts import is_blank
from mmpo.errors import UserError
from mmpo.evaluate.health.callback import HealthCallback
from mmpo.evaluate.health.probe import Gold, Probe, RewardModel, start_of
from mmpo.evaluate.health.settings import Health
from mmpo.models.sample import Sampling
from mmpo.run.setup import Setup
from mmpo.types import Text


def watch_over(setup: Setup, health: Health, gold: Gold | None = None) -> HealthCallback:
    """What watches a run. Raises UserError where it asks for looks that cannot be taken, or for what needs looks."""
    if gold is not None and (health.every is None or health.gold is not None):
        raise UserError(
            "gold scores what a look has the policy write; ask for looks with health=Health(every=0.1), and name a "
            "function or health.gold, not both"
        )
    return HealthCallback(health, None if health.every is None else probe_of(setup, health, gold))


def probe_of(setup: Setup, health: Health, gold: Gold | None = None) -> Probe:
    """What takes the looks at a policy, on held-out data where there are any."""
    if setup.method.task == "reward":
        raise UserError("health.every has a policy write, and the method trains a reward model; leave it out")
    chosen = list(islice(_answered(setup), health.prompts))
    if len(chosen) < health.prompts:
        setup.account.append(f"health.prompts is {health.prompts}, but only {len(chosen)} prompts can be looked at")
    if len(chosen) < 2:
        raise UserError("health.every needs two prompts or more with answers that people compared; add eval_data")
    reference = getattr(setup.reader, "reference", None)
    return Probe(
        setup.tokenizer,
        setup.collator,
        [example for example, _ in chosen],
        [prompt for _, prompt in chosen],
        reference if hasattr(reference, "at_hand") else start_of(setup.model),
        setup.method.score,
        Sampling(health.max_new_tokens),
        health.samples,
        RewardModel.load(health.gold, setup.record["trust_remote_code"]) if health.gold is not None else gold,
        setup.autocast,
    )


def _answered(setup: Setup) -> Iterator[tuple[Example, Text]]:
    """The prompts that a look can be taken at, with the answers that people compared, drawn one after the other."""
    data = (only_answers(datum) for datum in setup.watched if not is_blank(datum.prompt))
    cuts = Cuts(setup.limits.max_length, setup.limits.max_prompt_length)
    # What cannot be read was refused or counted when the examples were made.
    for some in encoding(data, setup.tokenizer, setup.limits, "drop", cuts):
        for datum, encoded in some:
            example = Example.of(datum, encoded)
            if example.evidence.compared.any():
                yield example, datum.prompt
