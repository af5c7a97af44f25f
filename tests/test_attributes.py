"""Several attributes: regression of each, prices by stated strength, and SteerLM 2.0, by hand and from a recipe."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from mmpo.batch.statements import Vocabulary, evidence
from mmpo.cli import main
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.matrix import compared
from mmpo.methods import build
from mmpo.objectives import Nothing
from mmpo.objectives.lists import odds_shares
from mmpo.recipe import read_recipe
from mmpo.regularizers import Regression
from mmpo.run.setup import from_recipe
from mmpo.scores import Given, PerVoice, WeightedVoices
from mmpo.scores.voices import weighed
from mmpo.targets import Hard
from mmpo.train import train_recipe
from mmpo.types import Datum, Evidence, Method, Reading
from tiny import ROWS, plain, rows_file, saved

PAPER = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.4}
"""The weights of HelpSteer2's reward model of 70B."""


def graded(*grades: float) -> Evidence:
    """One datum whose K responses have these grades."""
    q = torch.tensor([grades], dtype=torch.float64)
    mask = torch.ones_like(q, dtype=torch.bool)
    weight = compared(mask).double()
    return Evidence(mask, q, torch.full_like(weight, math.nan), torch.zeros_like(weight), weight)


def rewards(*r: float) -> Reading:
    return Reading(torch.ones(1, len(r), dtype=torch.bool), rewards=torch.tensor([r], dtype=torch.float64))


def outputs(rows: list[list[float]]) -> Reading:
    """K responses with D outputs each, which carry gradients."""
    said = torch.tensor([rows], dtype=torch.float64, requires_grad=True)
    return Reading(torch.ones(said.shape[:2], dtype=torch.bool), outputs=said)


# ---------------------------------------------------------------------------------------------- regression

FIVE = Vocabulary("attributes", {name: n for n, name in enumerate(PAPER, 1)})
THREE = ("helpfulness", "correctness", "coherence")


def five(first: tuple[float | None, ...], second: tuple[float | None, ...]) -> Evidence:
    """Two responses with a grade for each of the five attributes, or none."""
    attributes = dict(zip(PAPER, zip(first, second, strict=True), strict=True))
    return evidence([Datum("1", "Q?", ("a", "b"), (1.0, 0.0), attributes=attributes)], FIVE)


NONE = (None,) * 5


def test_what_is_not_graded_is_not_fitted() -> None:
    """Predictions 3.5, 2, 1 for grades 4, 2, 3, all else missing: (0.25 + 0 + 4) / 3 = 1.416667."""
    reading = outputs([[3.5, 2.0, 1.0, 7.0, -7.0], [9.0, 9.0, 9.0, 9.0, 9.0]])
    outcome = build("helpsteer2")(five((4, 2, 3, None, None), NONE), reading)
    assert outcome.loss.item() == pytest.approx(1.416667, abs=1e-6)
    (grad,) = torch.autograd.grad(outcome.loss, reading.outputs)
    torch.testing.assert_close(grad[0, 0], torch.tensor([-1.0, 0.0, -4.0, 0.0, 0.0], dtype=torch.float64) / 3)
    assert (grad[0, 1] == 0).all()


def test_without_a_grade_there_is_no_gradient() -> None:
    reading = outputs([[1.0] * 5, [2.0] * 5])
    outcome = build("helpsteer2")(five(NONE, NONE), reading)
    assert outcome.loss == 0 and (torch.autograd.grad(outcome.loss, reading.outputs)[0] == 0).all()


def test_the_weighted_reward_by_hand() -> None:
    """(4, 4, 4, 2, 2) by the paper's weights is 7.9; without weights it is the mean."""
    reading = outputs([[4.0, 4.0, 4.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    method = weighed(build("helpsteer2"), FIVE.numbers, PAPER)
    assert method.score.rewards(reading)[0].tolist() == pytest.approx([7.9, -0.4])
    assert build("helpsteer2").score.rewards(reading)[0].tolist() == pytest.approx([3.2, 0.2])
    # A voice without a weight counts nothing, and what each voice says stays its own.
    some = weighed(build("mmpo_voices"), FIVE.numbers, {"verbosity": 2}).score
    assert isinstance(some, PerVoice) and some.rewards(reading)[0].tolist() == [4, 2]
    assert some.rewards(replace(reading, who=torch.tensor([1])))[0].tolist() == [4, 0]


@pytest.mark.parametrize("name", ["helpsteer2", "mmpo_voices"])
def test_one_attribute_is_a_scalar_head(name: str) -> None:
    """Loss and gradient, to 1e-6, over data that another attribute does not grade."""
    draw = torch.Generator().manual_seed(0)
    grades = torch.randn(6, 3, generator=draw).tolist()
    data = [Datum(str(n), "Q?", ("a", "b", "c"), tuple(q), attributes={"one": tuple(q)}) for n, q in enumerate(grades)]
    said = torch.randn(6, 3, 1, generator=draw, requires_grad=True)
    mask = torch.ones(6, 3, dtype=torch.bool)
    several = build(name)(evidence(data, Vocabulary.of("attributes", data)), Reading(mask, outputs=said)).loss
    scalar = Method(Hard(), Given(), Nothing(), ((1.0, Regression(Given())),))
    one = (scalar if name == "helpsteer2" else build("mmpo_reward"))(
        evidence(data), Reading(mask, rewards=said[..., 0])
    )
    torch.testing.assert_close(several, one.loss, atol=1e-6, rtol=0)
    ours, theirs = (torch.autograd.grad(loss, said)[0] for loss in (several, one.loss))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_every_view_is_fitted_to_its_own_grades_in_any_order_of_data() -> None:
    """A datum costs the same alone and beside data that other attributes grade."""
    first = Datum("1", "Q?", ("a", "b"), (1.0, 0.0), attributes={"truth": (1.0, 2.0)})
    second = Datum("2", "Q?", ("a", "b"), (1.0, 0.0), attributes={"style": (3.0, None), "truth": (0.0, 1.0)})
    numbers = Vocabulary.of("attributes", [first, second])
    both = outputs([[0.0, 0.0], [0.0, 0.0]])
    reading = both.repeat(2)
    losses = build("helpsteer2")(evidence([first, second], numbers), reading).losses
    assert losses.tolist() == pytest.approx([(1 + 4) / 2, (9 + 0 + 1) / 3])
    alone = [build("helpsteer2")(evidence([d], numbers), both).losses.item() for d in (first, second)]
    assert losses.tolist() == pytest.approx(alone)


# ---------------------------------------------------------------------------------------------- stated strengths


@pytest.mark.parametrize(
    ("name", "strength", "loss"),
    [
        ("bradley_terry", 3, 0.313262),
        ("margin_bradley_terry", 3, 2.126928),
        ("scaled_bradley_terry", 3, 0.939785),
        ("scaled_bradley_terry", 1, 0.313262),
        ("scaled_bradley_terry", 0, 0.0),
    ],
)
def test_the_pair_losses_of_helpsteer2_by_hand(name: str, strength: float, loss: float) -> None:
    """The better response leads by D = 1."""
    assert build(name)(graded(strength, 0), rewards(2.0, 1.0)).loss.item() == pytest.approx(loss, abs=1e-6)


# ---------------------------------------------------------------------------------------------- SteerLM 2.0

LOG_P_A, LOG_P_Y, LOG_Q0 = ((-1.0, -2.0, -3.0), (-10.0, -9.0, -8.0), (-9.0, -9.0, -9.0))
LOG_Q = (-8.0, -9.0, -10.0)


def weights_of(log_p_a: tuple[float, ...], log_p_y: tuple[float, ...], log_q0: tuple[float, ...]) -> list[float]:
    """The grades of a group: its log-weights."""
    return [a + y - q for a, y, q in zip(log_p_a, log_p_y, log_q0, strict=True)]


def steered(log_q: Tensor, log_q0: Tensor, grades: Tensor) -> Tensor:
    """The loss of one group."""
    mask = torch.ones_like(log_q, dtype=torch.bool)[None]
    said = graded(*grades.tolist())
    return build("steerlm2")(said, Reading(mask, logps=log_q[None], ref_logps=log_q0[None])).loss


def test_steerlm2_by_hand() -> None:
    """w = (1/3, 1/3, 1/3), b = (.66524, .24473, .09003); the gradient is b - w, and the loss KL(w||b) = .30899."""
    grades = torch.tensor(weights_of(LOG_P_A, LOG_P_Y, LOG_Q0), dtype=torch.float64)
    log_q = torch.tensor(LOG_Q, dtype=torch.float64, requires_grad=True)
    loss = steered(log_q, torch.tensor(LOG_Q0, dtype=torch.float64), grades)
    assert loss.item() == pytest.approx(0.30899, abs=1e-5)
    (grad,) = torch.autograd.grad(loss, log_q)
    assert (-grad).tolist() == pytest.approx([-0.33191, 0.08860, 0.24330], abs=1e-5)
    assert grad.sum().item() == pytest.approx(0, abs=1e-12)


def group(seed: int, k: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """log Q with a gradient, log Q0 and log-weights of k responses."""
    draw = torch.Generator().manual_seed(seed)
    log_q, log_q0, grades = spread * torch.randn(3, k, generator=draw, dtype=torch.float64)
    return log_q.requires_grad_(), log_q0, grades


def test_shares_hold_in_single_precision_and_with_gaps_in_what_was_compared() -> None:
    q = torch.tensor([[0.0, -1.0, -90.0, -300.0, -2.0]])
    p = torch.sigmoid(q[:, :, None] - q[:, None, :]) * compared(torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(odds_shares(p), q.softmax(-1))
    torch.testing.assert_close(odds_shares(3 * p), q.softmax(-1))
    p[:, 2] = p[:, :, 2] = 0  # nobody compared it
    torch.testing.assert_close(odds_shares(p), q.masked_fill(torch.arange(5) == 2, -math.inf).softmax(-1))
    p[:, 1, 4] = p[:, 4, 1] = 0  # neither is the best, so nothing is lost
    torch.testing.assert_close(odds_shares(p), q.masked_fill(torch.arange(5) == 2, -math.inf).softmax(-1))
    assert (odds_shares(0 * p) == 0).all()


@pytest.mark.parametrize("k", (2, 3, 10))
@pytest.mark.parametrize("spread", (1.0, 8.0))
def test_the_gradient_is_that_of_the_papers_update(k: int, spread: float) -> None:
    """sum_i (w_i - b_i) (-log Q_i) with b held still, and -sum_i w_i log softmax(log Q - log Q0)_i."""
    for seed in range(5):
        log_q, log_q0, grades = group(seed, k, spread)
        w, b = grades.softmax(-1), (log_q - log_q0).softmax(-1)
        update = ((w - b.detach()) * -log_q).sum()
        entropy = -(w * (log_q - log_q0).log_softmax(-1)).sum()
        wanted = [torch.autograd.grad(loss, log_q)[0] for loss in (update, entropy, steered(log_q, log_q0, grades))]
        torch.testing.assert_close(wanted[0], wanted[1])
        torch.testing.assert_close(wanted[2], wanted[0], atol=1e-12, rtol=1e-6)
        divergence = (w * (w.log() - b.log())).sum()
        torch.testing.assert_close(steered(log_q, log_q0, grades), divergence, atol=1e-9, rtol=1e-6)


def test_equal_shares_have_no_gradient_and_no_loss() -> None:
    log_q, log_q0, _ = group(0, 5)
    loss = steered(log_q, log_q0, (log_q - log_q0).detach())
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, log_q)[0].abs().max() < 1e-12


def test_a_constant_of_the_prompt_changes_nothing() -> None:
    log_q, log_q0, grades = group(1, 4)
    torch.testing.assert_close(steered(log_q, log_q0, grades), steered(log_q, log_q0, grades + 123.0))


def test_log_weights_that_are_far_apart_stay_finite() -> None:
    """Whole responses differ by many nats: all weight is on one, and the gradient is b minus that."""
    for seed, spread in product(range(5), (60.0, 1000.0)):
        log_q, log_q0, grades = group(seed, 6, spread)
        loss = steered(log_q, log_q0, grades)
        (grad,) = torch.autograd.grad(loss, log_q)
        assert loss.isfinite() and grad.isfinite().all()
        torch.testing.assert_close(grad, (log_q - log_q0).detach().softmax(-1) - grades.softmax(-1), atol=1e-9, rtol=0)


def test_a_table_comes_to_the_posterior() -> None:
    """Five outcomes, P(y|a) proportional to P(a|y) P(y), from Q0 = P(y)."""
    prior = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
    likelihood = torch.tensor([0.1, 0.2, 0.7, 0.5, 0.9], dtype=torch.float64)
    theta = prior.log().clone().requires_grad_()
    grades = likelihood.log() + prior.log() - prior.log()
    for _ in range(400):
        (grad,) = torch.autograd.grad(steered(theta.log_softmax(-1), prior.log(), grades), theta)
        theta = (theta - 4 * grad).detach().requires_grad_()
    posterior = likelihood * prior / (likelihood * prior).sum()
    torch.testing.assert_close(theta.softmax(-1).detach(), posterior, atol=1e-9, rtol=0)


def test_two_responses_are_margin_matching() -> None:
    log_q, log_q0, grades = group(3, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    reading = Reading(mask, logps=log_q[None], ref_logps=log_q0[None])
    ours, theirs = (
        build(name, gamma=1.7, beta=0.3)(graded(*grades.tolist()), reading).loss for name in ("steerlm2", "mmpo")
    )
    torch.testing.assert_close(torch.autograd.grad(ours, log_q)[0], torch.autograd.grad(theirs, log_q)[0])


# ---------------------------------------------------------------------------------------------- from a recipe


def rows() -> list[dict[str, Any]]:
    """Rows of HelpSteer2: one response each, graded on five attributes."""
    out = []
    for row in ROWS:
        for n, (response, score) in enumerate(zip(row["responses"], row["scores"], strict=True)):
            grades = {name: (score * (2 + place) + n) % 5 for place, name in enumerate(PAPER)}
            out.append({"prompt": row["prompt"], "response": response, **grades})
    return out


@pytest.fixture(scope="module")
def base(tiny_policy: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> str:
    return saved(tiny_policy(0), plain(tiny_tokenizer), tmp_path_factory.mktemp("base"))


def recipe(folder: Path, base: str, data: Any, method: Any, **more: Any) -> Path:
    content = {
        "model": base,
        "data": data,
        "method": method,
        "output_dir": str(folder / "run"),
        "max_length": 96,
        "max_steps": 20,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "seed": 5,
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_rewards_of_attributes_from_a_recipe_to_a_policy(base: str, tmp_path: Path, capsys: Any) -> None:
    """Trained, saved with its weights, scored, and the scores weighted anew as the grades of another model."""
    source = {"path": rows_file(tmp_path, rows()), "attributes": "all"}
    trainer = train_recipe(read_recipe(recipe(tmp_path, base, source, "helpsteer2", voice_weights=PAPER)))
    first, last = [line["terms/regression"] for line in trainer.state.log_history if "terms/regression" in line]
    assert last < 0.7 * first
    said = capsys.readouterr().out
    assert "grades by voices" in said and "weights in the reward: coherence 0.45" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    names = sorted(PAPER)
    assert record["score"] == {"name": "WeightedVoices", "weighting": [PAPER[name] for name in names]}
    scored, out = Scorer.load(str(tmp_path / "run")), tmp_path / "scored.jsonl"
    assert scored.score == WeightedVoices(tuple(PAPER[name] for name in names))
    with pytest.raises(SystemExit) as done:
        main(["score", str(tmp_path / "run"), source["path"], "--out", str(out)])
    assert not done.value.code
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line in lines:
        facets = np.array([line["model_scores_by"][name] for name in names])
        weights = np.array([PAPER[name] for name in names])
        np.testing.assert_allclose(line["model_scores"], weights @ facets, atol=1e-4)
    # Any weighting of what the model says is the grade that the next one learns.
    again = {"path": str(out), "grade": {"coherence": 1, "verbosity": -1}, "attributes": "all", "ignore": ["scores"]}
    setup = from_recipe(read_recipe(recipe(tmp_path, base, again, {"name": "mmpo", "gamma": 1.0})))
    assert "not read by the method: graded attributes 30" in setup.account
    known = {str(r): g for line in lines for r, g in zip(line["responses"], _traded(line), strict=True)}
    for d in setup.watched:
        np.testing.assert_allclose(d.grades or (), [known[str(r)] for r in d.responses], atol=1e-9)


def _traded(line: dict[str, Any]) -> list[float]:
    facets = line["model_scores_by"]
    return [c - v for c, v in zip(facets["coherence"], facets["verbosity"], strict=True)]


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("helpsteer2", {"voice_weights": {"verbose": 1}}, "no voice 'verbose'. Did you mean 'verbosity'"),
        ("helpsteer2", {"voice_weights": {"verbosity": 0}}, "all weights are 0, and so every reward would be"),
        ("helpsteer2", {"voice_weights": {"verbosity": float("nan")}}, "the weight of 'verbosity' is nan"),
        ("helpsteer2", {"head_learning_rate": float("inf")}, "head_learning_rate: Input should be a finite number"),
        ("mmpo_reward", {"voice_weights": {"verbosity": 1}}, "Given weighs no voices; leave it out"),
    ],
)
def test_what_a_run_lacks_is_named(base: str, tmp_path: Path, method: str, more: dict[str, Any], message: str) -> None:
    source = {"path": rows_file(tmp_path, rows()), "attributes": "all"}
    with pytest.raises(UserError, match=message):
        from_recipe(read_recipe(recipe(tmp_path, base, source, method, **more)))


def test_a_reward_of_attributes_needs_grades(base: str, tmp_path: Path) -> None:
    """Votes by name are voices without a grade."""
    votes = [
        {"prompt": row["prompt"], "responses": row["responses"][:2], "votes": [0, 1], "annotators": ["ann", "bob"]}
        for row in ROWS
    ]
    source = {"path": rows_file(tmp_path, votes)}
    with pytest.raises(UserError, match="the method needs grades by voices, and the data have none"):
        from_recipe(read_recipe(recipe(tmp_path, base, source, "helpsteer2", voices="annotators")))
    with pytest.raises(UserError, match="the method needs graded attributes, and the data have none"):
        from_recipe(read_recipe(recipe(tmp_path, base, rows_file(tmp_path, ROWS), "helpsteer2")))


def test_people_may_be_the_voices_of_a_regression(base: str, tmp_path: Path) -> None:
    """Each annotator has an output, fitted to the grades that they gave."""
    said = [{**row, "annotators": ["ann", "bob"], "annotator_scores": [row["scores"]] * 2} for row in ROWS]
    path = rows_file(tmp_path, said)
    setup = from_recipe(read_recipe(recipe(tmp_path, base, path, "helpsteer2", voices="annotators")))
    assert setup.model.config.num_labels == 2 and any("grades by voices" in line for line in setup.account)
