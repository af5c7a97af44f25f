"""Laws of the algebra: every method of the catalogue, and compositions beyond it, runs through every law.

A new row of the catalogue is tested here without a line of new code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmpo.matrix import between, inner
from mmpo.methods import CATALOGUE, build
from mmpo.objectives import ListOdds, Logistic, Nothing
from mmpo.regularizers import MeanImitation
from mmpo.scores import LogRatio, MeanLogRatio
from mmpo.targets import BradleyTerry, Flip, Hard, Posterior, SmoothUnsure, Unflip, Votes
from mmpo.types import Evidence, Method, Objective, Outcome, Reading, Target
from products import PRODUCTS
from records import equipped, fresh, graded, padded, permuted, row, said, swapped, voted, with_people, with_tokens

TARGETS: tuple[Target, ...] = (
    Hard(),
    BradleyTerry(1.3),
    Votes(),
    Votes(prior=1.0),
    Flip(Hard(), 0.2),
    Unflip(Hard(), 0.2),
    Posterior(BradleyTerry(1.3)),
    SmoothUnsure(Hard(), 0.2),
)

METHODS: dict[str, Method] = {name: entry.build() for name, entry in CATALOGUE.items()} | PRODUCTS
METHODS |= {
    "simpo, graded": replace(build("simpo"), target=BradleyTerry(2.2)),
    "dpo on votes": replace(build("dpo"), target=Votes(prior=1.0)),
    "graded and flipped": replace(build("ipo_sum"), target=Flip(BradleyTerry(0.7), 0.1)),
    "doubted votes": replace(build("spa"), target=SmoothUnsure(Votes(prior=1.0), 0.2)),
    "rpo per token": replace(build("mmpo"), regularizers=((0.2, MeanImitation()),)),
}

MATCHING = [
    name
    for name, m in METHODS.items()
    # What single voices match is tested by the values worked by hand.
    if m.target == BradleyTerry(2.2) and m.objective == Logistic() and "outputs" not in m.needs
]

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
every_target = pytest.mark.parametrize("target", TARGETS, ids=repr)
every_k = pytest.mark.parametrize("k", (2, 3, 5))


def gradient(method: Method, evidence: Evidence, reading: Reading) -> tuple[Outcome, Tensor]:
    """The outcome, and the gradient of the loss by what the model says of each response, [B, K]."""
    leaf = reading.require("rewards" if method.task == "reward" else "logps")
    outcome = method(informed(method, evidence), equipped(method, reading))
    (grad,) = torch.autograd.grad(outcome.loss, leaf)
    return outcome, grad


def informed(method: Method, evidence: Evidence) -> Evidence:
    """The evidence as the loop hands it over: with the names of the people, where the method asks, and its memory."""
    return replace(with_people(evidence) if method.voices else evidence, memory=method.memory(4))


def rises(method: Method) -> bool:
    """A price that is not convex may lead away from the people where the model has no opinion, and says so."""
    return not all(part.falls for part in method.all_parts if isinstance(part, Objective))


one_source = pytest.mark.parametrize("source", (graded, voted), ids=("grades", "votes"))


def undecided(make_reading: Callable[..., Reading], b: int, k: int) -> Reading:
    """A model without an opinion: M = 0 under every score."""
    reading = make_reading(b, k)
    flat = torch.full_like(reading.require("logps"), -20.0)
    flat_reading = replace(
        reading,
        logps=flat,
        ref_logps=flat,
        lengths=torch.full_like(flat, 7.0),
        rewards=0 * flat,
        peer_rewards=0 * flat,
        errors=torch.full_like(flat, 0.3),
    )
    return fresh(with_tokens(flat_reading, spread=0.0))


# ---------------------------------------------------------------------------------------------- symmetry


@every_method
@every_k
def test_permuting_the_responses_changes_nothing(method, k, make_evidence, make_reading):
    evidence, reading = said(make_evidence, k), make_reading(4, k)
    order = torch.arange(k).roll(1)
    outcome, grad = gradient(method, evidence, reading)
    moved, moved_grad = gradient(method, *permuted(evidence, reading, order))
    torch.testing.assert_close(moved.losses, outcome.losses)
    torch.testing.assert_close(moved_grad, grad[:, order])
    torch.testing.assert_close(moved.p, outcome.p[:, order][:, :, order])


@every_method
@every_k
@pytest.mark.parametrize("filler", (0.0, -500.0, 500.0))
def test_padding_changes_nothing(method, k, filler, make_evidence, make_reading):
    evidence, reading = said(make_evidence, k), make_reading(4, k)
    outcome, grad = gradient(method, evidence, reading)
    longer, longer_grad = gradient(method, *padded(evidence, reading, 2, filler))
    torch.testing.assert_close(longer.losses, outcome.losses)
    torch.testing.assert_close(longer_grad[:, :k], grad)
    assert (longer_grad[:, k:] == 0).all()


@every_method
@every_k
def test_swapping_the_labels_transposes_p(method, k, make_evidence):
    evidence = informed(method, said(make_evidence, k))
    m = torch.zeros_like(evidence.weight)
    p, other = method.target(evidence, m), method.target(swapped(evidence), m)
    if method.target.listwise:  # the head of a list may count for more than its foot, and swapping makes it the foot
        p, other = (p - p.mT).sign(), (other - other.mT).sign()
    torch.testing.assert_close(other, p.mT)


@every_target
@every_k
def test_p_holds_the_weight_of_each_comparison(target, k, make_evidence):
    evidence = said(make_evidence, k)
    p = target(evidence, torch.zeros_like(evidence.weight))
    weight = (
        torch.where(evidence.vote_share.isnan(), 0.0, evidence.weight) if "votes" in target.needs else evidence.weight
    )
    torch.testing.assert_close(p + p.mT, weight)


# ---------------------------------------------------------------------------------------------- a batch of data


@every_method
def test_a_batch_is_the_mean_of_its_data(method, make_evidence, make_reading):
    """A [B] target against [B, 1] rewards would broadcast to [B, B], and every pair would see every target."""
    if method.coupled:
        pytest.skip("its data are compared with each other, so that a batch is more than each datum alone")
    evidence, reading = make_evidence(8, 2, ties=False), make_reading(8, 2)
    outcome, grad = gradient(method, evidence, reading)
    alone = [gradient(method, *row(evidence, reading, i)) for i in range(8)]
    assert outcome.loss.shape == () and outcome.losses.shape == (8,)
    torch.testing.assert_close(outcome.losses, torch.stack([o.loss for o, _ in alone]))
    torch.testing.assert_close(outcome.loss, torch.stack([o.loss for o, _ in alone]).mean())
    torch.testing.assert_close(grad, torch.cat([g for _, g in alone]) / 8)


@every_method
def test_k_responses_are_the_mean_of_their_pairs(method, make_evidence, make_reading):
    if method.listwise:
        pytest.skip("a list is more than its pairs")
    method = replace(method, regularizers=())
    evidence, reading = informed(method, make_evidence(1, 4)), make_reading(1, 4)
    whole = equipped(method, reading)
    together = method(evidence, whole).loss
    pairs = []
    for i, j in torch.combinations(torch.arange(4)).tolist():
        both = torch.tensor([i, j])
        said_of_both, read = permuted(evidence, reading, both)
        # What is said of the prompt stays, whichever responses are left.
        pairs.append(method(said_of_both, replace(equipped(method, read), of_prompt=whole.of_prompt)).loss)
    torch.testing.assert_close(together, torch.stack(pairs).mean())


@every_method
@every_k
def test_weight_scales_the_loss_of_its_datum(method, k, make_evidence, make_reading):
    evidence, reading = informed(method, said(make_evidence, k)), make_reading(4, k)
    scale = torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    heavier = replace(evidence, weight=scale[:, None, None] * evidence.weight)
    if evidence.voices is not None:
        shares = scale[:, None, None, None] * evidence.voices.weight
        heavier = replace(heavier, voices=replace(evidence.voices, weight=shares))
    reading = equipped(method, reading)
    torch.testing.assert_close(method(heavier, reading).losses, scale * method(evidence, reading).losses)


@every_method
def test_what_nobody_compared_costs_nothing(method, make_evidence, make_reading):
    evidence = make_evidence(4, 3)
    silent = replace(evidence, weight=0 * evidence.weight)
    outcome, grad = gradient(method, silent, make_reading(4, 3))
    assert outcome.loss == 0 and (grad == 0).all()


# ---------------------------------------------------------------------------------------------- direction


@every_method
@every_k
@one_source
def test_a_step_from_no_opinion_agrees_with_the_people(method, k, source, make_evidence):
    """At M = 0 a descent step raises M_ij where P_ij > P_ji, lowers it where P_ij < P_ji, and leaves ties alone."""
    if method.objective == Nothing():
        pytest.skip("disagreement costs nothing; the step through the regularisers is tested below")
    if rises(method):
        pytest.skip("its price rises with M at M = 0")
    if source is voted and k > 3 and method.objective == ListOdds():
        pytest.skip("it hears the odds against the best response, and votes that form no line contradict them")
    evidence = informed(method, source(make_evidence, 4, k))
    m = torch.zeros_like(evidence.weight, requires_grad=True)
    p = method.target(evidence, m.detach())
    (grad,) = torch.autograd.grad(method.objective(p, m, evidence).sum(), m)
    step = grad.mT - grad
    lead = p - p.mT
    if method.listwise and k > 2:  # a list may be followed as a whole and not in every pair
        assert (((step * lead).sum((-1, -2)) > 0) == (lead != 0).any(-1).any(-1)).all()
    else:
        torch.testing.assert_close(step.sign(), lead.sign())


@every_method
@one_source
def test_a_step_on_a_pair_moves_m_towards_p(method, source, make_evidence, make_reading):
    """The same through the score and the regularisers: one small step of gradient descent on what the model says."""
    if rises(method):
        pytest.skip("its price rises with M at M = 0")
    if source is voted and "voice_grades" in method.needs:
        pytest.skip("it learns from grades, and there are none")
    evidence, reading = source(make_evidence, 16, 2), undecided(make_reading, 16, 2)
    outcome, grad = gradient(method, evidence, reading)
    name = "rewards" if method.task == "reward" else "logps"
    stepped = fresh(reading, **{name: reading.require(name) - 1e-3 * grad})
    m = method(informed(method, evidence), equipped(method, stepped)).m
    lead = outcome.p - outcome.p.mT
    m = m - m.mT
    torch.testing.assert_close(m.sign() * (m.abs() > 1e-12), lead.sign())


@every_target
@every_k
def test_the_logistic_price_is_proper(target, k, make_evidence):
    """From any M a step moves sigmoid(M) towards P, whatever the target."""
    evidence = said(make_evidence, k)
    m = between(torch.randn(4, k, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).requires_grad_()
    p = target(evidence, m.detach())
    (grad,) = torch.autograd.grad(Logistic()(p, m, evidence).sum(), m)
    weight = p + p.mT
    torch.testing.assert_close((grad - grad.mT).sign(), (weight * m.sigmoid() - p).sign())


@every_k
@pytest.mark.parametrize("name", MATCHING)
def test_margin_matching_ends_where_the_margin_is_matched(name, k, make_evidence, make_reading):
    """The gradient is zero at M = gamma (q_i - q_j), and nowhere near it."""
    method, evidence, reading = METHODS[name], make_evidence(4, k, weighted=True), make_reading(4, k)
    method = replace(method, regularizers=())
    unit = method.score.rewards(replace(reading, logps=torch.ones(4, k).double(), ref_logps=torch.zeros(4, k).double()))
    at = 2.2 * evidence.quality
    matched = fresh(replace(reading, logps=reading.require("ref_logps") + at / unit, rewards=at))
    outcome, grad = gradient(method, evidence, matched)
    torch.testing.assert_close(outcome.m, 2.2 * evidence.gap)
    assert grad.abs().max() < 1e-12
    _, off = gradient(
        method, evidence, fresh(replace(matched, logps=0.9 * matched.logps, rewards=0.9 * matched.rewards))
    )
    assert off.abs().max() > 1e-5


# ---------------------------------------------------------------------------------------------- limits


@every_k
@one_source
def test_large_gamma_is_dpo(k, source, make_evidence, make_reading):
    evidence, reading = source(make_evidence, 4, k), make_reading(4, k)
    sharp, sharp_grad = gradient(build("mmpo", gamma=1e6), evidence, reading)
    dpo, dpo_grad = gradient(build("dpo"), evidence, fresh(reading))
    torch.testing.assert_close(sharp.losses, dpo.losses, rtol=0, atol=0)
    torch.testing.assert_close(sharp_grad, dpo_grad, rtol=0, atol=0)


@every_k
@one_source
def test_gamma_zero_is_a_coin(k, source, make_evidence, make_reading):
    evidence = source(make_evidence, 4, k)
    p = build("mmpo", gamma=0.0)(evidence, make_reading(4, k)).p
    torch.testing.assert_close(p, evidence.weight / 2)


@every_target
@pytest.mark.parametrize("eps", (0.0, 0.1, 0.3, 0.49))
def test_unflip_undoes_flip(target, eps, make_evidence):
    evidence = said(make_evidence, 4)
    m = torch.zeros_like(evidence.weight)
    torch.testing.assert_close(Unflip(Flip(target, eps), eps)(evidence, m), target(evidence, m))


@every_target
@every_k
@pytest.mark.parametrize("score", (LogRatio(0.1), LogRatio(7.0), MeanLogRatio(2.0)), ids=repr)
def test_the_first_loss_is_ln_2_where_policy_is_reference(target, k, score, make_evidence, make_reading):
    evidence, reading = make_evidence(4, k), make_reading(4, k)
    if "votes" in target.needs:
        evidence = replace(evidence, votes=evidence.weight)
    same = replace(reading, ref_logps=reading.require("logps").detach())
    losses = Method(target, score, Logistic())(evidence, same).losses
    torch.testing.assert_close(losses, torch.full((4,), math.log(2), dtype=torch.float64))


@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if m.objective == Logistic() and "ref" in m.needs and not m.regularizers]
)
def test_the_first_loss_of_the_catalogue_is_ln_2(name, make_evidence, make_reading):
    evidence, reading = make_evidence(4, 3, votes=False), make_reading(4, 3)
    evidence = informed(METHODS[name], replace(evidence, votes=evidence.weight))
    same = replace(reading, ref_logps=reading.require("logps").detach())
    same = fresh(with_tokens(same, spread=0.0))
    outcome = METHODS[name](evidence, same)
    # The target of a list may count a comparison for more or less than one.
    mass = inner(outcome.p, torch.ones_like(outcome.p)).mean().item() if METHODS[name].target.listwise else 1
    assert outcome.loss.item() == pytest.approx(mass * math.log(2), abs=1e-12)


# ---------------------------------------------------------------------------------------------- numbers


def test_an_infinite_price_is_ignored_where_p_is_zero():
    p = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    price = torch.tensor([[[torch.inf, 2.0], [torch.inf, torch.inf]]], requires_grad=True)
    total = inner(p, price)
    assert total.tolist() == [2.0]
    assert torch.autograd.grad(total.sum(), price)[0].tolist() == p.tolist()


@every_method
def test_no_gradient_is_nan(method, make_evidence, make_reading):
    """Ungraded responses, padding, a datum without comparisons and extreme margins, in one batch."""
    evidence, reading = make_evidence(4, 3), make_reading(4, 3)
    quality = evidence.quality.clone()
    quality[0, 1] = math.nan
    weight = evidence.weight.clone()
    weight[0, 1] = weight[0, :, 1] = weight[2] = 0
    extreme = replace(reading, logps=1e4 * reading.logps.detach(), rewards=1e4 * reading.rewards.detach())
    outcome, grad = gradient(
        method, *padded(replace(evidence, quality=quality, weight=weight), fresh(extreme), 2, filler=0.0)
    )
    assert outcome.losses.isfinite().all() and grad.isfinite().all()


@every_method
def test_the_loss_does_not_reach_people_through_the_model(method, make_evidence, make_reading):
    """The target sees M detached: P carries no gradient."""
    assert not method(informed(method, said(make_evidence, 3)), equipped(method, make_reading(4, 3))).p.requires_grad
