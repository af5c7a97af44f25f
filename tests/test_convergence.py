"""Where training ends: at the graded margin, at infinity, and what that does to probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.types import Evidence, Method, Reading
from pairs import cross_entropy


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
        return (z.sigmoid() - truth).abs().mean().item(), cross_entropy(z, truth).mean().item()

    soft, hard, wrong = (
        trained(m) for m in (build("mmpo_reward", gamma=1.0), build("bradley_terry"), build("mmpo_reward", gamma=10.0))
    )
    assert soft[0] < hard[0] and soft[1] < hard[1]
    assert soft[0] < wrong[0] and soft[1] < wrong[1]
