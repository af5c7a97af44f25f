"""The parts one by one: the K x K algebra, how evidence is read, targets, prices, and identities between them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpo.matrix import between, compared, inner, pair_count
from mmpo.methods import build
from mmpo.objectives import Hinge, Logistic, Squared
from mmpo.regularizers import best
from mmpo.scores import LogRatio
from mmpo.targets import BradleyTerry, Flip, Hard, Unflip, Votes
from mmpo.types import Evidence, Reading
from pairs import KNOWN, cross_entropy

NAN = math.nan
vectors = st.lists(st.floats(-10, 10), min_size=2, max_size=6)


def pair_evidence(
    quality: tuple[float, float] = (NAN, NAN),
    votes: tuple[float, float] = (0, 0),
    stated: float = NAN,
    weight: float = 1,
) -> Evidence:
    """One datum of two responses: their grades, the votes for the first and for the second, and a stated gap."""
    return Evidence(
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([quality]),
        torch.tensor([[[NAN, stated], [-stated, NAN]]]),
        torch.tensor([[[0.0, votes[0]], [votes[1], 0.0]]]),
        weight * torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
    )


def p_first(target, evidence: Evidence) -> tuple[float, float]:
    """(P_01, P_10)."""
    p = target(evidence, torch.zeros_like(evidence.weight))
    return p[0, 0, 1].item(), p[0, 1, 0].item()


# ---------------------------------------------------------------------------------------------- matrix


@given(vectors)
def test_between_is_antisymmetric_and_adds_up(values):
    v = torch.tensor([values], dtype=torch.float64)
    m = between(v)
    assert torch.equal(m, -m.mT)
    torch.testing.assert_close(m[:, 0, 1] + m[:, 1, -1], m[:, 0, -1])


def test_entry_ij_reads_i_over_j():
    assert between(torch.tensor([[3.0, 1.0]])).tolist() == [[[0.0, 2.0], [-2.0, 0.0]]]


def test_compared_leaves_out_the_diagonal_and_the_absent():
    mask = torch.tensor([[True, True, False]])
    assert compared(mask).tolist() == [[[False, True, False], [True, False, False], [False, False, False]]]


def test_inner_is_the_mean_over_the_comparisons_that_were_made():
    p = torch.tensor([[[0.0, 0.7, 0.0], [0.3, 0.0, 1.0], [0.0, 0.0, 0.0]], torch.zeros(3, 3).tolist()])
    price = torch.tensor([[[9.0, 1.0, 9.0], [2.0, 9.0, 4.0], [9.0, 9.0, 9.0]]]).expand(2, 3, 3)
    assert pair_count(p).tolist() == [2, 0]
    # (0.7 * 1 + 0.3 * 2 + 1 * 4) / 2, and nothing for a datum without comparisons
    assert inner(p, price).tolist() == pytest.approx([2.65, 0.0])


# ---------------------------------------------------------------------------------------------- evidence


def test_the_gap_is_the_grades_then_what_was_stated_then_the_votes():
    everything = pair_evidence(quality=(4, 1), votes=(3, 1), stated=2.0)
    assert everything.gap[0, 0, 1] == 3
    assert replace(everything, quality=torch.tensor([[4.0, NAN]])).gap[0, 0, 1] == 2
    # three votes to one: 2 * 3/4 - 1
    assert pair_evidence(votes=(3, 1)).gap[0].tolist() == [[0.0, 0.5], [-0.5, 0.0]]
    assert pair_evidence().gap.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_the_share_of_votes_is_unknown_where_nobody_voted():
    assert pair_evidence(votes=(3, 1)).vote_share[0, 0, 1] == 0.75
    assert pair_evidence().vote_share.isnan().all()


def test_a_record_moves_as_one():
    reading = KNOWN.grid(0)[1].to(torch.float32)
    assert {reading.logps.dtype, reading.ref_logps.dtype, reading.lengths.dtype} == {torch.float32}
    assert Reading(torch.ones(1, 2)).to(torch.float64).rewards is None


# ---------------------------------------------------------------------------------------------- targets


def test_a_tie_is_one_half():
    for target in (Hard(), BradleyTerry(5.0), Flip(Hard(), 0.3), Unflip(Hard(), 0.3)):
        assert p_first(target, pair_evidence(quality=(2, 2))) == pytest.approx((0.5, 0.5))
    assert p_first(Hard(), pair_evidence(votes=(2, 2))) == p_first(Votes(), pair_evidence(votes=(2, 2))) == (0.5, 0.5)


def test_hard_follows_the_grades_and_else_the_majority_of_votes():
    assert p_first(Hard(), pair_evidence(votes=(2, 3))) == (0, 1)
    # Grades and votes may disagree; all graded targets then follow the grades, so that gamma -> infinity stays Hard.
    mixed = pair_evidence(quality=(1, 0), votes=(2, 3))
    assert p_first(Hard(), mixed) == (1, 0) == p_first(BradleyTerry(1e4), mixed)
    assert p_first(Hard(), pair_evidence(quality=(1, 0))) == (1, 0)
    assert p_first(Hard(), pair_evidence(stated=-0.1)) == (0, 1)


def test_votes_are_their_share():
    assert p_first(Votes(), pair_evidence(votes=(4, 1))) == pytest.approx((0.8, 0.2))
    # (4 + 1) / (5 + 2)
    assert p_first(Votes(prior=1.0), pair_evidence(votes=(4, 1))) == pytest.approx((5 / 7, 2 / 7))
    # A stated probability of 0.7 is one vote, split.
    assert p_first(Votes(), pair_evidence(votes=(0.7, 0.3))) == pytest.approx((0.7, 0.3))
    assert p_first(Votes(), pair_evidence(votes=(4, 1), weight=3)) == pytest.approx((2.4, 0.6))


@pytest.mark.parametrize("prior", (0.0, 1.0))
def test_without_votes_there_is_no_comparison(prior):
    evidence = pair_evidence(quality=(4, 1))
    assert p_first(Votes(prior), evidence) == (0, 0)
    assert Logistic()(Votes(prior)(evidence, between(evidence.quality)), between(evidence.quality), evidence) == 0


def test_graded_margins_and_votes_meet():
    """sigmoid(gamma (2 p - 1)) with p = 0.9 and gamma 2: sigmoid(1.6) = 0.832018."""
    assert p_first(BradleyTerry(2.0), pair_evidence(votes=(9, 1)))[0] == pytest.approx(0.832018, abs=1e-6)


def test_ungraded_responses_are_a_coin_only_where_they_were_compared():
    assert p_first(BradleyTerry(2.0), pair_evidence(quality=(4, NAN))) == (0.5, 0.5)
    assert p_first(BradleyTerry(2.0), pair_evidence(quality=(4, NAN), weight=0)) == (0, 0)


@pytest.mark.parametrize("eps", (0.0, 0.1, 0.4))
def test_flip_and_unflip_move_a_sure_label(eps):
    """1 - eps, and (1 - eps) / (1 - 2 eps), which is beyond 1."""
    sure = pair_evidence(quality=(1, 0))
    assert p_first(Flip(Hard(), eps), sure) == pytest.approx((1 - eps, eps))
    assert p_first(Unflip(Hard(), eps), sure) == pytest.approx(((1 - eps) / (1 - 2 * eps), -eps / (1 - 2 * eps)))


@given(st.floats(0, 0.45), st.floats(0, 0.45))
@settings(max_examples=25)
def test_two_flips_are_one(a, b):
    """Flipped at rate a and then at rate b is flipped at rate a (1 - b) + b (1 - a)."""
    evidence = pair_evidence(quality=(1, 0.3))
    twice = p_first(Flip(Flip(BradleyTerry(), a), b), evidence)
    assert twice == pytest.approx(p_first(Flip(BradleyTerry(), a * (1 - b) + b * (1 - a)), evidence), abs=1e-6)


# ---------------------------------------------------------------------------------------------- identities


def hard_loss(objective, z: Tensor) -> Tensor:
    """The price of margin z where the first of two responses is better."""
    m = torch.stack((torch.stack((0 * z, z)), torch.stack((-z, 0 * z)))).unsqueeze(0)
    evidence = pair_evidence(quality=(1, 0)).to(z.dtype)
    return objective(Hard()(evidence, m), m, evidence)[0]


@given(st.floats(-30, 30))
@settings(max_examples=25)
def test_prices(z):
    z = torch.tensor(z, dtype=torch.float64)
    torch.testing.assert_close(hard_loss(Logistic(), z), -logsigmoid(z))
    torch.testing.assert_close(hard_loss(Logistic(0.7), z), -logsigmoid(z - 0.7))
    torch.testing.assert_close(hard_loss(Squared(5.0), z), (z - 5) ** 2)
    torch.testing.assert_close(hard_loss(Hinge(1.5), z), (1.5 - z).clamp_min(0))


def test_a_soft_price_is_finite_where_its_exponential_is_not():
    z = torch.tensor(-2000.0)
    assert hard_loss(Logistic(), z) == 2000


def test_the_hinge_on_the_log_ratio_is_that_of_rejection_sampling_optimisation():
    method = replace(build("dpo", beta=0.1), objective=Hinge(1.0))
    # max(0, 1 - 0.1 * 2)
    assert method(*KNOWN.grid(0)).loss.item() == pytest.approx(0.8)


def test_an_additive_margin_under_a_soft_target():
    """Both directions carry their own offset: p softplus(0.5 - 0.2) + (1 - p) softplus(-0.5 + 0.2) at p = sigmoid(0.5),
    which is 0.622459 * 0.854355 + 0.377541 * 0.554355.
    """
    method = replace(build("odpo"), target=BradleyTerry(1.0))
    assert method(*KNOWN.grid(0)).loss.item() == pytest.approx(0.741093, abs=1e-6)


def test_one_target_covers_dpo_its_smoothed_and_its_robust_form():
    """A grade gap of logit(p) / gamma puts P at p: 1 - eps is cDPO."""
    eps = 0.1
    evidence, reading = KNOWN.grid(0)
    graded = replace(evidence, quality=torch.tensor([[math.log((1 - eps) / eps), 0.0]], dtype=torch.float64))
    soft = build("mmpo", gamma=1.0)(graded, reading)
    assert soft.loss.item() == pytest.approx(build("cdpo", eps=eps)(evidence, reading).loss.item(), abs=1e-12)
    beyond = (1 - eps) / (1 - 2 * eps)
    robust = build("robust_dpo", eps=eps)(evidence, reading).loss
    torch.testing.assert_close(robust, cross_entropy(0.1 * KNOWN.h, beyond)[0])


def test_the_implicit_reward_is_beta_times_the_log_ratio():
    assert LogRatio(0.1).rewards(KNOWN.grid(0)[1])[0].tolist() == pytest.approx([0.1, -0.1])


def test_many_responses_by_hand(make_evidence):
    """Grades 2, 1, 0 and rewards 0, 1, 0 with gamma 1: each pair costs softplus(M) - P M, with M_01 = -1, M_02 = 0,
    M_12 = 1 and P_01 = P_12 = sigmoid(1) = 0.731059: (0.313262 + 0.731059 + 0.693147 + 1.313262 - 0.731059) / 3.
    """
    evidence = replace(make_evidence(1, 3), quality=torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64))
    reading = Reading(evidence.mask, rewards=torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    assert build("mmpo_reward", gamma=1.0)(evidence, reading).loss.item() == pytest.approx(0.773224, abs=1e-6)


# ---------------------------------------------------------------------------------------------- the best response


def test_the_best_response_wins_most():
    evidence = pair_evidence(quality=(1, 4))
    reading = Reading(evidence.mask)
    m = torch.zeros_like(evidence.weight)
    assert best(Hard()(evidence, m), reading).tolist() == [[0, 1]]
    assert best(Hard()(pair_evidence(quality=(1, 4), weight=2), m), reading).tolist() == [[0, 2]]


def test_equal_winners_share(make_evidence):
    evidence = replace(make_evidence(1, 4), quality=torch.tensor([[1.0, 3.0, 3.0, 0.0]], dtype=torch.float64))
    p = Hard()(evidence, torch.zeros_like(evidence.weight))
    assert best(p, Reading(evidence.mask)).tolist() == [[0, 0.5, 0.5, 0]]


def test_equal_winners_share_though_their_sums_differ_in_the_last_bit():
    wins = torch.tensor(0.9, dtype=torch.float64)
    p = torch.zeros(1, 3, 3, dtype=torch.float64)
    p[0, 0, 2], p[0, 1, 2] = wins, wins.nextafter(torch.tensor(1.0, dtype=torch.float64))
    share = best(p, Reading(torch.ones(1, 3, dtype=torch.bool)))[0]
    assert share[0] == share[1] > 0


def test_an_absent_response_is_never_the_best():
    reading = Reading(torch.tensor([[True, True, False]]))
    assert best(torch.zeros(1, 3, 3), reading).tolist() == [[0, 0, 0]]
    p = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert best(p, reading).tolist() == [[1, 0, 0]]
