"""What is learned: log-probs against a loop over positions, references, adapters, reward heads, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    RobertaConfig,
)

from mmpo.batch import Limits
from mmpo.batch.pack import pack
from mmpo.batch.tokenize import Encoded
from mmpo.errors import UserError
from mmpo.models import (
    AdapterOff,
    FrozenCopy,
    PolicyReader,
    RewardReader,
    load_policy,
    load_reward_model,
    load_tokenizer,
    packed,
)
from mmpo.models.load import as_reward_model, fitted, with_pad_token, without_dropout
from mmpo.models.lora import adapted
from mmpo.models.padded import Padded
from mmpo.models.policy import response_logps
from mmpo.run.setup import bring_together
from mmpo.types import Batch
from tiny import ROWS, batch_of, data_of, gradients, laid_out, minilm, plain, roberta_tokenizer, saved, sequences

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODERS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda **more: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **more),
    "llama": lambda **more: LlamaConfig(**SMALL, num_key_value_heads=1, **more),
    "qwen2": lambda **more: Qwen2Config(**SMALL, num_key_value_heads=2, **more),
    "neox": lambda **more: GPTNeoXConfig(**SMALL, **more),
}


def config(kind: str, tokenizer: Any, **more: Any) -> Any:
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return DECODERS[kind](vocab_size=len(tokenizer), **ids, **more)


def policy(kind: str, tokenizer: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config(kind, tokenizer)).eval()


def reward(kind: str, tokenizer: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config(kind, tokenizer, num_labels=1))
    return as_reward_model(model, tokenizer).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Any) -> Any:
    return plain(tiny_tokenizer)


@pytest.fixture(scope="module")
def batch(tokenizer: Any) -> Batch:
    """Six prompts of 2 to 4 responses, of many lengths: 16 sequences."""
    return batch_of(data_of(), tokenizer)


LAYOUTS: tuple[packed.Layout, ...] = ("padded", "separate", "shared")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
"""A model as it is reads padded rows; taught by ``packed.enable`` it reads packed ones."""


def read_in(layout: packed.Layout, tokenizer: Any) -> Batch:
    return batch_of(data_of(), tokenizer, shared=layout != "separate")


def one_by_one(model: Any, batch: Batch) -> torch.Tensor:
    """[B, K] log-probs: each sequence alone, a full softmax at each position, a loop over the response's tokens."""
    out = torch.zeros(batch.evidence.mask.shape)
    for slot, (asked, said) in zip(batch.tokens.slot.tolist(), sequences(batch.tokens), strict=True):
        ids = torch.tensor([*asked, *said])
        with torch.no_grad():
            probabilities = model(input_ids=ids[None]).logits[0].double().softmax(-1)
        total = 0.0
        for at in range(max(len(asked), 1), len(ids)):
            total += math.log(probabilities[at - 1, ids[at]])
        out.view(-1)[slot] = total
    return out


# ---------------------------------------------------------------------------------------------- policies


@every_layout
@pytest.mark.parametrize("kind", DECODERS)
def test_log_probs_are_those_of_a_loop_over_positions(kind: str, layout: packed.Layout, tokenizer: Any) -> None:
    batch = read_in(layout, tokenizer)
    reading = PolicyReader()(laid_out(policy(kind, tokenizer), tokenizer, layout), batch)
    assert reading.logps is not None and reading.lengths is not None
    assert_close(reading.logps, one_by_one(policy(kind, tokenizer), batch), rtol=1e-5, atol=1e-4)
    assert reading.logps.dtype == torch.float32 and (reading.logps[~reading.mask] == 0).all()
    counts = [len(tokenizer(text + "</s>", add_special_tokens=False)["input_ids"]) for text in ("Paris.", "an apple")]
    assert reading.lengths[:2, 0].tolist() == counts
    assert reading.ref_logps is None


def confident(kind: str, tokenizer: Any) -> Any:
    """A policy whose head is sure of what it says."""
    model = policy(kind, tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    return model


def continued(model: Any, ids: tuple[int, ...], length: int) -> tuple[int, ...]:
    """The most likely tokens behind a text, one after the other."""
    whole = list(ids)
    with torch.no_grad():
        for _ in range(length):
            whole.append(int(model(input_ids=torch.tensor([whole])).logits[0, -1].argmax()))
    return tuple(whole[len(ids) :])


@every_layout
@pytest.mark.parametrize("kind", DECODERS)
def test_statistics_are_those_of_a_loop_over_positions(kind: str, layout: packed.Layout, tokenizer: Any) -> None:
    """Entropy of the next token and argmax hits, summed over each response; the log-probs stay what they are."""
    alone = confident(kind, tokenizer)
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in ("Is 17 a prime number?", "A fox")]
    data = [Encoded("", prompt, (continued(alone, prompt, 5), (9, 8, 7))) for prompt in prompts]
    batch = replace(
        batch_of(data_of(ROWS[:2]), tokenizer),
        tokens=pack(data, 3, tokenizer.pad_token_id, shared=layout != "separate"),
    )
    entropy, hits = (torch.zeros(batch.evidence.mask.shape) for _ in range(2))
    for slot, (asked, said) in zip(batch.tokens.slot.tolist(), sequences(batch.tokens), strict=True):
        with torch.no_grad():
            probabilities = alone(input_ids=torch.tensor([[*asked, *said]])).logits[0].double().softmax(-1)
        for p, token in zip(probabilities[len(asked) - 1 :], said, strict=False):
            entropy.view(-1)[slot] += -(p * p.log()).sum()
            hits.view(-1)[slot] += p.argmax() == token
    assert hits[:, 0].tolist() == [5, 5] and (entropy[:, :2] > 0.1).all()
    model = laid_out(confident(kind, tokenizer), tokenizer, layout)
    reading = PolicyReader(statistics=("entropy", "hits"))(model, batch)
    assert reading.statistics.keys() == {"entropy", "hits", "tokens"}
    assert reading.lengths is not None
    assert torch.equal(reading.statistics["tokens"], reading.lengths)
    assert_close(reading.statistics["entropy"], entropy, rtol=1e-5, atol=1e-4)
    assert torch.equal(reading.statistics["hits"], hits)
    assert not any(value.requires_grad for value in reading.statistics.values())
    plainly = PolicyReader()(model, batch)
    assert reading.logps is not None and reading.logps.requires_grad and plainly.statistics == {}
    assert_close(reading.logps, plainly.logps, rtol=0, atol=0)


class WithoutKeep(torch.nn.Module):
    """A model that gives all its logits or none."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_logits_left_out_change_nothing(tokenizer: Any, batch: Batch) -> None:
    model = policy("llama", tokenizer)
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: asked.append(kwargs["logits_to_keep"]), with_kwargs=True)
    some = response_logps(model, batch.tokens)
    assert len(asked) == 1 and 1 < asked[0] < Padded.of(batch.tokens).input_ids.shape[1]
    assert_close(some, response_logps(WithoutKeep(policy("llama", tokenizer)), batch.tokens), rtol=0, atol=0)


def test_a_packed_row_is_read_without_padding_or_needless_logits(tokenizer: Any) -> None:
    """One call of the backbone on one row, each prompt once, and no logits of the tokens of prompts."""
    batch = batch_of(data_of(), tokenizer)
    model = laid_out(policy("llama", tokenizer), tokenizer, "shared")
    rows: list[torch.Size] = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    found = packed.token_readings(model, batch.tokens)
    texts = sequences(batch.tokens)
    asked = sum(len(prompt) for prompt in {tuple(prompt) for prompt, _ in texts})
    assert rows == [(1, asked + sum(len(said) for _, said in texts))]
    assert found.logps.shape == (sum(len(said) for _, said in texts),)


@every_layout
def test_a_first_token_without_a_context_has_no_probability(layout: packed.Layout, tokenizer: Any) -> None:
    """GPT-2 puts nothing in front of a text, so an empty prompt leaves the first token of the response unscored."""
    texts = [tuple(tokenizer(text + "</s>", add_special_tokens=False)["input_ids"]) for text in ("Yes.", "No")]
    data = [Encoded("0", (), tuple(texts)), Encoded("1", texts[0][:2], (texts[1],))]
    bare = replace(
        batch_of(data_of([{"prompt": "", "responses": ["", ""], "scores": [1, 0]}] * 2), tokenizer),
        tokens=pack(data, 2, tokenizer.pad_token_id, shared=layout != "separate"),
    )
    assert [asked for asked, _ in sequences(bare.tokens)] == [[], [], list(texts[0][:2])]
    reading = PolicyReader()(laid_out(policy("gpt2", tokenizer), tokenizer, layout), bare)
    assert_close(reading.logps, one_by_one(policy("gpt2", tokenizer), bare), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_chunks_change_neither_numbers_nor_gradients(
    task: str, tokenizer: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of padded rows, and the packed row against the padded ones."""
    model = policy("llama", tokenizer) if task == "policy" else reward("llama", tokenizer)
    coefficients = torch.randn(batch.evidence.mask.shape, generator=torch.Generator().manual_seed(0))

    def read(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        reading = PolicyReader()(model, batch) if task == "policy" else RewardReader()(model, batch)
        values = reading.logps if task == "policy" else reading.rewards
        assert values is not None
        (coefficients * values).sum().backward()
        return values.detach(), gradients(model)

    def in_chunks(size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        monkeypatch.setattr(Padded.chunks, "__defaults__", (size,))
        assert len(Padded.of(batch.tokens).chunks()) == -(-16 // size)
        return read(batch)

    whole, whole_gradients = in_chunks(1000)
    found = {"1": in_chunks(1), "5": in_chunks(5)}
    for layout in LAYOUTS[1:]:
        laid_out(model, tokenizer, layout)
        found[layout] = read(read_in(layout, tokenizer))
    for values, slopes in found.values():
        assert_close(values, whole, rtol=1e-5, atol=1e-5)
        assert slopes.keys() == whole_gradients.keys()
        for name, gradient in slopes.items():
            assert_close(gradient, whole_gradients[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name} {m}")


# ---------------------------------------------------------------------------------------------- references


def shaken(model: Any, only: str = "") -> Any:
    """The model with other weights."""
    torch.manual_seed(9)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and only in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


@every_layout
def test_a_frozen_copy_stays_when_the_policy_moves(layout: packed.Layout, tokenizer: Any) -> None:
    """A copy of a model that reads packed rows reads them too, and with its own weights."""
    batch = read_in(layout, tokenizer)
    model = laid_out(policy("llama", tokenizer), tokenizer, layout)
    reader = PolicyReader(FrozenCopy.of(model))
    start = reader(model, batch)
    assert_close(start.ref_logps, start.logps, rtol=0, atol=0)
    moved = reader(shaken(model), batch)
    assert moved.logps is not None and moved.ref_logps is not None
    assert_close(moved.ref_logps, start.ref_logps, rtol=0, atol=0)
    assert (moved.logps - moved.ref_logps).abs().max() > 0.1
    assert moved.logps.requires_grad and not moved.ref_logps.requires_grad


@every_layout
def test_an_adapter_switched_off_is_the_base_model(layout: packed.Layout, tokenizer: Any) -> None:
    batch = read_in(layout, tokenizer)
    base = one_by_one(policy("llama", tokenizer), batch)
    model = shaken(adapted(policy("llama", tokenizer), {"r": 4}, "policy"), only="lora").train()
    laid_out(model, tokenizer, layout)
    reading = PolicyReader(AdapterOff())(model, batch)
    assert reading.logps is not None
    assert_close(reading.ref_logps, base, rtol=1e-5, atol=1e-4)
    assert (reading.logps - base)[reading.mask].abs().min() > 1e-3
    assert model.training and reading.logps.requires_grad


def test_known_reference_logps_are_taken(tokenizer: Any, batch: Batch) -> None:
    known = torch.full(batch.evidence.mask.shape, -3.0)
    reading = PolicyReader(FrozenCopy.of(policy("gpt2", tokenizer)))(
        policy("gpt2", tokenizer), replace(batch, ref_logps=known)
    )
    assert reading.ref_logps is known


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_cached_is_live(lora: dict[str, Any] | None, tokenizer: Any) -> None:
    """Cached log-probs of every response equal those of the reference that lives beside the policy."""
    data = data_of()
    kinds = ("cached", "adapter" if lora else "copy")
    setups = [
        bring_together(
            policy("llama", tokenizer),
            "dpo",
            data,
            data,
            tokenizer=tokenizer,
            lora=lora,
            reference=kind,
            limits=Limits(64),
        )
        for kind in kinds
    ]
    cached, live = setups
    batch = batch_of(data, tokenizer, Limits(64))
    for setup in setups:
        shaken(setup.model)
    for examples in (cached.examples, cached.eval_examples):
        known = [example.ref_logps for example in examples]
        reading = live.reader(live.model, batch)
        assert reading.ref_logps is not None and reading.logps is not None
        for row, logps, k in zip(reading.ref_logps, known, reading.mask.sum(-1).tolist(), strict=True):
            assert logps is not None
            assert_close(logps, row[:k], rtol=1e-5, atol=1e-4)
    assert (reading.logps - reading.ref_logps).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dpo", {"reference": "adapter"}, "there is no lora"),
        ("dpo", {"reference": "cashed"}, "Did you mean 'cached'"),
        ("simpo", {"reference": "copy"}, "uses no reference"),
        ("dpo", {"lora": {"rank": 4}}, "lora has no key 'rank'"),
        ("dpo", {"lora": {"r": 0}}, "lora: .*r"),
        ("dpo", {"lora": {"target_modules": "nowhere"}}, "lora: .*nowhere"),
        ("dpo", {"dtype": "bfloat16"}, "loaded already"),
        ("mmpo_reward", {}, "has 2 labels"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    method: str, options: dict[str, Any], message: str, tokenizer: Any
) -> None:
    with pytest.raises(UserError, match=message):
        bring_together(policy("llama", tokenizer), method, data_of(), tokenizer=tokenizer, **options)


def test_one_adapter_is_enough(tokenizer: Any) -> None:
    model = adapted(policy("llama", tokenizer), {"r": 4}, "policy")
    with pytest.raises(UserError, match="has an adapter already"):
        bring_together(model, "dpo", data_of(), tokenizer=tokenizer, lora={"r": 4})


# ---------------------------------------------------------------------------------------------- reward models


@every_layout
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_scores_its_last_real_token(kind: str, layout: packed.Layout, tokenizer: Any) -> None:
    batch = read_in(layout, tokenizer)
    reading = RewardReader()(laid_out(reward(kind, tokenizer), tokenizer, layout), batch)
    model = reward(kind, tokenizer)
    assert reading.rewards is not None
    for slot, (asked, said) in zip(batch.tokens.slot.tolist(), sequences(batch.tokens), strict=True):
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([[*asked, *said]])).last_hidden_state[0, -1]
            alone = (model.score if hasattr(model, "score") else model.classifier)(hidden)
        assert_close(reading.rewards.view(-1)[slot], alone[0], rtol=1e-4, atol=1e-5)
    assert reading.logps is None


ENCODERS: dict[str, Callable[[Any], Any]] = {
    "bert": lambda t: BertConfig(vocab_size=len(t), **SMALL, max_position_embeddings=130, num_labels=1),
    "distilbert": lambda t: DistilBertConfig(
        vocab_size=len(t), dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=130, num_labels=1
    ),
    "roberta": lambda t: RobertaConfig(
        vocab_size=len(t), **SMALL, max_position_embeddings=130, num_labels=1, pad_token_id=1, type_vocab_size=1
    ),
}


@pytest.mark.parametrize("layout", ["padded", "separate"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_scores_a_pair_as_its_tokenizer_gives_it(kind: str, layout: packed.Layout) -> None:
    tokenizer = roberta_tokenizer() if kind == "roberta" else AutoTokenizer.from_pretrained(minilm())
    if kind == "distilbert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]

    def made() -> Any:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(ENCODERS[kind](tokenizer))
        return shaken(as_reward_model(model, tokenizer)).eval()

    model, data = made(), data_of()
    with torch.no_grad():
        reading = RewardReader()(laid_out(made(), tokenizer, layout), batch_of(data, tokenizer))
        assert reading.rewards is not None
        for row, datum in zip(reading.rewards, data, strict=True):
            for said, response in zip(row, datum.responses, strict=False):
                alone = model(**tokenizer(datum.prompt, response, return_tensors="pt")).logits[0, 0]
                assert_close(said, alone, rtol=1e-5, atol=1e-5)
    assert reading.rewards.std() > 0.01


@every_layout
def test_the_head_is_trained_beside_the_adapter(layout: packed.Layout, tokenizer: Any) -> None:
    model = laid_out(adapted(reward("llama", tokenizer), {"r": 4}, "reward").train(), tokenizer, layout)
    rewards = RewardReader()(model, read_in(layout, tokenizer)).rewards
    assert rewards is not None
    rewards[:, 0].sum().backward()
    learned = {name for name, gradient in gradients(model).items() if gradient.abs().sum() > 0}
    assert any("score" in name for name in learned) and any("lora_B" in name for name in learned)
    assert not any("base_layer" in name or "original_module" in name or "embed_tokens" in name for name in learned)


# ---------------------------------------------------------------------------------------------- dropout

DROPOUTS: dict[str, Callable[[Any], Any]] = {
    "gpt2": lambda t: config("gpt2", t, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
    "llama": lambda t: config("llama", t, attention_dropout=0.5),
    "qwen2": lambda t: config("qwen2", t, attention_dropout=0.5),
    "neox": lambda t: config("neox", t, attention_dropout=0.5, hidden_dropout=0.5),
    "opt": lambda t: OPTConfig(
        vocab_size=len(t), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=32, max_position_embeddings=256, dropout=0.5, attention_dropout=0.5, layerdrop=0.5,
    ),
    "bloom": lambda t: BloomConfig(
        vocab_size=len(t), hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.5, attention_dropout=0.5
    ),
    "phi3": lambda t: Phi3Config(
        vocab_size=len(t), **SMALL, pad_token_id=0, resid_pdrop=0.5, embd_pdrop=0.5, attention_dropout=0.5
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DROPOUTS)
def test_without_dropout_training_mode_is_evaluation_mode(kind: str, tokenizer: Any, batch: Batch) -> None:
    torch.manual_seed(0)
    model = fitted(AutoModelForCausalLM.from_config(DROPOUTS[kind](tokenizer)), tokenizer)

    def says(training: bool) -> torch.Tensor:
        with torch.no_grad():
            return response_logps(model.train(training), batch.tokens)

    assert (says(True) - says(False)).abs().max() > 0.01, "the dropout must show before it is switched off"
    without_dropout(model)
    for _ in range(5):
        assert_close(says(True), says(False), rtol=0, atol=0)


def test_dropout_of_an_encoder() -> None:
    tokenizer = roberta_tokenizer()
    settings = RobertaConfig(vocab_size=len(tokenizer), **SMALL, hidden_dropout_prob=0.5, num_labels=1, pad_token_id=1)
    model = AutoModelForSequenceClassification.from_config(settings)
    setup = bring_together(model, "mmpo_reward", data_of(), tokenizer=tokenizer, limits=Limits(64))
    batch = batch_of(data_of(), tokenizer, Limits(64))
    with torch.no_grad():
        said = [setup.reader(model.train(mode), batch).rewards for mode in (True, False)]
    assert_close(*said, rtol=0, atol=0)


def test_a_lora_dropout_that_was_asked_for_stays(tokenizer: Any) -> None:
    setup = bring_together(
        policy("llama", tokenizer), "dpo", data_of(), tokenizer=tokenizer, lora={"r": 4, "lora_dropout": 0.3}
    )
    kept = {module.p for name, module in setup.model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert kept == {0.3}


# ---------------------------------------------------------------------------------------------- loading


def test_a_new_pad_token_gets_a_row_and_changes_nothing_else(tokenizer: Any, tmp_path: Any) -> None:
    bare = plain(tokenizer)
    bare.pad_token = None
    folder = saved(policy("llama", tokenizer), bare, tmp_path)
    with pytest.raises(UserError, match=r"no pad token; name one with pad_token"):
        load_tokenizer(folder)
    padded = load_tokenizer(folder, "<|pad|>")
    model = load_policy(folder, padded)
    assert padded.pad_token_id == len(tokenizer) == model.config.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) + 1
    data = data_of()
    before = response_logps(policy("llama", tokenizer), batch_of(data, tokenizer).tokens)
    # The row adds one logit to every softmax, no more.
    after = response_logps(model.eval(), batch_of(data, padded).tokens)
    assert_close(after, before, rtol=0.02, atol=0.02)


def test_a_reward_model_may_not_pad_with_its_end_of_text(tokenizer: Any, tmp_path: Any) -> None:
    same = with_pad_token(plain(tokenizer), "</s>")
    folder = saved(reward("llama", tokenizer), same, tmp_path)
    with pytest.raises(UserError, match="uses its end-of-text token for padding"):
        load_reward_model(folder, load_tokenizer(folder))
    assert load_reward_model(folder, load_tokenizer(folder, "<pad>")).config.problem_type == "regression"


def test_a_reward_model_is_no_policy(tokenizer: Any, tmp_path: Any) -> None:
    folder = saved(reward("llama", tokenizer), tokenizer, tmp_path)
    assert load_reward_model(folder, tokenizer).config.num_labels == 1
    with pytest.raises(UserError, match="is a reward model"):
        load_policy(folder, tokenizer)


def test_a_head_of_two_labels_is_no_reward_model(tokenizer: Any, tmp_path: Any) -> None:
    two = AutoModelForSequenceClassification.from_config(config("llama", tokenizer, num_labels=2))
    folder = saved(two, tokenizer, tmp_path)
    with pytest.raises(UserError, match="a reward model needs one label"):
        load_reward_model(folder, tokenizer)
    with pytest.raises(UserError, match="has 2 labels; load it"):
        as_reward_model(two, tokenizer)


@pytest.mark.parametrize("name", ["absent/folder/model", "./absent", "/absent"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_tokenizer(name)


def test_a_file_is_no_folder(tmp_path: Any) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UserError, match="is a file; give the folder"):
        load_tokenizer(str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
