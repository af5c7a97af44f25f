"""What a method learns beside the model: alike however a step is cut, kept in checkpoints; and looking a step ahead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from mmpo.batch import Collator, Limits, Vocabulary, prepare
from mmpo.errors import UserError
from mmpo.methods import build
from mmpo.models import RewardReader
from mmpo.models.heads import DegreeHead
from mmpo.needs import without_idle
from mmpo.run.setup import bring_together
from mmpo.run.state import FILE, MethodState
from tiny import RICH, plain


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    settings = {
        "max_steps": 2,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "seed": 1,
    }
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "optim": "sgd"}
    return TrainingArguments(str(folder), **{**settings, **quiet, "max_grad_norm": 0.0, **more})


def trained(model: Any, method: Any, tokenizer: Any, folder: Path, tokens: int = 10_000, **more: Any) -> Any:
    args = arguments(folder, **more)
    setup = bring_together(
        model, method, RICH, tokenizer=plain(tokenizer), limits=Limits(96), micro_batch_tokens=tokens, args=args
    )
    trainer = setup.trainer(args)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", ("lcpo", "spa", "sparsepo"))
def test_the_state_does_not_depend_on_how_a_step_is_cut(name, tiny_policy, tiny_tokenizer, tmp_path):
    """One batch, many micro-batches, and accumulated gradients."""

    def state(folder: str, **more: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # for the heads
        method = build(name)
        state = trained(tiny_policy(0), method, tiny_tokenizer, tmp_path / folder, **more).method_state
        for module in state.heads.modules():
            assert not isinstance(module, nn.Dropout) or module.p > 0
        return {n: v.sort().values if n == "margins" else v for n, v in state.memory.items()}

    whole = state("whole")
    torch.testing.assert_close(state("micro", tokens=100), whole, atol=1e-5, rtol=1e-4, equal_nan=True)
    accumulated = state("accumulated", per_device_train_batch_size=3, gradient_accumulation_steps=2)
    torch.testing.assert_close(accumulated, whole, atol=1e-5, rtol=1e-4, equal_nan=True)
    start = build(name).memory(4)
    assert all(not torch.equal(whole[n], start[n]) for n in start)


def test_reliability_is_known_by_name():
    names = Vocabulary.of("annotators", RICH)
    assert names.numbers == {"ann": 1, "bob": 2, "cy": 3} and len(names) == 4


def test_heads_are_trained_and_kept(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = trained(tiny_policy(0), build("spo"), tiny_tokenizer, tmp_path, save_strategy="steps", save_steps=1)
    heads = trainer.method_state.heads
    assert isinstance(heads["degree"], DegreeHead)
    first, second = (load_file(tmp_path / f"checkpoint-{n}" / FILE) for n in (1, 2))
    assert first.keys() == second.keys() == {f"heads.{name}" for name in heads.state_dict()}
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert not any("degree" in key for key in load_file(tmp_path / "checkpoint-2" / "model.safetensors"))


def test_the_best_model_comes_with_its_own_state(tiny_policy, tiny_tokenizer, tmp_path):
    trainer = trained(tiny_policy(0), build("spo"), tiny_tokenizer, tmp_path, save_strategy="steps", save_steps=1)
    first, last = (load_file(tmp_path / f"checkpoint-{n}" / FILE) for n in (1, 2))

    def held() -> dict[str, torch.Tensor]:
        return {f"heads.{name}": value for name, value in trainer.method_state.heads.state_dict().items()}

    torch.testing.assert_close(held(), last, rtol=0, atol=0)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    torch.testing.assert_close(held(), first, rtol=0, atol=0)


@pytest.mark.parametrize("scale", (None, 65536.0))
def test_gradients_that_are_scaled_for_fp16_are_clipped_as_the_others(scale):
    heads = nn.ModuleDict({"one": nn.Linear(3, 1, bias=False)})
    state = MethodState(build("lcpo"), heads, 3, torch.device("cpu"))
    heads["one"].weight.grad = torch.tensor([[3.0, 0.0, 4.0]]) * (scale or 1.0)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    if scaler is not None:
        scaler.scale(torch.zeros(()))
    state.share_gradients(SimpleNamespace(scaler=scaler, reduce=lambda gradient, how: gradient), most=1.0)
    torch.testing.assert_close(heads["one"].weight.grad / (scale or 1.0), torch.tensor([[0.6, 0.0, 0.8]]))


def test_a_state_of_another_method_is_refused(tmp_path):
    device = torch.device("cpu")
    MethodState(build("lcpo"), nn.ModuleDict(), 3, device).save(tmp_path)
    with pytest.raises(UserError, match="holds the state of another method"):
        MethodState(build("spa"), nn.ModuleDict(), 3, device).load(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match="is missing, so the run cannot go on"):
        MethodState(build("lcpo"), nn.ModuleDict(), 3, device).load(tmp_path)


class Watch(TrainerCallback):
    """Holds the gradients of each step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("tokens", (10_000, 100), ids=("one batch", "micro-batches"))
def test_the_gradient_a_step_ahead_is_applied_at_home(tokens, tiny_reward, tiny_tokenizer, tmp_path):
    """MetaRM by hand: up the gradient of J, the gradient of the loss there, and a step of it from where one was."""
    eta = 0.5
    method = replace(build("meta_rm"), ahead=(eta, build("meta_rm").ahead[1]))
    args, watch = arguments(tmp_path, max_steps=1), Watch()
    tokenizer, model, by_hand = plain(tiny_tokenizer), tiny_reward(0), tiny_reward(0)
    setup = bring_together(
        model, method, RICH, tokenizer=tokenizer, limits=Limits(96), micro_batch_tokens=tokens, args=args
    )
    setup.trainer(args, [watch]).train()

    examples, _ = prepare(without_idle(RICH, method)[0], tokenizer, Limits(96))
    batch = Collator.of(tokenizer).batch(examples)
    weights = dict(by_hand.named_parameters())
    height = method.ahead[1](no_target(batch), batch.evidence, RewardReader()(by_hand, batch)).mean()
    slope = torch.autograd.grad(height, list(weights.values()), allow_unused=True)
    with torch.no_grad():
        for parameter, rise in zip(weights.values(), slope, strict=True):
            parameter += 0 if rise is None else eta * rise
    method(batch.evidence, RewardReader()(by_hand, batch)).loss.backward()
    for name, gradient in watch.gradients[0].items():
        torch.testing.assert_close(gradient, weights[name].grad, atol=1e-5, rtol=1e-3)
    before = tiny_reward(0).state_dict()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), before[name] - 1e-2 * watch.gradients[0][name], atol=1e-6, rtol=1e-5
        )


def no_target(batch: Any) -> torch.Tensor:
    """A P without any comparison; J does not look at it."""
    return torch.zeros_like(batch.evidence.weight)
