"""What the tests share: random evidence and readings, a tiny tokenizer and tiny models, and real data where it lies."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mmpo.matrix import compared
from mmpo.types import Evidence, Reading
from records import fresh, with_tokens

torch.set_num_threads(1)
# The same examples on every machine and on every run, however slow.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "List three fruits, please: an apple, a pear and a plum. Thank you!",
    "Write a short story about a fox who could not decide between two rivers.",
    "Is 17 a prime number? Yes: no number but 1 and 17 divides it.",
    "I am not sure that this answer is good; the other response is better, longer and kinder.",
]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def imported_for_good() -> None:
    """The Trainer collects garbage at the end of each run, which takes longer than the run where much was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the reference log-probs of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real preference data beside the repository; tests that need it are skipped where it is absent."""
    path = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is absent")
        pytest.skip(f"{path} is absent")
    return path


# ---------------------------------------------------------------------------------------------- on tensors


def random_evidence(
    b: int = 4, k: int = 3, seed: int = 0, *, votes: bool = False, ties: bool = True, weighted: bool = False
) -> Evidence:
    """Grades in half points (so that some tie), and on request votes for about half of the pairs and random weights,
    a few of them zero."""
    rng = torch.Generator().manual_seed(seed)
    quality = torch.randn(b, k, generator=rng, dtype=torch.float64)
    if ties:
        quality = (2 * quality).round() / 2
    mask = torch.ones(b, k, dtype=torch.bool)
    count = torch.zeros(b, k, k, dtype=torch.float64)
    weight = compared(mask).double()
    if votes:
        voted = torch.rand(b, k, k, generator=rng).triu(1) > 0.5
        count = torch.randint(0, 4, (b, k, k), generator=rng).double() * (voted | voted.mT)
    if weighted:
        draw = torch.rand(b, k, k, generator=rng, dtype=torch.float64).triu(1)
        weight = torch.where(draw > 0.2, 2 * draw, 0.0)
        weight = weight + weight.mT
        weight[:, 0, 1] = weight[:, 1, 0] = 1.0
    return Evidence(mask, quality, torch.full((b, k, k), torch.nan, dtype=torch.float64), count, weight)


def random_reading(b: int = 4, k: int = 3, seed: int = 1) -> Reading:
    """Everything a model could say; log-probs and rewards carry gradients."""
    rng = torch.Generator().manual_seed(seed)

    def draw(scale: float, shift: float) -> Tensor:
        return shift + scale * torch.randn(b, k, generator=rng, dtype=torch.float64)

    reading = Reading(
        mask=torch.ones(b, k, dtype=torch.bool),
        logps=draw(4.0, -30.0).requires_grad_(),
        ref_logps=draw(4.0, -30.0),
        lengths=torch.randint(1, 20, (b, k), generator=rng).double(),
        rewards=draw(1.0, 0.0).requires_grad_(),
        peer_rewards=draw(1.0, 0.0),
        errors=draw(0.02, 0.3),
        features=torch.randn(b, k, 6, generator=rng, dtype=torch.float64),
        view=torch.randn(b, k, 6, generator=rng, dtype=torch.float64),
        anchors=torch.randn(b, k, 6, generator=rng, dtype=torch.float64),
        heads={"degree": torch.randn(b, k, 2, 3, generator=rng, dtype=torch.float64)},
    )
    return fresh(with_tokens(reading))


@pytest.fixture(scope="session")
def make_evidence() -> Callable[..., Evidence]:
    return random_evidence


@pytest.fixture(scope="session")
def make_reading() -> Callable[..., Reading]:
    return random_reading


# ---------------------------------------------------------------------------------------------- tiny models


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens that puts <s> in front, as Llama's does, and has a chat template."""
    special = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_config(tokenizer: PreTrainedTokenizerFast, **more: Any) -> LlamaConfig:
    """Two layers of width 32."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


@pytest.fixture(scope="session")
def tiny_policy(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaForCausalLM]:
    """``tiny_policy(seed=0)`` is a fresh policy; the same seed gives the same weights."""

    def make(seed: int = 0) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(tiny_tokenizer))

    return make


@pytest.fixture(scope="session")
def tiny_reward(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaForSequenceClassification]:
    """``tiny_reward(seed=0)`` is a fresh reward model with one label; the same seed gives the same weights."""

    def make(seed: int = 0) -> LlamaForSequenceClassification:
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(tiny_config(tiny_tokenizer, num_labels=1))

    return make
