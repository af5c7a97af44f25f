"""Several data sets that none is unlearned for another, and several attributes that a prompt weighs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize
from transformers import TrainingArguments

from mmpo.batch import Collator, Limits, Vocabulary, prepare
from mmpo.batch.statements import evidence
from mmpo.cli import main
from mmpo.data import Source, by_source, load, rescale, to_row
from mmpo.errors import UserError
from mmpo.evaluate import ece
from mmpo.methods import build
from mmpo.models import RewardReader
from mmpo.objectives import Hinge, Logistic
from mmpo.recipe import Shape, read_recipe
from mmpo.regularizers import Orchestration
from mmpo.regularizers.orchestration import target_weights
from mmpo.run.gather import gather
from mmpo.run.setup import bring_together, from_recipe
from mmpo.run.state import FILE, MethodState
from mmpo.scores import LogRatio, Routed, RoutedVoices
from mmpo.scores.voices import weighed
from mmpo.targets import BradleyTerry, Hard, MinNorm
from mmpo.targets.minnorm import min_norm, shares_of
from mmpo.train import train_recipe
from mmpo.types import Datum, Method, Reading
from tiny import ROWS, plain, rows_file, saved

# ---------------------------------------------------------------------------------------------- the shortest sum


@pytest.mark.parametrize(
    ("gradients", "weights", "length"),
    [
        ([[1, 0], [0, 1]], [0.5, 0.5], math.sqrt(0.5)),
        ([[1, 0], [-1, 0]], [0.5, 0.5], 0.0),
        ([[2, 0], [0, 1]], [0.2, 0.8], math.sqrt(0.8)),
        ([[3, 4]], [1.0], 5.0),
        # (1, 0) is the shortest point of their segment, an end of it.
        ([[1, 0], [2, 1]], [1.0, 0.0], 1.0),
        # Any weights come to the same, and the most even are taken.
        ([[1, 2], [1, 2], [1, 2]], [1 / 3, 1 / 3, 1 / 3], math.sqrt(5)),
    ],
)
def test_the_shortest_sum_by_hand(gradients: list[list[float]], weights: list[float], length: float) -> None:
    g = torch.tensor(gradients, dtype=torch.float64)
    found = min_norm(g)
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (found @ g).norm().item() == pytest.approx(length, abs=1e-6)


def test_gradients_of_one_length_count_by_their_direction() -> None:
    g = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(shares_of(g), torch.ones(3))  # two of three are heard, and count alike
    turned = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 1.0]])
    share = shares_of(turned)
    torch.testing.assert_close(share, shares_of(turned * torch.tensor([[5.0], [0.1], [3.0]])))
    assert share.sum().item() == pytest.approx(3)


def test_lengths_are_evened_out_where_asked() -> None:
    g = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(shares_of(g, 0.0), torch.ones(3))
    # Half of each direction: 1/2 / 4 and 1/2 / 1, brought to the sum 2; what was not heard stays.
    torch.testing.assert_close(shares_of(g, 1.0), torch.tensor([0.4, 1.6, 1.0]))
    torch.testing.assert_close(shares_of(g, 0.5), torch.tensor([2 / 3, 4 / 3, 1.0]))
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        g = torch.randn(5, 20, generator=draw, dtype=torch.float64) * torch.rand(5, 1, generator=draw) * 10
        assert (g @ (shares_of(g, 1.0) @ g) > 0).all(), "applied so, no data set loses"


@pytest.mark.parametrize(("n", "d"), [(5, 20), (5, 3), (30, 8)])
def test_no_data_set_loses_along_the_shortest_sum(n: int, d: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(100):
        g = torch.randn(n, d, generator=draw, dtype=torch.float64) * torch.rand(n, 1, generator=draw) * 10
        weights = min_norm(g)
        assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1)
        assert (g @ (weights @ g) >= (weights @ g) @ (weights @ g) - 1e-6).all(), "the condition of the optimum"


# ---------------------------------------------------------------------------------------------- on tensors


def of_sets(names: Sequence[str], k: int = 3, seed: int = 0) -> tuple[list[Datum], Tensor]:
    """Data of these sets, and features [B, K, 4] of their responses."""
    draw = torch.Generator().manual_seed(seed)
    grades = torch.randn(len(names), k, generator=draw, dtype=torch.float64)
    data = [
        Datum(str(n), f"{n}?", tuple("abcdef"[:k]), grades=tuple(line), subset=name)
        for n, (name, line) in enumerate(zip(names, grades.tolist(), strict=True))
    ]
    return data, torch.randn(len(names), k, 4, generator=draw, dtype=torch.float64)


def said(data: Sequence[Datum], features: Tensor, head: Tensor) -> Reading:
    return Reading(torch.ones(features.shape[:2], dtype=torch.bool), rewards=features @ head, features=features)


HEAD = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
SETS = Vocabulary("subsets", {"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize("name", ["more", "mmpo_more"])
@pytest.mark.parametrize("k", [2, 4])
def test_the_gradient_of_each_data_set_is_that_of_its_own_loss(name: str, k: int) -> None:
    data, features = of_sets("abacab", k)
    method, head = build(name), HEAD.clone().requires_grad_()
    memory = method.memory(4)
    found = method.remember(memory, method.observe(evidence(data, SETS), said(data, features, head)))
    single = replace(method, target=method.target.of)
    for number, of in enumerate("abc", 1):
        at = [n for n, d in enumerate(data) if d.subset == of]
        loss = single(evidence([data[n] for n in at]), said(data, features[at], head)).loss
        (slope,) = torch.autograd.grad(loss, head)
        torch.testing.assert_close(found["voice_gradient"][number].double(), slope, atol=1e-6, rtol=1e-5)
    assert (found["voice_gradient"][0] == 0).all() and found["voice_weight"][0] == 1, "nobody is without a name"
    lengths = normalize(found["voice_gradient"][1:].double(), dim=-1)
    torch.testing.assert_close(found["voice_weight"][1:].double(), 3 * min_norm(lengths), atol=1e-6, rtol=1e-5)


def test_a_step_counts_by_what_the_steps_before_it_said() -> None:
    data, features = of_sets("ab")
    method, heard = build("more"), evidence(data, SETS)
    reading = said(data, features, HEAD)
    plain_losses = build("bradley_terry")(heard, reading).losses
    torch.testing.assert_close(method(replace(heard, memory=method.memory(4)), reading).losses, plain_losses)
    memory = {"voice_gradient": torch.zeros(4, 4), "voice_weight": torch.tensor([1.0, 0.5, 1.5, 1.0])}
    outcome = method(replace(heard, memory=memory), reading)
    torch.testing.assert_close(outcome.losses, plain_losses * torch.tensor([0.5, 1.5]))
    # Agreement is measured on what people said.
    torch.testing.assert_close(outcome.said, Hard()(heard, outcome.m))


def test_one_data_set_is_bradley_terry_for_ever() -> None:
    data, features = of_sets("aaaa")
    for method, alone in (
        (build("more"), build("bradley_terry")),
        (build("more", level=1), build("bradley_terry")),
        (build("mmpo_more"), build("mmpo_reward")),
    ):
        memory, head = method.memory(2), HEAD.clone()
        for _ in range(3):
            heard = replace(evidence(data, Vocabulary("subsets", {"a": 1})), memory=memory)
            reading = said(data, features, head)
            torch.testing.assert_close(method(heard, reading).losses, alone(heard, reading).losses, atol=1e-6, rtol=0)
            memory, head = method.remember(memory, method.observe(heard, reading)), head * 0.5


def test_data_sets_of_equal_gradients_count_alike() -> None:
    data, features = of_sets("aaa")
    twice = data + [replace(d, subset="b") for d in data]
    method = build("more")
    heard, reading = evidence(twice, SETS), said(twice, features.repeat(2, 1, 1), HEAD)
    memory = method.remember(method.memory(4), method.observe(heard, reading))
    torch.testing.assert_close(memory["voice_weight"], torch.ones(4), atol=1e-6, rtol=0)


def test_momentum_and_who_is_not_heard() -> None:
    target = MinNorm(Hard(), momentum=0.25)

    def row(who: int, n: int, *gradient: float) -> list[float]:
        return [who, n, *gradient]

    memory = target.remember(target.memory(4), {"voice_gradient": torch.tensor([row(1, 2, 4, 0), row(2, 1, 0, 2)])})
    assert memory["voice_gradient"].tolist() == [[0, 0], [2, 0], [0, 2], [0, 0]], "means over data; the first is whole"
    assert memory["voice_weight"].tolist() == pytest.approx([1, 1, 1, 1])
    # Two micro-batches heard voice 1, of one datum each.
    again = torch.tensor([row(1, 1, 0, 8), row(1, 1, -4, 0)])
    memory = target.remember(memory, {"voice_gradient": again})
    assert memory["voice_gradient"].tolist() == [[0, 0], [0.75 * 2 - 0.25 * 2, 0.25 * 4], [0, 2], [0, 0]]
    # Directions (1, 1) / sqrt 2 and (0, 1): of one length, so both ends count alike.
    assert memory["voice_weight"].tolist() == pytest.approx([1, 1, 1, 1])
    third = target.remember(memory, {"voice_gradient": torch.tensor([row(3, 1, 0, -1)])})
    # (0, 1) and (0, -1) cancel, and the other adds nothing shorter.
    assert third["voice_weight"].tolist() == pytest.approx([1, 0, 1.5, 1.5], abs=1e-6)


def test_parts_of_a_step_teach_what_the_whole_step_does() -> None:
    data, features = of_sets("abacabbc")
    method = build("more")
    whole = method.observe(evidence(data, SETS), said(data, features, HEAD))
    parts = [
        method.observe(evidence(data[at], SETS), said(data[at], features[at], HEAD))
        for at in (slice(0, 1), slice(1, 5), slice(5, 8))
    ]
    joined = {"voice_gradient": torch.cat([part["voice_gradient"] for part in parts])}
    torch.testing.assert_close(
        method.remember(method.memory(4), joined), method.remember(method.memory(4), whole), atol=1e-6, rtol=1e-5
    )


def test_attributes_may_be_the_voices() -> None:
    """Each attribute of a datum is weighed; together they are what all said."""
    lines = {"x": (1.0, 3.0), "y": (2.0, 0.0)}
    data = [Datum("d", "p", ("a", "b"), (1.0, 2.0), attributes=lines)]
    heard = evidence(data, Vocabulary("attributes", {"x": 1, "y": 2}))
    target, m = MinNorm(BradleyTerry(1.0)), torch.zeros(1, 2, 2)
    counted = replace(heard, memory={"voice_weight": torch.tensor([1.0, 0.5, 1.5])})
    p = 0.5 * 0.5 * torch.sigmoid(torch.tensor(-2.0)) + 1.5 * 0.5 * torch.sigmoid(torch.tensor(2.0))
    assert target(counted, m)[0, 0, 1].item() == pytest.approx(p.item())


def test_what_it_cannot_weigh_is_refused() -> None:
    with pytest.raises(UserError, match="momentum is 0; it lies above 0"):
        build("more", momentum=0)
    with pytest.raises(UserError, match="level is -1; it is 0 or more"):
        MinNorm(Hard(), level=-1)
    with pytest.raises(UserError, match="give MinNorm the price of the method"):
        replace(build("more"), objective=Hinge())
    with pytest.raises(UserError, match="take the score Given"):
        Method(MinNorm(Hard()), LogRatio(), Logistic())


# ---------------------------------------------------------------------------------------------- a run


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    told: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 6, "learning_rate": 0.0, "optim": "sgd"}
    quiet = {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(str(folder), **told | quiet | more)


def test_a_step_of_a_model_learns_the_gradients_of_its_head(
    tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """However it is cut, and kept in a file; found again by differentiating the model itself."""
    data = [
        Datum(str(n), row["prompt"], tuple(row["responses"]), tuple(map(float, row["scores"])), subset="ab"[n % 2])
        for n, row in enumerate(ROWS)
    ]
    tokenizer, model = plain(tiny_tokenizer), tiny_reward(0)
    args = arguments(tmp_path)
    setup = bring_together(model, build("more"), data, tokenizer=tokenizer, micro_batch_tokens=60, args=args)
    trainer = setup.trainer(args)
    trainer.train()
    state = trainer.method_state
    assert state.memory["voice_gradient"].shape == (3, model.config.hidden_size)
    for number, of in enumerate("ab", 1):
        chosen = [d for d in data if d.subset == of]
        batch = Collator.of(tokenizer).batch(prepare(chosen, tokenizer, Limits(1024))[0])
        loss = build("bradley_terry")(batch.evidence, RewardReader()(model, batch)).loss
        (slope,) = torch.autograd.grad(loss, model.score.weight)
        torch.testing.assert_close(state.memory["voice_gradient"][number], slope[0], atol=1e-6, rtol=1e-4)
    state.save(tmp_path)
    other = MethodState(build("more"), state.heads, 3, torch.device("cpu"))
    assert other.memory["voice_gradient"].shape == (3, 0)
    other.load(tmp_path)
    torch.testing.assert_close(other.memory, state.memory, rtol=0, atol=0)
    assert (tmp_path / FILE).is_file()


@pytest.fixture
def recipe(tiny_reward: Any, tiny_tokenizer: Any, tmp_path: Path) -> dict[str, Any]:
    """Two sources, of which one names its data sets itself."""
    named = [{**row, "subset": "facts"} for row in ROWS[:2]]
    return {
        "model": saved(tiny_reward(0), plain(tiny_tokenizer), tmp_path / "model"),
        "method": "more",
        "data": [rows_file(tmp_path, ROWS[2:], "chat.jsonl"), rows_file(tmp_path, named, "named.jsonl")],
        "output_dir": str(tmp_path / "run"),
        "max_length": 96,
        "max_steps": 2,
        "per_device_train_batch_size": 6,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def written(recipe: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_sources_lend_their_rows_a_subset(recipe: dict[str, Any], tmp_path: Path) -> None:
    chat, named = recipe["data"]
    trainer = train_recipe(read_recipe(written(recipe, tmp_path)))
    known = json.loads((tmp_path / "run" / "memory.json").read_text())
    assert set(known["voice_weight"]) == {"(no name)", chat, "facts"}
    assert sum(known["voice_weight"].values()) == pytest.approx(3)
    assert trainer.method_state.memory["voice_gradient"][1:].norm(dim=-1).min() > 0
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["notes"]
    assert f"{chat}: of the subset {chat!r}, as its source (rows: 4)" in notes
    assert f"{named}: of a subset that the row names (rows: 2)" in notes


def test_only_a_run_that_tells_data_sets_apart_names_them(recipe: dict[str, Any], tmp_path: Path) -> None:
    plain_run = from_recipe(read_recipe(written({**recipe, "method": "bradley_terry"}, tmp_path)))
    assert plain_run.vocabulary is None and plain_run.record["data"]["notes"] == []
    with pytest.raises(
        UserError, match="needs names of subsets, and the data have none; give subset, or several sources"
    ):
        from_recipe(read_recipe(written({**recipe, "data": recipe["data"][0]}, tmp_path)))
    source = {"path": recipe["data"][0], "subset": "talk"}
    alone = from_recipe(read_recipe(written({**recipe, "data": source}, tmp_path)))
    assert alone.vocabulary == Vocabulary("subsets", {"talk": 1})


def test_a_source_keeps_the_name_it_was_given(tmp_path: Path) -> None:
    paths = [rows_file(tmp_path, ROWS[:1], "a.jsonl"), rows_file(tmp_path, ROWS[:1], "b.jsonl")]
    named = by_source([Source(paths[0]), Source(paths[1], subset="own")])
    assert [d.subset for d in load(named).data] == [paths[0], "own"]
    assert by_source(named[:1]) == named[:1] and by_source([Source("x")]) == [Source("x")]
    with pytest.raises(UserError, match="subset is 3; give text"):
        Source("x", subset=3)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- calibration


def binned(p: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The distance of sums and their number in each bin of equal width that holds something."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    kept = np.unique(place)
    return (
        np.array([abs(p[place == b].sum() - y[place == b].sum()) for b in kept]),
        np.array([(place == b).sum() for b in kept]),
    )


def test_the_calibration_errors_of_the_paper_by_hand() -> None:
    p, y = np.array([0.9, 0.75, 0.65, 0.55]), np.array([1.0, 0.0, 1.0, 0.0])
    off, count = binned(p, y, 5)
    assert off.sum() / len(p) == pytest.approx(0.2625)
    assert (off / count).mean() == pytest.approx(0.28333, abs=1e-5) and (off / count).max() == pytest.approx(0.55)


@pytest.mark.parametrize("bins", [10, 20])
def test_ours_is_theirs_with_both_orders_of_every_pair(bins: int) -> None:
    draw = np.random.default_rng(0)
    m = draw.normal(0, 2, 500)
    y = (draw.random(500) < 0.7).astype(float)
    p = 1 / (1 + np.exp(-m))
    both, labels = np.r_[p, 1 - p], np.r_[y, 1 - y]
    assert both.mean() == pytest.approx(0.5) and labels.mean() == 0.5
    assert ece(y, m, bins=bins) == pytest.approx(binned(both, labels, bins)[0].sum() / len(both))


# ---------------------------------------------------------------------------------------------- weights by the prompt


def test_the_target_weights_by_hand() -> None:
    grades = torch.tensor([[0.2, 1.0, -0.4]], dtype=torch.float64)
    w = target_weights(grades, 1.0)
    torch.testing.assert_close(w[0], torch.tensor([0.264946, 0.589648, 0.145406]).double(), atol=1e-6, rtol=0)
    assert (w * (w * 3).log()).sum().item() == pytest.approx(0.154859, abs=1e-6)
    torch.testing.assert_close(target_weights(grades + 7, 1.0), w)
    torch.testing.assert_close(target_weights(grades, 1e9), torch.full_like(w, 1 / 3), atol=1e-8, rtol=0)
    torch.testing.assert_close(target_weights(grades, 1e-9), torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert target_weights(grades[:, :1], 0.3).item() == 1


def attributed(n: int, lines: dict[str, tuple[float | None, ...]], grades: tuple[float, ...] = (2.0, 1.0)) -> Datum:
    return Datum(str(n), f"{n}?", ("a", "b"), grades, attributes=lines)


THREE = Vocabulary("attributes", {"x": 1, "y": 2, "z": 3})
BEST_FIRST = {"x": (0.2, 9.0), "y": (1.0, 9.0), "z": (-0.4, 9.0)}


def weighing(data: Sequence[Datum], logits: Tensor, method: Method | None = None) -> tuple[Any, Reading]:
    heard = evidence(data, THREE)
    outputs = torch.zeros(*heard.mask.shape, logits.shape[-1])
    return heard, Reading(heard.mask, outputs=outputs, of_prompt={"router": logits})


def cost(data: Sequence[Datum], logits: Tensor, tau: float = 1.0) -> Tensor:
    heard, reading = weighing(data, logits)
    return Orchestration(tau)(Hard()(heard, torch.zeros_like(heard.weight)), heard, reading)


def test_the_preferred_response_sets_the_weights() -> None:
    assert cost([attributed(0, BEST_FIRST)], torch.zeros(1, 3)).item() == pytest.approx(0.154859, abs=1e-6)
    shifted = {name: (first + 5, second) for name, (first, second) in BEST_FIRST.items()}
    assert cost([attributed(0, shifted)], torch.zeros(1, 3)).item() == pytest.approx(0.154859, abs=1e-6)
    at = torch.tensor([[0.2, 1.0, -0.4]]) + 3
    assert cost([attributed(0, BEST_FIRST)], at).item() == pytest.approx(0, abs=1e-6)
    # With the other response in front all attributes are alike.
    assert cost([attributed(0, BEST_FIRST, (1.0, 2.0))], torch.zeros(1, 3)).item() == pytest.approx(0, abs=1e-6)
    # Two best ones: the mean of both.
    both = cost([attributed(0, {"x": (0.0, 4.0), "y": (1.0, 1.0), "z": (0.0, 2.0)}, (1.0, 1.0))], torch.zeros(1, 3))
    w = torch.tensor([2.0, 1.0, 1.0]).softmax(-1)
    assert both.item() == pytest.approx((w * (3 * w).log()).sum().item(), abs=1e-6)


def test_attributes_that_nobody_graded_are_left_out() -> None:
    logits = torch.tensor([[0.3, -0.1, 50.0], [0.0, 0.0, 0.0]], requires_grad=True)
    data = [attributed(0, {"x": (0.2, 9.0), "y": (1.0, 9.0), "z": (None, 1.0)}), attributed(1, {})]
    lost = cost(data, logits)
    w, g = torch.tensor([0.2, 1.0]).softmax(-1), torch.tensor([0.3, -0.1]).log_softmax(-1)
    assert lost.tolist() == pytest.approx([(w * (w.log() - g)).sum().item(), 0.0], abs=1e-6)
    (slope,) = torch.autograd.grad(lost.sum(), logits)
    assert slope.isfinite().all() and (slope[0, 2], *slope[1]) == (0, 0, 0, 0)
    heavy = replace(data[0], weight=2.5)
    assert cost([heavy], logits[:1]).item() == pytest.approx(2.5 * lost[0].item())


def test_one_attribute_is_the_regression_of_one_reward() -> None:
    data = [attributed(n, {"x": (float(n), 1.0)}) for n in range(3)]
    heard = evidence(data, Vocabulary("attributes", {"x": 1}))
    draw = torch.Generator().manual_seed(0)
    outputs, logits = torch.randn(3, 2, 1, generator=draw), torch.randn(3, 1, generator=draw)
    reading = Reading(heard.mask, outputs=outputs, of_prompt={"router": logits})
    ours, base = build("orchestrator"), build("helpsteer2")
    torch.testing.assert_close(ours(heard, reading).losses, base(heard, reading).losses, rtol=0, atol=1e-6)
    both = base(heard, reading).losses + build("mmpo_reward")(heard, replace(reading, rewards=outputs[..., 0])).losses
    torch.testing.assert_close(build("mmpo_orchestrator")(heard, reading).losses, both, rtol=0, atol=1e-6)
    assert (ours.score.weights(reading) == 1).all()
    torch.testing.assert_close(ours.score.rewards(reading), outputs[..., 0], rtol=0, atol=0)


def test_the_prompt_or_the_user_weighs() -> None:
    score, draw = RoutedVoices(), torch.Generator().manual_seed(1)
    outputs = torch.randn(2, 4, 3, generator=draw)
    sure = torch.tensor([[0.0, 200.0, 0.0], [200.0, 0.0, 0.0]])
    reading = Reading(torch.ones(2, 4, dtype=torch.bool), outputs=outputs, of_prompt={"router": sure})
    torch.testing.assert_close(score.rewards(reading), torch.stack([outputs[0, :, 1], outputs[1, :, 0]]))
    torch.testing.assert_close(score.weights(reading), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    mine = weighed(build("orchestrator"), THREE.numbers, {"z": 0.7, "x": -0.3}).score
    torch.testing.assert_close(mine.rewards(reading), 0.7 * outputs[..., 2] - 0.3 * outputs[..., 0])
    voiced = replace(reading, who=torch.tensor([3, 0]))
    torch.testing.assert_close(score.rewards(voiced), torch.stack([outputs[0, :, 2], outputs[1, :, 0]]))
    assert "head on the prompt" in score.equation and "w = (" in mine.equation
    assert score.on_prompt(4) == {"router": 3} and score.named(3, ["x", "y", "z"]) == ["x", "y", "z"]


def learned(features: Tensor, data: Sequence[Datum]) -> Tensor:
    """The weights [N, 3] that a linear head on these features [N, D] of the prompts learns."""
    head = torch.zeros(3, features.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([head], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = cost(data, features @ head.T).mean()
        total.backward()
        return total

    optimizer.step(loss)
    return (features @ head.detach().T).softmax(-1)


def test_kinds_of_prompts_are_told_apart_where_their_features_do() -> None:
    draw = torch.Generator().manual_seed(0)
    kind = torch.arange(60) % 2
    centre = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    grades = centre[kind] + 0.5 * torch.randn(60, 3, generator=draw)
    data = [
        attributed(n, {k: (g, 0.0) for k, g in zip("xyz", line, strict=True)}) for n, line in enumerate(grades.tolist())
    ]
    w = target_weights(grades, 1.0)
    means = torch.stack([w[kind == n].mean(0) for n in (0, 1)])[kind]
    found = learned(torch.eye(2)[kind], data)
    assert (means * (means / found).log()).sum(-1).max() < 1e-2
    fixed = learned(torch.ones(60, 1), data)
    torch.testing.assert_close(fixed, w.mean(0).expand(60, 3), atol=1e-3, rtol=0)


def test_what_cannot_be_orchestrated_is_refused() -> None:
    with pytest.raises(UserError, match="tau is 0; it must be positive"):
        build("orchestrator", tau=0)
    with pytest.raises(UserError, match="needs the score RoutedVoices"):
        replace(build("orchestrator"), score=Routed(3))


# ---------------------------------------------------------------------------------------------- one scale for each


SCALED = [
    attributed(0, {"x": (0.0, 10.0), "y": (1.0, None)}, (1.0, 3.0)),
    attributed(1, {"x": (20.0, 10.0), "y": (2.0, 3.0)}, (5.0, 3.0)),
]


@pytest.mark.parametrize(
    ("how", "x", "y"),
    [
        ("zscore", [(-math.sqrt(2), 0.0), (math.sqrt(2), 0.0)], [(-math.sqrt(1.5), None), (0.0, math.sqrt(1.5))]),
        ("minmax", [(0.0, 0.5), (1.0, 0.5)], [(0.0, None), (0.5, 1.0)]),
        (
            "log1p",
            [(0.0, math.log(11)), (math.log(21), math.log(11))],
            [(math.log(2), None), (math.log(3), math.log(4))],
        ),
    ],
)
def test_each_attribute_has_a_scale_of_its_own(how: Any, x: list[Any], y: list[Any], tmp_path: Path) -> None:
    for found in (
        rescale(SCALED, how),
        gather(
            Source(rows_file(tmp_path, map(to_row, SCALED)), attributes="all"), Shape(rescale=how), 0, cache=tmp_path
        ).data,
    ):
        for name, expected in (("x", x), ("y", y)):
            # Training shuffles responses.
            lines = {d.id: dict(zip(d.responses, d.attributes[name], strict=True)) for d in found}
            wanted = {str(n): dict(zip("ab", line, strict=True)) for n, line in enumerate(expected)}
            for n, line in wanted.items():
                given = {k: g for k, g in line.items() if g is not None}
                assert {k: g for k, g in lines[n].items() if g is not None} == pytest.approx(given)


def test_held_out_attributes_follow_the_scale_of_the_training_data() -> None:
    (other,) = rescale([attributed(0, {"x": (40.0, 0.0), "new": (7.0, 8.0)})], "minmax", like=SCALED)
    assert other.attributes == {"x": (2.0, 0.0), "new": (7.0, 8.0)}
    with pytest.raises(UserError, match="probabilities between 0 and 1, not for the attribute x"):
        rescale([attributed(0, {"x": (40.0, 0.0)}, (0.1, 0.9))], "logit")


# ---------------------------------------------------------------------------------------------- from a recipe to scores


def test_an_orchestrator_is_trained_saved_and_scores_with_its_weights(
    tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{**row, "attributes": {"x": row["scores"], "y": [1] * len(row["scores"])}} for row in ROWS]
    content = {
        "model": saved(tiny_policy(0), plain(tiny_tokenizer), tmp_path / "model"),
        "method": {"name": "orchestrator", "tau": 0.5},
        "data": {"path": rows_file(tmp_path, rows), "attributes": "all"},
        "shape": {"rescale": "zscore"},
        "output_dir": str(tmp_path / "run"),
        "max_length": 96,
        "max_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    train_recipe(read_recipe(written(content, tmp_path)))
    out = tmp_path / "scored.jsonl"
    with pytest.raises(SystemExit) as ended:
        main(["score", str(tmp_path / "run"), str(tmp_path / "rows.jsonl"), "--out", str(out)])
    assert ended.value.code == 0
    for row in map(json.loads, out.read_text().splitlines()):
        facets, weights = row["model_scores_by"], row["model_weights"]
        assert set(facets) == set(weights) == {"x", "y"} and sum(weights.values()) == pytest.approx(1)
        total = [sum(weights[name] * facets[name][i] for name in facets) for i in range(len(row["responses"]))]
        assert row["model_scores"] == pytest.approx(total, abs=1e-5)
