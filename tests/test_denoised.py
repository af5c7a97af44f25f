"""Reward models for labels that are often wrong: values worked by hand, limit cases, data steps, the committee."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainingArguments

from mmpo.batch import Limits, prepare
from mmpo.data.rcal import Calibrated, RepresentationCalibrator, calibrate_labels
from mmpo.data.strength import Strength, flip_weakest, soften_weak, strengths
from mmpo.errors import UserError
from mmpo.matrix import between, compared
from mmpo.methods import build
from mmpo.models import RewardReader, packed
from mmpo.models.committee import Committee, CommitteeReader, save_committee, second_opinion
from mmpo.models.lora import adapted
from mmpo.regularizers import Difference, FeatureAnchor, InfoNCE
from mmpo.run.loop import GradedTrainer
from mmpo.scores import Given
from mmpo.targets import Hard, SmallLoss
from mmpo.types import Datum, Evidence, Judgement, Method, Reading
from pairs import pair
from tiny import batch_of, data_of, laid_out, plain


def labelled(margins: list[float], gap: float = 1.0) -> tuple[Evidence, Reading]:
    """One pair a datum, the first response better by ``gap``, which the model holds better by each margin."""
    rewards = torch.tensor([[m, 0.0] for m in margins], dtype=torch.float64).requires_grad_()
    mask = torch.ones(len(margins), 2, dtype=torch.bool)
    weight = compared(mask).double()
    quality = torch.tensor([[gap, 0.0]], dtype=torch.float64).expand(len(margins), 2)
    votes = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64).expand(len(margins), 2, 2)
    return Evidence(mask, quality, torch.full_like(weight, torch.nan), votes, weight), Reading(mask, rewards=rewards)


# ---------------------------------------------------------------------------------------------- ensemble strength


def test_soft_label_and_margin_of_the_ensemble():
    """D = 1, mu = 0.5. Soft: p = sigmoid(0.5) = 0.622459, softplus(1) - p = 1.313262 - 0.622459.

    Margin: softplus(-0.5). Both: softplus(0.5) - 0.5 p = 0.974077 - 0.311230.
    """
    said = labelled([1.0], gap=0.5)
    assert build("secrets_soft")(*said).loss.item() == pytest.approx(0.690802, abs=1e-6)
    assert build("secrets_margin")(*said).loss.item() == pytest.approx(0.474077, abs=1e-6)
    assert build("secrets_both")(*said).loss.item() == pytest.approx(0.662847, abs=1e-6)


def test_an_ensemble_without_opinion():
    """mu = 0: the soft label is the mean of both orders, the margin is plain Bradley-Terry on the label."""
    said = labelled([1.0], gap=0.0)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert build("secrets_soft")(*said).loss.item() == pytest.approx((right + wrong) / 2, abs=1e-12)
    assert build("secrets_margin")(*said).loss.item() == pytest.approx(right, abs=1e-12)


def test_the_soft_label_is_margin_matching_with_gamma_1():
    """The same loss and gradient, written out; and a labelled win that the ensemble mildly rejects."""
    evidence, reading = labelled([1.7, -0.4], gap=-0.133109)
    outcome = build("secrets_soft")(evidence, reading)
    p, d = 1 / (1 + math.exp(0.133109)), torch.tensor([1.7, -0.4], dtype=torch.float64)
    assert p == outcome.p[0, 0, 1].item() == pytest.approx(0.466772, abs=1e-6)
    torch.testing.assert_close(outcome.losses, -p * d.sigmoid().log() - (1 - p) * (-d).sigmoid().log())
    (grad,) = torch.autograd.grad(outcome.losses.sum(), reading.require("rewards"))
    torch.testing.assert_close(grad[:, 0], d.sigmoid() - p, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "at"), [("secrets_soft", 0.6), ("secrets_both", 2 * 0.6)])
def test_where_the_optimum_stands(name, at):
    evidence, reading = labelled([at], gap=0.6)
    (grad,) = torch.autograd.grad(build(name)(evidence, reading).loss, reading.require("rewards"))
    assert grad.abs().max() < 1e-12


def graded(ident: str, margins: list[float], p: float | None = 1.0) -> Datum:
    """A labelled pair, and the margins of its winner by several models."""
    first = p is None or p > 0.5
    lines = {f"model {n}": (m, 0.0) if first else (0.0, m) for n, m in enumerate(margins)}
    return Datum(ident, "x", ("a", "b"), judgements=(Judgement(0, 1, p=p),), annotator_grades=lines)


def test_strength_is_mean_and_population_deviation_over_the_models():
    data = [graded("0", [1.0, 2.0, 6.0]), graded("1", [-1.0, 3.0], p=0.0), graded("2", [5.0])]
    found = strengths(data)
    # (1 + 2 + 6) / 3 = 3, deviations -2, -1, 3: sqrt(14 / 3)
    assert found[0, 0] == Strength(3.0, pytest.approx(math.sqrt(14 / 3)))
    assert found[1, 0] == Strength(1.0, 2.0)
    assert found[2, 0] == Strength(5.0, 0.0)


def test_the_weakest_labels_turn_round_and_the_next_are_softened():
    data = [graded(str(n), [m, m]) for n, m in enumerate((3.0, -2.0, 0.1, 1.0, 2.0))]
    data += [graded("tie", [1.0], p=0.5), replace(graded("none", []), annotator_grades={})]
    flipped, counts = flip_weakest(data, 0.2)
    assert counts == {"labels flipped": 1, "labels without scores": 1}
    assert flipped[1].judgements == (Judgement(1, 0, p=1.0),)
    assert [d for n, d in enumerate(flipped) if n != 1] == [d for n, d in enumerate(data) if n != 1]
    assert strengths(flipped)[1, 0].mean == 2.0
    softened, counts = soften_weak(data, 0.1)
    assert counts == {"labels softened": 1, "labels without scores": 1}
    assert softened[2].judgements[0].p == pytest.approx(0.9)
    assert [d for n, d in enumerate(softened) if n != 2] == [d for n, d in enumerate(data) if n != 2]


def test_strength_without_scores_or_without_a_stratum_is_refused():
    with pytest.raises(UserError, match="annotator_scores"):
        flip_weakest([replace(graded("0", []), annotator_grades={})])
    with pytest.raises(UserError, match=r"from 0 to 1.5"):
        flip_weakest([graded("0", [1.0])], 1.5)


# ---------------------------------------------------------------------------------------------- features


def test_responses_alike_under_dropout_and_apart_from_others():
    """Two orthogonal responses, seen twice alike: softplus(-1 / temperature); all alike: ln 2."""
    evidence, reading = pair(0, 0, 0, 0, 1, 1, 0, 0, 1).grid(0)
    p = Hard()(evidence, torch.zeros_like(evidence.weight))
    apart = torch.eye(2, dtype=torch.float64)[None]
    term = InfoNCE(0.5)(p, evidence, replace(reading, features=3 * apart, view=7 * apart))
    assert term.item() == pytest.approx(math.log1p(math.exp(-2)), abs=1e-12)
    alike = torch.ones_like(apart)
    assert InfoNCE(0.5)(p, evidence, replace(reading, features=alike, view=alike)).item() == pytest.approx(
        math.log(2), abs=1e-12
    )


def test_the_data_of_a_batch_are_contrasted_with_each_other(make_evidence, make_reading):
    """Moving the data moves their terms, and a second copy of the batch adds ln 2: every negative comes twice."""
    evidence, reading = make_evidence(4, 3, ties=False), make_reading(4, 3)
    p, term = Hard()(evidence, torch.zeros_like(evidence.weight)), InfoNCE(0.5)
    once = term(p, evidence, reading)
    order = torch.tensor([2, 0, 3, 1])
    moved = replace(reading, features=reading.features[order], view=reading.view[order])
    torch.testing.assert_close(term(p[order], evidence, moved), once[order])
    twice = Reading(
        torch.cat([reading.mask] * 2),
        **{name: torch.cat([reading.require(name)] * 2) for name in ("features", "view")},
    )
    torch.testing.assert_close(term(torch.cat([p, p]), evidence.repeat(2), twice)[:4], once + math.log(2))


def test_an_anchor_costs_nothing_where_it_holds(make_evidence, make_reading):
    evidence, reading = make_evidence(4, 3), make_reading(4, 3)
    p = Hard()(evidence, torch.zeros_like(evidence.weight))
    held = replace(reading, features=reading.anchors)
    assert FeatureAnchor()(p, evidence, held).eq(0).all()
    shifted = replace(reading, features=reading.anchors + 0.5)
    torch.testing.assert_close(FeatureAnchor()(p, evidence, shifted), torch.full((4,), 6 * 0.25, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- MetaRM


def sampled(rewards: Tensor) -> tuple[Tensor, Evidence, Reading]:
    """The last responses of each datum are samples: all but the first two."""
    mask = torch.ones(rewards.shape, dtype=torch.bool)
    weight = compared(mask) & (torch.arange(rewards.shape[1]) < 2) & (torch.arange(rewards.shape[1]) < 2)[:, None]
    rollout = (torch.arange(rewards.shape[1]) >= 2).expand_as(mask)
    nan = torch.full(weight.shape, torch.nan, dtype=rewards.dtype)
    quality = torch.where(rollout, torch.nan, torch.arange(rewards.shape[1], 0, -1).to(rewards))
    weight = weight.to(rewards)
    evidence = Evidence(mask, quality, nan, torch.zeros_like(weight), weight, roles={"rollout": rollout})
    return Hard()(evidence, between(rewards.detach())), evidence, Reading(mask, rewards=rewards)


def test_the_difference_objective_by_hand():
    """Samples at 0, 1 and 3: sigmoid(1) + sigmoid(3) + sigmoid(2) = 0.731059 + 0.952574 + 0.880797 = 2.564430."""
    j = Difference()
    assert j(*sampled(torch.tensor([[9.0, -9.0, 0.0, 1.0, 3.0]]))).item() == pytest.approx(2.564430 / 3, abs=1e-6)
    assert j(*sampled(torch.tensor([[9.0, -9.0, 2.0, 2.0, 2.0]]))).item() == 0.5
    assert j(*sampled(torch.tensor([[0.0, 0.0, 0.0, 1e3, -1e3]]))).item() == 1.0
    assert j(*sampled(torch.tensor([[1.0, 0.0, 5.0]]))).item() == 0.0, "one sample has no pair"


def test_a_step_ahead_is_the_papers_algorithm():
    """A linear model, with both gradients written out: theta' = theta + eta grad J, theta - alpha grad L(theta')."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 4, generator=rng, dtype=torch.float64)
    theta = torch.randn(4, generator=rng, dtype=torch.float64)
    alpha, method = 0.1, build("meta_rm", eta=0.7)

    def ahead(eta: float, climb: Difference) -> Tensor:
        at = theta.clone().requires_grad_()
        (up,) = torch.autograd.grad(climb(*sampled(x @ at)).mean(), at)
        there = (theta + eta * up).requires_grad_()
        _, evidence, reading = sampled(x @ there)
        (down,) = torch.autograd.grad(method(evidence, reading).loss, there)
        return theta - alpha * down

    def by_hand(eta: float) -> Tensor:
        up = torch.zeros(4, dtype=torch.float64)
        for row in x:
            for i, j in ((2, 3), (2, 4), (3, 4)):
                d = row[i] - row[j]
                s = torch.sigmoid((d @ theta).abs())
                up += s * (1 - s) * torch.sign(d @ theta) * d / 3 / len(x)
        there = theta + eta * up
        lead = x[:, 0] - x[:, 1]
        return theta + alpha * (torch.sigmoid(-lead @ there)[:, None] * lead).mean(0)

    torch.testing.assert_close(ahead(*method.ahead), by_hand(0.7))
    torch.testing.assert_close(ahead(0.0, Difference()), by_hand(0.0))
    assert not torch.allclose(by_hand(0.7), by_hand(0.0))


# ---------------------------------------------------------------------------------------------- peer review


def remembering(target: SmallLoss, margins: list[float]) -> dict[str, Tensor]:
    """The memory once it saw these margins, in a window as long as they are."""
    target = replace(target, window=len(margins))
    evidence, reading = labelled(margins)
    m = Given().seen(reading)
    return target.remember(target.memory(1), target.observe(evidence, Reading(evidence.mask), m))


def kept(noise_rate: float, margins: list[float], memory: dict[str, Tensor] | None = None) -> list[int]:
    target = SmallLoss(Hard(), noise_rate, len(margins))
    evidence, reading = labelled(margins)
    memory = remembering(target, margins) if memory is None else memory
    p = target(replace(evidence, memory=memory), Given().seen(reading))
    assert p.equal(torch.where(p.sum((-1, -2), keepdim=True) > 0, Hard()(evidence, p), 0.0))
    return p.sum((-1, -2)).nonzero().flatten().tolist()


def test_the_labels_of_small_loss_are_kept():
    assert kept(0.5, [3.0, -1.0, 0.5, -2.0]) == [0, 2]
    assert kept(0.0, [3.0, -1.0, 0.5, -2.0]) == [0, 1, 2, 3]
    assert kept(0.99, [3.0, -1.0, 0.5, -2.0]) == [], "with four margins no share of 1 % can be kept"
    assert kept(0.7, [1.0, 1.0, 1.0, 1.0, 0.0]) == [], "ties are kept or dropped together"
    draw = torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    assert len(kept(0.37, draw)) == 63


def test_nothing_is_dropped_before_enough_was_seen():
    """The share dropped grows as the window fills: with 6 places of 10 filled, 4 count as lower."""
    target = SmallLoss(Hard(), 0.5, window=10)
    seen = target.remember(target.memory(1), {"reviewed": torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.0])})
    assert kept(0.5, [-10.0, 10.0, -1.0], target.memory(1)) == [0, 1, 2]
    # rank of -10: 4 / 10; of -3, above one: 5 / 10
    assert kept(0.5, [-10.0, -3.0], seen) == [1]
    assert kept(0.4, [-10.0, -3.0], seen) == [0, 1]


def test_a_wrong_looking_label_counts_by_its_own_direction_and_a_tie_as_0():
    target = SmallLoss(Hard(), 0.5)
    evidence, reading = labelled([2.0, -3.0])
    turned = replace(evidence, quality=evidence.quality.flip(-1))
    assert target.observe(evidence, reading, Given().seen(reading))["reviewed"].tolist() == [2.0, -3.0]
    assert target.observe(turned, reading, Given().seen(reading))["reviewed"].tolist() == [-2.0, 3.0]
    tied = replace(evidence, quality=0 * evidence.quality)
    assert target.observe(tied, reading, Given().seen(reading))["reviewed"].tolist() == [0.0, 0.0]


def test_the_window_keeps_the_latest():
    target = SmallLoss(Hard(), 0.2, window=3)
    memory = target.memory(1)
    for new in ([1.0, 2.0], [3.0], [4.0, 5.0]):
        memory = target.remember(memory, {"reviewed": torch.tensor(new)})
    assert memory["reviewed"].tolist() == [3.0, 4.0, 5.0]


def test_a_dropped_label_has_no_gradient_and_the_peer_decides():
    method = build("crm", noise_rate=0.5)
    evidence, reading = labelled([0.3, 0.2, -5.0, 0.1])
    reviewed = replace(reading, peer_rewards=labelled([3.0, -1.0, 0.5, -2.0])[1].require("rewards"))
    method = replace(method, target=replace(method.target, window=4))
    memory = method.remember(method.memory(), method.observe(evidence, reviewed))
    outcome = method(replace(evidence, memory=memory), reviewed)
    (grad,) = torch.autograd.grad(outcome.loss, reading.require("rewards"))
    assert (grad != 0).any(-1).tolist() == [True, False, True, False]
    assert outcome.losses[[1, 3]].eq(0).all()
    torch.testing.assert_close(outcome.losses[[0, 2]], build("bradley_terry")(evidence, reading).losses[[0, 2]])


def test_equal_members_review_as_one_reviews_itself():
    peer = build("crm", noise_rate=0.5)
    alone = replace(peer, score=Given())
    evidence, reading = labelled([3.0, -1.0, 0.5, -2.0])
    reviewed = replace(reading, peer_rewards=reading.require("rewards").detach())
    observed = [peer.observe(evidence, reviewed), alone.observe(evidence, reading)]
    assert observed[0]["reviewed"].equal(observed[1]["reviewed"])
    memory = {"reviewed": observed[0]["reviewed"]}
    losses = [m(replace(evidence, memory=memory), reviewed).losses for m in (peer, alone)]
    assert losses[0].equal(losses[1]) and losses[0].count_nonzero() == 2


# ---------------------------------------------------------------------------------------------- the committee


@pytest.fixture
def committee(tiny_reward) -> Committee:
    return Committee(tiny_reward(0), second_opinion(tiny_reward(0), seed=7))


def test_a_second_opinion_has_another_head_alone(tiny_reward):
    model = tiny_reward(0)
    before = torch.random.get_rng_state()
    second, again, other = (second_opinion(model, seed) for seed in (1, 1, 2))
    assert torch.random.get_rng_state().equal(before)
    assert second.score.weight.equal(again.score.weight) and not second.score.weight.equal(other.score.weight)
    assert not second.score.weight.equal(model.score.weight)
    first, copied = model.model.state_dict(), second.model.state_dict()
    assert all(copied[name].equal(value) for name, value in first.items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in second.parameters()}


def test_a_saved_model_gets_a_fresh_head_too(tiny_reward, tmp_path):
    tiny_reward(0).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not second_opinion(model, 1).score.weight.equal(model.score.weight)


@pytest.mark.parametrize("lora", (None, {"r": 2}), ids=("whole", "adapter"))
def test_a_second_opinion_of_a_packed_model_reads_with_its_own_weights(tiny_reward, tiny_tokenizer, lora):
    """The model was taught to read packed rows before it was copied; a change to the first must not reach the copy."""
    tokenizer = plain(tiny_tokenizer)
    model = tiny_reward(0) if lora is None else adapted(tiny_reward(0), lora, "reward")
    second = second_opinion(laid_out(model, tokenizer, "shared"), seed=7)
    batch = batch_of(data_of(), tokenizer)
    read = RewardReader()
    first, other = read(model, batch).rewards, read(second, batch).rewards
    assert not first.equal(other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert packed.is_enabled(second) and read(second, batch).rewards.equal(other)
    assert not read(model, batch).rewards.equal(first)
    with packed.set_aside(second):
        torch.testing.assert_close(read(second, batch).rewards, other, rtol=1e-4, atol=1e-6)


def test_each_member_is_read_beside_the_other(committee, tiny_tokenizer):
    batch = batch_of(data_of(), plain(tiny_tokenizer))
    reading = CommitteeReader(RewardReader())(committee, batch)
    alone = [RewardReader()(member, batch) for member in committee.members]
    b = len(batch)
    assert reading.mask.equal(batch.evidence.repeat(2).mask)
    torch.testing.assert_close(reading.rewards, torch.cat([r.rewards for r in alone]))
    torch.testing.assert_close(reading.peer_rewards, torch.cat([r.rewards for r in alone[::-1]]))
    torch.testing.assert_close(reading.lengths[b:], alone[0].lengths)
    assert not reading.peer_rewards.requires_grad and not reading.rewards[:b].equal(reading.rewards[b:])


def trained(model: Any, reader: Any, method: Method, tokenizer: Any, folder: Path) -> GradedTrainer:
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="epoch",
    )
    examples = prepare(data_of(), tokenizer, Limits(128))[0]
    trainer = GradedTrainer(model, args, method=method, reader=reader, tokenizer=tokenizer, train_dataset=examples)
    trainer.train()
    return trainer


def test_without_noise_each_member_is_a_plain_reward_model(committee, tiny_reward, tiny_tokenizer, tmp_path):
    """The same Trainer, the same steps; and the result is the first member, with the second beside it."""
    tokenizer = plain(tiny_tokenizer)
    alone = [tiny_reward(0), second_opinion(tiny_reward(0), seed=7)]
    trained(committee, CommitteeReader(RewardReader()), build("crm", noise_rate=0.0), tokenizer, tmp_path / "two")
    for n, (member, model) in enumerate(zip(committee.members, alone, strict=True)):
        trained(model, RewardReader(), build("bradley_terry"), tokenizer, tmp_path / str(n))
        for mine, plain_one in zip(member.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine, plain_one, rtol=1e-5, atol=1e-6)
    save_committee(committee, tokenizer, tmp_path / "saved")
    for folder, member in zip((tmp_path / "saved", tmp_path / "saved" / "peer"), committee.members, strict=True):
        loaded = AutoModelForSequenceClassification.from_pretrained(folder)
        assert all(a.equal(b) for a, b in zip(loaded.parameters(), member.parameters(), strict=True))


def test_labels_are_dropped_while_a_committee_trains(committee, tiny_tokenizer, tmp_path):
    method = build("crm", noise_rate=0.4)
    method = replace(method, target=replace(method.target, window=16))
    trainer = trained(committee, CommitteeReader(RewardReader()), method, plain(tiny_tokenizer), tmp_path)
    memory = trainer.method_state.memory["reviewed"]
    assert memory.isfinite().all()
    batch = batch_of(data_of(), plain(tiny_tokenizer))
    evidence, reading = trainer.read(committee, batch)
    share = (method(evidence, reading).p != 0).sum() / (Hard()(evidence, evidence.weight) != 0).sum()
    assert 0.3 < share.item() < 0.9


# ---------------------------------------------------------------------------------------------- calibration


def clouds(counts: list[int], means: Any, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng, means = np.random.default_rng(seed), np.asarray(means, float)
    points = [mu + scale * rng.standard_normal((n, len(mu))) for n, mu in zip(counts, means, strict=True)]
    return np.concatenate(points), np.repeat(np.arange(len(counts)), counts)


PLAIN = RepresentationCalibrator(gamma=1.0, alpha=0.0, contamination=0.0)


def test_without_calibration_it_is_the_plain_mean_and_covariance():
    z, k = clouds([40, 5], [[0, 0], [3, 1]])
    fitted = PLAIN.fit(z, k)
    for n in (0, 1):
        np.testing.assert_allclose(fitted.means[n], z[k == n].mean(0))
        np.testing.assert_allclose(fitted.spreads[n], np.cov(z[k == n].T))
    assert not fitted.outliers.any()


def test_with_one_covariance_it_is_linear_discriminant_analysis():
    """log p_1 / p_0 = (mu_1 - mu_0)^T Sigma^-1 z - (mu_1^T Sigma^-1 mu_1 - mu_0^T Sigma^-1 mu_0) / 2."""
    means, spread = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[2.0, 0.5], [0.5, 1.0]])
    fitted = Calibrated(np.arange(2), means, np.stack([spread, spread]), np.zeros(0, bool))
    z = np.random.default_rng(0).standard_normal((7, 2))
    p, inverse = fitted.posterior(z), np.linalg.inv(spread)
    constant = (means[1] @ inverse @ means[1] - means[0] @ inverse @ means[0]) / 2
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), z @ inverse @ (means[1] - means[0]) - constant)
    np.testing.assert_allclose(p.sum(1), 1)


def test_far_points_are_flagged_and_no_longer_move_the_mean():
    rng = np.random.default_rng(0)
    z, k = clouds([1000], [[0.0, 0.0]])
    z[:100] = 20 + rng.standard_normal((100, 2)) * 5
    by = RepresentationCalibrator(contamination=0.1, neighbours=150)
    fitted = by.fit(z, k)
    assert fitted.outliers[:100].all() and fitted.outliers.sum() == 100
    assert np.linalg.norm(fitted.means[0]) < 0.1
    assert np.linalg.norm(PLAIN.fit(z, k).means[0]) > 2


def test_a_small_class_leans_on_large_ones_near_it():
    """Where they have its own mean, the error of the mean shrinks by gamma; the weights are n / distance."""
    errors = []
    for seed in range(200):
        z, k = clouds([500, 500, 5], [[0.0, 0.0]] * 3, seed)
        errors.append([np.linalg.norm(c.fit(z, k).means[2]) for c in (PLAIN, replace(PLAIN, gamma=0.5))])
    plain_error, leaning = np.mean(errors, 0)
    assert leaning == pytest.approx(0.5 * plain_error, rel=0.02)

    z, k = clouds([300, 100, 100, 4], [[1, 0], [0, 2], [90, 0], [0, 0]], scale=1e-9)
    fitted = replace(PLAIN, q=2, gamma=0.5, alpha=0.25).fit(z, k)
    # 300 / 1 and 100 / 2: weights 6/7 and 1/7 on (1, 0) and (0, 2)
    np.testing.assert_allclose(fitted.means[3], [3 / 7, 1 / 7], atol=1e-6)
    np.testing.assert_allclose(fitted.spreads[3], np.full((2, 2), 0.25), atol=1e-6)
    np.testing.assert_allclose(fitted.means[:3], [[1, 0], [0, 2], [90, 0]], atol=1e-6)


def test_samples_have_the_moments_of_their_class_and_balance_it():
    z, k = clouds([300, 30], [[0, 0], [3, 1]])
    fitted = RepresentationCalibrator().fit(z, k)
    points, names = fitted.sample(4000, seed=1)
    assert np.bincount(names).tolist() == [4000, 4000]
    for n in (0, 1):
        own = points[names == n]
        error = np.sqrt(np.diag(fitted.spreads[n]) / 4000)
        assert (np.abs(own.mean(0) - fitted.means[n]) < 4 * error).all()
        np.testing.assert_allclose(np.cov(own.T), fitted.spreads[n], atol=4 * fitted.spreads[n].max() / math.sqrt(2000))
    assert np.bincount(fitted.sample([0, 270], seed=1)[1]).tolist() == [0, 270]


def test_a_rotation_changes_posteriors_only_with_a_spread_along_the_axes():
    z, k = clouds([200, 200, 20], [[0, 0], [3, 1], [1, 3]])
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for alpha in (0.0, 0.5):
        by = RepresentationCalibrator(alpha=alpha, contamination=0.0)
        same = np.allclose(by.fit(z, k).posterior(z), by.fit(z @ turn, k).posterior(z @ turn), atol=1e-9)
        assert same == (alpha == 0)


def pairs_of_vectors(n: int, seed: int) -> tuple[list[Datum], np.ndarray]:
    """Pairs whose features differ along the first axis, a fifth of them with the wrong label."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 3))
    first = (z[:, 0] > 0) ^ (rng.random(n) < 0.2)
    data = [Datum(str(i), "x", ("a", "b"), judgements=(Judgement(0, 1, p=float(f)),)) for i, f in enumerate(first)]
    return data, z


def test_labels_become_probabilities_that_find_the_wrong_ones():
    data, z = pairs_of_vectors(500, 0)
    calibrated, counts = calibrate_labels(data, z, RepresentationCalibrator())
    p = np.array([d.judgements[0].p for d in calibrated])
    assert ((p > 0.5) == (z[:, 0] > 0)).mean() > 0.95
    assert counts["labels calibrated"] == 500 and counts["labels left out of the fit"] == 50
    assert counts["labels turned round"] == sum(
        (a.judgements[0].p > 0.5) != (b.judgements[0].p > 0.5) for a, b in zip(data, calibrated, strict=True)
    )


def test_exchanging_two_responses_exchanges_their_probability():
    data, z = pairs_of_vectors(100, 1)
    turned = [replace(d, judgements=(replace(d.judgements[0], p=1 - d.judgements[0].p),)) for d in data[:40]]
    sign = np.where(np.arange(100) < 40, -1, 1)[:, None]
    p, q = (
        np.array([d.judgements[0].p for d in calibrate_labels(said, at, RepresentationCalibrator())[0]])
        for said, at in ((data, z), ([*turned, *data[40:]], sign * z))
    )
    np.testing.assert_allclose(np.where(np.arange(100) < 40, 1 - q, q), p, atol=1e-9)


def test_a_calibration_that_cannot_be_is_refused():
    data, z = pairs_of_vectors(10, 0)
    with pytest.raises(UserError, match="9 differences for 10 labels"):
        calibrate_labels(data, z[:9], RepresentationCalibrator())
    with pytest.raises(UserError, match="too few points for 30 dimensions"):
        calibrate_labels(data, np.random.default_rng(0).standard_normal((10, 30)), RepresentationCalibrator())
    with pytest.raises(UserError, match="contamination"):
        RepresentationCalibrator(contamination=0.7)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("crm", {"noise_rate": 1.0}, "noise_rate is 1"),
        ("secrets_contrastive", {"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named(name, parameters, message):
    with pytest.raises(UserError, match=message):
        build(name, **parameters)
