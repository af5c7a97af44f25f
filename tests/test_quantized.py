"""A base of 4 or 8 bits a weight under an adapter: refused where it cannot be, and trained, saved and scored where it
can."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from soak.ranks import curve, recipe
from soak.world import world
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

from mmpo.data import load
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.models import load_policy, load_reward_model, load_tokenizer
from mmpo.models.lora import adapted
from mmpo.models.quantized import Quantized, check_can
from mmpo.models.store import weights_digest
from mmpo.plan.blueprint import QUANTIZED
from mmpo.recipe import Recipe, make_recipe, read_recipe
from mmpo.train import train_recipe

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (mmpo[quantize])"
)
BITS = ("4bit", "8bit")
METHODS = {"policy": {"name": "mmpo", "gamma": 2.2, "beta": 0.1}, "reward": {"name": "mmpo_reward", "gamma": 2.2}}
KINDS = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}

# ---------------------------------------------------------------------------------------------- what is refused

SAID = {"model": "no/model", "method": "dpo", "data": "no.jsonl", "output_dir": "out"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"quantize": "4bit"}, r"quantize: 4bit freezes the weights, .* add lora: \{r: 16\}"),
        ({"quantize": "4bit", "lora": None}, "quantize: 4bit freezes"),
        ({"quantize": "2bit", "lora": {"r": 2}}, "quantize: Input should be '4bit' or '8bit'"),
    ],
)
def test_what_would_train_nothing_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_recipe({**SAID, **more})


def test_without_bitsandbytes_a_run_is_refused_before_its_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpo.models.quantized.find_spec", lambda name: None)
    asked = make_recipe({**SAID, "output_dir": str(tmp_path / "out"), "quantize": "4bit", "lora": {"r": 2}})
    with pytest.raises(UserError, match=r"quantize needs bitsandbytes; pip install 'mmpo\[quantize\]'"):
        train_recipe(asked)


def test_a_plan_knows_the_same_names() -> None:
    assert set(QUANTIZED) == set(BITS) == set(Recipe.model_fields["quantize"].annotation.__args__[0].__args__)


# ---------------------------------------------------------------------------------------------- what is trained


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # A block of 64 weights has one scale.
        patch.setattr("soak.world.LlamaConfig", lambda **keys: LlamaConfig(**{**keys, "hidden_size": 64}))
        return world(tmp_path_factory.mktemp("world"), prompts=24)


def quantised(tiny: Path, name: str, bits: str) -> Any:
    load_it = load_reward_model if name == "reward" else load_policy
    folder = str(tiny / name)
    return load_it(folder, load_tokenizer(folder), quantized=Quantized(bits, "float32"))


@needs_bitsandbytes
def test_a_device_that_bitsandbytes_does_not_know_is_refused() -> None:
    check_can("cpu")
    with pytest.raises(UserError, match="bitsandbytes cannot compute on abacus"):
        check_can("abacus")


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["policy", "tied", "reward"])
def test_the_base_keeps_its_digest_and_its_numbers(name: str, bits: str, tiny: Path) -> None:
    """Before and after it was read, in training and in evaluation, with an adapter and without, loaded once more."""
    bare = quantised(tiny, name, bits)
    digest = weights_digest(bare)
    other = AutoModelForCausalLM.from_pretrained(tiny / "policy")
    model = adapted(bare, {"r": 4}, "reward" if name == "reward" else "policy")
    ids = torch.arange(3, 21).reshape(2, 9)
    model.train()
    training = model(ids).logits
    training.sum().backward()
    model.eval()
    with torch.no_grad():
        # On a CPU, 8 bits round the activations only where no gradient is asked for.
        torch.testing.assert_close(model(ids).logits, training, rtol=0, atol=0 if bits == "4bit" else 1e-2)
    assert weights_digest(model) == digest == weights_digest(quantised(tiny, name, bits)) != weights_digest(other)


@needs_bitsandbytes
@pytest.mark.parametrize("reentrant", [True, False])
def test_norms_and_head_stay_whole_and_the_adapter_learns_through_checkpointing(reentrant: bool, tiny: Path) -> None:
    model = adapted(quantised(tiny, "policy", "4bit"), {"r": 4}, "policy").train()
    for name, p in model.named_parameters():
        quantised_too = "_proj.base_layer" in name
        assert p.dtype == (torch.uint8 if quantised_too else torch.float32), name
        assert p.requires_grad == ("lora_" in name), name
    ids = torch.arange(3, 21).reshape(2, 9)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(ids).logits.logsumexp(-1).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    assert any(grad.abs().max() > 0 for grad in found[0].values())
    torch.testing.assert_close(found[0], found[1])


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_the_head_of_an_encoder_stays_whole(bits: str, tiny: Path, tmp_path: Path) -> None:
    """Its last parameter is a bias, by which transformers alone would not find it."""
    config = BertConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        pad_token_id=0,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    load_tokenizer(str(tiny / "reward")).save_pretrained(tmp_path)
    options = Quantized(bits, "float32").options(True, "cpu")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options)
    assert type(model.classifier) is torch.nn.Linear
    assert type(model.bert.encoder.layer[0].output.dense) is not torch.nn.Linear


@needs_bitsandbytes
@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("task", METHODS)
def test_a_run_learns_and_what_it_saves_gives_its_numbers(task: str, bits: str, tiny: Path) -> None:
    """Loaded by transformers alone, and by mmpo score, from the run and from its last checkpoint."""
    keys: dict[str, Any] = {"reference": "cached", "save_strategy": "steps", "save_steps": 18}
    keys |= {"model": str(tiny / task), "method": METHODS[task], "lora": {"r": 8}, "quantize": bits}
    if task == "reward":
        del keys["reference"]
    made = recipe(tiny, f"{task}-{bits}", 1, 18, learning_rate=1e-2, evaluate=False, **keys)
    trained = train_recipe(read_recipe(made))
    losses = curve(made)["loss"]
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.015
    folder = tiny / "runs" / f"{task}-{bits}"
    record = json.loads((folder / "run.json").read_text())
    assert record["quantize"] == {"bits": bits, "compute": "float32" if bits == "4bit" else "float16"}
    assert not [line for line in record["self_test"] if not line.startswith("ok")]
    data = load(str(tiny / "held_out.jsonl")).data
    scored = [Scorer.load(str(place))(data).rewards for place in (folder, folder / "checkpoint-18")]
    assert scored[0] == scored[1]
    if task == "policy":
        live = Scorer.load(str(folder))
        reader = live.reader
        assert weights_digest(reader.reference.model) == record["weights"]["start"]
    ids, model = torch.arange(3, 21).reshape(2, 9), trained.model.eval()
    alone = KINDS[task].from_pretrained(folder).eval()
    for module in alone.modules():
        # Or some CPUs round the scales, which our own loading forbids.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    torch.testing.assert_close(alone(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
