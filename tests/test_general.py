"""Preferences that are not a line, and rewards with a spread: values worked by hand, limit cases, small bandits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus
from transformers import LlamaForSequenceClassification

from conftest import tiny_config
from mmpo.cli import main
from mmpo.data import load
from mmpo.errors import UserError
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.objectives import GapSquared
from mmpo.regularizers import MarginalLogistic, MeanMargin, SampledLogistic, SigmaLevel
from mmpo.scores import GatedSkew, GaussianReward, LogRatio, SkewSymmetric
from mmpo.targets import Hard
from mmpo.types import Evidence, Reading
from tiny import ROWS, plain, rows_file, saved


def told(grades: Any, votes: Any = None) -> Evidence:
    """Lists with these grades [B, K], or these votes [B, K, K], every two responses compared."""
    q = torch.as_tensor(grades, dtype=torch.float64)
    mask = torch.ones_like(q, dtype=torch.bool)
    weight = compared(mask).double()
    said = torch.zeros_like(weight) if votes is None else torch.as_tensor(votes, dtype=torch.float64)
    return Evidence(mask, q, torch.full_like(weight, torch.nan), said, weight)


def circle(k: int = 3) -> Evidence:
    """One prompt whose k responses beat each the next, and the last the first; others were not compared."""
    beats = torch.zeros(1, k, k, dtype=torch.float64)
    beats[0, torch.arange(k), torch.arange(1, k + 1) % k] = 1
    none = torch.full((1, k), torch.nan, dtype=torch.float64)
    return Evidence(~none.isinf(), none, torch.full_like(beats, torch.nan), beats, beats + beats.mT)


def embedded(v: Any, mask: Any = None) -> Reading:
    v = torch.as_tensor(v, dtype=torch.float64)[None]
    there = torch.ones(v.shape[:2], dtype=torch.bool) if mask is None else torch.as_tensor(mask)[None]
    return Reading(mask=there, outputs=v)


# ---------------------------------------------------------------------------------------------- skew-symmetric margins


def test_the_product_by_hand() -> None:
    """1 (-1) - 2 (.5) + 3 (0) - 4 (2) = -10, and the other way round +10."""
    m = SkewSymmetric(1.0)(embedded([[1, 2, 3, 4], [0.5, -1, 2, 0]]))[0]
    assert m.tolist() == [[0, -10], [10, 0]]


def test_a_reward_beside_a_one_is_bradley_terry() -> None:
    r = torch.tensor([0.3, -1.2, 2.5], dtype=torch.float64)
    score, reading = SkewSymmetric(1.0), embedded(torch.stack([r, torch.ones(3)], -1))
    assert torch.allclose(score(reading)[0], r[:, None] - r[None])
    assert torch.allclose(score.rewards(reading)[0], r - r.mean())


def test_a_cycle_is_sure_all_the_way_round() -> None:
    """Three unit vectors 120 degrees apart: a margin is sin 120 = .866025, so P = .703918, and .999827 at tau = .1."""
    angles = [2 * math.pi * k / 3 for k in range(3)]
    reading = embedded([[math.cos(a), math.sin(a)] for a in angles])
    for beta, p in ((1.0, 0.703918), (10.0, 0.999827)):
        won = torch.sigmoid(SkewSymmetric(beta)(reading)[0])
        assert [float(won[k, (k + 1) % 3]) for k in range(3)] == pytest.approx([p] * 3, abs=1e-6)
    assert SkewSymmetric().rewards(reading)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_rewards_are_row_means_and_absent_responses_do_not_count() -> None:
    v = np.random.default_rng(0).normal(size=(4, 6))
    score = SkewSymmetric(1.0)
    m = score(embedded(v))[0]
    assert torch.allclose(score.rewards(embedded(v))[0], m.mean(1))
    assert torch.allclose(score.rewards(embedded(v, [True, True, True, False]))[0, :3], m[:3, :3].mean(1))


@given(st.floats(0, 6.28), st.floats(0.1, 3), st.integers(0, 99))
def test_turning_all_vectors_changes_nothing_and_scaling_them_squares(angle: float, scale: float, seed: int) -> None:
    v = np.random.default_rng(seed).normal(size=(3, 2, 2))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    score = SkewSymmetric(1.0)
    m = score(embedded(v.reshape(3, 4)))
    assert torch.allclose(score(embedded((v @ turn.T).reshape(3, 4))), m, atol=1e-9)
    assert torch.allclose(score(embedded(scale * v.reshape(3, 4))), scale**2 * m, atol=1e-9)
    assert torch.equal(m, -m.mT)


def test_the_mean_margins_of_a_table() -> None:
    """v = (1, 0), (0, 1), (-1, -2) has the margins (0, 1, -2), (-1, 0, 1), (2, -1, 0); their means sum to 0."""
    score, reading = SkewSymmetric(1.0), embedded([[1, 0], [0, 1], [-1, -2]])
    assert score(reading)[0].tolist() == [[0, 1, -2], [-1, 0, 1], [2, -1, 0]]
    assert score.rewards(reading)[0].tolist() == pytest.approx([-1 / 3, 0, 1 / 3])


def test_the_loss_of_a_cycle() -> None:
    """Margins sin 120 = .866025 all the way round: softplus(-.866025) = .351093, and at tau = .1 1.733e-4."""
    angles = [2 * math.pi * k / 3 for k in range(3)]
    reading = embedded([[math.cos(a), math.sin(a)] for a in angles])
    assert build("gpm", tau=1.0)(circle(), reading).loss.item() == pytest.approx(0.351093, abs=1e-6)
    assert build("gpm")(circle(), reading).loss.item() == pytest.approx(1.733e-4, abs=1e-7)


def descend(method: Any, evidence: Evidence, start: Tensor, read: Any, steps: int = 200, lr: float = 0.1) -> Tensor:
    theta = start.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr)
    for _ in range(steps):
        adam.zero_grad()
        method(evidence, read(theta)).loss.backward()
        adam.step()
    return theta.detach()


def test_a_cycle_is_learned_in_two_numbers_and_no_reward_can() -> None:
    draw = torch.Generator().manual_seed(0)
    v = descend(build("gpm"), circle(), 0.1 * torch.randn(3, 2, generator=draw, dtype=torch.float64), embedded)
    assert (build("gpm").score(embedded(v))[circle().votes > 0] > 3).all()
    there = torch.ones(1, 3, dtype=torch.bool)
    r = descend(build("bradley_terry"), circle(), torch.tensor([[0.3, -1.0, 0.5]]), lambda r: Reading(there, rewards=r))
    loss = build("bradley_terry")(circle(), Reading(there, rewards=r)).loss.item()
    assert loss == pytest.approx(math.log(2), abs=1e-6) and loss >= math.log(2) - 1e-9


@pytest.mark.parametrize(("skew", "scalar"), [("gpm", "bradley_terry"), ("mmpo_gpm", "mmpo_reward")])
def test_a_reward_beside_a_one_costs_what_the_reward_does(skew: str, scalar: str) -> None:
    draw = torch.Generator().manual_seed(1)
    r = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    evidence, there = told(torch.randint(0, 4, (4, 3), generator=draw)), torch.ones(4, 3, dtype=torch.bool)
    wide = Reading(there, outputs=torch.stack([r, torch.ones_like(r)], -1))
    expected = build(scalar)(evidence, Reading(there, rewards=r)).losses
    torch.testing.assert_close(build(skew, tau=1.0)(evidence, wide).losses, expected, rtol=0, atol=1e-12)


def test_the_matched_margin_is_gamma_times_the_stated_gap() -> None:
    """Stated gaps 1, 1 and -2 form no line... and with gamma 2 the margins are 2, 2 and -4 where the gradient is 0."""
    evidence = circle()
    stated = torch.tensor([[[torch.nan, 1, -2], [-1, torch.nan, 1], [2, -1, torch.nan]]], dtype=torch.float64)
    evidence = Evidence(evidence.mask, evidence.quality, stated, 0 * evidence.votes, evidence.weight)
    v = torch.tensor([[1, 0], [0, 1], [-1, -2]], dtype=torch.float64).mul(math.sqrt(0.2)).requires_grad_()
    outcome = build("mmpo_gpm", gamma=2.0)(evidence, embedded(v))
    outcome.loss.backward()
    assert outcome.m[0].tolist() == [pytest.approx(line) for line in ([0, 2, -4], [-2, 0, 2], [4, -2, 0])]
    assert v.grad is not None and v.grad.abs().max() < 1e-12


@pytest.mark.parametrize("dim", [1, 3])
def test_there_is_no_odd_rank(dim: int) -> None:
    for refused in (lambda: SkewSymmetric(dim=dim), lambda: GatedSkew(dim=dim), lambda: build("gpm", dim=dim)):
        with pytest.raises(UserError, match=f"dim is {dim}; a skew-symmetric product has even rank"):
            refused()


def test_a_temperature_is_above_0() -> None:
    with pytest.raises(UserError, match="tau is 0; a temperature above 0"):
        build("gpm", tau=0.0)


# ---------------------------------------------------------------------------------------------- the prompt's gate


def test_the_gate_weighs_planes_by_hand() -> None:
    """Planes of -5 and -5 make -10; with the gate log 3 : 1 they count 1.5 and .5 times: the sum stays 2."""
    v, even = torch.tensor([[1.0, 2, 3, 4], [0.5, -1, 2, 0]], dtype=torch.float64), torch.zeros(1, 2)
    for v_, gate, expected in ((v, even, -10.0), (v, torch.tensor([[math.log(3), 0.0]]), -2 * 1.5 - 8 * 0.5)):
        reading = Reading(torch.ones(1, 2, dtype=torch.bool), outputs=v_[None], of_prompt={"gate": gate.double()})
        assert GatedSkew(1.0, 4)(reading)[0].tolist() == [[0, pytest.approx(expected)], [pytest.approx(-expected), 0]]
    assert GatedSkew(dim=6).on_prompt(1) == {"gate": 3} and GatedSkew(dim=6).outputs(1) == 6


def test_one_plane_needs_no_gate() -> None:
    draw = torch.Generator().manual_seed(2)
    v, gate = torch.randn(3, 4, 2, generator=draw), torch.randn(3, 1, generator=draw)
    reading = Reading(torch.ones(3, 4, dtype=torch.bool), outputs=v, of_prompt={"gate": gate})
    assert torch.equal(GatedSkew()(reading), SkewSymmetric()(reading))


# ---------------------------------------------------------------------------------------------- GPO


def policy(logps: Tensor, ref: Tensor) -> Reading:
    return Reading(torch.ones_like(logps, dtype=torch.bool), logps, ref)


def test_gpo_by_hand() -> None:
    """Grades 3, 1, 2 are 1, -1, 0 about their mean; log-ratios 4, -2, 2 at beta 1/2 are s = 2, -1, 1: (1 + 1) / 3."""
    reading = policy(torch.tensor([[4.0, -2.0, 2.0]]), torch.zeros(1, 3))
    assert build("gpo", beta=0.5)(told([[3, 1, 2]]), reading).loss.item() == pytest.approx(2 / 3)


def test_gpo_is_copg_and_the_level() -> None:
    """mean a_i^2 = (K - 1) / (2 K) mean_{i<j} (a_i - a_j)^2 + (mean a)^2, and the a_i = s_i - q_i of centred grades."""
    draw = torch.Generator().manual_seed(3)
    h, q = (torch.randn(5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    evidence, reading, k = told(q), policy(h, torch.zeros_like(h)), 4
    p, score = Hard()(evidence, q), LogRatio(0.3)
    pairs = GapSquared()(p, score(reading), evidence)
    expected = (k - 1) / (2 * k) * pairs + score.rewards(reading).mean(-1) ** 2
    torch.testing.assert_close(MeanMargin(score)(p, evidence, reading), expected)


def test_gpo_on_win_rates_is_sppo() -> None:
    """SPPO: (log-ratio - eta (P(y_i > pi) - 1/2))^2, mean over the responses, here times beta^2 = 1 / eta^2."""
    draw = torch.Generator().manual_seed(4)
    h, wins = torch.randn(1, 5, generator=draw).double(), torch.rand(1, 5, 5, generator=draw).double().triu(1)
    wins = wins + (1 - wins).mT.tril(-1) + torch.eye(5) / 2
    rate, eta = wins.mean(-1), 3.0
    loss = build("gpo", beta=1 / eta)(told(rate), policy(h, torch.zeros_like(h))).loss
    assert loss.item() == pytest.approx(((h - eta * (rate - 0.5)) ** 2).mean().item() / eta**2)


def test_scores_that_a_model_wrote_are_grades_where_they_are_asked_for(tmp_path: Path) -> None:
    row = {"prompt": "a", "responses": ["x", "y", "z"], "model_scores": [0.5, -0.2, -0.3]}
    scored = rows_file(tmp_path, [row, {**row, "scores": [1, 2, 3]}], "scored.jsonl")
    assert [d.grades for d in load({"path": scored, "grade": "model_scores"}).data] == [(0.5, -0.2, -0.3)] * 2
    with pytest.raises(UserError, match="there is no feedback"):
        load(scored)


def test_gpo_ends_at_the_scores_where_other_answers_take_up_the_rest() -> None:
    ref = torch.tensor([[0.1, 0.1, 0.1, 0.7]], dtype=torch.float64).log()
    grades = torch.tensor([[0.6, -0.4, 0.1]], dtype=torch.float64)
    z = descend(
        build("gpo", beta=0.5),
        told(grades),
        ref,
        lambda z: policy(z.log_softmax(-1)[:, :3], ref[:, :3]),
        steps=400,
        lr=0.05,
    )
    expected = (grades - grades.mean()) / 0.5
    torch.testing.assert_close((z.log_softmax(-1) - ref)[:, :3], expected, rtol=0, atol=1e-4)


def step(logps: Tensor, scores: Tensor, beta: float) -> Tensor:
    """The log-probs of a softmax policy after a round of gpo against itself."""
    z = logps.clone().requires_grad_()
    method, evidence = build("gpo", beta=beta), told(scores[None])
    for _ in range(12):
        (slope,) = torch.autograd.grad(method(evidence, policy(z.log_softmax(-1)[None], logps[None])).loss, z)
        z = (z - len(z) / (2 * beta**2) * slope).detach().requires_grad_()
    return z.detach().log_softmax(-1)


def test_small_steps_of_gpo_are_those_of_the_normalised_update() -> None:
    """log-ratio = s / beta - log Z: without the normaliser it is the same up to the cube of the step."""
    logps, s = torch.full((3,), -math.log(3)).double(), torch.tensor([0.5, -0.7, 0.2]).double()
    off = []
    for beta in (10.0, 20.0):
        exact = (logps + s / beta).log_softmax(-1)
        off.append((step(logps, s, beta) - exact).abs().max().item())
    assert off[0] < 1e-3 and 7 < off[0] / off[1] < 9


def test_self_play_on_rock_paper_scissors_is_uniform_on_average() -> None:
    table = torch.tensor([[0.0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)
    logps = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64).log_softmax(-1)
    first, mean = logps.exp(), torch.zeros(3, dtype=torch.float64)
    for round_ in range(150):
        mean = mean + (logps.exp() - mean) / (1 + round_)
        logps = step(logps, table @ logps.exp(), beta=2.0)
    assert (first - 1 / 3).abs().max() > 0.25 and (mean - 1 / 3).abs().max() < 0.03
    assert (logps.exp() - 1 / 3).abs().max() > 0.1


# ---------------------------------------------------------------------------------------------- Gaussian rewards


def normal(mu: Any, sigma: Any) -> Reading:
    mu, sigma = torch.as_tensor(mu, dtype=torch.float64), torch.as_tensor(sigma, dtype=torch.float64)
    return Reading(torch.ones_like(mu, dtype=torch.bool), outputs=torch.stack([mu, 2 * sigma.log()], -1))


VOTED = told([[math.nan] * 2], [[[0, 3], [1, 0]]])


def test_the_reward_is_the_mean_and_sigma_is_watched() -> None:
    reading = normal([[1.0, -2.0]], [[0.5, 3.0]])
    assert GaussianReward().rewards(reading).tolist() == [[1.0, -2.0]]
    assert GaussianReward().watched(reading)["sigma"][0].tolist() == pytest.approx([0.5, 3.0])


def test_the_means_over_draws_are_those_of_reparameterised_draws() -> None:
    """A million draws of r = mu + sigma eps, price and slope of log sigma^2, within four standard errors."""
    mu, sigma = torch.tensor([0.8, 0.1]), torch.tensor([0.7, 1.3])
    out = torch.stack([mu, 2 * sigma.log()], -1).double().requires_grad_()
    eps = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(0)).double()
    r = out[:, 0] + (out[:, 1] / 2).exp() * eps
    p = torch.tensor([[[0, 0.75], [0.25, 0]]], dtype=torch.float64)
    m = r[:, 0] - r[:, 1]
    price = 0.75 * softplus(-m) + 0.25 * softplus(m)
    reading = Reading(torch.ones(1, 2, dtype=torch.bool), outputs=out[None])
    found = SampledLogistic()(p, VOTED, reading)
    assert found.item() == pytest.approx(price.mean().item(), abs=4 * price.std().item() / 1000)
    slopes = [torch.autograd.grad(one, out, retain_graph=True)[0] for one in (found.sum(), price.mean())]
    torch.testing.assert_close(*slopes, rtol=0, atol=5e-3)
    win = torch.sigmoid(m).mean().item()
    marginal = MarginalLogistic()(p, VOTED, reading).item()
    assert marginal == pytest.approx(-0.75 * math.log(win) - 0.25 * math.log(1 - win), abs=2e-3)
    assert marginal < found.item()


def test_without_spread_the_price_is_that_of_the_means_twice() -> None:
    reading = normal([[0.9, 0.2]], [[1e-6, 1e-6]])
    plain_price = 0.75 * softplus(torch.tensor(-0.7)) + 0.25 * softplus(torch.tensor(0.7))
    for sampled in (SampledLogistic(), MarginalLogistic()):
        p = build("soft_bradley_terry").target(VOTED, VOTED.weight)
        assert sampled(p, VOTED, reading).item() == pytest.approx(plain_price.item(), abs=1e-6)
    loss = build("pearl", pull=0.0)(VOTED, reading).loss.item()
    assert loss == pytest.approx(2 * plain_price.item(), abs=1e-6)
    scalar = build("soft_bradley_terry")(VOTED, Reading(reading.mask, rewards=reading.require("outputs")[..., 0]))
    assert build("pearl", sampled=0.0, pull=0.0)(VOTED, reading).loss.item() == pytest.approx(scalar.loss.item())


def test_a_coin_costs_ln_2_at_equal_means_whatever_the_spread() -> None:
    even = told([[math.nan] * 2], [[[0, 1], [1, 0]]])
    for sigma in (1e-6, 1.0, 4.0):
        reading = normal([[0.4, 0.4]], [[sigma, sigma]])
        p = build("soft_bradley_terry").target(even, even.weight)
        assert MarginalLogistic()(p, even, reading).item() == pytest.approx(math.log(2), abs=1e-6)
    assert build("pearl", pull=0.0)(even, normal([[0.4, 0.4]], [[1e-6] * 2])).loss.item() == pytest.approx(
        2 * math.log(2), abs=1e-6
    )


def test_which_way_a_label_moves_the_spread() -> None:
    """Drawn rewards are dearer than their means under any label; their likelihood wants spread where a label errs."""
    for wrong in (False, True):
        reading = normal([[-2.0, 2.0] if wrong else [2.0, -2.0]], [[1.0, 1.0]])
        p = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
        slopes = []
        for price in (SampledLogistic(), MarginalLogistic()):
            out = reading.require("outputs").clone().requires_grad_()
            price(p, VOTED, Reading(reading.mask, outputs=out)).sum().backward()
            assert out.grad is not None
            slopes.append(out.grad[0, :, 1].sum().item())
        assert slopes[0] > 0 and (slopes[1] < 0) == wrong


def test_sigma_is_held_at_its_level_by_hand() -> None:
    """sigma e and 1 about the level 1: log variances 2 and 0, so (4 + 0) / 2; about the level e: the same."""
    p = torch.tensor([[[0, 0.75], [0.25, 0]]], dtype=torch.float64)
    for level in (1.0, math.e):
        assert SigmaLevel(level)(p, VOTED, normal([[0.0, 5.0]], [[math.e, 1.0]])).item() == pytest.approx(2.0)
    with pytest.raises(UserError, match="level is 0; sigma is held"):
        SigmaLevel(0.0)


def test_the_price_of_drawn_rewards_is_that_of_pairs() -> None:
    """K = 3: the mean over the pairs, each with its own spread."""
    mu, sigma = torch.tensor([[0.5, -0.2, 1.0]]), torch.tensor([[0.4, 1.0, 0.7]])
    p = Hard()(told([[2, 1, 3]]), torch.zeros(1, 3, 3))
    whole = SampledLogistic()(p, VOTED, normal(mu, sigma)).item()
    x = np.linspace(-12, 12, 100_001)
    density = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    by_hand = []
    for i, j in ((0, 1), (2, 0), (2, 1)):
        m = float(mu[0, i] - mu[0, j]) + math.hypot(float(sigma[0, i]), float(sigma[0, j])) * x
        by_hand.append(float(-(density * logsigmoid(torch.from_numpy(m)).numpy()).sum()))
    assert whole == pytest.approx(np.mean(by_hand), abs=1e-6)


# ---------------------------------------------------------------------------------------------- trained, saved, scored


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as done:
        main(words)
    assert not done.value.code


@pytest.mark.parametrize("name", ["gpm", "gpm_gated", "pearl"])
def test_a_model_is_trained_saved_and_scored(name: str, tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The mean margins of a saved preference model sum to 0 in every prompt; a Gaussian's means need not."""
    rows = []
    for row in ROWS:
        k = len(row["responses"])
        said = [{"first": i, "second": (i + 1) % k, "p": 1.0} for i in range(k if k > 2 else 1)]
        rows.append({"prompt": row["prompt"], "responses": row["responses"], "judgements": said})
    data, base = rows_file(tmp_path, rows), saved(tiny_policy(0), plain(tiny_tokenizer), tmp_path / "base")
    recipe = {"model": base, "task": "reward", "method": {"name": name}, "data": data, "max_steps": 3}
    recipe |= {"output_dir": str(tmp_path / "run"), "learning_rate": 1e-3, "per_device_train_batch_size": 4}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run("train", str(tmp_path / "recipe.yaml"))
    run("score", str(tmp_path / "run"), data, "--out", str(tmp_path / "scored.jsonl"))
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    sums = [abs(sum(row["model_scores"])) for row in scored]
    assert len(scored) == len(rows) and (max(sums) < 1e-4) == name.startswith("gpm")
    labels = json.loads((tmp_path / "run" / "config.json").read_text())["id2label"].values()
    assert list(labels) == {"pearl": ["mean", "log variance"]}.get(
        name, [f"output {n + 1}" for n in range(len(labels))]
    )


def test_a_policy_is_trained_on_the_scores_of_a_preference_model(
    tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    embedding = LlamaForSequenceClassification(tiny_config(tiny_tokenizer, num_labels=4))
    tokenizer, scored = plain(tiny_tokenizer), str(tmp_path / "scored.jsonl")
    judge, policy_ = (
        saved(embedding, tokenizer, tmp_path / "judge"),
        saved(tiny_policy(0), tokenizer, tmp_path / "base"),
    )
    run("score", judge, rows_file(tmp_path), "--read-as", "preference", "--out", scored)
    recipe: dict[str, Any] = {
        "model": policy_,
        "task": "policy",
        "method": {"name": "gpo", "beta": 0.5},
        "max_steps": 2,
    }
    recipe |= {
        "data": {"path": scored, "grade": "model_scores", "ignore": ["scores"]},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run("train", str(tmp_path / "recipe.yaml"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["method_name"] == "gpo"
