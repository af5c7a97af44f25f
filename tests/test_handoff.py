"""Hand-off: what a run leaves gives the same numbers to everybody else's code as to ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    RobertaConfig,
    TrainingArguments,
    pipeline,
)

from mmpo import methods
from mmpo.batch import Limits
from mmpo.cli import main
from mmpo.errors import UserError
from mmpo.evaluate.scoring import Scorer
from mmpo.models import FrozenCopy, PolicyReader, load_policy, load_tokenizer
from mmpo.models.save import save
from mmpo.run.record import usage
from mmpo.train import train
from tiny import ROWS, batch_of, data_of, minilm, plain, roberta_tokenizer, rows_file, saved

TOLERANCE = 1e-5
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def config(kind: str, tokenizer: Any, **more: Any) -> Any:
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    # Weights large enough that the texts differ in score.
    vocabulary = {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    if kind == "bert":
        return BertConfig(**vocabulary, **SMALL, max_position_embeddings=130, **more)
    if kind == "roberta":
        return RobertaConfig(**vocabulary, **SMALL, **ids, max_position_embeddings=130, type_vocab_size=1, **more)
    if kind == "gpt2":
        return GPT2Config(**vocabulary, **ids, n_embd=32, n_layer=2, n_head=2, n_positions=256, **more)
    rope = {"rope_type": "default", "rope_theta": 5e5}
    if kind == "neox":
        rope["partial_rotary_factor"] = 0.5
        return GPTNeoXConfig(**vocabulary, **SMALL, **ids, rope_parameters=rope, **more)
    return LlamaConfig(**vocabulary, **SMALL, **ids, num_key_value_heads=1, rope_parameters=rope, **more)


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )


Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def tokenizers(tiny_tokenizer: Any) -> Callable[[str], Any]:
    """bert, roberta: encoders that join pairs; chat: a decoder's with a template; else a decoder's without."""

    def of(kind: str) -> Any:
        if kind == "bert":
            return AutoTokenizer.from_pretrained(minilm())
        if kind == "roberta":
            return roberta_tokenizer()
        return tiny_tokenizer if kind == "chat" else plain(tiny_tokenizer)

    return of


@pytest.fixture(scope="module")
def reward_run(tokenizers: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a reward model of some kind, trained from a base without a head."""
    done: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in done:
            tokenizer, folder = tokenizers(kind), tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config(kind, tokenizer))
            base = saved(model.base_model, tokenizer, folder / "base")
            options = {"lora": {"r": 4}} if kind == "llama" else {}
            data = data_of()
            train(base, "mmpo_reward", data, arguments(folder / "run"), limits=Limits(100), **options)
            done[kind] = folder / "run"
        return done[kind]

    return of


@pytest.fixture(scope="module")
def policy_run(tokenizers: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    done: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in done:
            tokenizer, folder = tokenizers(kind), tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            base = saved(AutoModelForCausalLM.from_config(config(kind, tokenizer)), tokenizer, folder / "base")
            options = {"lora": {"r": 4}} if kind == "llama" else {}
            method = methods.policy.mmpo(gamma=0.5, beta=0.3)
            train(base, method, data_of(), arguments(folder / "run"), limits=Limits(100), **options)
            done[kind] = folder / "run"
        return done[kind]

    return of


def ours(folder: Path) -> list[float]:
    return [score for row in Scorer.load(str(folder))(data_of()).rewards for score in row]


def flat() -> list[tuple[str, str]]:
    return [(row["prompt"], response) for row in ROWS for response in row["responses"]]


KINDS = ["bert", "roberta", "gpt2", "llama", "neox", "chat"]


# ---------------------------------------------------------------------------------------------- reward models


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_card_give_the_same_score(
    kind: str, reward_run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = reward_run(kind)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder.parent)
    scores = ours(folder)
    assert torch.tensor(scores).std() > 1e-3
    loading, using = code.split("tokenizer = ", 1)[0], "tokenizer = " + code.split("tokenizer = ", 1)[1]
    names: dict[str, Any] = {}
    exec(loading, names)
    assert type(names["model"]).__name__.endswith("ForSequenceClassification")
    for (prompt, response), score in zip(flat(), scores, strict=True):
        names |= {"prompt": prompt, "response": response}
        exec(using, names)
        assert names["score"] == pytest.approx(score, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama", "neox"])
def test_a_pipeline_gives_the_raw_score(kind: str, reward_run: Folder) -> None:
    """No sigmoid: the problem is a regression."""
    folder = reward_run(kind)
    classify = pipeline("text-classification", str(folder))
    scores = ours(folder)
    for (prompt, response), score in zip(flat(), scores, strict=True):
        if kind in ("bert", "roberta"):
            said: Any = classify({"text": prompt, "text_pair": response})
            (said,) = said if isinstance(said, list) else [said]
        else:
            (said,) = classify(prompt + response + "</s>")
        assert said["score"] == pytest.approx(score, abs=TOLERANCE)
    assert min(scores) < 0 or max(scores) > 1, "a sigmoid would show only outside of (0, 1)"


def test_the_command_line_gives_the_same_score(reward_run: Folder, tmp_path: Path) -> None:
    folder = reward_run("llama")
    out = tmp_path / "deep" / "scores.jsonl"
    with pytest.raises(SystemExit) as done:
        main(["score", str(folder), rows_file(tmp_path), "--out", str(out)])
    assert done.value.code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert [row["responses"] for row in rows] == [row["responses"] for row in ROWS]
    assert [row["scores"] for row in rows] == [row["scores"] for row in ROWS]
    found = [score for row in rows for score in row["model_scores"]]
    assert found == pytest.approx(ours(folder), abs=1e-6)


def test_usage_of_a_tokenizer_that_closes_texts_itself(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("llama")
    assert "tokenizer(prompt + response + tokenizer.eos_token" in usage(tokenizer, "reward")
    special = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    assert "tokenizer(prompt + response, return_tensors" in usage(tokenizer, "reward")
    pairs = tokenizers("roberta")
    assert "tokenizer(prompt, response" in usage(pairs, "reward")


# ---------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("task", ["reward", "policy"])
def test_an_adapter_is_merged_and_kept(task: str, reward_run: Folder, policy_run: Folder) -> None:
    folder = reward_run("llama") if task == "reward" else policy_run("llama")
    assert not (folder / "adapter_config.json").exists()
    kept = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert kept["r"] == 4 and (folder / "adapter" / "adapter_model.safetensors").exists()
    kind = AutoModelForSequenceClassification if task == "reward" else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not any("lora" in name or "modules_to_save" in name for name, _ in model.named_parameters())
    base = kind.from_pretrained(folder.parent / "base", **({"num_labels": 1} if task == "reward" else {}))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (model.state_dict()[name] - base.state_dict()[name]).abs().max() > 1e-4


# ---------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("kind", ["gpt2", "llama", "chat"])
def test_a_policy_generates(
    kind: str, policy_run: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = policy_run(kind)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder.parent)
    exec(code, {})
    assert re.search(r"'generated_text'.*Your prompt", capsys.readouterr().out, re.S)
    assert ('"role"' in code) == (kind == "chat")
    generate = pipeline("text-generation", str(folder))
    options = {"max_new_tokens": 5, "do_sample": False}
    if kind == "chat":
        turns = [{"role": "user", "content": "Who?"}]
        assert isinstance(generate(turns, **options)[0]["generated_text"][-1]["content"], str)
    (said,) = generate("Is 17 a prime", **options)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Is 17 a prime", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, **options)[0], skip_special_tokens=True)
    assert said["generated_text"] == text


def test_the_implicit_reward_of_a_saved_policy(policy_run: Folder, tmp_path: Path) -> None:
    """A run's folder remembers reference, beta and limits; beta (log pi - log ref) by its own parts."""
    folder = policy_run("llama")
    tokenizer = load_tokenizer(str(folder))
    policy, base = (load_policy(str(path), tokenizer).eval() for path in (folder, folder.parent / "base"))
    batch = batch_of(data_of(), tokenizer, Limits(100))
    with torch.no_grad():
        reading = PolicyReader(FrozenCopy(base))(policy, batch)
    assert reading.logps is not None and reading.ref_logps is not None
    expected = (0.3 * (reading.logps - reading.ref_logps))[reading.mask]
    assert expected.std() > 1e-3
    assert ours(folder) == pytest.approx(expected.tolist(), abs=1e-5)
    doubled = Scorer.load(str(folder), beta=0.6)(data_of())
    assert [s for row in doubled.rewards for s in row] == pytest.approx((2 * expected).tolist(), abs=1e-5)
    itself = Scorer.load(str(folder), reference=str(folder))(data_of())
    assert all(score == 0 for row in itself.rewards for score in row)


def test_a_model_of_others_is_read_as_what_it_is(policy_run: Folder, reward_run: Folder, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(policy_run("llama")))
    for folder, kind in (
        (policy_run("llama"), AutoModelForCausalLM),
        (reward_run("llama"), AutoModelForSequenceClassification),
    ):
        saved(kind.from_pretrained(folder), tokenizer, tmp_path / kind.__name__)
    with pytest.raises(UserError, match="needs the model it was trained from; give --reference"):
        Scorer.load(str(tmp_path / "AutoModelForCausalLM"))
    base = str(policy_run("llama").parent / "base")
    scorer = Scorer.load(str(tmp_path / "AutoModelForCausalLM"), reference=base, beta=0.3)
    assert [s for row in scorer(data_of()).rewards for s in row] == pytest.approx(ours(policy_run("llama")), abs=1e-5)
    theirs = Scorer.load(str(tmp_path / "AutoModelForSequenceClassification"))(data_of())
    assert [s for row in theirs.rewards for s in row] == pytest.approx(ours(reward_run("llama")), abs=1e-5)
    with pytest.raises(UserError, match="is a reward model: it has no reference"):
        Scorer.load(str(tmp_path / "AutoModelForSequenceClassification"), reference=base)


def test_an_encoder_without_a_head_has_no_scores(reward_run: Folder) -> None:
    with pytest.raises(UserError, match="neither a reward model nor a policy"):
        Scorer.load(str(reward_run("roberta").parent / "base"))


# ---------------------------------------------------------------------------------------------- older readers


def test_what_transformers_4_reads_is_there(reward_run: Folder, policy_run: Folder, tokenizers: Any) -> None:
    """transformers 5 writes the rope settings, the dtype and the tokenizer's class under names of its own."""
    for folder in (reward_run("llama"), policy_run("llama"), reward_run("neox")):
        settings = json.loads((folder / "config.json").read_text())
        assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 5e5
        assert settings["torch_dtype"] == "float32"
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    settings = json.loads((reward_run("neox") / "config.json").read_text())
    assert settings["rotary_emb_base"] == 5e5 and settings["rotary_pct"] == 0.5
    settings = json.loads((reward_run("bert") / "config.json").read_text())
    assert settings["problem_type"] == "regression" and "rope_theta" not in settings
    tokenizer = json.loads((reward_run("bert") / "tokenizer_config.json").read_text())
    assert "token_type_ids" in tokenizer["model_input_names"]


def test_a_scaled_rope_survives(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizer = tokenizers("llama")
    rope = {"rope_type": "linear", "rope_theta": 3e4, "factor": 2.0}
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=len(tokenizer), **SMALL, num_key_value_heads=1, rope_parameters=rope)
    )
    save(model, tokenizer, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["rope_theta"] == 3e4 and settings["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.rope_parameters == rope


def test_a_policy_run_finds_its_reference_from_any_folder(
    tiny_policy: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tiny_policy(), tiny_tokenizer, tmp_path / "there" / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    args = TrainingArguments("run", max_steps=1, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
    train("base", methods.build("dpo"), data_of(), args, limits=Limits(64))
    here = Scorer.load("run")(data_of()).rewards
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Scorer.load("../there/run")(data_of()).rewards == here
