"""The same numbers as TRL: hard labels, K = 2, one small model, the same rows, seed, order and learning rate."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from mmpo.batch import Limits
from mmpo.models import packed
from mmpo.run.setup import bring_together
from mmpo.types import Datum, Judgement

trl = pytest.importorskip("trl")

STEPS, TOLERANCE = 20, 1e-4
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "seed": 7,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "bf16": False,
}
WORDS = ["apple", "pear", "plum", "quince", "cherry", "grape", "melon", "fig", "date", "lime", "kiwi", "mango"]


def rows() -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(3)

    def words(n: int) -> str:
        picks = torch.randint(0, len(WORDS), (n,), generator=generator).tolist()
        return " ".join(WORDS[i] for i in picks)

    def length() -> int:
        return int(torch.randint(2, 12, (1,), generator=generator))

    return [{"prompt": f"{n}: {words(4)}\n", "chosen": words(length()), "rejected": words(length())} for n in range(24)]


def data() -> list[Datum]:
    """The rows as data; every other one with the better response second, which must change nothing."""
    out = []
    for n, row in enumerate(rows()):
        pair = (row["chosen"], row["rejected"])
        responses, first = (pair, 1.0) if n % 2 == 0 else (pair[::-1], 0.0)
        out.append(Datum(str(n), row["prompt"], responses, judgements=(Judgement(0, 1, p=first),)))
    return out


class Log(TrainerCallback):
    """Keeps every step's log."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        if logs and "loss" in logs:
            self.steps.append(logs)


LAYOUTS: tuple[packed.Layout, ...] = ("padded", "separate", "shared")


def ours(model: Any, tokenizer: Any, method: str, folder: Path, layout: packed.Layout) -> list[dict[str, float]]:
    """With every step of four pairs in several micro-batches."""
    options: dict[str, Any] = {"layout": layout, "micro_batch_tokens": 200}
    setup = bring_together(model, method, data(), tokenizer=tokenizer, limits=Limits(256), **options)
    assert len(setup.collator(setup.examples[:4])["batch"]) > 1
    log = Log()
    setup.trainer(TrainingArguments(output_dir=str(folder), **COMMON), [log]).train()
    return log.steps


def same(ours: list[dict[str, float]], theirs: list[dict[str, float]], keys: tuple[str, ...]) -> None:
    assert len(ours) == len(theirs) == STEPS
    for key in keys:
        # At the first step policy and reference are equal: every margin is a tie, one half to us, an error to TRL.
        skip = key == "rewards/accuracies"
        mine, peer = (torch.tensor([step[key] for step in log[skip:]]) for log in (ours, theirs))
        assert peer.std() > 0, f"{key} never moved; the comparison would show nothing"
        torch.testing.assert_close(
            mine, peer, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.fixture
def plain_tokenizer(tiny_tokenizer: Any) -> Any:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    return tokenizer


@pytest.mark.parametrize(("method", "loss_type"), [("dpo", "sigmoid"), ("ipo_mean", "ipo"), ("robust_dpo", "robust")])
def test_policy_follows_trl(
    method: str, loss_type: str, tiny_policy: Any, plain_tokenizer: Any, tmp_path: Path
) -> None:
    smoothing = {"label_smoothing": 0.1} if loss_type == "robust" else {}
    log = Log()
    trl.DPOTrainer(
        model=tiny_policy(0),
        ref_model=tiny_policy(0),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"), beta=0.1, loss_type=[loss_type], max_length=256, **smoothing, **COMMON
        ),
        train_dataset=Dataset.from_list(rows()),
        processing_class=copy.deepcopy(plain_tokenizer),
        callbacks=[log],
    ).train()
    keys: tuple[str, ...] = ("loss", "grad_norm")
    if loss_type != "ipo":
        # TRL reports beta * log-ratio as the reward whatever the loss; for IPO our reward is what the loss sees.
        keys += ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen")
    for layout in LAYOUTS:
        same(ours(tiny_policy(0), plain_tokenizer, method, tmp_path / layout, layout), log.steps, keys)


def test_reward_model_follows_trl(tiny_reward: Any, plain_tokenizer: Any, tmp_path: Path) -> None:
    log = Log()
    trl.RewardTrainer(
        model=tiny_reward(0),
        args=trl.RewardConfig(output_dir=str(tmp_path / "trl"), max_length=256, **COMMON),
        train_dataset=Dataset.from_list(rows()),
        processing_class=copy.deepcopy(plain_tokenizer),
        callbacks=[log],
    ).train()
    theirs = [{**step, "rewards/margins": step["margin"], "rewards/accuracies": step["accuracy"]} for step in log.steps]
    keys = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies")
    for layout in LAYOUTS:
        same(ours(tiny_reward(0), plain_tokenizer, "bradley_terry", tmp_path / layout, layout), theirs, keys)
