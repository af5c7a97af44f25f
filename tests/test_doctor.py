"""The self-tests: each passes on a good setup, and fails on the fault that it is there to find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSequenceClassification, RobertaConfig, TrainingArguments

from mmpo import methods
from mmpo.batch import Limits
from mmpo.doctor import Finding, examine
from mmpo.errors import UserError
from mmpo.methods import CATALOGUE
from mmpo.models import FrozenCopy, PolicyReader, RewardReader, attention, packed
from mmpo.needs import TEACHERS
from mmpo.run.setup import Setup, bring_together
from mmpo.train import self_test, train
from mmpo.types import Batch, Reading
from tiny import RICH, ROWS, data_of, plain, roberta_tokenizer

BOUNDARY, FINITE, TOGETHER, START, CACHE, GRADES = (
    "prompt boundary tokenised alike",
    "finite numbers",
    "together = alone",
    "policy = reference at the start",
    "cached = live reference",
    "targets keep their grades",
)


def found(setup: Setup) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(setup)}


def failed(setup: Setup) -> list[str]:
    return [name for name, finding in found(setup).items() if not finding.passed]


@pytest.fixture
def setup_of(tiny_policy: Any, tiny_reward: Any, tiny_tokenizer: Any) -> Callable[..., Setup]:
    tokenizer = plain(tiny_tokenizer)

    def of(task: str = "policy", rows: Any = ROWS, gamma: float = 0.3, **options: Any) -> Setup:
        model = tiny_policy(0) if task == "policy" else tiny_reward(0)
        method = methods.policy.mmpo(gamma) if task == "policy" else methods.reward.mmpo_reward(gamma)
        return bring_together(model, method, data_of(rows), tokenizer=tokenizer, limits=Limits(64), **options)

    return of


@pytest.fixture
def encoder_setup() -> Setup:
    tokenizer = roberta_tokenizer()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=1,
        num_labels=1,
        initializer_range=0.2,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    return bring_together(model, methods.reward.mmpo_reward(0.3), data_of(), tokenizer=tokenizer, limits=Limits(64))


# ---------------------------------------------------------------------------------------------- nothing is wrong


@pytest.mark.parametrize(
    ("task", "options", "checks"),
    [
        ("policy", {}, [BOUNDARY, FINITE, TOGETHER, START, GRADES]),
        ("policy", {"lora": {"r": 4}}, [BOUNDARY, FINITE, TOGETHER, START, GRADES]),
        ("policy", {"reference": "cached"}, [BOUNDARY, FINITE, TOGETHER, START, CACHE, GRADES]),
        ("policy", {"lora": {"r": 4}, "reference": "cached"}, [BOUNDARY, FINITE, TOGETHER, START, CACHE, GRADES]),
        ("reward", {}, [BOUNDARY, FINITE, TOGETHER, GRADES]),
        ("policy", {"layout": "padded"}, [BOUNDARY, FINITE, TOGETHER, START, GRADES]),
        ("policy", {"layout": "separate", "reference": "cached"}, [BOUNDARY, FINITE, TOGETHER, START, CACHE, GRADES]),
        ("reward", {"layout": "padded"}, [BOUNDARY, FINITE, TOGETHER, GRADES]),
    ],
)
def test_a_good_setup_passes(task: str, options: Any, checks: list[str], setup_of: Callable[..., Setup]) -> None:
    setup = setup_of(task, **options)
    setup.model.train()
    findings = examine(setup)
    assert [finding.name for finding in findings] == checks
    assert all(finding.passed and str(finding).startswith("ok   ") for finding in findings)
    assert setup.model.training
    said = self_test(setup)
    assert len(said) == len(checks)
    if START in checks:
        assert f"first loss {math.log(2):.6f}, expected {math.log(2):.6f}, ln 2 = {math.log(2):.6f}" in "".join(said)


def test_a_good_encoder_passes(encoder_setup: Setup) -> None:
    assert failed(encoder_setup) == []


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if "ref" in entry.build().needs])
def test_every_method_with_a_reference_starts_where_it_says(name: str, tiny_policy: Any, tiny_tokenizer: Any) -> None:
    """Whatever its price and target: the loss of a policy that equals its reference is the price of no margin."""
    teachers = {role: tiny_policy(1) for role in TEACHERS if role in CATALOGUE[name].build().needs}
    setup = bring_together(tiny_policy(0), name, RICH, tokenizer=tiny_tokenizer, limits=Limits(96), teachers=teachers)
    assert found(setup)[START].passed


def test_targets_that_are_no_probabilities_are_noted(tiny_policy: Any, tiny_tokenizer: Any) -> None:
    def of(name: str) -> dict[str, Finding]:
        return found(bring_together(tiny_policy(0), name, data_of(), tokenizer=tiny_tokenizer, limits=Limits(64)))

    assert str(of("robust_dpo")["targets are probabilities"]).startswith(
        "note targets are probabilities: the lowest is -0.125"
    )
    assert "targets are probabilities" not in of("cdpo")


# ---------------------------------------------------------------------------------------------- the reference


def test_a_reference_of_other_weights(setup_of: Callable[..., Setup], tiny_policy: Any) -> None:
    setup = setup_of()
    setup.reader = PolicyReader(FrozenCopy.of(tiny_policy(1)))
    assert failed(setup) == [START]
    assert found(setup)[START].fatal
    with pytest.raises(UserError, match=r"the self-test failed, nothing was trained\. FAIL policy = reference"):
        self_test(setup)


def test_a_reference_of_other_weights_that_was_asked_for(setup_of: Callable[..., Setup], tiny_policy: Any) -> None:
    setup = setup_of(reference=FrozenCopy.of(tiny_policy(1)))
    assert failed(setup) == [START] and str(found(setup)[START]).startswith("note")
    self_test(setup)


def test_a_policy_that_moved_before_the_start(setup_of: Callable[..., Setup]) -> None:
    """After its reference was copied from it."""
    setup = setup_of()
    with torch.no_grad():
        setup.model.lm_head.weight.add_(0.2 * torch.randn(setup.model.lm_head.weight.shape))
    assert START in failed(setup)


def test_a_cache_of_other_weights(setup_of: Callable[..., Setup], tiny_policy: Any) -> None:
    setup = setup_of(reference="cached")
    other = setup_of(reference="cached")
    assert failed(setup) == []
    with torch.no_grad():
        other.model.load_state_dict(tiny_policy(1).state_dict())
    other.examples = setup.examples
    assert failed(other) == [START, CACHE]


def test_a_cache_of_other_texts(setup_of: Callable[..., Setup]) -> None:
    """The log-probs of a prompt's responses in another order."""
    setup = setup_of(reference="cached")
    flipped = [e.ref_logps.flip(0) for e in setup.examples if e.ref_logps is not None]
    setup.examples = [replace(e, ref_logps=logps) for e, logps in zip(setup.examples, flipped, strict=True)]
    assert CACHE in failed(setup)


# ---------------------------------------------------------------------------------------------- company


class IgnoresItsMask(torch.nn.Module):
    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner

    def forward(self, attention_mask: Any, **inputs: Any) -> Any:
        return self.inner(attention_mask=torch.ones_like(attention_mask), **inputs)


def test_a_model_that_ignores_its_attention_mask(encoder_setup: Setup) -> None:
    encoder_setup.model = IgnoresItsMask(encoder_setup.model)
    assert failed(encoder_setup) == [TOGETHER]
    with pytest.raises(UserError, match="ignores its attention mask, or reads padding; check pad_token"):
        self_test(encoder_setup)


def test_a_reward_model_that_pools_a_pad_token(setup_of: Callable[..., Setup]) -> None:
    """Its config names another pad token than the tokenizer's, so it takes padding for the last token."""
    setup = setup_of("reward", layout="padded")
    setup.model.score.weight.data.mul_(30)
    assert failed(setup) == []
    setup.model.config.pad_token_id = 5
    assert TOGETHER in failed(setup)


def test_padding_shows_although_all_prompts_are_equally_long(encoder_setup: Setup) -> None:
    """Only the responses of one prompt differ in length."""
    encoder_setup.examples = encoder_setup.examples[1:2]
    assert failed(encoder_setup) == []
    encoder_setup.model = IgnoresItsMask(encoder_setup.model)
    assert failed(encoder_setup) == [TOGETHER]


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_responses_that_feel_each_other_on_a_row(
    task: str, setup_of: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole packed row read as one causal text; the reference is misled likewise and does not show it."""
    setup = setup_of(task)
    if task == "reward":
        setup.model.score.weight.data.mul_(30)
    assert setup.record["layout"] == "shared" and failed(setup) == []

    def as_one_text(query: Any, key: Any, value: Any, trees: Any, rule: attention.Rule) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=rule.scaling)

    monkeypatch.setattr(attention, "_by_tree", as_one_text)
    assert failed(setup) == [TOGETHER]
    with pytest.raises(UserError, match="take layout: padded"):
        self_test(setup)
    assert packed.is_enabled(setup.model)


def test_a_head_that_reads_otherwise_on_a_row(setup_of: Callable[..., Setup]) -> None:
    """Even of a response alone: the packed path is held against the model's own."""
    setup = setup_of(reference="cached")
    setup.model.packing.head = packed.LinearHead(scale=2.0, cap=None)
    assert TOGETHER in failed(setup)


# ---------------------------------------------------------------------------------------------- numbers and targets


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_numbers_that_are_not_finite(task: str, setup_of: Callable[..., Setup]) -> None:
    setup = setup_of(task)
    setup.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.nan
    assert FINITE in failed(setup)
    with pytest.raises(UserError, match="nothing was trained"):
        self_test(setup)


def test_a_gamma_that_saturates_is_noted(setup_of: Callable[..., Setup]) -> None:
    """At gamma 5 every graded gap of one point or more gives a target above 0.99: all but the one tie of 15."""
    setup = setup_of(gamma=5.0)
    assert failed(setup) == [GRADES]
    said = str(found(setup)[GRADES])
    assert said.startswith("note") and "93% of 15 targets are above 0.99" in said and "gamma: auto" in said
    self_test(setup)


def test_hard_targets_are_no_fault(tiny_reward: Any, tiny_tokenizer: Any) -> None:
    setup = bring_together(tiny_reward(0), "bradley_terry", data_of(), tokenizer=tiny_tokenizer, limits=Limits(64))
    assert failed(setup) == [] and "hard targets by choice" in str(found(setup)[GRADES])


def test_a_boundary_that_merges_is_noted(setup_of: Callable[..., Setup]) -> None:
    """ "Is t" + "he" is one token "the" with its space."""
    setup = setup_of(rows=[*ROWS, {"prompt": "Is t", "responses": ["he fox", "wo"], "scores": [1, 2]}])
    assert failed(setup) == [BOUNDARY]
    said = str(found(setup)[BOUNDARY])
    assert said.startswith("note") and "1 of 7 prompts" in said and "(first: 6)" in said
    self_test(setup)


# ---------------------------------------------------------------------------------------------- before training


class Wrong(RewardReader):
    """Reads something that depends on the company a response is in."""

    def __call__(self, model: Any, batch: Batch) -> Reading:
        reading = super().__call__(model, batch)
        return replace(reading, rewards=reading.require("rewards") + len(batch))


def test_nothing_is_trained_where_a_check_fails(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpo.run.equip.RewardReader", Wrong)
    args = TrainingArguments(output_dir=str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True)
    with pytest.raises(UserError, match="the self-test failed, nothing was trained"):
        train(tiny_reward(0), "bradley_terry", data_of(), args, tokenizer=tiny_tokenizer, limits=Limits(64))
    assert not (tmp_path / "run").exists()
