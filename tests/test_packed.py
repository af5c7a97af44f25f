"""Packed rows against one sequence at a time: the loss and every parameter's gradient, family by family.

The oracle is the bare transformers model with its own attention. It reads each sequence alone, without padding, and
takes the log-softmax of all its logits; nothing of this library stands between it and the method's loss.
"""

from __future__ import annotations

import contextlib
import copy
import filecmp
import itertools
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.integrations.flex_attention import flex_attention_forward

from mmpo import methods
from mmpo.batch import Collator, Example, Limits, prepare
from mmpo.batch.tokenize import Encoded, pair_frame
from mmpo.models import AdapterOff, PolicyReader, RewardReader, attention, packed
from mmpo.models.attention import Rule
from mmpo.models.head import linear_log_probs, log_probs_through
from mmpo.models.load import as_reward_model
from mmpo.regularizers import Imitation
from mmpo.types import Batch, Datum, Method, Reading
from tiny import data_of, gradients

# What transformers is about to rename, peft asks for.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

V = 120
WINDOW = 4
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": V}
FLAT = {**SIZE, **IDS, "intermediate_size": 64, "max_position_embeddings": 64}
WIDE = {**FLAT, "num_key_value_heads": 2}
GEMMA = {**WIDE, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
OPT = {**SIZE, **IDS, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
SHARED_KV = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

DECODERS: dict[str, Callable[..., Any]] = {
    "llama": partial(hf.LlamaConfig, **WIDE),
    "qwen2": partial(hf.Qwen2Config, **WIDE),
    "qwen3": partial(hf.Qwen3Config, **WIDE, head_dim=8),
    "mistral": partial(hf.MistralConfig, **WIDE, sliding_window=WINDOW),
    "gemma": partial(hf.GemmaConfig, **WIDE, head_dim=8),
    # Caps as low as these bend every score and every logit.
    "gemma2": partial(hf.Gemma2Config, **GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3": partial(hf.Gemma3TextConfig, **GEMMA, layer_types=SHARED_KV[:2]),
    "phi": partial(hf.PhiConfig, **FLAT),
    "phi3": partial(hf.Phi3Config, **WIDE, sliding_window=WINDOW),
    "gpt2": partial(hf.GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=V, **IDS),
    "neox": partial(hf.GPTNeoXConfig, **FLAT),
    "opt": partial(hf.OPTConfig, **OPT),
    "mixtral": partial(hf.MixtralConfig, **WIDE, num_local_experts=4),
}
WRITERS = {
    **DECODERS,
    "granite": partial(hf.GraniteConfig, **WIDE, logits_scaling=4.0, attention_multiplier=0.5),
    "cohere": partial(hf.CohereConfig, **WIDE, logit_scale=0.25),
    "olmo2": partial(hf.Olmo2Config, **WIDE),
    # Its last two layers take keys and values from the two before.
    "gemma4": partial(
        hf.Gemma4TextConfig,
        **{**GEMMA, "num_hidden_layers": 4, "layer_types": SHARED_KV},
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=V,
    ),
}
ENCODER = {**SIZE, "intermediate_size": 64, "max_position_embeddings": 64, "num_labels": 1}
MODERN = {**ENCODER, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": V, "max_position_embeddings": 64}
ENCODERS: dict[str, Callable[..., Any]] = {
    "bert": partial(hf.BertConfig, **ENCODER, pad_token_id=0),
    "roberta": partial(hf.RobertaConfig, **ENCODER, pad_token_id=1, bos_token_id=2, eos_token_id=3),
    "distilbert": partial(hf.DistilBertConfig, **DISTIL, pad_token_id=0, num_labels=1),
    "electra": partial(hf.ElectraConfig, **ENCODER, pad_token_id=0, embedding_size=16),
    "modernbert": partial(hf.ModernBertConfig, **MODERN, local_attention=2 * WINDOW, classifier_pooling="cls"),
}


def words(**special: str) -> hf.PreTrainedTokenizerFast:
    """A decoder's tokenizer: a word is a token."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, V)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", **special}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def pair_words(kind: str) -> hf.PreTrainedTokenizerFast:
    """An encoder's tokenizer, which joins two texts as BERT's does, or RoBERTa's, and gives token types or none."""
    roberta, types = kind == "roberta", kind in ("bert", "electra")
    first = ["[UNK]", "[PAD]"] if roberta else ["[PAD]", "[UNK]"]
    vocabulary = {word: n for n, word in enumerate([*first, "[CLS]", "[SEP]", "[MASK]"])}
    vocabulary |= {f"w{n}": n for n in range(5, V)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]" if roberta else "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", *["token_type_ids"] * types, "attention_mask"]
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


WORDS = words()


def stirred(model: Any) -> Any:
    """Fresh weights are so small, and their biases so much zero, that a wrong mask would hardly show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def policy(config: Any) -> Any:
    torch.manual_seed(0)
    return stirred(hf.AutoModelForCausalLM.from_config(config))


def reward(config: Any, tokenizer: Any = WORDS) -> Any:
    torch.manual_seed(0)
    config.num_labels = 1
    return stirred(as_reward_model(hf.AutoModelForSequenceClassification.from_config(config), tokenizer))


# ---------------------------------------------------------------------------------------------- data and the oracle

# Prompts and their responses, in tokens: K from 1 to 8, texts within the window and beyond it, an empty prompt.
LENGTHS = [
    (6, (3, 9, 1, 5, 2, 7, 4, 6)),
    (11, (12, 8)),
    (0, (4, 1, 6)),
    (3, (5,)),
    (1, (2, 2, 3, 10)),
    (2, (1, 5, 4, 1, 3)),
    (5, (4, 4, 1, 2, 6, 3)),
    (9, (1, 2, 3, 4, 3, 2, 1)),
]


def examples_of(lengths: Sequence[tuple[int, tuple[int, ...]]] = LENGTHS, seed: int = 0) -> list[Example]:
    """Random tokens, no two prompts alike; grades in half points, and made-up log-probs of a reference."""
    draw = random.Random(seed)

    def text(n: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(5, V), k=n))

    out = []
    for n, (prompt, responses) in enumerate(lengths):
        encoded = Encoded(str(n), text(prompt), tuple(map(text, responses)))
        grades = tuple(draw.randrange(9) / 2 for _ in responses)
        datum = Datum(str(n), "", ("",) * len(responses), grades=grades)
        ref = torch.tensor([-4.0 * length + draw.random() for length in responses])
        out.append(replace(Example.of(datum, encoded), ref_logps=ref))
    return out


EXAMPLES = examples_of()


def batch_of(examples: Sequence[Example], shared: bool, tokenizer: Any = WORDS) -> Batch:
    return Collator(tokenizer.pad_token_id, pair_frame(tokenizer), shared).batch(examples)


# Imitation makes a prompt with one response count as well.
WRITING = replace(methods.build("mmpo", gamma=1.0), regularizers=((0.02, Imitation()),))
JUDGING = methods.build("mmpo_reward", gamma=1.0)


def alone(model: Any, examples: Sequence[Example], before: Callable[[int], None] = lambda length: None) -> Tensor:
    """[B, K] log-probs. ``before`` is told how long each sequence is."""
    rows = []
    for example in examples:
        prompt, found = example.encoded.prompt, []
        for response in example.encoded.responses:
            sequence = torch.tensor([[*prompt, *response]])
            before(sequence.shape[1])
            logps = model(input_ids=sequence, use_cache=False).logits[0].log_softmax(-1)
            start = max(1, len(prompt))
            found.append(logps[start - 1 : -1].gather(-1, sequence[0, start:, None]).sum())
        rows.append(torch.stack(found))
    return pad_sequence(rows, batch_first=True)


def judged_alone(
    model: Any, examples: Sequence[Example], tokenizer: Any = WORDS, before: Callable[[int], None] = lambda length: None
) -> Tensor:
    """[B, K] scores of what the tokenizer's own template makes of prompt and response."""
    frame, rows = pair_frame(tokenizer), []
    for example in examples:
        found = []
        for response in example.encoded.responses:
            head, tail = list(example.encoded.prompt), list(response)
            if frame is not None:
                head, tail = [*frame.head, *head, *frame.middle], [*tail, *frame.tail]
            more = {}
            if "token_type_ids" in tokenizer.model_input_names and frame is not None:
                more["token_type_ids"] = torch.tensor([[0] * len(head) + [1] * len(tail)])
            before(len(head + tail))
            found.append(model(input_ids=torch.tensor([head + tail]), **more).logits[0, 0])
        rows.append(torch.stack(found))
    return pad_sequence(rows, batch_first=True)


def said(method: Method, batch: Batch, values: Tensor) -> Tensor:
    """The method's loss of [B, K] log-probs or scores."""
    field = "logps" if method.task == "policy" else "rewards"
    return method(batch.evidence, Reading(batch.evidence.mask, ref_logps=batch.ref_logps, **{field: values})).loss


NOTHING = 1e-6
"""Share of the largest gradient below which there is none: a softmax does not feel a bias on all its keys."""


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Each tensor by itself, in norm and in its largest entry."""
    assert found.keys() == expected.keys() and found
    for size in (torch.linalg.vector_norm, lambda x: x.abs().max()):
        floor = NOTHING * max(float(size(g)) for g in expected.values())
        for name, gradient in expected.items():
            whole, error = float(size(gradient)), float(size(found[name] - gradient))
            assert error <= (floor if whole <= floor else tolerance * whole), f"{name}: {error:.1e} of {whole:.1e}"


def assert_reads_as_alone(
    model: Any,
    bare: Any,
    layouts: Sequence[bool],
    examples: Sequence[Example] = EXAMPLES,
    tokenizer: Any = WORDS,
    tolerance: float = 1e-5,
) -> None:
    """What the enabled model says of a batch in each layout, against the bare one: values, loss, every gradient."""
    judges = not packed._writes(packed.innermost(model))
    method = JUDGING if judges else WRITING
    expected = judged_alone(bare, examples, tokenizer) if judges else alone(bare, examples)
    bare.zero_grad()
    truth = said(method, batch_of(examples, True, tokenizer), expected)
    truth.backward()
    for shared in layouts:
        batch = batch_of(examples, shared, tokenizer)
        reading = (RewardReader() if judges else PolicyReader())(model, batch)
        found = reading.require("rewards" if judges else "logps")
        assert_close(found.to(expected), expected, rtol=0.0, atol=tolerance * float(expected.detach().abs().max()))
        model.zero_grad()
        loss = said(method, batch, found)
        loss.backward()
        assert_close(loss, truth, rtol=tolerance, atol=0.0, check_dtype=False)
        assert_same_gradients(gradients(model), gradients(bare), tolerance)


# ---------------------------------------------------------------------------------------------- family by family


@pytest.mark.parametrize("family", WRITERS)
def test_policies(family: str) -> None:
    model = policy(WRITERS[family]())
    bare = copy.deepcopy(model)
    assert packed.enable(model, WORDS) == ("shared", None)
    assert model.packing.head is not None
    # The scores of Gemma 4 are not divided by anything: attention as sharp as that of these weights makes of a rounding
    # error in fp32 up to 3e-5 in a gradient, and in fp64 none that counts.
    if family == "gemma4":
        model, bare = model.double(), bare.double()
    assert_reads_as_alone(model, bare, (True, False))


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_as_reward_models(family: str) -> None:
    model = reward(DECODERS[family]())
    bare = copy.deepcopy(model)
    assert packed.enable(model, WORDS) == ("shared", None)
    assert model.packing.pools == "last"
    assert_reads_as_alone(model, bare, (True, False))


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_as_reward_models(family: str) -> None:
    tokenizer = pair_words(family)
    model = reward(ENCODERS[family](), tokenizer)
    bare = copy.deepcopy(model)
    assert packed.enable(model, tokenizer) == ("separate", "it reads prompt and response in both directions")
    assert model.packing.pools == "first"
    assert_reads_as_alone(model, bare, (True,), tokenizer=tokenizer)


# ---------------------------------------------------------------------------------------------- what cannot be packed

NEXT = {
    **{f"{which}_intermediate_size": 16 for which in ("moe", "shared_expert")},
    **{f"linear_{which}_head_dim": 8 for which in ("key", "value")},
    **{f"linear_num_{which}_heads": 4 for which in ("key", "value")},
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
BY_ITSELF = "its attention does not go through the attention interface of transformers"
OTHERWISE = "responses read otherwise on a packed row than alone"
REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "mamba": (partial(hf.MambaConfig, hidden_size=32, num_hidden_layers=2, vocab_size=V, state_size=4), BY_ITSELF),
    "bloom": (partial(hf.BloomConfig, hidden_size=32, n_layer=2, n_head=4, vocab_size=V), BY_ITSELF),
    "falcon": (partial(hf.FalconConfig, **SIZE), BY_ITSELF),
    "qwen3-next": (partial(hf.Qwen3NextConfig, **WIDE, **NEXT, head_dim=8), BY_ITSELF),
    "llama4": (
        partial(hf.Llama4TextConfig, **WIDE, head_dim=8, num_local_experts=2, intermediate_size_mlp=64),
        "it has layers of type chunked_attention",
    ),
    "gpt-oss": (
        partial(hf.GptOssConfig, **WIDE, head_dim=8, num_local_experts=4),
        "it fails on packed rows (NotImplementedError: packed attention has no s_aux)",
    ),
    # Its layers do not tell their attention of the window, which here is wider than any text.
    "phimoe": (partial(hf.PhimoeConfig, **WIDE, num_local_experts=4, sliding_window=50), OTHERWISE),
}
PAIRS_REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "deberta-v2": (
        partial(hf.DebertaV2Config, **ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0),
        BY_ITSELF,
    ),
    "modernbert, mean pooling": (
        partial(hf.ModernBertConfig, **MODERN, local_attention=2 * WINDOW, classifier_pooling="mean"),
        OTHERWISE,
    ),
}


def assert_untouched(model: Any, bare: Any) -> None:
    """Nothing of the model differs from what it was: attributes, config, and what it gives, to the last bit."""
    assert vars(model).keys() == vars(bare).keys() and "forward" not in vars(model)
    assert model.config._attn_implementation == bare.config._attn_implementation
    assert model.config.to_dict() == bare.config.to_dict()
    assert not packed.is_enabled(model)
    some = torch.arange(5, 25).view(2, 10)
    keep = torch.tensor([[0] * 3 + [1] * 7, [1] * 10])
    with torch.no_grad():
        assert torch.equal(*(each(input_ids=some, attention_mask=keep).logits for each in (model, bare)))


@pytest.mark.parametrize(
    ("make", "family"),
    [*[(policy, family) for family in REFUSED], *[(reward, family) for family in ("bloom", "falcon", "gpt-oss")]],
)
def test_a_decoder_that_cannot_be_packed_is_read_padded(make: Callable[..., Any], family: str) -> None:
    config, reason = REFUSED[family]
    model = make(config())
    bare = copy.deepcopy(model)
    assert packed.enable(model, WORDS) == ("padded", reason)
    assert_untouched(model, bare)
    assert_reads_as_alone(model, bare, (True,))


def test_a_model_without_a_head_is_left_as_it_was(tiny_policy: Callable[..., Any]) -> None:
    model = tiny_policy().model
    assert packed.enable(model, WORDS) == ("padded", "it has no head, or a backbone of another name than usual")
    assert "forward" not in vars(model) and model not in list(model.children())


@pytest.mark.parametrize("family", PAIRS_REFUSED)
def test_an_encoder_that_cannot_be_packed_is_read_padded(family: str) -> None:
    config, reason = PAIRS_REFUSED[family]
    tokenizer = pair_words("modernbert")
    model = reward(config(), tokenizer)
    bare = copy.deepcopy(model)
    assert packed.enable(model, tokenizer) == ("padded", reason)
    assert_untouched(model, bare)
    assert_reads_as_alone(model, bare, (True,), tokenizer=tokenizer)


def test_a_layout_that_is_asked_for() -> None:
    model = policy(DECODERS["llama"]())
    bare = copy.deepcopy(model)
    assert packed.enable(model, WORDS, "separate") == ("separate", None) and packed.is_enabled(model)
    assert packed.enable(model, WORDS, "padded") == ("padded", "it was asked for")
    assert_untouched(model, bare)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_the_trial_looks_beyond_the_window_and_leaves_it_as_it_was(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window wider than any text of the trial: were it ignored, only the trial's narrow windows would show it."""
    model = policy(DECODERS[family](sliding_window=50))
    windows = [getattr(module, "sliding_window", None) for module in model.modules()]
    assert packed.enable(model, WORDS) == ("shared", None)
    assert [getattr(module, "sliding_window", None) for module in model.modules()] == windows
    assert model.config.sliding_window == 50

    def without_window(*args: Any, sliding_window: int | None = None, **kwargs: Any) -> Any:
        return attention.attend(*args, **kwargs)

    monkeypatch.setattr(attention, "register", lambda: hf.AttentionInterface.register(attention.NAME, without_window))
    try:
        assert packed.enable(model, WORDS) == ("padded", OTHERWISE)
    finally:
        monkeypatch.undo()
        attention.register()


# ---------------------------------------------------------------------------------------------- dropout


class Masks:
    """Stands for torch's dropout: what is dropped depends on the place of a token in its own sequence, on the feature
    and on the number of the call, so that a row and a sequence alone can be given the same masks."""

    def __init__(self) -> None:
        self.at(torch.arange(0))

    def at(self, positions: Tensor) -> None:
        """A model is about to read tokens at these positions."""
        self.positions, self.calls = positions, 0

    def __call__(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        assert x.numel() == len(self.positions) * x.shape[-1], "a mask of another shape than the row's"
        self.calls += 1
        place = 12.9898 * self.positions[:, None].double() + 78.233 * torch.arange(x.shape[-1]) + 37.719 * self.calls
        draw = (place.sin() * 43758.5453) % 1
        return x * (draw >= p).view_as(x) / (1 - p)


DROPPING: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: policy(WRITERS["gpt2"](resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.0)),
    "neox": lambda: policy(WRITERS["neox"](hidden_dropout=0.5, attention_dropout=0.0)),
    "opt": lambda: policy(WRITERS["opt"](dropout=0.5, attention_dropout=0.0)),
    "phi": lambda: policy(WRITERS["phi"](resid_pdrop=0.5, embd_pdrop=0.5)),
    "phi3": lambda: policy(WRITERS["phi3"](resid_pdrop=0.5, embd_pdrop=0.5)),
    "lora": lambda: with_lora(policy(WRITERS["llama"]()), target_modules="all-linear", lora_dropout=0.5),
    "gpt2, reward": lambda: reward(WRITERS["gpt2"](resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.0)),
}
# The dropouts of the heads see pooled states, which have no place in a sequence.
NO_HEAD = {"attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0, "hidden_dropout_prob": 0.5}
DROPPING_PAIRS: dict[str, Callable[[], Any]] = {
    "bert": partial(ENCODERS["bert"], **NO_HEAD),
    "roberta": partial(ENCODERS["roberta"], **NO_HEAD),
    "electra": partial(ENCODERS["electra"], **NO_HEAD),
    "distilbert": partial(ENCODERS["distilbert"], dropout=0.5, attention_dropout=0.0, seq_classif_dropout=0.0),
    "modernbert": partial(ENCODERS["modernbert"], mlp_dropout=0.5, embedding_dropout=0.5),
}


def with_lora(model: Any, **how: Any) -> Any:
    """An adapter that says something: a fresh one adds nothing."""
    kind = "SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM"
    model = get_peft_model(model, LoraConfig(r=4, task_type=kind, **how))
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    return model.eval()


def assert_drops_as_alone(model: Any, tokenizer: Any, layouts: Sequence[bool], monkeypatch: Any) -> None:
    bare = copy.deepcopy(model).train()
    judges = not packed._writes(packed.innermost(model))
    method, examples = (JUDGING if judges else WRITING), EXAMPLES[:4]
    packed.enable(model, tokenizer)
    assert not model.training
    batch = batch_of(examples, True, tokenizer)
    read = RewardReader() if judges else PolicyReader()
    undropped = read(model, batch).require("rewards" if judges else "logps").detach()
    model.train()
    masks = Masks()
    monkeypatch.setattr(torch.nn.functional, "dropout", masks)

    def each(length: int) -> None:
        masks.at(torch.arange(length))

    values = judged_alone(bare, examples, tokenizer, each) if judges else alone(bare, examples, each)
    calls = masks.calls
    assert calls and float((values.detach() - undropped).abs().max()) > 0.02 * float(undropped.abs().max())
    truth = said(method, batch, values)
    truth.backward()
    for shared in layouts:
        batch = batch_of(examples, shared, tokenizer)
        masks.at(batch.tokens.position_ids)
        found = read(model, batch).require("rewards" if judges else "logps")
        assert masks.calls == calls
        model.zero_grad()
        loss = said(method, batch, found)
        loss.backward()
        assert_close(loss, truth, rtol=1e-5, atol=0.0)
        assert_same_gradients(gradients(model), gradients(bare))


@pytest.mark.parametrize("family", DROPPING)
def test_dropout_has_the_shape_of_the_row(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of a prompt is dropped once, for all the responses to it."""
    assert_drops_as_alone(DROPPING[family](), WORDS, (True, False), monkeypatch)


@pytest.mark.parametrize("family", DROPPING_PAIRS)
def test_dropout_of_encoders(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = pair_words(family)
    assert_drops_as_alone(reward(DROPPING_PAIRS[family](), tokenizer), tokenizer, (True,), monkeypatch)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_attention_dropout(family: str) -> None:
    """It works in training alone, and it is that of the seed."""
    model = policy(DECODERS[family](attention_dropout=0.4))
    packed.enable(model, WORDS)
    tokens = batch_of(EXAMPLES[:3], True).tokens

    def read(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return packed.token_readings(model, tokens).logps

    still = read(0)
    assert torch.equal(still, read(1))
    model.train()
    dropped = read(0)
    assert torch.equal(dropped, read(0)) and not torch.equal(dropped, read(1))
    assert float((dropped - still).detach().abs().mean()) > 0.01
    dropped.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_dropout_keeps_the_mean(softcap: float | None) -> None:
    query, key, value = random_heads(trees := ((3, 2, 4), (2, 3)), seed=0)
    rule = Rule(True, None, 0.0, 3, softcap)
    whole = attention._by_tree(query, key, value, trees, rule)
    torch.manual_seed(0)
    dropping, draws = rule._replace(dropout=0.3), 1500
    many = torch.stack([attention._by_tree(query, key, value, trees, dropping) for _ in range(draws)])
    deviation = many.std(0)
    assert deviation.min() > 0
    assert ((many.mean(0) - whole).abs() < 5 * deviation / draws**0.5).all()


# ---------------------------------------------------------------------------------------------- tokenizers


def rendered(tokenizer: Any) -> list[Example]:
    return prepare(data_of(), tokenizer, Limits(64))[0]


@pytest.mark.parametrize("judges", [False, True])
def test_the_side_of_padding_and_truncation_is_nothing_to_a_row(tiny_tokenizer: Any, judges: bool) -> None:
    """With a chat template and a beginning-of-text token."""
    examples, readings = rendered(tiny_tokenizer), []
    assert examples[0].encoded.prompt[0] == tiny_tokenizer.bos_token_id
    config = partial(hf.LlamaConfig, **{**WIDE, "vocab_size": len(tiny_tokenizer), "max_position_embeddings": 256})
    bare = reward(config(), tiny_tokenizer) if judges else policy(config())
    for padding, truncation in itertools.product(("left", "right"), repeat=2):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.padding_side, tokenizer.truncation_side = padding, truncation
        model = copy.deepcopy(bare)
        assert packed.enable(model, tokenizer) == ("shared", None)
        batch = batch_of(rendered(tokenizer), True, tokenizer)
        with torch.no_grad():
            reading = (RewardReader() if judges else PolicyReader())(model, batch)
        readings.append(reading.require("rewards" if judges else "logps"))
    assert all(torch.equal(reading, readings[0]) for reading in readings)
    with torch.no_grad():
        expected = judged_alone(bare, examples, tiny_tokenizer) if judges else alone(bare, examples)
    assert_close(readings[0], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("judges", [False, True])
def test_a_padding_token_that_is_the_unknown_token(judges: bool) -> None:
    """Texts are full of it, and it is read there as any other token."""
    tokenizer = words(pad_token="<unk>")
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == 2
    texts = [("w5 what w6", ["w7 ever w8", "never w9 more mind"]), ("who", ["w11", "w12 knows w13", "nobody w14"])]
    data = [Datum(p, p, tuple(r), grades=tuple(map(float, range(len(r))))) for p, r in texts]
    examples = prepare(data, tokenizer, Limits(64))[0]
    held = [ids for e in examples for ids in (e.encoded.prompt, *e.encoded.responses)]
    assert any(2 in ids for ids in held)
    model = (partial(reward, tokenizer=tokenizer) if judges else policy)(DECODERS["llama"](pad_token_id=2))
    bare = copy.deepcopy(model)
    assert packed.enable(model, tokenizer) == ("shared", None)
    examples = [replace(e, ref_logps=torch.zeros(len(e.encoded.responses))) for e in examples]
    assert_reads_as_alone(model, bare, (True, False), examples, tokenizer)


# ---------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_a_response_feels_no_other(family: str, shared: bool) -> None:
    """Other tokens in one response, or in the prompt of one datum, change no bit of what is read of the others."""
    writer, judge = policy(DECODERS[family]()), reward(DECODERS[family]())
    packed.enable(writer, WORDS)
    packed.enable(judge, WORDS)

    @torch.no_grad()
    def read(examples: Sequence[Example]) -> list[Tensor]:
        batch = batch_of(examples, shared)
        reading = PolicyReader(statistics=("entropy", "hits"))(writer, batch)
        return [reading.require("logps"), *reading.statistics.values(), RewardReader()(judge, batch).require("rewards")]

    def other(text: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(V - token + 4 for token in text)

    before = read(EXAMPLES)
    encoded = EXAMPLES[0].encoded
    for b, changed in (
        (0, replace(encoded, responses=(encoded.responses[0], other(encoded.responses[1]), *encoded.responses[2:]))),
        (0, replace(encoded, prompt=other(encoded.prompt))),
    ):
        kept = torch.ones_like(before[0], dtype=torch.bool)
        kept[b] = torch.tensor([one == two for one, two in zip(changed.responses, encoded.responses, strict=True)])
        kept[b] &= changed.prompt == encoded.prompt
        after = read([replace(EXAMPLES[b], encoded=changed) if n == b else e for n, e in enumerate(EXAMPLES)])
        for one, two in zip(before, after, strict=True):
            assert torch.equal(one[kept], two[kept])
        assert (before[0] != after[0])[~kept].all()


def test_a_response_feels_no_other_through_the_experts() -> None:
    """Which tokens share an expert's matrix product depends on all of them, and so does its rounding."""
    model = policy(DECODERS["mixtral"]())
    packed.enable(model, WORDS)
    with torch.no_grad():
        before = PolicyReader()(model, batch_of(EXAMPLES, True)).require("logps")
        after = PolicyReader()(model, batch_of([EXAMPLES[0], *examples_of(LENGTHS, seed=9)[1:]], True)).require("logps")
    assert_close(before[0], after[0], rtol=1e-6, atol=0.0)
    assert not torch.equal(before, after)


# ---------------------------------------------------------------------------------------------- the model's other uses

PLAIN = ["llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt2", "neox", "opt", "phi3", "mixtral"]


def padded_prompts() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    lengths = (9, 3, 6)
    mask = torch.tensor([[0] * (9 - n) + [1] * n for n in lengths])
    return {"input_ids": mask * torch.randint(5, V, (3, 9), generator=draw), "attention_mask": mask}


@pytest.mark.parametrize("family", PLAIN)
def test_plain_batches_and_generation_stay_what_they_were(family: str) -> None:
    model = policy(WRITERS[family]())
    prompts = padded_prompts()
    real = prompts["attention_mask"].bool()

    def generated(**how: Any) -> Tensor:
        return model.generate(**prompts, max_new_tokens=9, do_sample=False, **how)

    def logits(**inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return model(**inputs).logits

    bare = copy.deepcopy(model)
    before = generated(), generated(num_beams=2), logits(**prompts)[real], logits(input_ids=prompts["input_ids"])
    packed.enable(model, WORDS)
    assert torch.equal(generated(), before[0]) and torch.equal(generated(num_beams=2), before[1])
    after = logits(**prompts)[real], logits(input_ids=prompts["input_ids"])
    for found, expected in zip(after, before[2:], strict=True):
        # The same kernels, but for Gemma 2, whose own attention is not fused.
        assert_close(found, expected, rtol=0.0, atol=1e-5 if family == "gemma2" else 0.0)
    packed.disable(model)
    assert_untouched(model, bare)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_generation_with_a_static_cache(family: str) -> None:
    model = policy(WRITERS[family]())
    kwargs = {**padded_prompts(), "max_new_tokens": 9, "do_sample": False, "cache_implementation": "static"}
    kwargs["disable_compile"] = True
    whole = {"input_ids": kwargs["input_ids"][:1], "attention_mask": kwargs["attention_mask"][:1]}
    before = model.generate(**kwargs), model.generate(**{**kwargs, **whole})
    packed.enable(model, WORDS)
    assert torch.equal(model.generate(**kwargs), before[0])
    assert torch.equal(model.generate(**{**kwargs, **whole}), before[1])


@pytest.mark.parametrize("make", [partial(policy, DECODERS["gemma2"]()), partial(reward, DECODERS["llama"]())])
def test_what_is_saved_is_what_would_have_been(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "bare")
    assert packed.enable(model, WORDS)[0] == "shared"
    model.save_pretrained(tmp_path / "enabled")
    files, also = ({path.name for path in (tmp_path / name).iterdir()} for name in ("bare", "enabled"))
    assert files == also and {"config.json", "model.safetensors"} <= files
    same, *_ = filecmp.cmpfiles(tmp_path / "bare", tmp_path / "enabled", files, shallow=False)
    assert set(same) == files
    loaded = type(model).from_pretrained(tmp_path / "enabled")
    assert not packed.is_enabled(loaded) and loaded.config._attn_implementation != attention.NAME


def test_a_copy_is_independent() -> None:
    model = policy(DECODERS["llama"]())
    packed.enable(model, WORDS)
    other = copy.deepcopy(model)
    assert packed.is_enabled(other)
    batch = batch_of(EXAMPLES, True)
    with torch.no_grad():
        before = PolicyReader()(other, batch).require("logps")
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(PolicyReader()(other, batch).require("logps"), before)
        assert not torch.equal(PolicyReader()(model, batch).require("logps"), before)
        some = torch.arange(5, 15)[None]
        assert not torch.equal(other(input_ids=some).logits, model(input_ids=some).logits)
        packed.disable(model)
        assert packed.is_enabled(other)
        assert torch.equal(PolicyReader()(other, batch).require("logps"), before)


def test_switching_it_on_twice_and_off() -> None:
    model = policy(DECODERS["mistral"]())
    bare = copy.deepcopy(model)
    packed.disable(model)
    assert_untouched(model, bare)
    assert packed.enable(model, WORDS) == packed.enable(model, WORDS) == ("shared", None)
    assert model.packing.forward == type(model).forward.__get__(model)
    assert model.packing.implementation == bare.config._attn_implementation
    packed.disable(model)
    packed.disable(model)
    assert_untouched(model, bare)


def test_a_forward_that_somebody_wrapped_comes_back() -> None:
    """As accelerate wraps it, on the instance."""
    model = policy(DECODERS["llama"]())
    plain, calls = model.forward, []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return plain(*args, **kwargs)

    model.forward = wrapped
    packed.enable(model, WORDS)
    calls.clear()
    model(input_ids=torch.arange(5, 15)[None])
    assert calls == [1]
    packed.disable(model)
    assert model.forward is wrapped


@pytest.mark.parametrize("own", ["eager", "sdpa"])
def test_set_aside_a_model_is_what_it_was(own: str) -> None:
    model = policy(DECODERS["llama"]())
    model.set_attn_implementation(own)
    bare = copy.deepcopy(model)
    packed.enable(model, WORDS)
    batch = batch_of(EXAMPLES, True)
    with torch.no_grad(), packed.set_aside(model):
        assert not packed.is_enabled(model)
        assert torch.equal(*(PolicyReader()(each, batch).require("logps") for each in (model, bare)))
    assert packed.is_enabled(model) and model.config._attn_implementation == attention.NAME


def test_the_trial_leaves_the_mode_of_a_model_as_it_finds_it() -> None:
    for training in (True, False):
        model = policy(DECODERS["llama"]()).train(training)
        packed.enable(model, WORDS)
        assert all(module.training == training for module in model.modules())


# ---------------------------------------------------------------------------------------------- adapters and training

ADAPTERS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "attention": (policy, "llama", {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (policy, "qwen2", {"target_modules": "all-linear"}),
    "and the head": (policy, "llama", {"target_modules": ["q_proj", "o_proj", "down_proj", "lm_head"]}),
    "a whole head": (policy, "mistral", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "a capped head": (policy, "gemma2", {"target_modules": ["q_proj", "lm_head"]}),
    "reward": (reward, "llama", {"target_modules": "all-linear"}),
    "reward, a whole head": (reward, "gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["score"]}),
}


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out")
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name: str) -> None:
    make, family, how = ADAPTERS[name]
    model = with_lora(make(DECODERS[family]()), **how)
    bare = copy.deepcopy(model)
    assert packed.enable(model, WORDS) == ("shared", None)
    assert_reads_as_alone(model, bare, (True, False))
    if make is policy:
        batch = batch_of(EXAMPLES, True)
        with bare.disable_adapter(), torch.no_grad():
            expected = alone(bare, EXAMPLES)
        assert_close(AdapterOff()(model, batch), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", [policy, reward])
@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_gradient_checkpointing(make: Callable[..., Any], family: str) -> None:
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "gpt2" else {}
    model = make(DECODERS[family](**still))
    bare = copy.deepcopy(model)
    packed.enable(model, WORDS)
    runs: list[int] = []
    for module in model.modules():
        if "MLP" in type(module).__name__:
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_reads_as_alone(model, bare, (True,))
    assert len(runs) == 2 * model.config.num_hidden_layers, "each layer runs again in the backward pass"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_autocast_is_close(family: str) -> None:
    model = policy(DECODERS[family]())
    packed.enable(model, WORDS)
    batch, found = batch_of(EXAMPLES, True), []
    for dtype in (None, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
            logps = PolicyReader()(model, batch).require("logps")
            loss = said(WRITING, batch, logps)
        loss.backward()
        assert logps.dtype == torch.float32
        found.append((logps.detach(), torch.cat([g.flatten() for g in gradients(model).values()])))
    (exact, whole), (coarse, rounded) = found
    assert 1e-4 < float((exact - coarse).abs().max()) / float(exact.abs().max()) < 0.05
    assert float(torch.nn.functional.cosine_similarity(whole, rounded, dim=0)) > 0.99


# ---------------------------------------------------------------------------------------------- the attention alone


def random_trees(seed: int, size: int = 40, most: int = 4) -> tuple[tuple[int, ...], ...]:
    draw, trees = random.Random(seed), []
    while sum(map(sum, trees)) < size:
        trees.append((draw.randrange(9), *(draw.randrange(1, 12) for _ in range(draw.randrange(1, most + 1)))))
    return tuple(trees)


def random_heads(trees: Any, seed: int, groups: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    rng, s = torch.Generator().manual_seed(seed), sum(map(sum, trees))
    shapes = [(1, 4, s, 8)] + 2 * [(1, 4 // groups, s, 8)]
    return tuple(2 * torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes)


def visibility(trees: Any, causal: bool, window: int | None) -> Tensor:
    """[S, S], token by token, from what a token is: its tree, its response, and its place in the sequence."""
    tokens: list[tuple[int, int | None, int]] = []
    for n, (prompt, *responses) in enumerate(trees):
        tokens += [(n, None, place) for place in range(prompt)]
        for r, length in enumerate(responses):
            tokens += [(n, r, prompt + place) for place in range(length)]
    out = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for q, (tree, response, place) in enumerate(tokens):
        for k, (other_tree, other_response, other_place) in enumerate(tokens):
            one_sequence = tree == other_tree and other_response in (None, response)
            if not causal:
                one_sequence = tree == other_tree
            away = place - other_place
            out[q, k] = one_sequence and (away >= 0 or not causal) and (window is None or abs(away) < window)
    return out


CASES = [
    *[(True, window, seed) for window in (None, 1, 5, 30) for seed in range(4)],
    *[(False, window, seed) for window in (None, 4) for seed in range(2)],
]


def case_trees(causal: bool, seed: int) -> Any:
    """Where tokens look both ways, a response has a prompt of its own."""
    return random_trees(seed, most=4 if causal else 1)


@pytest.mark.parametrize(("causal", "window", "seed"), CASES)
def test_the_block_mask_is_the_visibility_of_sequences(causal: bool, window: int | None, seed: int) -> None:
    trees = case_trees(causal, seed)
    mask = attention.block_mask(trees, causal, window, torch.device("cpu"))
    s = sum(map(sum, trees))
    found = create_mask(mask.mask_mod, None, None, s, s, device="cpu")
    assert torch.equal(found[0, 0], visibility(trees, causal, window))


def test_the_blocks_that_are_left_out_hold_nothing() -> None:
    trees = random_trees(7, size=700)
    mask = attention.block_mask(trees, True, 6, torch.device("cpu"))
    seen = visibility(trees, True, 6)
    (rows, columns), blocks = mask.BLOCK_SIZE, mask.to_dense()[0, 0].bool()
    assert blocks.shape[0] > 4 and not blocks.all()
    for q, k in itertools.product(range(blocks.shape[0]), range(blocks.shape[1])):
        assert bool(blocks[q, k]) == bool(seen[rows * q : rows * (q + 1), columns * k : columns * (k + 1)].any())


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("causal", "window", "seed"), CASES)
def test_attention_by_tree_is_dense_attention(
    causal: bool, window: int | None, seed: int, softcap: float | None
) -> None:
    """Outputs and gradients, against a plain softmax under the visibility."""
    trees = case_trees(causal, seed)
    heads = random_heads(trees, seed)
    inputs = [x.requires_grad_() for x in heads]
    scores = inputs[0] @ inputs[1].mT * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    expected = scores.masked_fill(~visibility(trees, causal, window), -torch.inf).softmax(-1) @ inputs[2]
    found = attention._by_tree(*inputs, trees, Rule(causal, 0.3, 0.0, window, softcap))
    assert_close(found, expected)
    by = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=expected.dtype)
    for one, two in zip(torch.autograd.grad(found, inputs, by), torch.autograd.grad(expected, inputs, by), strict=True):
        assert_close(one, two)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("causal", "window", "seed"), CASES[::2])
def test_flex_attention_is_attention_by_tree(
    causal: bool, window: int | None, seed: int, softcap: float | None
) -> None:
    """The call that ``attend`` makes on CUDA, here run eagerly, with grouped heads. On a CPU it has no gradient."""
    trees = case_trees(causal, seed)
    query, key, value = random_heads(trees, seed, groups=2, dtype=torch.float32)
    mask = attention.block_mask(trees, causal, window, torch.device("cpu"))
    module = torch.nn.Identity().eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = flex_attention_forward(module, query, key, value, mask, scaling=0.3, softcap=softcap)
    heads = (query, *attention._for_each_query_head(query, key, value))
    expected = attention._by_tree(*heads, trees, Rule(causal, 0.3, 0.0, window, softcap)).transpose(1, 2)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """The size in bytes of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.size = max(self.size, *(x.nbytes for x in tree_leaves(out) if isinstance(x, Tensor)), 0)
        return out


@pytest.mark.parametrize("name", ["llama", "gemma2", "an adapter on the head"])
def test_a_training_step_holds_no_logits_of_all_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, adapted = 1500, name not in WRITERS
    model = policy(WRITERS["llama" if adapted else name](vocab_size=vocabulary))
    if adapted:
        model = with_lora(model, target_modules=["lm_head"])
    packed.enable(model, WORDS)
    batch = batch_of(EXAMPLES, True)
    row, embeddings = 4 * vocabulary, 4 * vocabulary * 32
    everything = row * len(batch.tokens.scored)

    def step(chunk_bytes: int) -> int:
        for read in (linear_log_probs, log_probs_through):
            monkeypatch.setattr(packed, read.__name__, partial(read, chunk_bytes=chunk_bytes))
        with Largest() as largest:
            said(WRITING, batch, PolicyReader()(model, batch).require("logps")).backward()
        return largest.size

    assert step(16 * row) <= embeddings < everything / 3
    assert step(everything) >= everything
