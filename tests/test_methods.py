"""The catalogue against the papers: pairwise formulas written out by hand, and hand-worked values.

A new method needs one row in ``PAIRWISE`` (its formula for one pair) and one in ``WORKED`` (its value on ``KNOWN``), in
the file of its family in ``worked``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmpo.methods import CATALOGUE, build
from mmpo.regularizers import Imitation, MeanImitation
from mmpo.types import Evidence, Method, Reading
from pairs import KNOWN, Pair, other_parameters, pair
from worked import PAIRWISE, WORKED

every_name = pytest.mark.parametrize("name", CATALOGUE)


def test_every_row_has_its_formula_and_its_value():
    assert set(PAIRWISE) == set(WORKED) == set(CATALOGUE)


@every_name
@pytest.mark.parametrize("winner", (0, 1))
@pytest.mark.parametrize("seed", (0, 1))
def test_k_2_is_the_pairwise_formula(name, winner, seed):
    rng = torch.Generator().manual_seed(seed)
    normal = torch.randn(7, 16, generator=rng, dtype=torch.float64)
    lengths = torch.randint(1, 30, (2, 16), generator=rng).double()
    pairs = Pair(*(3 * normal[:4] - 20), *lengths, *normal[4:6], normal[6].abs() + 0.01)
    parameters, method = CATALOGUE[name].parameters, build(name)
    torch.testing.assert_close(
        method(*pairs.grid(winner, method)).losses, PAIRWISE[name](pairs, **parameters), msg=lambda m: f"{name}: {m}"
    )


@every_name
def test_k_2_is_the_pairwise_formula_with_other_hyperparameters(name):
    parameters = other_parameters(name)
    method, expected = build(name, **parameters), PAIRWISE[name](KNOWN, **parameters)
    torch.testing.assert_close(method(*KNOWN.grid(0, method)).losses, expected)


@every_name
def test_the_value_worked_by_hand(name):
    method = build(name)
    assert method(*KNOWN.grid(0, method)).loss.item() == pytest.approx(WORKED[name], abs=5e-7)


def test_slic_where_the_loser_is_likelier():
    # max(0, 1 + 15 - 12) + 0.1 * 15
    wrong = pair(-15, -12, 0, 0, 6, 5, 0, 0, 1)
    assert build("slic")(*wrong.grid(1)).loss.item() == pytest.approx(5.5, abs=1e-12)


@pytest.mark.parametrize(
    ("gamma", "gap", "p"),
    [
        (0.3, 1.0, 0.574443),
        (1.1, 1.0, 0.750260),
        (2.2, 1.0, 0.900250),
        (0.3, 0.5, 0.537430),
        (1.1, 0.5, 0.634136),
        (2.2, 0.5, 0.750260),
        (1.1, 0.0, 0.5),
    ],
)
def test_mmpo_targets(gamma, gap, p):
    """sigmoid(gamma * gap)."""
    y = pair(0, 0, 0, 0, 1, 1, 0, 0, gap)
    assert build("mmpo", gamma=gamma)(*y.grid(0)).p[0, 0, 1].item() == pytest.approx(p, abs=1e-6)


def rewarded(z: float, gap: float) -> tuple[Evidence, Reading]:
    """A pair with a reward margin z and a graded gap."""
    return pair(0, 0, 0, 0, 1, 1, z, 0, gap).grid(0)


def test_mmpo_loss_and_its_minimum():
    """p = 0.75 at gap ln 3: 0.75 softplus(-0.4) + 0.25 softplus(0.4) = 0.75 * 0.513015 + 0.25 * 0.913015.

    The minimum is the entropy of P, -0.75 ln 0.75 - 0.25 ln 0.25 = 0.562335, at z = ln 3.
    """
    method, gap = build("mmpo_reward", gamma=1.0), math.log(3)
    assert method(*rewarded(0.4, gap)).loss.item() == pytest.approx(0.613015, abs=1e-6)
    assert method(*rewarded(gap, gap)).loss.item() == pytest.approx(0.562335, abs=1e-6)
    for nudge in (-0.01, 0.01):
        assert method(*rewarded(gap + nudge, gap)).loss.item() > 0.562335


def slope(method: Method, z: float, gap: float) -> float:
    """d loss / d z."""
    evidence, reading = rewarded(z, gap)
    rewards = reading.require("rewards").requires_grad_()
    (grad,) = torch.autograd.grad(method(evidence, reading).loss, rewards)
    assert grad.sum().item() == pytest.approx(0, abs=1e-12)
    return grad[0, 0].item()


def test_mmpo_gradient():
    """sigmoid(z) - p at z = 0.5, p = sigmoid(1.1): 0.622459 - 0.750260."""
    assert slope(build("mmpo_reward", gamma=1.1), 0.5, 1.0) == pytest.approx(-0.127801, abs=1e-6)


def test_mmpo_does_not_ask_which_of_the_two_comes_first():
    """L(p, z) = L(1 - p, -z)."""
    method = build("mmpo_reward", gamma=1.3)
    assert method(*rewarded(0.4, 0.8)).loss.item() == pytest.approx(
        method(*rewarded(-0.4, -0.8)).loss.item(), abs=1e-12
    )


ROBUST = {0.1: (0.411577, -0.502541), 0.2: (0.307410, -0.710874), 0.4: (-0.525923, -2.377540)}


@pytest.mark.parametrize("eps", ROBUST)
def test_robust_dpo_values(eps):
    """At z = 0.5 the loss is l(z) - eps / (1 - 2 eps) z, with l(0.5) = 0.474077.

    Its slope is -(sigmoid(-z) + eps / (1 - 2 eps)), with sigmoid(-0.5) = 0.377541. Flips at rate eps average it back
    to the clean loss.
    """
    method = replace(build("bradley_terry"), target=build("robust_dpo", eps=eps).target)
    loss = method(*rewarded(0.5, 1.0)).loss.item()
    assert loss == pytest.approx(ROBUST[eps][0], abs=1e-6)
    assert loss == pytest.approx(math.log1p(math.exp(-0.5)) - eps / (1 - 2 * eps) * 0.5, abs=1e-12)
    assert slope(method, 0.5, 1.0) == pytest.approx(ROBUST[eps][1], abs=1e-6)
    flipped = method(*rewarded(-0.5, 1.0)).loss.item()
    assert (1 - eps) * loss + eps * flipped == pytest.approx(0.474077, abs=1e-6)


def test_rpo_gradient():
    """By log pi(y_w): -beta (1 - sigmoid(z)) - eta beta; by log pi(y_l): +beta (1 - sigmoid(z)); here z = 0.02."""
    evidence, reading = KNOWN.grid(0)
    logps = reading.require("logps").requires_grad_()
    (grad,) = torch.autograd.grad(build("rpo")(evidence, reading).loss, logps)
    pull = 0.01 / (1 + math.exp(0.02))
    assert grad[0].tolist() == pytest.approx([-pull - 0.005 * 0.01, pull], abs=1e-12)


def test_imitation_counts_length_only_when_summed():
    """Twice the tokens of the same likelihood: the sum doubles, the mean stays."""
    evidence, reading = KNOWN.grid(0)
    longer = replace(reading, logps=2 * reading.require("logps"), lengths=2 * reading.require("lengths"))
    p = evidence.weight * torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert Imitation()(p, evidence, longer).item() == pytest.approx(24)
    assert (
        MeanImitation()(p, evidence, longer).item() == pytest.approx(MeanImitation()(p, evidence, reading).item()) == 2
    )


def test_no_imitation_is_dpo():
    assert torch.equal(build("rpo", eta=0.0)(*KNOWN.grid(0)).loss, build("dpo", beta=0.01)(*KNOWN.grid(0)).loss)
