"""Verdicts on a run's health, from traces made by hand: what is wrong is found, and what is not is left alone."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerControl, TrainingArguments
from transformers.trainer_callback import TrainerState

from mmpo.errors import UserError
from mmpo.evaluate import ece
from mmpo.evaluate.health import look as health_look
from mmpo.evaluate.health import rules
from mmpo.evaluate.health.begin import watch_over
from mmpo.evaluate.health.callback import HealthCallback
from mmpo.evaluate.health.likelihood import three_signs
from mmpo.evaluate.health.look import Look, at_its_best, vitals
from mmpo.evaluate.health.page import section
from mmpo.evaluate.health.probe import repetition, sides
from mmpo.evaluate.health.ranking import flip_table
from mmpo.evaluate.health.settings import Health
from mmpo.evaluate.health.signs import signs, slope, told
from mmpo.evaluate.health.stopping import Patience, check_metric, patience
from mmpo.evaluate.health.vital import Traces, Vital, beyond, worst
from mmpo.evaluate.resample import mean_interval, ratio_interval
from mmpo.evaluate.running import Tally
from mmpo.matrix import between, compared
from mmpo.methods import CATALOGUE, build
from mmpo.objectives import Logistic
from mmpo.recipe import TRAINING_KEYS, Recipe, make_recipe
from mmpo.regularizers import MeanImitation
from mmpo.report import Page
from mmpo.scores import Given
from mmpo.types import Evidence, Method, Outcome, Reading


def traces(se: float = 0.01, **by_name: Sequence[float]) -> Traces:
    """Numbers at steps 10, 20, ..., with a standard error; a single one three times. A name has __ for /."""
    found = Traces()
    for name, values in by_name.items():
        values = [*values] * (3 if len(values) == 1 else 1)
        for n, value in enumerate(values, start=1):
            found.add({"step": 10 * n, name.replace("__", "/"): value, f"{name.replace('__', '/')}/se": se})
    return found


def verdict(vital: Vital | None) -> str:
    assert vital is not None
    assert bool(vital.remedy) == (vital.verdict != "fine")
    return vital.verdict


# ---------------------------------------------------------------------------------------------- traces


def test_a_trace_keeps_the_last_number_of_a_step_and_leaves_words_out():
    history = [
        {"step": 5, "epoch": 0.5, "loss": 0.7},
        {"step": 5, "eval_loss": 0.6},
        {"step": 5, "eval_loss": 0.5, "best": "x"},
        {"step": 9, "loss": 0.4},
    ]
    found = Traces.of(history)
    assert found.by_name == {"loss": [(5, 0.7), (9, 0.4)], "eval_loss": [(5, 0.5)]}
    assert found["nothing"] == [] and found.held_out("nothing") is None


def test_training_is_read_as_the_median_of_three_windows_and_evaluation_comes_first():
    assert traces(x=[9.0, 1.0]).training("x") is None
    found = traces(x=[9.0, 1.0, 2.0, 7.0])
    assert found.training("x") == found.held_out("x") == 2.0
    found.add({"step": 20, "eval_x": 5.0})
    assert found.held_out("x") == 5.0 and found.training("x") == 2.0


@pytest.mark.parametrize(
    ("value", "low", "expected"),
    [(0.05, 0.04, "fine"), (0.2, 0.2, "watch"), (0.5, 0.5, "stop"), (0.5, 0.2, "watch"), (0.5, -0.1, "fine")],
)
def test_a_verdict_is_as_sure_as_its_interval(value, low, expected):
    assert beyond(value, 0.1, 0.4, low) == expected


def test_the_worst_of_verdicts():
    assert worst(["fine", "stop", "watch"]) == "stop" and worst([]) == "fine"


# ---------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("won", "lost", "expected", "says"),
    [
        (2.0, -5.0, "fine", "+2.0 nats"),
        (-0.9, -5.0, "fine", "-0.9 nats"),
        (-2.0, -9.0, "watch", "the margin grew all the same"),
        (-2.0, -1.0, "watch", "the margin did not grow"),
        (-6.0, -30.0, "stop", "-6.0 nats (-0.600 a token)"),
    ],
)
def test_chosen_and_rejected_are_taken_apart(won, lost, expected, says):
    """Ten tokens an answer."""
    found = rules.chosen(
        traces(
            health__drift__chosen=[won],
            health__drift__rejected=[lost],
            health__length__chosen=[10.0],
            health__drift__chosen_per_token=[won / 10],
        )
    )
    assert verdict(found) == expected and says in found.says and "since the reference" in found.says


def test_without_a_reference_the_first_evaluation_is_the_start():
    t = traces(eval_logps__chosen=[-20.0, -28.0], eval_logps__rejected=[-20.0, -40.0], health__length__chosen=[10.0])
    found = rules.chosen(t)
    assert verdict(found) == "stop" and found.value == pytest.approx(-0.8) and "first evaluation" in found.says
    assert rules.chosen(traces(health__length__chosen=[10.0])) is None


@pytest.mark.parametrize(("far", "expected"), [(0.3, "fine"), (0.6, "watch"), (1.2, "stop")])
def test_distance_on_the_data(far, expected):
    assert verdict(rules.distance(traces(health__drift__per_token=[far]))) == expected


def leaning(lean: float, excess: float, **more: Any) -> Traces:
    return traces(
        eval_health__length__lean=[lean],
        eval_health__length__over_half=[lean + excess],
        eval_health__length__over_lean=[excess - lean],
        **more,
    )


@pytest.mark.parametrize(
    ("lean", "excess", "expected"),
    [
        (0.0, 0.02, "fine"),
        (0.14, 0.15, "fine"),  # a model that sees through noisy votes leans twice as far
        (0.10, 0.19, "watch"),
        (0.10, 0.40, "stop"),
        (-0.20, 0.19, "fine"),  # as at the start, where every margin is 0
        (-0.20, 0.30, "watch"),
        (0.10, -0.30, "fine"),
    ],
)
def test_length_is_no_worth(lean, excess, expected):
    assert verdict(rules.length_preference(leaning(lean, excess))) == expected


def test_correlations_stand_beside_the_preference_for_length():
    found = rules.length_preference(leaning(0.1, 0.3, health__length__model=[0.8], health__length__people=[0.2]))
    assert "people take the longer answer in 60%" in found.says and "the model in 90%" in found.says
    assert "model +0.80, people +0.20" in found.says and "+20% [+18%, +22%] beyond twice their lean" in found.says


@pytest.mark.parametrize(("se", "expected"), [(0.02, "watch"), (0.2, "fine")])
def test_a_preference_for_length_is_no_noise(se, expected):
    found = rules.length_preference(leaning(0.1, 0.3, se=se))
    assert verdict(found) == expected and (found.low, found.high) == pytest.approx((0.2 - 1.96 * se, 0.2 + 1.96 * se))


def test_of_one_prompt_nothing_is_sure():
    """An evaluation without an error does not borrow that of training."""
    t = leaning(0.0, 0.5)
    for name in ("over_half", "over_lean"):
        t.by_name[f"health/length/{name}/se"] = t.by_name.pop(f"eval_health/length/{name}/se")
    found = rules.length_preference(t)
    assert verdict(found) == "fine" and "too few prompts" in found.says
    assert found.low == -math.inf and json.loads(json.dumps(found.as_dict(), allow_nan=False))["low"] is None


def test_a_policy_may_rank_better_than_its_reference_and_not_worse():
    named = {"health__ranking__per_token": [0.7], "health__ranking__ideal": [0.9]}
    good = rules.ranking(traces(health__ranking__accuracy=[0.6], health__ranking__reference=[0.5], **named))
    assert verdict(good) == "fine" and "gap 30%" in good.says
    bad = rules.ranking(traces(health__ranking__accuracy=[0.4], health__ranking__reference=[0.5], **named))
    assert verdict(bad) == "fine"  # by chance, as far as anybody knows
    known = {**named, "health__ranking__accuracy": [0.4], "health__ranking__reference": [0.5]}
    for se, expected in ((0.01, "watch"), (0.08, "fine")):
        assert verdict(rules.ranking(traces(se, health__ranking__unlearned=[0.1], **known))) == expected


@pytest.mark.parametrize(
    ("hard", "coin", "expected", "word"),
    [
        (0.1, 0.1, "fine", ""),
        (0.6, 0.0, "watch", "too large"),
        (0.97, 0.0, "stop", "too large"),
        (0.0, 0.99, "stop", "too small"),
    ],
)
def test_gamma_fits_the_scale_of_the_grades(hard, coin, expected, word):
    found = rules.targets(traces(health__target__saturated=[hard], health__target__undecided=[coin]))
    assert verdict(found) == expected and word in found.remedy


@pytest.mark.parametrize(("gone", "expected"), [(0.02, "fine"), (0.2, "watch"), (0.4, "stop")])
def test_a_price_that_has_given_up(gone, expected):
    assert verdict(rules.pull(traces(health__pull__given_up=[gone], health__pull__none=[0.9]))) == expected


@pytest.mark.parametrize(
    ("seen", "new", "loss", "expected"),
    [
        (0.95, 0.60, [0.6, 0.5, 0.7], "stop"),
        (0.75, 0.60, [0.6, 0.5, 0.7], "watch"),
        (0.95, 0.60, [0.6, 0.5, 0.501], "fine"),  # a lead alone is no harm
        (0.65, 0.60, [0.6, 0.5, 0.7], "fine"),
        (0.95, 0.60, [0.7, 0.6, 0.5], "fine"),
    ],
)
def test_labels_learned_by_heart(seen, new, loss, expected):
    t = traces(rewards__accuracies=[seen], eval_rewards__accuracies=[new], eval_loss=loss, eval_health__ece=[0.1, 0.2])
    found = rules.memorised(t)
    assert verdict(found) == expected and "best 0.5" in found.says and "best 0.100" in found.says
    assert expected == "fine" or "step 20" in found.remedy


@pytest.mark.parametrize(("gap", "expected"), [(0.0, "fine"), (0.003, "fine"), (0.05, "watch"), (0.2, "stop")])
def test_the_reference_is_the_start(gap, expected):
    """The first step decides, whatever is logged later."""
    assert verdict(rules.start(traces(health__start__per_token=[gap]))) == expected


def test_a_run_that_diverged_is_not_fine(tmp_path):
    watch = HealthCallback()
    watch.traces = traces(loss=[0.7, math.nan], rewards__margins=[0.1, math.nan], eval_loss=[0.7, 0.6])
    found = rules.finite(watch.traces)
    assert verdict(found) == "stop" and found.says == "loss is nan at step 20; rewards/margins is nan at step 20"
    assert verdict(rules.finite(traces(loss=[math.nan, 0.7]))) == "fine"
    watch.traces.add({"step": 20, "health/drift/per_token": math.nan})
    watch.write(tmp_path)
    assert json.loads((tmp_path / "health.json").read_text(), parse_constant=pytest.fail)["verdict"] == "stop"


def test_what_is_not_logged_has_no_verdict():
    assert [rule(Traces()) for rule in rules.RULES] == [None] * len(rules.RULES)


# ---------------------------------------------------------------------------------------------- looks


def look(step: int, **changes: Any) -> Look:
    base = Look(
        step=step,
        won=[-10.0] * 8,
        lost=[-10.0] * 8,
        unseen=[[-10.0]] * 8,
        preferred=[10.0] * 8,
        kl=[0.1 * step] * 8,
        tokens=[10.0 + n % 2 for n in range(8)],
        ended=[1.0] * 8,
        repeated=[0.0] * 8,
        reward=[0.01 * step] * 8,
        gold=[5.0 + 0.01 * step] * 8,
        seconds=0.1,
    )
    return replace(base, **changes)


def of_looks(*looks: Look) -> dict[str, str]:
    return {vital.name: verdict(vital) for vital in vitals(looks)}


def test_looks_at_a_sound_policy_are_fine():
    found = of_looks(look(0), look(5), look(10, won=[-9.0] * 8, lost=[-12.0] * 8))
    assert set(found.values()) == {"fine"} and len(found) == 8
    assert vitals([look(0)]) == []


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"won": [-12.0] * 8, "lost": [-20.0] * 8}, "Chosen suppressed", "watch"),
        ({"won": [-10.5] * 8, "lost": [-20.0] * 8}, "Chosen suppressed", "fine"),
        ({"won": [-12.0] * 8, "lost": [-20.0] * 8, "unseen": [[-9.0]] * 8}, "Mass to unseen answers", "watch"),
        ({"won": [-9.0] * 8, "lost": [-20.0] * 8, "unseen": [[-9.0]] * 8}, "Mass to unseen answers", "fine"),
        ({"kl": [8.0] * 8}, "Distance from the start", "watch"),
        ({"kl": [18.0] * 8}, "Distance from the start", "stop"),
        ({"tokens": [15.0] * 8}, "Length of answers", "watch"),
        ({"tokens": [40.0] * 8}, "Length of answers", "stop"),
        ({"tokens": [15.0] * 8, "preferred": [16.0] * 8}, "Length of answers", "fine"),
        ({"ended": [0.0] * 8}, "Answers that end", "stop"),
        ({"ended": [0.0] + [1.0] * 7}, "Answers that end", "fine"),  # one prompt of eight proves nothing
        ({"repeated": [0.2] * 8}, "Repetition", "watch"),
        ({"gold": [3.0] * 8}, "Gold against proxy", "stop"),
        ({"gold": [3.0] * 8, "reward": [-1.0] * 8}, "Gold against proxy", "watch"),
        ({"gold": [4.9, 0.0] * 4}, "Gold against proxy", "stop"),
        ({"gold": [9.0, 1.0] * 4}, "Gold against proxy", "fine"),
        ({"gold": [6.3] * 8}, "Gold against proxy", "fine"),  # a sixth of what was won
        ({"gold": [6.0] * 8}, "Gold against proxy", "watch"),
        ({"gold": [5.5] * 8}, "Gold against proxy", "stop"),
    ],
)
def test_looks_find_what_goes_wrong(changes, name, expected):
    won = {"gold": [6.5] * 8} if changes.get("gold", [0.0])[0] in (5.5, 6.0, 6.3) else {}
    assert of_looks(look(0), look(5, **won), look(10, **changes))[name] == expected


def test_the_best_of_looks_that_differ_by_luck_alone_is_no_fall():
    """Eleven looks at one policy: against the best look by its own prompts, one run in seven seems to fall."""
    draw = np.random.default_rng(0)
    runs = draw.normal(size=(200, 11, 40))
    naive = [gold[gold.mean(-1).argmax()] - gold[-1] for gold in runs]
    fair = [at_its_best(gold) - gold[-1] for gold in runs]
    seem, do = (np.mean([mean_interval(fall, 200)[1] > 0 for fall in falls]) for falls in (naive, fair))
    assert seem > 0.1 and do <= 0.05 and abs(np.mean(fair)) < 0.02 < np.mean(naive)


def test_without_a_gold_scorer_there_is_no_verdict_on_it():
    found = vitals([look(0, gold=[], reward=[]), look(5, gold=[], reward=[])])
    assert "Gold against proxy" not in {vital.name for vital in found}
    assert look(0, gold=[], reward=[]).numbers.keys() == {
        "health/answers/kl", "health/answers/tokens", "health/answers/ended", "health/answers/repeated",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "share"),
    [("a b c", 0.0), ("a b c d e", 0.0), ("a b a b a b a", 0.5), ("x " * 13, 0.9), ("", 0.0)],
)
def test_repetition(text, share):
    assert repetition(text) == pytest.approx(share)


# ---------------------------------------------------------------------------------------------- what a batch says


def tallied(method: Method, evidence: Evidence, reading: Reading) -> dict[str, float]:
    outcome, tally = method(evidence, reading), Tally()
    half = len(evidence) // 2
    for rows in (slice(0, half), slice(half, None)):
        e, r = (_rows(record, rows) for record in (evidence, reading))
        part = method(e, r)
        tally.add(part, e, r, signs(method, part, e, r))
    assert outcome.m.isfinite().all()
    return told(tally.flush())


def _rows(record: Any, rows: slice) -> Any:
    return record._map(lambda x: x[rows])


def said(quality: torch.Tensor) -> Evidence:
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight = compared(mask).double()
    return Evidence(mask, quality, torch.full_like(weight, torch.nan), 0 * weight, weight)


def some(b: int = 40, k: int = 3) -> tuple[Evidence, Reading]:
    draw = torch.Generator().manual_seed(0)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(b, k, generator=draw, dtype=torch.float64)

    logps = normal(4) - 30
    lengths = torch.randint(3, 30, (b, k), generator=draw).double()
    return said(normal(1)), Reading(said(logps).mask, logps, logps - normal(2), lengths)


def test_sums_over_batches_are_the_numbers_of_all_comparisons():
    evidence, reading = some()
    found = tallied(build("mmpo", gamma=1.0, beta=0.1), evidence, reading)
    quality, ratio = evidence.quality, reading.require("logps") - reading.require("ref_logps")
    i, j = np.triu_indices(3, 1)
    m = (0.1 * between(ratio))[:, i, j].flatten().numpy()
    p = torch.sigmoid(between(quality))[:, i, j].flatten().numpy()
    lengths = reading.require("lengths")
    rel = (between(lengths) / (lengths[:, :, None] + lengths[:, None]))[:, i, j].flatten().numpy()

    def correlation(x: np.ndarray) -> float:
        # Both directions of every comparison.
        return float(np.corrcoef(np.r_[x, -x], np.r_[rel, -rel])[0, 1])

    assert found["health/ece"] == pytest.approx(ece(p, m))
    assert found["health/length/model"] == pytest.approx(correlation(m))
    assert found["health/length/people"] == pytest.approx(correlation(2 * p - 1))
    some_longer = rel != 0
    longer = np.sign(rel[some_longer])
    lean = (longer * np.sign(p[some_longer] - 0.5)).mean() / 2
    assert found["health/length/lean"] == pytest.approx(lean)
    assert found["health/length/excess"] == pytest.approx((longer * np.sign(m[some_longer])).mean() / 2 - lean)
    won, lost = (torch.where(between(quality) > 0, x, torch.nan) for x in (ratio[:, :, None], ratio[:, None]))
    assert found["health/drift/chosen"] == pytest.approx(won.nanmean().item())
    assert found["health/drift/rejected"] == pytest.approx(lost.nanmean().item())
    assert found["health/drift/per_token"] == pytest.approx((ratio.abs().sum() / lengths.sum()).item())
    assert found["health/ranking/gap"] == pytest.approx(
        found["health/ranking/ideal"] - found["health/ranking/accuracy"]
    )


def test_errors_are_those_of_the_bootstrap_over_prompts():
    evidence, reading = some(400)
    found = tallied(build("mmpo", gamma=1.0, beta=0.1), evidence, reading)
    lengths, ratio = reading.require("lengths"), reading.require("logps") - reading.require("ref_logps")
    i, j = np.triu_indices(3, 1)
    side = between(lengths)[:, i, j].sign()
    picks, won = ((side * between(x)[:, i, j].sign()).numpy() / 2 for x in (ratio, evidence.quality))
    counted = (side != 0).double().sum(-1).numpy()
    for name, a, b in (
        ("health/length/over_lean", (picks - 2 * won).sum(-1), counted),
        ("health/drift/per_token", ratio.abs().sum(-1).numpy(), lengths.sum(-1).numpy()),
    ):
        value, low, high = ratio_interval(a, b)
        assert found[name] == pytest.approx(value, rel=1e-5)
        assert math.hypot((high - low) / 2, 1.96 * 2**0.5 / 400) == pytest.approx(1.96 * found[f"{name}/se"], rel=0.08)


def test_prompts_and_not_comparisons_are_counted_and_two_models_are_one_prompt_each():
    evidence, reading = some(20)
    rewarded = Reading(reading.mask, rewards=reading.require("logps"), lengths=reading.lengths)
    method = build("mmpo_reward", gamma=1.0)
    once = tallied(method, evidence, rewarded)
    tally, both = Tally(), Reading(*(torch.cat([x, x]) for x in (rewarded.mask,)))
    both = replace(both, rewards=rewarded.rewards.repeat(2, 1), lengths=rewarded.lengths.repeat(2, 1))
    outcome = method(evidence.repeat(2), both)
    outcome = replace(outcome, losses=outcome.losses.view(2, -1).sum(0))
    tally.add(outcome, evidence.repeat(2), both, signs(method, outcome, evidence.repeat(2), both))
    twice = told(tally.flush())
    assert twice.pop("loss") == pytest.approx(2 * once.pop("loss"))
    assert twice == pytest.approx(once, rel=1e-6)


def test_few_prompts_that_agree_prove_little():
    """Of 3 that agree the interval holds one half, of 20 it ends at 86%."""
    for prompts, low in ((3, 0.076), (20, 0.861)):
        evidence = said(torch.tensor([[1.0, 0.0]] * prompts, dtype=torch.float64))
        reading = Reading(evidence.mask, rewards=evidence.quality, lengths=torch.ones_like(evidence.quality))
        found = tallied(build("bradley_terry"), evidence, reading)
        assert found["rewards/accuracies"] - 1.96 * found["rewards/accuracies/se"] == pytest.approx(low, abs=1e-3)
    alone = tallied(build("bradley_terry"), *(_rows(x, slice(0, 1)) for x in (evidence, reading)))
    assert "rewards/accuracies/se" not in alone


def test_what_a_method_does_not_read_is_not_told():
    """A reward model has no log-probs, SimPO no reference, DPO no graded targets; nobody is asked for a name."""
    evidence, reading = some()
    rewarded = Reading(reading.mask, rewards=reading.require("logps"), lengths=reading.lengths)
    reward = tallied(build("mmpo_reward", gamma=1.0), evidence, rewarded)
    assert {name.split("/")[1] for name in reward if name.startswith("health/")} == {"length", "target", "pull", "ece"}
    simpo = tallied(build("simpo"), evidence, replace(reading, ref_logps=None))
    assert {"health/ranking/accuracy", "logps/chosen"} <= simpo.keys()
    assert not any("drift" in name or "ideal" in name or "target" in name for name in simpo)
    assert not any("target" in name for name in tallied(build("dpo"), evidence, reading))


@pytest.mark.parametrize(("gamma", "hard", "coin"), [(1e3, 1.0, 0.0), (1e-3, 0.0, 1.0)])
def test_targets_without_grades_are_seen(gamma, hard, coin):
    found = tallied(build("mmpo", gamma=gamma), *some())
    assert found["health/target/saturated"] == hard and found["health/target/undecided"] == coin


def test_unanimous_votes_are_no_saturation():
    evidence, reading = some()
    votes = compared(evidence.mask).double().triu(1) * 5
    found = tallied(build("soft_dpo"), replace(evidence, votes=votes), reading)
    assert "health/target/saturated" not in found


def test_the_slope_of_the_logistic_price():
    """|sigmoid(M) - P| for a pair of weight 1."""
    method = Method(build("mmpo_reward", gamma=1.0).target, Given(), Logistic())
    evidence = said(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    m = between(torch.tensor([[0.3, 0.0]], dtype=torch.float64))
    found = slope(method, method.target(evidence, m), m, evidence)
    assert found[0, 0, 1].item() == pytest.approx(abs(1 / (1 + math.exp(-0.3)) - 1 / (1 + math.exp(-1.0))))


def test_a_fading_price_gives_up_and_a_logistic_one_does_not():
    """Rewards 40 logits the wrong way round."""
    evidence = said(torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64))
    logps = torch.tensor([[-40.0, 0.0]] * 4, dtype=torch.float64) - 50
    lengths = torch.full_like(logps, 9)
    reading = Reading(evidence.mask, logps, torch.full_like(logps, -50), lengths)
    shares = {name: tallied(build(name, beta=1.0), evidence, reading) for name in ("exo", "dpo")}
    assert {name: share["health/pull/given_up"] for name, share in shares.items()} == {"exo": 1.0, "dpo": 0.0}
    matched = replace(reading, logps=torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64) - 50)
    found = tallied(build("mmpo", gamma=1.0, beta=1.0), evidence, matched)
    assert found["health/pull/none"] == 1.0 and found["health/pull/given_up"] == 0.0


@pytest.mark.parametrize("name", ["mmpo", "dpo", "simpo", "lipo_lambda", "mmpo_reward"])
def test_watching_a_step_reads_nothing_off_the_device(name):
    """Tensors without data: whoever asks for a number, as ``item`` or a boolean index would, gets an error."""
    evidence, reading = some()
    if name == "mmpo_reward":
        reading = Reading(reading.mask, rewards=reading.logps, lengths=reading.lengths)
    method = build(name)
    outcome = method(evidence, reading)
    copied: list[Any] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            copied.extend([func] if "lift_fresh" in str(func) or ("_to_copy" in str(func) and args[0].is_cpu) else [])
            return func(*args, **(kwargs or {}))

    tally, bare = Tally(), [replace(x._map(lambda t: t.to("meta"))) for x in (evidence, reading)]
    fields = {f: getattr(outcome, f) for f in ("loss", "losses", "p", "m", "rewards", "said")}
    empty = Outcome(**{f: value.detach().to("meta") for f, value in fields.items()})
    with Watch():
        tally.add(empty, *bare, signs(method, empty, *bare))
    assert len(tally.sums) == 1 and next(iter(tally.sums.values())).is_meta and not copied


# ---------------------------------------------------------------------------------------------- remedies


KEYS = {
    "learning_rate", "max_length", "disable_dropout", "reference_cache", "early_stopping_patience",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
}  # fmt: skip
METHODS = {"mmpo", "mmpo_reward", "simpo", "dpo_mean", "cdpo"}


def test_every_remedy_names_what_there_is():
    """Names of keys, methods and parts in the texts of the rules, and the recipes that they write out."""
    said = " ".join(inspect.getsource(module) for module in (rules, health_look))
    for key in KEYS:
        assert key in said and key in {**Recipe.model_fields, **TRAINING_KEYS}
    for name in METHODS:
        assert re.search(rf"\b{name}\b", said) and name in CATALOGUE
    assert "beta" in CATALOGUE["mmpo"].parameters and "gamma" in CATALOGUE["mmpo_reward"].parameters
    imitating = yaml.safe_load(re.search(r"method: (\{.*\})\)", rules.IMITATE)[1])
    held = recipe(method={"name": "dpo", "beta": 0.1, **imitating}).parts
    assert held.regularizers == ((0.2, MeanImitation()),)
    assert recipe(shape={"rescale": "zscore"}, method={"name": "mmpo", "gamma": "auto"}).shape.rescale == "zscore"
    faded = recipe(method={"name": "exo", "objective": "Logistic"}).parts
    assert isinstance(faded.objective, Logistic)
    best = {"metric_for_best_model": "eval_health/answers/gold", "greater_is_better": True}
    both = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5, "save_steps": 5}
    looks = {"health": {"every": 0.1}, "eval_data": "e.jsonl", "load_best_model_at_end": True, "use_cpu": True}
    args = recipe(**best, **both, **looks).arguments()
    assert args.load_best_model_at_end and args.greater_is_better


# ---------------------------------------------------------------------------------------------- settings


def recipe(**more: Any) -> Any:
    return make_recipe({"model": "m", "method": "mmpo", "data": "d.jsonl", "output_dir": "o", **more})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"health": {"gold": "rm"}}, "health: .*gold would do nothing without every"),
        ({"health": {"every": 2.5}}, "health.every: .*neither a whole number"),
        ({"health": {"prompt": 3}}, "unknown key 'health.prompt'. Did you mean 'prompts'"),
        ({"health": {"every": 5}, "method": "mmpo_reward"}, "health.every has a policy write"),
        ({"early_stopping_threshold": 0.1}, "would do nothing without early_stopping_patience"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(more, message):
    with pytest.raises(UserError, match=message):
        recipe(**more)


@pytest.mark.parametrize("health", [Health(), Health(every=0.5, gold="judge")])
def test_a_gold_scorer_that_would_not_be_asked_is_refused(health):
    with pytest.raises(UserError, match="gold scores what a look has the policy write"):
        watch_over(None, health, lambda prompts, answers: [])


def test_every_counts_steps_or_shares_of_the_run():
    assert [Health(every=x).steps(200) for x in (0.1, 7, 0.001)] == [20, 7, 1]
    assert Health().steps(200) is None and recipe().health == Health()


def arguments(tmp_path: Path, **more: Any) -> TrainingArguments:
    return TrainingArguments(str(tmp_path), eval_strategy="steps", use_cpu=True, **more)


@pytest.mark.parametrize(
    ("name", "better"), [("eval_loss", False), ("health/ece", False), ("eval_health/answers/gold", True)]
)
def test_the_direction_of_a_known_metric_is_known(tmp_path, name, better):
    args = arguments(tmp_path, metric_for_best_model=name)
    check_metric(args, {"loss", "health/ece", "health/answers/gold"}, stated=False)
    assert args.greater_is_better is better


def test_a_metric_that_is_not_measured_is_refused_with_those_that_are(tmp_path):
    args = arguments(tmp_path, metric_for_best_model="eval_health/eec")
    with pytest.raises(UserError, match=r"no 'health/eec'. Did you mean 'health/ece'\? It has: health/ece, loss"):
        check_metric(args, {"loss", "health/ece"}, stated=False)
    args = arguments(tmp_path, metric_for_best_model="terms/x")
    with pytest.raises(UserError, match="greater_is_better"):
        check_metric(args, {"terms/x"}, stated=False)


def test_patience_needs_evaluations_takes_the_loss_and_goes_on_counting(tmp_path):
    with pytest.raises(UserError, match="eval_strategy"):
        patience(TrainingArguments(str(tmp_path), use_cpu=True), 3)
    args = arguments(tmp_path)
    stop = patience(args, 3, 0.01)
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)
    stop.early_stopping_patience_counter = 2
    state, again = TrainerState(stateful_callbacks=[stop]), Patience(3, 0.01)
    again.on_train_begin(args, state, None)
    assert again.early_stopping_patience_counter == 2


# ---------------------------------------------------------------------------------------------- what people see


def test_the_page_shows_verdicts_first_and_nothing_without_a_record(tmp_path):
    page = Page("t").section("before")
    section(page, tmp_path)
    assert "healthy" not in page.html()
    watch = HealthCallback()
    watch.traces = traces(
        health__drift__chosen=[-1.0, -6.0, -6.0],
        health__drift__rejected=[-2.0, -30.0, -30.0],
        health__drift__chosen_per_token=[-0.1, -0.6, -0.6],
        health__length__chosen=[10.0],
        health__drift__per_token=[0.2],
    )
    watch.said = [(20, "Chosen log-probs", "stop")]
    watch.write(tmp_path)
    record = json.loads((tmp_path / "health.json").read_text())
    assert record["verdict"] == "stop" and [v["since"] for v in record["vitals"]] == [20, 0]
    section(page, tmp_path)
    html = page.html()
    assert "1 of 2 signs need a look" in html and html.index("Chosen log-probs") < html.index("Distance on the data")
    assert html.count("<figure>") == 1
    assert watch.lines()[0] == "health: 1 of 2 signs are fine" and "stop  Chosen log-probs" in watch.lines()[1]


def test_a_window_of_training_waits_for_the_evaluation_of_its_step(tmp_path):
    """Held-out accuracy of the step before belongs to another model."""
    args, state, control = arguments(tmp_path), TrainerState(max_steps=90), TrainerControl()
    watch = HealthCallback(Health(on_stop="stop"))
    before = {"rewards/accuracies": 0.95, "rewards/accuracies/se": 0.01, "eval_rewards/accuracies/se": 0.01}
    for step, accuracy, loss in ((10, 0.6, 0.5), (20, 0.6, 0.6), (30, 0.9, 0.6)):
        state.global_step, control.should_evaluate = step, True
        watch.on_log(args, state, control, before)
        watch.on_log(args, state, control, {"eval_rewards/accuracies": accuracy, "eval_loss": loss, **before})
    assert not watch.said and not control.should_training_stop
    state.global_step = 40
    watch.on_log(args, state, control, before)
    watch.on_log(args, state, control, {"eval_rewards/accuracies": 0.6, "eval_loss": 0.6, **before})
    assert watch.said == [(40, "Memorised labels", "stop")] and control.should_training_stop


def test_the_surest_comparison_gives_the_two_sides(make_evidence: Callable[..., Evidence]):
    from mmpo.batch import Encoded, Example

    evidence = said(torch.tensor([[2.0, 5.0, 1.0]]))
    assert sides(Example(Encoded("", (1,), ((1,),) * 3), evidence)) == (1, 2)


# ---------------------------------------------------------------------------------------------- what the signs are for


def softmax_policies(shared: bool, prompts: int = 20, k: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, K, D] of answers and start weights [N, D]: four random ones, the loser's near the winner's, or one
    for each answer. The policy is uniform at the start."""
    draw = torch.Generator().manual_seed(0)
    features = torch.eye(k, dtype=torch.float64).repeat(prompts, 1, 1)
    if shared:
        features = torch.randn(prompts, k, 4, generator=draw, dtype=torch.float64)
        features[:, 1] = features[:, 0] + 0.3 * torch.randn(prompts, 4, generator=draw, dtype=torch.float64)
    return features, torch.zeros(prompts, features.shape[-1], dtype=torch.float64)


def trained(method: Method, features: torch.Tensor, weights: torch.Tensor, steps: int) -> torch.Tensor:
    """[steps + 1, N, K] log-probs on the way; the first answer wins over the second, and nobody compared the rest."""
    quality = torch.full(features.shape[:2], torch.nan, dtype=torch.float64)
    quality[:, 0], quality[:, 1] = 1.0, 0.0
    evidence = said(quality)
    weight = torch.zeros_like(evidence.weight)
    weight[:, 0, 1] = weight[:, 1, 0] = 1.0
    evidence = replace(evidence, weight=weight)

    def logps(w: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nkd,nd->nk", features, w).log_softmax(-1)

    ref, seen = logps(weights), [logps(weights)]
    for _ in range(steps):
        w = weights.clone().requires_grad_()
        losses = method(evidence, Reading(evidence.mask, logps(w), ref, torch.ones_like(ref))).losses.sum()
        weights = weights - torch.autograd.grad(losses, w)[0]
        seen.append(logps(weights))
    return torch.stack(seen)


def test_mass_disperses_through_shared_features_and_only_through_them():
    """arXiv 2406.07327: DPO pushes the loser down, and with shared features winner and unseen answers move along;
    where every answer has a logit of its own, the unseen ones lose."""
    for shared in (True, False):
        path = trained(build("dpo", beta=0.1), *softmax_policies(shared), steps=500)
        unseen = path[..., 2:].exp().sum(-1)
        torch.testing.assert_close(unseen[0], torch.full_like(unseen[0], 0.8))
        # All but everything in most of the prompts; in a few the winner has what tells it from the loser.
        assert bool((unseen[-1] > 0.99).double().mean() > 0.8) == shared
        assert bool((unseen[-1] < 0.01).all()) == (not shared)
        signs = three_signs(path[..., 0], path[..., 1], path[..., 2:])
        assert signs["drop"].verdict == "seen"
        assert signs["suppression"].verdict == ("seen" if shared else "not seen")


def test_imitation_holds_the_winner():
    path = trained(build("rpo", beta=0.1, eta=1.0), *softmax_policies(True), steps=500)
    signs = three_signs(path[..., 0], path[..., 1], path[..., 2:])
    assert signs["suppression"].verdict == signs["dispersion"].verdict == "not seen"
    assert path[-1, :, 0].exp().mean() > 0.6


def test_a_reward_model_pulls_both_sides_alike():
    evidence = said(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    rewards = torch.tensor([[0.7, 2.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(
        build("bradley_terry")(evidence, Reading(evidence.mask, rewards=rewards)).loss, rewards
    )
    assert grad[0, 0] == -grad[0, 1] != 0


def test_a_falling_loss_flips_few_rankings_that_the_reference_has_badly_wrong():
    """arXiv 2405.19534: with heavy-tailed references the loss falls everywhere, and the far wrong pairs stay wrong."""
    draw, beta = np.random.default_rng(0), 0.1
    c = torch.from_numpy(draw.standard_t(2, 2000)) / beta
    evidence = said(torch.tensor([[1.0, 0.0]] * len(c), dtype=torch.float64))
    ref = torch.stack((-c / 2, c / 2), -1) - 50
    logps = ref.clone().requires_grad_()
    optimizer, method = torch.optim.Adam([logps], lr=0.5), build("dpo", beta=beta)
    for _ in range(40):
        optimizer.zero_grad()
        losses = method(evidence, Reading(evidence.mask, logps, ref)).losses
        losses.sum().backward()
        optimizer.step()
    m = (logps[:, 0] - logps[:, 1]).detach()
    assert (losses < math.log(2)).all()
    table = flip_table(-c, m, torch.ones_like(c))
    assert table[0, 1] > 0 and table[1, 0] == 0  # some wrong ones were mended, no right one was spoilt
    far = beta * c > 3
    assert far.sum() > 50 and (m[far] >= 0).double().mean() < 0.2
