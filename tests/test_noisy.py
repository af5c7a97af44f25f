"""Labels that may be wrong, judges that are not sure, and rankings: the papers' values and limit cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmpo.data import inspect
from mmpo.data.selfjudge import debiased, extremes, neighbours, ranked_pairs
from mmpo.errors import UserError
from mmpo.evaluate.health import ranking
from mmpo.evaluate.running import Tally
from mmpo.matrix import between, compared
from mmpo.methods import build
from mmpo.methods.noisy import with_reliability
from mmpo.objectives import Hinge, Logistic, Squared
from mmpo.scores import Given, LogProb, LogRatio
from mmpo.targets import BradleyTerry, Flip, Hard, LambdaRank, Posterior, SmoothUnsure, Unflip, Votes
from mmpo.types import Evidence, Method, Objective, Reading, Target, Voices
from pairs import KNOWN, cross_entropy, pair


def labelled(first: Tensor, who: Tensor | None = None) -> Evidence:
    """[N] 1 where the first of two wins, 0 where the second; who said so, [N]."""
    quality = torch.stack((first, 1 - first), -1).double()
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight = compared(mask).double()
    nothing = torch.full_like(weight, torch.nan)
    evidence = Evidence(mask, quality, nothing, torch.zeros_like(weight), weight)
    if who is None:
        return evidence
    people = Voices(who[:, None], quality[:, None], 0 * weight[:, None], nothing[:, None], weight[:, None])
    return replace(evidence, voices=people)


def margins(*m: float) -> Tensor:
    """[N, 2, 2] where the first of two leads by m."""
    lead = torch.tensor(m, dtype=torch.float64)
    return between(torch.stack((lead, 0 * lead), -1))


def of_first(p: Tensor) -> list[float]:
    return p[:, 0, 1].tolist()


# ---------------------------------------------------------------------------------------------- reliability


def test_the_posterior_of_a_label():
    """sigmoid(m + ln 9) at eta = 0.9; the slope is W - p."""
    evidence, m = labelled(torch.ones(4)), margins(-6, -2, 0, 2)
    p = Posterior(Hard())(evidence, m)
    assert of_first(p)[1:] == pytest.approx([0.54915, 0.9, 0.98519], abs=5e-6)
    assert [w - q for w, q in zip(of_first(p), of_first(m.sigmoid()), strict=True)] == pytest.approx(
        [0.01935, 0.42994, 0.4, 0.10439], abs=5e-6
    )


@pytest.mark.parametrize("eta", (0.3, 0.5, 0.7, 0.95))
def test_the_gradient_is_that_of_the_mixture(eta):
    """d/dm -log(eta p + (1 - eta)(1 - p)): labels are muted above eta = 1/2 and turned round below it."""
    evidence, m = labelled(torch.ones(5)), margins(-3, -1, 0, 1, 3).requires_grad_()
    loss = Logistic()(Posterior(Hard(), initial=eta)(evidence, m.detach()), m, evidence).sum()
    (grad,) = torch.autograd.grad(loss, m)
    p = m.detach().sigmoid()[:, 0, 1]
    expected = -p * (1 - p) * (2 * eta - 1) / (eta * p + (1 - eta) * (1 - p))
    torch.testing.assert_close((grad - grad.mT)[:, 0, 1], expected)


def test_nobody_is_beyond_doubt():
    """eta is held to [0.001, 0.999], and there a label is all but the plain one."""
    evidence, m = labelled(torch.ones(3)), margins(-1, 0, 1)
    sure = Posterior(Hard(), initial=1 - 1e-12)(evidence, m)
    assert of_first(sure) == pytest.approx((m[:, 0, 1] + math.log(999)).sigmoid().tolist(), abs=1e-12)
    assert of_first(sure) == pytest.approx([1, 1, 1], abs=3e-3)


PRICES: dict[str, tuple[Objective, float]] = {
    # sigmoid(m)
    "logistic": (Logistic(), 0.3),
    # (h + 5)^2 - (h - 5)^2 = 20 h = 2 h / tau
    "ipo": (Squared(1 / (2 * 0.1)), 6.0),
    # log sigmoid(d - g) - log sigmoid(-d - g)
    "simpo": (Logistic(0.5), math.log1p(math.exp(0.8)) - math.log1p(math.exp(0.2))),
    # (1 + h)_+ - (1 - h)_+
    "hinge": (Hinge(), 0.6),
}


@pytest.mark.parametrize("name", PRICES)
def test_a_price_is_a_probability_of_orders(name):
    price, logit = PRICES[name]
    p = Posterior(Hard(), price)(labelled(torch.ones(1)), margins(0.3))
    assert p[0, 0, 1].logit().item() == pytest.approx(logit + math.log(9), abs=1e-9)


PRODUCTS: dict[str, tuple[Method, float]] = {
    # d = 2 (15/5 - 12/6) = 2, margin 1: odds 9 e^(softplus(3) - softplus(-1)) = 9 e^2.735326, W = 0.992844;
    # 0.992844 * 0.313262 + 0.007156 * 3.048587
    "simpo": (with_reliability(build("simpo")), 0.332837),
    # h = 2, centre 5: odds 9 e^40, W = 1; (2 - 5)^2
    "ipo_sum": (with_reliability(build("ipo_sum")), 9.0),
    # p = sigmoid(1.1) = 0.750260, z = 0.2: W = sigmoid(0.2 + ln 9) = 0.916616 for the label, 1 - sigmoid(-0.2 + ln 9)
    # = 0.119497 of the opposite one; P = 0.750260 * 0.916616 + 0.249740 * 0.119497 = 0.717543
    "mmpo": (with_reliability(build("mmpo")), 0.798139 - 0.2 * 0.717543),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_reliability_goes_with_any_pairwise_method(name):
    method, loss = PRODUCTS[name]
    assert method.score == build(name).score and method.objective == build(name).objective
    assert method.needs == build(name).needs | {"annotators"}
    assert method(*KNOWN.grid(0)).loss.item() == pytest.approx(loss, abs=5e-6)


def test_each_person_is_believed_as_far_as_reliable():
    """Two people with opposite labels and half of the weight each: the mass moves person by person."""
    evidence = labelled(torch.ones(1))
    quality = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    share = evidence.weight[:, None] * torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1)
    nothing = torch.full_like(share, torch.nan)
    people = Voices(torch.tensor([[2, 1, -1]]), quality, torch.zeros_like(share), nothing, share)
    evidence = replace(evidence, voices=people, memory={"reliability": torch.tensor([0.1, 0.6, 0.8])})
    p = Posterior(Hard())(evidence, margins(0.4))
    yes, no = (torch.tensor([0.4, -0.4]).double() + torch.tensor([0.8, 0.6]).double().logit()).sigmoid().tolist()
    assert of_first(p) == pytest.approx([0.5 * yes + 0.5 * (1 - no)])
    assert of_first(p + p.mT) == pytest.approx([1])


def test_reliability_follows_the_labels_of_a_step():
    """Person 1 gave two labels, right with probability sigmoid(m + ln 9); person 2 one; persons 0 and 3 none."""
    target = Posterior(Hard(), momentum=0.25)
    evidence, m = labelled(torch.tensor([1, 1, 0]), torch.tensor([1, 1, 2])), margins(-2, 2, 2)
    evidence = replace(evidence, memory=target.memory(4))
    new = target.remember(evidence.memory, target.observe(evidence, Reading(evidence.mask), m))["reliability"]
    right = [0.9, 0.9 + 0.25 * ((0.549146 + 0.985186) / 2 - 0.9), 0.9 + 0.25 * (0.549146 - 0.9), 0.9]
    assert new.tolist() == pytest.approx(right, abs=1e-6)
    last = replace(target, momentum=1.0).remember(evidence.memory, target.observe(evidence, Reading(evidence.mask), m))[
        "reliability"
    ]
    assert last.tolist() == pytest.approx([0.9, 0.767166, 0.549146, 0.9], abs=1e-6)


def test_micro_batches_teach_what_the_batch_does():
    method = build("lcpo")
    rng = torch.Generator().manual_seed(0)
    who, lead = torch.randint(0, 3, (8,), generator=rng), torch.randn(8, generator=rng).double()
    memory = method.memory(3)

    def observed(rows: slice) -> Tensor:
        evidence = replace(labelled((lead > -0.5)[rows].double(), who[rows]), memory=memory)
        logps = torch.stack((10 * lead, 0 * lead), -1)[rows]
        return method.observe(evidence, Reading(evidence.mask, logps, 0 * logps))["reliability"]

    parts = torch.cat([observed(slice(0, 3)), observed(slice(3, 8))])
    whole = method.remember(memory, {"reliability": observed(slice(None))})
    torch.testing.assert_close(method.remember(memory, {"reliability": parts}), whole)
    assert (whole["reliability"] != 0.9).all()


def test_without_names_there_is_one_person():
    target = Posterior(Hard(), momentum=1.0)
    evidence, m = labelled(torch.tensor([1, 0])), margins(2, 2)
    memory = target.remember(target.memory(1), target.observe(evidence, Reading(evidence.mask), m))
    assert memory["reliability"].tolist() == pytest.approx([(0.985186 + 0.549146) / 2], abs=1e-6)
    believed = target(replace(evidence, memory=memory), m)
    assert of_first(believed)[0] == pytest.approx(1 / (1 + math.exp(-2) * 0.232834 / 0.767166), abs=1e-6)


@pytest.mark.parametrize("truth", (0.9, 0.7, 0.55))
def test_a_calibrated_model_finds_the_reliability(truth):
    """m ~ N(0, 2^2), labels drawn from sigmoid(m), flipped at rate 1 - truth."""
    rng = torch.Generator().manual_seed(0)
    m = 2 * torch.randn(50_000, generator=rng, dtype=torch.float64)
    flipped = torch.rand(len(m), generator=rng) > truth
    first = torch.bernoulli(m.sigmoid(), generator=rng).bool() ^ flipped
    target, big = Posterior(Hard(), momentum=1.0), margins(*m.tolist())
    evidence = labelled(first.double())
    memory = target.memory(1)
    for _ in range(60):
        evidence = replace(evidence, memory=memory)
        memory = target.remember(memory, target.observe(evidence, Reading(evidence.mask), big))
    # The standard error of the estimate is about 0.005.
    assert memory["reliability"].item() == pytest.approx(truth, abs=0.015)


def test_expectation_and_maximisation_never_lose_likelihood():
    """A linear reward model on 400 labels; each round fits the soft labels exactly, then the reliability."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(400, 4, generator=rng, dtype=torch.float64)
    first = torch.bernoulli((x @ torch.tensor([1.0, -1, 2, 0]).double()).sigmoid(), generator=rng).bool()
    evidence = labelled((first ^ (torch.rand(400, generator=rng) < 0.25)).double())
    target, theta = Posterior(Hard(), momentum=1.0), torch.zeros(4, dtype=torch.float64)
    memory, found = target.memory(1), []
    sign = evidence.gap[:, 0, 1]
    for _ in range(8):
        m = margins(*(x @ theta).tolist())
        eta = memory["reliability"].double()
        p = (sign * (x @ theta)).sigmoid()
        found.append((eta * p + (1 - eta) * (1 - p)).log().sum().item())
        evidence = replace(evidence, memory=memory)
        soft = target(evidence, m)[:, 0, 1]
        memory = target.remember(memory, target.observe(evidence, Reading(evidence.mask), m))
        for _ in range(20):  # Newton's method
            z = x @ theta
            curvature = x.mT @ (x * (z.sigmoid() * z.sigmoid().neg().add(1))[:, None])
            theta = theta - torch.linalg.solve(curvature, x.mT @ (z.sigmoid() - soft))
    assert all(later > earlier - 1e-6 for earlier, later in pairwise(found))
    assert found[-1] > found[0] + 1


@pytest.mark.parametrize("wrong", ({"initial": 1.0}, {"initial": 0.0}, {"momentum": 1.5}))
def test_a_reliability_is_a_probability(wrong):
    with pytest.raises(UserError, match=rf"{next(iter(wrong))} is .* between 0 and 1"):
        build("lcpo", **wrong)


# ---------------------------------------------------------------------------------------------- flips


@pytest.mark.parametrize("price", (Logistic(), Logistic(0.5), Squared(5.0), Hinge()), ids=repr)
@pytest.mark.parametrize("target", (Hard(), BradleyTerry(1.3)), ids=repr)
def test_flips_average_to_the_clean_loss_under_any_price(price, target):
    clean, m = labelled(torch.tensor([1, 1, 0])), margins(0.5, -1, 2)
    flipped = replace(clean, quality=1 - clean.quality)
    seen = [price(Unflip(target, 0.3)(evidence, m), m, clean) for evidence in (clean, flipped)]
    torch.testing.assert_close(0.7 * seen[0] + 0.3 * seen[1], price(target(clean, m), m, clean))


def test_the_robust_loss_is_a_tilt_without_a_floor():
    """l(z) - eps / (1 - 2 eps) z, so the slope never vanishes: at eps = 0.1 it tends to -1/8."""
    z = torch.linspace(-18, 18, 37, dtype=torch.float64).requires_grad_()
    evidence = labelled(torch.ones(len(z)))
    m = between(torch.stack((z, 0 * z), -1))
    loss = Logistic()(Unflip(Hard(), 0.1)(evidence, m.detach()), m, evidence)
    torch.testing.assert_close(loss, softplus(-z) - z / 8, rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(grad, -(z.sigmoid().neg() + 1) - 1 / 8, rtol=0, atol=1e-12)
    assert loss[-1].item() == pytest.approx(-18 / 8, abs=1e-6)


def test_a_rate_set_too_high_has_no_optimum():
    """Nine of ten labels say the same. At eps = 0.05 the optimum is logit((0.9 - 0.05) / 0.9); at 0.3 there is none."""
    z = torch.tensor([1.0, math.log(0.85 / 0.05), 1e3], dtype=torch.float64)
    evidence = labelled(torch.tensor([1.0] * 9 + [0.0]))
    slopes = {}
    for eps in (0.05, 0.3):
        leaf = z.clone().requires_grad_()
        m = between(torch.stack((leaf, 0 * leaf), -1))
        p = Unflip(Hard(), eps)(evidence, m).mean(0, keepdim=True).expand(3, 2, 2)
        (slopes[eps],) = torch.autograd.grad(Logistic()(p, m, evidence).sum(), leaf)
    assert slopes[0.05][0] < 0 < slopes[0.05][2] and abs(slopes[0.05][1].item()) < 1e-12
    # sigmoid(z) - (0.9 - 0.3) / 0.4 never falls below -1/2.
    assert (slopes[0.3] < -0.5 + 1e-9).all()


def test_soft_labels_are_debiased_too():
    """(q - eps) / (1 - 2 eps)."""
    evidence, m = labelled(torch.ones(1)), margins(0.0)
    q = of_first(BradleyTerry(1.0)(evidence, m))[0]
    assert of_first(Unflip(BradleyTerry(1.0), 0.2)(evidence, m)) == pytest.approx([(q - 0.2) / 0.6])


def test_robust_rank_learning_weighs_debiased_labels():
    """Unflip around LambdaRank: the weight of a comparison is symmetric, so it scales the debiased label."""
    rng = torch.Generator().manual_seed(0)
    quality, m = (torch.randn(3, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.ones_like(quality, dtype=torch.bool)
    weight = compared(mask).double()
    evidence = Evidence(mask, quality, torch.full_like(weight, torch.nan), 0 * weight, weight)
    plain = LambdaRank(Hard(), Hard())(evidence, between(m))
    robust = Unflip(LambdaRank(Hard(), Hard()), 0.2)(evidence, between(m))
    torch.testing.assert_close(robust, (plain + plain.mT) * Unflip(Hard(), 0.2)(evidence, between(m)))
    assert (robust < 0).any()


# ---------------------------------------------------------------------------------------------- doubted labels


def test_only_doubted_labels_are_smoothed():
    """z = 0.2 for the label: 0.598139 plain and 0.618139 smoothed; the threshold decides."""
    target = SmoothUnsure(Hard(), alpha=0.1)
    for tau, loss in ((0.1, 0.598139), (0.3, 0.618139)):
        evidence = replace(labelled(torch.ones(1)), memory={"margins": torch.full((50,), tau)})
        found = Logistic()(target(evidence, margins(0.2)), margins(0.2), evidence)
        assert found.item() == pytest.approx(loss, abs=1e-6)


def test_limits_of_smoothing():
    evidence, m = labelled(torch.tensor([1, 0, 1, 0])), margins(1, 1, -2, -2)
    for memory, same in ((-9.0, Hard()), (9.0, Flip(Hard(), 0.3))):
        said = replace(evidence, memory={"margins": torch.full((50,), memory)})
        assert torch.equal(SmoothUnsure(Hard(), 0.3)(said, m), same(said, m))
    assert torch.equal(SmoothUnsure(Hard(), 0.0)(evidence, m), Hard()(evidence, m))
    assert of_first(SmoothUnsure(Hard(), 0.5 - 1e-9)(evidence, m)) == pytest.approx([1, 0.5, 0.5, 0])


def test_the_threshold_is_a_quantile_of_the_last_labels():
    """Margins 0 ... 49: the mean of order statistics 5 and 6, counted from 0, which doubts 6 of 50."""
    target = SmoothUnsure(Hard())
    memory = target.memory(1)
    assert target.threshold(memory) == 0
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(0)).double()
    # Labels in both directions: what counts is the margin of the label.
    first = (shuffled % 2).double()
    evidence, m = labelled(first), margins(*(shuffled * (2 * first - 1)).tolist())
    for rows in (slice(0, 49), slice(49, 50)):
        assert target.threshold(memory) == 0
        part = replace(evidence, quality=evidence.quality[rows], mask=evidence.mask[rows], stated=evidence.stated[rows])
        part = replace(part, votes=evidence.votes[rows], weight=evidence.weight[rows])
        memory = target.remember(memory, target.observe(part, Reading(part.mask), m[rows]))
    assert target.threshold(memory) == 5.5
    assert target.unsure(replace(evidence, memory=memory), m)[:, 0, 1].sum() == 6
    memory = target.remember(memory, {"margins": torch.full((30,), 100.0)})
    assert len(memory["margins"]) == 50 and (memory["margins"] == 100).sum() == 30


@pytest.mark.parametrize(("wrong", "message"), [({"alpha": 0.5}, "alpha is 0.5"), ({"quantile": 1.0}, "quantile is 1")])
def test_mistakes_in_smoothing_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        build("spa", **wrong)
    with pytest.raises(UserError, match="window is 1"):
        SmoothUnsure(Hard(), window=1)


# ---------------------------------------------------------------------------------------------- a judge's word


def test_both_orders_take_position_out():
    assert debiased(0.8, 0.35) == pytest.approx(0.725)
    q = np.linspace(0, 1, 11)
    assert debiased(q, q) == pytest.approx(np.full(11, 0.5))
    assert debiased(q, 1 - q) == pytest.approx(q)
    with pytest.raises(UserError, match="p_swapped is not between 0 and 1"):
        debiased(0.5, 1.2)


def test_a_judge_is_matched_and_not_outdone():
    """p = 0.725, z = 0.3: softplus(0.3) - 0.2175 = 0.636855, least at z = logit p = 0.969401; p = 1 is DPO."""
    z = torch.tensor([0.3, 0.969401], dtype=torch.float64).requires_grad_()
    loss = cross_entropy(z, 0.725)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert loss[0].item() == pytest.approx(0.636855, abs=1e-6) and abs(slope[1].item()) < 1e-6
    y = pair(-12, -15, -13, -14, 6, 5, 0, 0, 1)
    evidence, reading = y.grid(0)
    for p in (0.725, 1.0):
        votes = torch.tensor([[[0.0, p], [1 - p, 0.0]]], dtype=torch.float64)
        said = replace(evidence, votes=votes)
        assert build("osp")(said, reading).loss.item() == pytest.approx(cross_entropy(0.1 * y.h, p).item(), abs=1e-12)
    assert torch.equal(build("osp")(said, reading).loss, build("dpo")(said, reading).loss)


@pytest.mark.parametrize("pairing", (neighbours, extremes))
@pytest.mark.parametrize("k", (2, 3, 4, 7))
def test_ranked_pairs_are_oriented_and_distinct(pairing, k):
    rng = np.random.default_rng(k)
    p = rng.uniform(size=(k, k))
    p = (p + 1 - p.T) / 2
    _, judged = ranked_pairs(p, pairing)
    assert len(judged) == (k - 1 if pairing is neighbours else k // 2)
    assert len({frozenset((j.first, j.second)) for j in judged}) == len(judged)
    assert all(j.first != j.second and j.p == p[j.first, j.second] >= 0.5 for j in judged)


def test_the_ranking_is_that_of_the_utilities():
    u = np.random.default_rng(0).normal(size=6)
    p = 1 / (1 + np.exp(u[None, :] - u[:, None]))
    order, judged = ranked_pairs(p)
    assert order == tuple(np.argsort(-u))
    assert [(j.first, j.second) for j in judged] == [(order[i], order[5 - i]) for i in range(3)]
    assert [(j.first, j.second) for j in ranked_pairs(p, neighbours)[1]] == list(pairwise(order))


def test_a_judge_that_likes_length_is_found(tmp_path: Path):
    rows = []
    for i in range(80):
        lengths = (5 + i % 7, 5 + (3 * i) % 7)
        p = 1 / (1 + math.exp(lengths[1] - lengths[0]))
        rows.append({"prompt": f"question {i}", "responses": ["so " * n + str(i) for n in lengths], "p_first": p})
    path = tmp_path / "judged.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert any("the longer response is preferred" in line for line in inspect(str(path), tmp_path / "out")["problems"])


# ---------------------------------------------------------------------------------------------- rankings


def test_the_loss_that_a_ranking_requires():
    c = torch.tensor([10.0, 100.0, -50.0, 0.0], dtype=torch.float64)
    required = ranking.required_dpo_loss(-c, beta=0.1)
    assert required.tolist() == pytest.approx([0.313262, 4.53989e-5, 5.006715, math.log(2)], abs=1e-6)
    assert ranking.required_dpo_loss(torch.tensor(5.0), beta=0.1).item() == pytest.approx(0.974077, abs=1e-6)


def test_a_pair_is_ranked_right_where_its_loss_is_small_enough():
    """L <= required loss if and only if log pi(y_w) >= log pi(y_l), for every one of 10,000 pairs."""
    rng = torch.Generator().manual_seed(0)
    m, ref = 20 * torch.randn(2, 10_000, generator=rng, dtype=torch.float64)
    loss = -logsigmoid(0.1 * (m - ref))
    assert torch.equal(loss <= ranking.required_dpo_loss(ref, 0.1), m >= 0)
    # Where the reference ranks right, a loss of 0.6 is enough.
    easy = (ref >= 0) & (loss <= 0.6)
    assert easy.sum() > 1000 and (m[easy] > 0).all()


def test_accuracies_by_hand():
    alpha = torch.tensor([0.75, 1.0, 0.6, 0.25, 0.5, torch.nan], dtype=torch.float64)
    m = torch.tensor([0.0, -1.0, 2.0, -5.0, -1.0, -1.0], dtype=torch.float64)
    ref = torch.tensor([-20.0, -60.0, -3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert ranking.ranking_accuracy(m, alpha).item() == pytest.approx(2 / 3)
    # ln(3) / 0.1 = 10.986 < 20; ln(999) / 0.1 = 69.07 > 60; ln(1.5) / 0.1 = 4.05 > 3
    assert ranking.ideal_margin(ref, alpha, 0.1)[:3].tolist() == pytest.approx([-9.013877, 9.067548, 1.054651])
    assert ranking.ideal_accuracy(ref, alpha, 0.1).item() == pytest.approx(2 / 3)
    assert ranking.alignment_gap(m, ref, alpha, 0.1).item() == pytest.approx(0)
    assert ranking.flip_table(ref, m, alpha).tolist() == [[1, 2], [0, 0]]
    assert ranking.ranking_accuracy(m, alpha * 0).isnan()


def test_the_ideal_goes_from_people_to_the_reference():
    rng = torch.Generator().manual_seed(0)
    ref = 10 * torch.randn(500, generator=rng, dtype=torch.float64)
    alpha = 0.51 + 0.49 * torch.rand(500, generator=rng, dtype=torch.float64)
    assert ranking.ideal_accuracy(ref, alpha, 1e-6) == 1
    assert ranking.ideal_accuracy(ref, alpha, 1e6) == ranking.ranking_accuracy(ref, alpha) < 0.6


def test_a_policy_on_vote_shares_ends_at_the_ideal_margin():
    """Three votes of four and beta = 0.1: the log-ratio moves by ln(3) / 0.1 = 10.98612."""
    ref = torch.tensor([[0.3, 0.7]], dtype=torch.float64).log()
    evidence, _ = KNOWN.grid(0)
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=200.0)
    for _ in range(400):
        optimizer.zero_grad()
        build("soft_dpo", beta=0.1)(evidence, Reading(evidence.mask, logits.log_softmax(-1), ref)).loss.backward()
        optimizer.step()
    m, start = (between(x.detach().log_softmax(-1)) for x in (logits, ref))
    assert (m - start)[0, 0, 1].item() == pytest.approx(math.log(3) / 0.1, abs=1e-3)
    torch.testing.assert_close(
        m[:, 0, 1], ranking.ideal_margin(start, evidence.vote_share, 0.1)[:, 0, 1], atol=1e-3, rtol=0
    )


def test_unanimous_votes_have_a_finite_end_too():
    """Flip(Votes(), 0.001) holds a share of 1 at 0.999, as ``ideal_margin`` does."""
    evidence, _ = KNOWN.grid(0)
    sure = replace(evidence, votes=torch.tensor([[[0.0, 5.0], [0.0, 0.0]]], dtype=torch.float64))
    p = Flip(Votes(), 1e-3)(sure, torch.zeros(1, 2, 2, dtype=torch.float64))
    assert of_first(p) == pytest.approx([0.999])
    ideal = ranking.ideal_margin(torch.zeros(1, 2, 2).double(), sure.vote_share, 1.0)[0, 0, 1]
    assert ideal.item() == pytest.approx(p[0, 0, 1].logit().item(), abs=1e-9)


def test_the_reference_counts_as_often_as_it_is_told():
    evidence, reading = KNOWN.grid(0)
    for scale, same in ((1.0, LogRatio(0.1)), (0.0, LogProb(0.1))):
        scaled = build("dpo_ref_scale", ref_scale=scale)
        torch.testing.assert_close(scaled.score(reading), same(reading))
    other = replace(reading, ref_logps=reading.require("ref_logps") * 3)
    losses = [build("dpo_ref_scale", ref_scale=0.0)(evidence, r).loss for r in (reading, other)]
    assert losses[0] == losses[1]


def test_the_report_of_a_reading():
    """Three responses, votes on two pairs, a grade on none; one pair is ranked wrong, and lengths mend it."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    votes = torch.zeros(1, 3, 3, dtype=torch.float64)
    votes[0, 0, 1], votes[0, 1, 0], votes[0, 2, 1] = 3, 1, 2
    weight = ((votes + votes.mT) > 0).double()
    nan = torch.full((1, 3), torch.nan, dtype=torch.float64)
    evidence = Evidence(mask, nan, torch.full_like(votes, torch.nan), votes, weight)
    logps, ref = torch.tensor([[-10.0, -8.0, -7.0]]).double(), torch.tensor([[-30.0, -8.0, -8.0]]).double()
    reading = Reading(mask, logps, ref, torch.tensor([[10.0, 4.0, 5.0]]).double())
    found = ranking.report(evidence, reading, beta=0.1)
    # ref + ln(3) / 0.1 = -22 + 10.99 is wrong for the first pair, ln(999) / 0.1 right for the second.
    assert found == {
        "ranking_accuracy": 0.5,
        "ranking_accuracy_per_token": 1.0,
        "list_accuracy": 0.0,
        "reference_ranking_accuracy": 0.5,
        "ideal_accuracy": 0.5,
        "alignment_gap": 0.0,
    }
    graded = replace(evidence, votes=0 * votes, quality=torch.tensor([[1.0, 0.0, 0.5]]).double())
    assert ranking.report(graded, reading, beta=0.01)["ideal_accuracy"] == 1.0


@pytest.mark.parametrize("target", (Posterior(Hard()), SmoothUnsure(Hard())), ids=repr)
def test_a_new_score_needs_no_new_target(target: Target):
    """The parts multiply: a reward model instead of a policy."""
    evidence, reading = KNOWN.grid(1)
    method = Method(target, Given(), Logistic())
    assert method.task == "reward" and method(evidence, reading).loss.isfinite()


def test_accuracy_is_measured_against_people_and_not_against_the_posterior():
    """A label that the model strongly contradicts stays a label that the model gets wrong."""
    y = pair(-100, -20, 0, 0, 1, 1, 0, 0, 1)
    for name in ("dpo", "lcpo"):
        evidence, reading = y.grid(0)
        method = build(name, beta=0.1)
        evidence = replace(evidence, memory=method.memory(1))
        tally = Tally()
        tally.add(method(evidence, reading), evidence, reading)
        assert tally.flush()["rewards/accuracies"] == 0
