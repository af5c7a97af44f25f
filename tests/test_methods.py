"""The catalogue against the papers: pairwise formulas written out by hand, hand-worked values, and how it is asked.

A new method needs one row in ``PAIRWISE`` (its formula for one pair) and one in ``WORKED`` (its value on a known pair).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import mmpo.objectives
import mmpo.regularizers
import mmpo.scores
import mmpo.targets
from mmpo.errors import UserError
from mmpo.matrix import compared
from mmpo.methods import CATALOGUE, build
from mmpo.objectives import Logistic
from mmpo.regularizers import Imitation, MeanImitation
from mmpo.scores import LogRatio, MeanLogProb
from mmpo.targets import BradleyTerry, Flip, Hard
from mmpo.types import Evidence, Method, Reading


@dataclass(frozen=True)
class Pair:
    """What the model says of a winner w and a loser l, and the grade by which w leads."""

    logp_w: Tensor
    logp_l: Tensor
    ref_w: Tensor
    ref_l: Tensor
    len_w: Tensor
    len_l: Tensor
    r_w: Tensor
    r_l: Tensor
    gap: Tensor

    @property
    def h(self) -> Tensor:
        return (self.logp_w - self.ref_w) - (self.logp_l - self.ref_l)

    @property
    def h_mean(self) -> Tensor:
        return (self.logp_w - self.ref_w) / self.len_w - (self.logp_l - self.ref_l) / self.len_l

    def grid(self, winner: int) -> tuple[Evidence, Reading]:
        """The same as B data of K = 2 with the winner in place ``winner``."""

        def side(w: Tensor, loser: Tensor) -> Tensor:
            return torch.stack((w, loser) if winner == 0 else (loser, w), dim=-1)

        quality = side(self.gap + 3, torch.full_like(self.gap, 3))
        mask = torch.ones_like(quality, dtype=torch.bool)
        square = torch.zeros(*quality.shape, 2, dtype=quality.dtype)
        evidence = Evidence(mask, quality, torch.full_like(square, torch.nan), square, compared(mask).to(quality.dtype))
        reading = Reading(
            mask,
            side(self.logp_w, self.logp_l),
            side(self.ref_w, self.ref_l),
            side(self.len_w, self.len_l),
            side(self.r_w, self.r_l),
        )
        return evidence, reading


def pair(*values: float) -> Pair:
    return Pair(*(torch.tensor([value], dtype=torch.float64) for value in values))


def ce(z: Tensor, p: Tensor | float) -> Tensor:
    """-p log sigmoid(z) - (1 - p) log sigmoid(-z)."""
    return -p * logsigmoid(z) - (1 - p) * logsigmoid(-z)


PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "mmpo": lambda y, gamma, beta: ce(beta * y.h, torch.sigmoid(gamma * y.gap)),
    "dpo": lambda y, beta: -logsigmoid(beta * y.h),
    "cdpo": lambda y, eps, beta: -(1 - eps) * logsigmoid(beta * y.h) - eps * logsigmoid(-beta * y.h),
    "robust_dpo": lambda y, eps, beta: (
        (-(1 - eps) * logsigmoid(beta * y.h) + eps * logsigmoid(-beta * y.h)) / (1 - 2 * eps)
    ),
    "ipo_sum": lambda y, tau: (y.h - 1 / (2 * tau)) ** 2,
    "ipo_mean": lambda y, tau: (y.h_mean - 1 / (2 * tau)) ** 2,
    "simpo": lambda y, beta, margin: -logsigmoid(beta / y.len_w * y.logp_w - beta / y.len_l * y.logp_l - margin),
    "slic": lambda y, delta, imitation: (delta - y.logp_w + y.logp_l).clamp_min(0) - imitation * y.logp_w,
    "rpo": lambda y, eta, beta: -logsigmoid(beta * y.h) - eta * beta * y.logp_w,
    "odpo": lambda y, scale, beta: -logsigmoid(beta * y.h - scale * y.gap),
    "mmpo_reward": lambda y, gamma: ce(y.r_w - y.r_l, torch.sigmoid(gamma * y.gap)),
    "bradley_terry": lambda y: -logsigmoid(y.r_w - y.r_l),
    "margin_bradley_terry": lambda y, scale: -logsigmoid(y.r_w - y.r_l - scale * y.gap),
}

# One pair worked by hand. Policy: logp -12 and -15, reference -13 and -14, so the log-ratios are +1 and -1 and h = 2;
# lengths 6 and 5, so h per token is 1/6 + 1/5 = 11/30. Reward model: 1.2 and 0.7, so r_w - r_l = 0.5. Grade gap: 0.5.
KNOWN = pair(-12, -15, -13, -14, 6, 5, 1.2, 0.7, 0.5)

WORKED: dict[str, float] = {
    # p = sigmoid(2.2 * 0.5) = 0.750260, z = 0.1 * 2 = 0.2; softplus(z) - p z = 0.798139 - 0.150052
    "mmpo": 0.648087,
    # softplus(-0.2) = ln(1 + 0.818731)
    "dpo": 0.598139,
    # 0.9 * 0.598139 + 0.1 * 0.798139
    "cdpo": 0.618139,
    # (0.9 * 0.598139 - 0.1 * 0.798139) / 0.8, which is 0.598139 - 0.2 / 8
    "robust_dpo": 0.573139,
    # 1 / (2 * 0.1) = 5; (2 - 5)^2
    "ipo_sum": 9.0,
    # (11/30 - 5)^2 = (139/30)^2
    "ipo_mean": 21.467778,
    # 2 * (-12/6 + 15/5) = 2; softplus(1 - 2)
    "simpo": 0.313262,
    # -12 leads -15 by 3 > 1, so the hinge is 0; 0.1 * 12
    "slic": 1.2,
    # softplus(-0.02) + 0.005 * 0.01 * 12 = 0.683197 + 0.000600
    "rpo": 0.683797,
    # softplus(0.5 - 0.2) = ln(1 + 1.349859)
    "odpo": 0.854355,
    # p = 0.750260, z = 0.5; softplus(0.5) - p z = 0.974077 - 0.375130
    "mmpo_reward": 0.598947,
    # softplus(-0.5) = ln(1 + 0.606531)
    "bradley_terry": 0.474077,
    # the lead of 0.5 is the gap of 0.5: ln 2
    "margin_bradley_terry": 0.693147,
}

every_name = pytest.mark.parametrize("name", CATALOGUE)


# ---------------------------------------------------------------------------------------------- against the papers


@every_name
@pytest.mark.parametrize("winner", (0, 1))
@pytest.mark.parametrize("seed", (0, 1))
def test_k_2_is_the_pairwise_formula(name, winner, seed):
    rng = torch.Generator().manual_seed(seed)
    normal = torch.randn(7, 16, generator=rng, dtype=torch.float64)
    lengths = torch.randint(1, 30, (2, 16), generator=rng).double()
    pairs = Pair(*(3 * normal[:4] - 20), *lengths, *normal[4:6], normal[6].abs() + 0.01)
    parameters = CATALOGUE[name].parameters
    torch.testing.assert_close(
        build(name)(*pairs.grid(winner)).losses, PAIRWISE[name](pairs, **parameters), msg=lambda m: f"{name}: {m}"
    )


@every_name
def test_k_2_is_the_pairwise_formula_with_other_hyperparameters(name):
    parameters = {key: 0.37 * (1 + i) for i, key in enumerate(CATALOGUE[name].parameters)}
    expected = PAIRWISE[name](KNOWN, **parameters)
    torch.testing.assert_close(build(name, **parameters)(*KNOWN.grid(0)).losses, expected)


@every_name
def test_the_value_worked_by_hand(name):
    assert build(name)(*KNOWN.grid(0)).loss.item() == pytest.approx(WORKED[name], abs=5e-7)


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
    assert Imitation()(p, longer).item() == pytest.approx(24)
    assert MeanImitation()(p, longer).item() == pytest.approx(MeanImitation()(p, reading).item()) == 2


def test_no_imitation_is_dpo():
    assert torch.equal(build("rpo", eta=0.0)(*KNOWN.grid(0)).loss, build("dpo", beta=0.01)(*KNOWN.grid(0)).loss)


# ---------------------------------------------------------------------------------------------- trained to the end


def tabular(method: Method, steps: int) -> Tensor:
    """Margins M after training a softmax policy over three responses with grades 2, 1.5 and 0; one datum."""
    quality = torch.tensor([[2.0, 1.5, 0.0]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    none = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    evidence = Evidence(mask, quality, none, torch.zeros_like(none), compared(mask).double())
    ref = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=30.0)
    for _ in range(steps):
        optimizer.zero_grad()
        outcome = method(evidence, Reading(mask, logits.log_softmax(-1), ref))
        outcome.loss.backward()
        optimizer.step()
    return outcome.m.detach()[0]


def test_a_tabular_policy_ends_at_the_graded_margin():
    """M_ij = gamma (q_i - q_j): with gamma 1.1, M_01 = 0.55, M_02 = 2.2, M_12 = 1.65."""
    m = tabular(build("mmpo", gamma=1.1, beta=0.5), 400)
    assert [m[0, 1].item(), m[0, 2].item(), m[1, 2].item()] == pytest.approx([0.55, 2.2, 1.65], abs=1e-3)


def test_the_margin_of_dpo_never_stops():
    early, late = tabular(build("dpo", beta=0.5), 200), tabular(build("dpo", beta=0.5), 800)
    assert late[0, 2] > early[0, 2] + 1 > 3


def test_soft_targets_are_calibrated_where_hard_labels_overfit():
    """A linear reward model on 60 pairs of 20 features, trained to the end on labels drawn from sigmoid(gap).

    The graded gaps give a lower error of the probability and a lower NLL than the drawn labels do, and than a gamma
    ten times too large.
    """
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(20, generator=rng, dtype=torch.float64) / 4
    train, test = (torch.randn(n, 2, 20, generator=rng, dtype=torch.float64) for n in (60, 2000))
    mask = torch.ones(60, 2, dtype=torch.bool)
    gap = (train[:, 0] - train[:, 1]) @ theta
    first = torch.bernoulli(gap.sigmoid(), generator=rng)
    votes = torch.zeros(60, 2, 2, dtype=torch.float64)
    votes[:, 0, 1], votes[:, 1, 0] = first, 1 - first
    # The grades are the utility itself, heard through noise.
    quality = train @ theta + 0.3 * torch.randn(60, 2, generator=rng, dtype=torch.float64)
    evidence = Evidence(mask, quality, torch.full_like(votes, torch.nan), votes, compared(mask).double())
    truth = ((test[:, 0] - test[:, 1]) @ theta).sigmoid()

    def trained(method: Method) -> tuple[float, float]:
        w = torch.zeros(20, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.5)
        for _ in range(1000):
            optimizer.zero_grad()
            method(evidence, Reading(mask, rewards=train @ w)).loss.backward()
            optimizer.step()
        z = ((test[:, 0] - test[:, 1]) @ w).detach()
        return (z.sigmoid() - truth).abs().mean().item(), ce(z, truth).mean().item()

    soft, hard, wrong = (
        trained(m) for m in (build("mmpo_reward", gamma=1.0), build("bradley_terry"), build("mmpo_reward", gamma=10.0))
    )
    assert soft[0] < hard[0] and soft[1] < hard[1]
    assert soft[0] < wrong[0] and soft[1] < wrong[1]


# ---------------------------------------------------------------------------------------------- how it is asked

PARTS = {
    name: part
    for room in (mmpo.targets, mmpo.scores, mmpo.objectives, mmpo.regularizers)
    for name, part in vars(room).items()
    if isinstance(part, type)
}


def test_every_row_has_its_formula_and_its_value():
    assert set(PAIRWISE) == set(WORKED) == set(CATALOGUE)


@every_name
def test_a_method_prints_as_its_recipe(name):
    method = build(name)
    assert eval(repr(method), PARTS | {"Method": Method}) == method


@every_name
def test_a_row_says_what_it_is(name):
    entry = CATALOGUE[name]
    assert entry.name == name
    assert entry.about and entry.title in entry.citation()
    assert all(isinstance(value, float) for value in entry.parameters.values())
    json.dumps(entry.parameters)


@every_name
def test_the_equation_holds_every_number(name):
    parameters = {key: 0.37 * (1 + i) for i, key in enumerate(CATALOGUE[name].parameters)}
    method = build(name, **parameters)
    assert len(method.equation.splitlines()) == 3 + len(method.regularizers)
    assert method.equation != build(name).equation or not parameters


@every_name
def test_needs_are_the_union_of_the_parts(name):
    method = build(name)
    assert method.needs == frozenset().union(*(part.needs for part in method.parts))
    assert method.task == ("reward" if "rewards" in method.needs else "policy")


@every_name
def test_needs_are_enough(name):
    """A reading with no more than the method asks for is enough, and one without any of it is not."""
    method = build(name)
    evidence, reading = KNOWN.grid(0)
    fields = {"logps": "logps", "ref": "ref_logps", "lengths": "lengths", "rewards": "rewards"}
    given = {field: getattr(reading, field) for need, field in fields.items() if need in method.needs}
    torch.testing.assert_close(method(evidence, Reading(reading.mask, **given)).loss, method(evidence, reading).loss)
    for field in given:
        with pytest.raises(ValueError, match=field):
            method(evidence, Reading(reading.mask, **{**given, field: None}))


def test_a_wrapper_needs_what_it_wraps():
    assert Flip(BradleyTerry(), 0.1).needs == BradleyTerry().needs == {"grades"}
    assert Flip(Hard(), 0.1).needs == frozenset()


def test_parts_multiply():
    graded = replace(build("simpo"), target=BradleyTerry(2.2))
    assert graded == Method(BradleyTerry(2.2), MeanLogProb(2.0), Logistic(1.0))
    assert graded.needs == {"grades", "logps", "lengths"}
    # p = sigmoid(2.2 * 0.5) = 0.750260, M = 2, offset 1: p softplus(1 - 2) + (1 - p) softplus(1 + 2)
    assert graded(*KNOWN.grid(0)).loss.item() == pytest.approx(0.750260 * 0.313262 + 0.249740 * 3.048587, abs=2e-6)


def test_a_method_is_a_value():
    assert build("mmpo") == build("mmpo") != build("mmpo", gamma=1.0)
    assert len({build("mmpo"), build("mmpo"), build("dpo")}) == 2
    assert build("mmpo", gamma=0.3, beta=0.01) == Method(BradleyTerry(0.3), LogRatio(0.01), Logistic())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mmop", {}, r"unknown method 'mmop'. Did you mean 'mmpo'\?"),
        ("ipo", {}, r"unknown method 'ipo'. Did you mean"),
        ("zzzz", {}, r"unknown method 'zzzz'. Known: bradley_terry, cdpo"),
        ("mmpo", {"gama": 1.0}, r"method 'mmpo' has no parameter 'gama'. Did you mean 'gamma'\?"),
        ("dpo", {"beta": "0.1"}, r"method.beta is '0.1'; a number is needed"),
        ("dpo", {"beta": True}, r"method.beta is True; a number is needed"),
        ("dpo", {"beta": math.nan}, r"method.beta is nan; a finite number is needed"),
        ("cdpo", {"eps": 0.5}, r"eps is 0.5; a flip rate is at least 0 and below 0.5"),
        ("robust_dpo", {"eps": -0.1}, r"eps is -0.1"),
        ("ipo_sum", {"tau": 0.0}, r"tau is 0; it must be positive"),
        ("ipo_mean", {"tau": -1.0}, r"tau is -1; it must be positive"),
    ],
)
def test_a_mistake_is_named(name, parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, **parameters)
    assert "\n" not in str(caught.value)
