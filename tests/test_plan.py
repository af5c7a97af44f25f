"""A plan: counted on shapes it is what training takes, its formulas are right by hand, and it says what to change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from soak.sizes import SIZES, line
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, Qwen2Config, Qwen3MoeConfig, RobertaConfig
from typer.testing import CliRunner

from mmpo.cli import app
from mmpo.errors import UserError
from mmpo.models import attention, packed
from mmpo.plan import DEVICES, Planner, counts, job_of, named, plan_for, stated
from mmpo.plan.blueprint import Blueprint, read_config, shortened
from mmpo.plan.hardware import GIB, Device
from mmpo.plan.memory import Job, kept_by_optimizer, memory, states
from mmpo.plan.rows import Lengths, cost, cut, padded_blocks, tokens
from mmpo.plan.trace import Footprint, Live, footprint
from mmpo.plan.work import Load, flops, forward_flops, load, seconds, sent
from mmpo.recipe import make_recipe

ROOT = Path(__file__).resolve().parents[1]

ROW = (12, (7, 5, 9))
FLAT = Device("flat", 1 * GIB, 4e12, 1e12, 1e12, 1e9, 1e8, overhead=0.0, spread=0.0)


def qwen(layers: int = 2, **changes: Any) -> Qwen2Config:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 101, "num_hidden_layers": layers, "pad_token_id": 0}
    return Qwen2Config(tie_word_embeddings=False, **{**sizes, **changes})


def of(config: Any = None, **how: Any) -> Blueprint:
    return Blueprint("tiny", config or qwen(), **how)


# ---------------------------------------------------------------------------------------------- sizes


def test_sizes_are_those_of_the_real_model() -> None:
    blueprint = of()
    model, found = blueprint.build(), blueprint.anatomy
    assert found.parameters == found.trained == sum(p.numel() for p in model.parameters())
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    assert (found.block, found.blocks, found.uniform) == (layer, 2, True)
    assert found.rest == found.parameters - 2 * layer
    # queries and output 2 * 32 * 32, keys and values 2 * 32 * 16, three of 32 * 48
    assert found.products == 2 * (2048 + 1024 + 4608) == found.products_trained
    assert (found.head, found.vocabulary, found.attention) == (32 * 101, 101, 2 * 32)
    assert found.weight_bytes == 4 * found.parameters


def test_lora_trains_the_adapter_alone() -> None:
    found = of(lora={"r": 4}, dtype="bfloat16").anatomy
    # r times (in + out) of every linear layer: q, o 64 each; k, v 48 each; gate, up, down 80 each
    assert found.trained == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 80)
    assert found.products - found.products_trained == 2 * 7680
    assert found.trained_bytes in (2 * found.trained, 4 * found.trained)


def test_a_quantised_base_takes_a_little_over_half_a_byte() -> None:
    whole, small = (of(lora={"r": 4}, dtype="bfloat16", quantize=bits).anatomy for bits in (None, "4bit"))
    products = 2 * 7680
    assert whole.weight_bytes - small.weight_bytes == products * (2 - 0.5625)


def test_of_many_experts_a_token_meets_its_own() -> None:
    config = Qwen3MoeConfig(
        vocab_size=101, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    experts, router = 3 * 32 * 16, 8 * 32
    assert of(config).anatomy.products == 2 * (2048 + 1024 + router + 2 * experts)


def test_a_reward_model_has_no_vocabulary_and_an_encoder_repeats_its_prompts() -> None:
    config = RobertaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    found = of(config, task="reward").anatomy
    assert (found.head, found.vocabulary, found.layout) == (0, 0, "separate")
    assert of(task="reward").anatomy.layout == "shared"


def test_a_shorter_config_cuts_what_stands_for_each_layer() -> None:
    short = shortened(qwen(6), 2)
    assert short.num_hidden_layers == len(short.layer_types) == 2


# ---------------------------------------------------------------------------------------------- rows


def test_rows_fall_into_micro_batches_as_the_collator_cuts_them() -> None:
    assert [cost((10, (2, 3)), layout) for layout in ("shared", "separate", "padded")] == [15, 25, 25]
    rows = [(10, (5, 5)), (20, (10, 10)), (1, (1, 1))]
    assert cut(rows, 40, "shared") == [[(20, (10, 10))], [(10, (5, 5)), (1, (1, 1))]]
    assert Lengths(tuple(rows), "x").worst(3, 62, "shared") == [(20, (10, 10)), (10, (5, 5))]
    assert stated("300+4x250") == (300, (250,) * 4)
    with pytest.raises(UserError, match=r"--plan-row is '300': write|--plan-row is '300'; write"):
        stated("300")


def test_padded_blocks_have_logits_from_the_first_scored_token_on() -> None:
    (block,) = padded_blocks([(4, (3, 2)), (2, (5,))])
    assert (block.rows, block.width, block.logits, block.scored) == (3, 7, 6, 10)


def test_pairs_seen_are_those_of_the_mask() -> None:
    rows = [(5, (3, 4)), (2, (1,))]
    mask = attention.block_mask(tokens(rows, True).trees, True, None, torch.device("cpu"))
    n = sum(cost(row, "shared") for row in rows)
    at = torch.arange(n)
    seen = sum(int(mask.mask_mod(None, None, q, at).sum()) for q in at)
    assert load(rows, "shared") == Load(n, seen, 8)
    assert load(rows, "separate") == Load(20, 8 * 9 // 2 + 9 * 10 // 2 + 3 * 4 // 2, 8)
    assert load(rows, "separate", both_ways=True).seen == 64 + 81 + 9


# ---------------------------------------------------------------------------------------------- memory


def test_live_bytes_come_and_go() -> None:
    before = torch.ones(5)
    live = Live([before])
    with live:
        a = before + 1
        b = a.view(5, 1)
        assert (live.now, live.since()) == (20, 20)
        del a
        assert live.now == 20
        del b
        assert (live.now, live.since(), live.since()) == (0, 20, 0)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"autocast": torch.bfloat16},
        {"checkpointing": {}},
        {"layout": "padded"},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_two_short_models_tell_what_a_long_one_takes(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = of(qwen(9))
    extended = footprint(blueprint, [ROW] * 3, **how)
    monkeypatch.setattr(Blueprint, "layers", 1)
    whole = footprint(of(qwen(9)), [ROW] * 3, **how)
    for name, value in vars(whole).items():
        assert getattr(extended, name) == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("layout", ["shared", "separate", "padded"])
@pytest.mark.parametrize("task", ["policy", "reward"])
def test_what_is_kept_is_what_autograd_saves(layout: Any, task: Any) -> None:
    """Independently of the counter: the storages that a real forward pass packs for its backward pass."""
    blueprint = of(qwen(3), task=task)
    model = blueprint.build().train()
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    rows = [ROW] * 2
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        if layout == "padded":
            (block,) = padded_blocks(rows)
            ids = torch.zeros(block.rows, block.width, dtype=torch.long)
            keep = {"logits_to_keep": block.logits} if task == "policy" else {}
            real_tokens = torch.ones_like(ids)
            real_tokens[0, -1] = 0
            kept = model(input_ids=ids + 1, attention_mask=real_tokens, use_cache=False, **keep)
        else:
            packed.switch_on(model)
            kept = model(packed=tokens(rows, layout == "shared"), states="last")
    found = footprint(blueprint, rows, layout=layout, device="cpu")
    real = sum(size for at, size in saved.items() if at not in weights)
    assert found.kept == pytest.approx(real, rel=0.05)
    assert kept is not None


def test_checkpointing_keeps_the_hidden_states_between_layers() -> None:
    layers, n, hidden = 6, cost(ROW, "shared") * 4, 32
    with_it, without = (footprint(of(qwen(layers)), [ROW] * 4, checkpointing=how) for how in ({}, None))
    assert with_it.kept < without.kept / 5
    short = footprint(of(qwen(layers - 2)), [ROW] * 4, checkpointing={})
    assert with_it.kept - short.kept == 2 * n * hidden * 4


def test_autocast_holds_its_copies_of_the_weights() -> None:
    """2 bytes for each weight of a linear layer, as long as the graph lives."""
    plain, half = (
        [footprint(of(qwen(layers)), [(1, (1, 1))], autocast=dtype).kept for layers in (2, 4)]
        for dtype in (None, torch.bfloat16)
    )
    grown = (half[1] - half[0]) / 2
    assert 2 * 7680 < grown < 2 * 7680 + (plain[1] - plain[0]) / 2


def test_a_fused_kernel_forms_no_scores() -> None:
    """Eight times the tokens, eight times the memory: nothing in it is quadratic."""
    short, long = (footprint(of(), [(n, (n, n))], device="cuda") for n in (64, 512))
    assert long.kept == pytest.approx(8 * short.kept, rel=0.01)


def test_states_by_hand() -> None:
    blueprint = of()
    p = blueprint.anatomy.parameters
    job = Job(blueprint)
    assert states(job, "alone", 1) == (4 * p, 4 * p, 8 * p)
    assert states(job, "ddp", 4) == (4 * p, 8 * p, 8 * p)
    block, rest = blueprint.anatomy.block, blueprint.anatomy.rest
    assert states(job, "fsdp2", 4) == (p + 4 * (2 * block + rest), p + 4 * (block + rest), 2 * p)
    half = replace(job, half="bfloat16")
    # computed in 2 bytes; masters, gradients and two moments in 4 each, divided; a bucket holds all of so small a model
    assert states(half, "zero2", 4) == (2 * p, 2 * p / 4 + 2 * p, 16 * p / 4)
    assert states(half, "zero3", 4) == (2 * p / 4 + 2 * p, 2 * p / 4 + 2 * p, 16 * p / 4)


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_optimisers_keep_what_is_said(name: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = of().build()
    kind, how = Trainer.get_optimizer_cls_and_kwargs(
        TrainingArguments(str(tmp_path), optim=name, use_cpu=True, report_to="none")
    )
    optimizer = kind(model.parameters(), **how)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x) and x.dim())
    assert held == kept_by_optimizer(name, of().anatomy)


def test_an_optimiser_that_is_not_known_is_refused() -> None:
    with pytest.raises(UserError, match="what lomo keeps is not known, so its memory cannot be planned; known: "):
        kept_by_optimizer("lomo", of().anatomy)


def test_parts_add_up_and_a_copy_is_one_more_set_of_weights() -> None:
    found = Footprint(100.0, 120.0, 150.0, 130.0, 110.0)
    p = of().anatomy.parameters
    with_copy = memory(Job(of(), reference="copy", optimizer="adamw_torch_fused"), found, FLAT)
    without = memory(Job(of(), reference="cached", optimizer="adamw_torch_fused"), found, FLAT)
    assert with_copy.total - without.total == 4 * p
    assert (without.activations, without.workspace, without.total) == (100, 50, 16 * p + 150)


def test_in_a_step_of_one_micro_batch_gradients_take_the_place_of_activations() -> None:
    p = of().anatomy.parameters
    found = Footprint(100.0 * p, 100.0 * p, 110.0 * p, 110.0 * p, 101.0 * p)
    job = Job(of(), optimizer="adamw_torch_fused")
    assert memory(job, found, FLAT, one=True).total == 12 * p + 110 * p
    small = Footprint(1.0 * p, 1.0 * p, 1.0 * p, 1.0 * p, 1.5 * p)
    assert memory(job, small, FLAT, one=True).total == 16 * p + 0.5 * p


# ---------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("task", "lora", "checkpointing"),
    [("policy", None, None), ("policy", None, {}), ("policy", {"r": 4}, None), ("reward", None, None)],
)
def test_flops_are_those_that_torch_counts(task: Any, lora: Any, checkpointing: Any) -> None:
    """A real step, forward and backward, counted by torch operation by operation."""
    blueprint = of(qwen(4), task=task, lora=lora)
    model, rows = blueprint.build().train(), [ROW] * 4
    if checkpointing is not None:
        model.activation_checkpointing_enable()
    packed.switch_on(packed.innermost(model))
    packed.innermost(model).packing.head = packed.LinearHead(1.0, None) if task == "policy" else None
    with FlopCounterMode(display=False) as counter:
        said = model(packed=tokens(rows, True))
        said["logps" if task == "policy" else "scores"].sum().backward()
    done = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    read, anatomy = load(rows, "shared"), blueprint.anatomy
    found = flops(Job(blueprint, checkpointing=checkpointing), read, "cpu")
    ours = found.total - 4 * anatomy.attention * read.seen * (3.5 + (checkpointing is not None))
    torchs = sum(n for op, n in done.items() if "attention" not in op)
    torchs += 2 * anatomy.head * read.scored  # the logits are written in place, which torch does not count
    if checkpointing is not None:  # the last product of a layer is not run again: nothing needs its output
        torchs += 2 * 4 * 48 * 32 * read.tokens
    if lora is not None:  # below the first layer nothing is trained
        torchs += 2 * (2048 + 3 * 4 * 32) * read.tokens
    if task == "reward":  # a product of 32 x 1 for each sequence, and its two backward
        torchs -= 3 * 2 * 32 * 12
    assert ours == torchs


def test_forward_flops_by_hand() -> None:
    # 2 for each of 15,360 weights and 33 tokens; 4 * 64 for each of 387 pairs; 2 * 32 * 101 for each of 21 tokens
    read = load([ROW], "shared")
    assert read == Load(33, 78 + 7 * 12 + 28 + 5 * 12 + 15 + 9 * 12 + 45, 21)
    assert forward_flops(of(), read) == 2 * 15_360 * 33 + 4 * 64 * 418 + 2 * 3_232 * 21


def test_a_live_reference_is_one_more_forward() -> None:
    read = load([ROW], "shared")
    live, cached = (flops(Job(of(), reference=kind), read) for kind in ("copy", "cached"))
    assert live.total - cached.total == forward_flops(of(), read)


def test_what_is_sent_by_hand() -> None:
    p = of().anatomy.parameters
    assert sent(Job(of()), "ddp", 1, 3) == 0
    assert sent(Job(of()), "ddp", 4, 3) == 2 * 0.75 * 4 * p
    assert sent(Job(of(), half="bfloat16"), "fsdp2", 4, 3) == 0.75 * 3 * 6 * p


def test_seconds_lie_between_all_hidden_and_nothing_hidden() -> None:
    job = Job(of(), optimizer="sgd")
    found = seconds(job, replace(flops(job, Load()), forward=5e11), FLAT, "ddp", 16)
    p = of().anatomy.parameters
    assert found.compute == (1.0, pytest.approx(5 / 3))
    assert found.sending == pytest.approx(2 * 15 / 16 * 4 * p / 1e8)
    assert found.low == max(1.0, found.sending) + found.stepping
    assert found.high == pytest.approx(5 / 3 + found.sending + found.stepping)


# ---------------------------------------------------------------------------------------------- the plan


def small(**changes: Any) -> Planner:
    job = Job(of(qwen(4)), reference="copy", optimizer="adamw_torch", micro_batch_tokens=4096)
    return Planner(replace(job, **changes), Lengths(((256, (128, 128)),), "stated", 100), FLAT, batch=8)


def test_a_line_says_what_it_takes_and_whether_it_fits() -> None:
    plan = small()
    alone = plan.line(1, "alone")
    assert (alone.prompts, alone.steps, alone.fits) == (8, 13, True)
    tight = replace(plan, device=replace(FLAT, memory=alone.memory.total - 1))
    assert not tight.line(1, "alone").fits
    assert [(line.devices, line.split) for line in plan.lines([1, 2])] == [
        (1, "alone"), (2, "ddp"), (2, "fsdp2"), (2, "zero2"), (2, "zero3"),
    ]  # fmt: skip


def test_mends_fit_and_the_same_result_comes_first() -> None:
    plan = small(blueprint=of(lora={"r": 2}, quantize="4bit"))
    whole, without = plan.line(1, "alone").memory, plan.line(1, "alone", replace(plan.job, checkpointing={})).memory
    assert without.total < whole.total
    tight = replace(plan, device=replace(FLAT, memory=(whole.total + without.total) / 2))
    mends = tight.mends(1)
    assert all(mend.line.fits and mend.line.memory.total <= tight.device.memory for mend in mends)
    assert ("gradient_checkpointing: true",) in [mend.changes for mend in mends]
    others = [mend.other_result for mend in mends]
    assert others == sorted(others)
    assert replace(plan, device=replace(FLAT, memory=1.0)).mends(1) == []


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    qwen(4).save_pretrained(tmp_path / "model")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {tmp_path / 'model'}\nmethod: {{name: mmpo, gamma: 1.0}}\ndata: {tmp_path / 'prefs.jsonl'}\n"
        f"output_dir: {tmp_path / 'run'}\nbf16: true\nmax_length: 64\n"
    )
    return path


def test_a_config_is_enough(recipe_path: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app, ["doctor", str(recipe_path), "--plan", "--plan-device", "4090", "--plan-gpus", "1,8"]
    )
    assert said.exit_code == 0, said.output
    assert "Qwen2ForCausalLM" in said.output and "since the data cannot be read here" in said.output
    assert [line.split()[:2] for line in said.output.splitlines() if line.strip().startswith(("1 ", "8 "))] == [
        ["1", "-"], ["8", "ddp"], ["8", "fsdp2"], ["8", "zero2"], ["8", "zero3"],
    ]  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_config_file_will_do_and_lengths_can_be_stated(recipe_path: Path, tmp_path: Path) -> None:
    words = ["--model", str(tmp_path / "model" / "config.json"), "--plan-device", "h100", "--plan-row", "30+4x8"]
    said = CliRunner().invoke(app, ["doctor", str(recipe_path), "--plan", "--json", *words])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert told["lengths"] == {"source": "stated", "prompts": None}
    parts = told["lines"][0]["memory"]
    assert parts.pop("total") == pytest.approx(sum(parts.values()))
    assert told["job"]["reference"] == "copy" and told["lines"][0]["fits"]


def test_lengths_are_those_of_the_data(recipe_path: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{n} + 2?", "responses": ["4", "5", "Four."], "scores": [9, 2, 8]} for n in range(6)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = make_recipe({
        "model": str(tmp_path / "model"), "method": "simpo", "data": str(tmp_path / "prefs.jsonl"),
        "output_dir": str(tmp_path / "run"), "lora": {"r": 2}, "max_length": 64, "data_cache": str(tmp_path / "cache"),
    })  # fmt: skip
    plan = plan_for(recipe, DEVICES["h100"])
    assert (plan.lengths.prompts, plan.job.reference) == (6, None)
    assert {len(responses) for _, responses in plan.lengths.rows} == {3}
    assert job_of(recipe, DEVICES["h100"]).blueprint.anatomy.trained < 1e4


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--plan", "--plan-device", "h10"], "--plan-device is 'h10'. Did you mean 'h100'?"),
        (["--plan", "--plan-device", "h100", "--plan-gpus", "0"], "--plan-gpus is '0'; give numbers"),
        (["--plan", "--plan-device", "h100", "--plan-row", "x"], "--plan-row is 'x'; write"),
        (["--json"], "--json would do nothing without --plan; add it"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], error: str, recipe_path: Path) -> None:
    said = CliRunner().invoke(app, ["doctor", str(recipe_path), *words])
    assert isinstance(said.exception, UserError) and error in str(said.exception)


def test_names_of_devices_and_counts() -> None:
    assert named("H100") is DEVICES["h100"]
    assert counts("8,1, 2") == [1, 2, 8]


def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="model: "):
        read_config(str(tmp_path / "config.json"))


def test_other_architectures_are_counted() -> None:
    found = footprint(of(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=101)), [ROW])
    assert 0 < found.kept <= found.peak
    assert isinstance(of().outline.lm_head, nn.Linear)


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_says_what_was_measured() -> None:
    record = json.loads((ROOT / "docs" / "reliability" / "plan.json").read_text())
    text = (ROOT / "docs" / "sizes.md").read_text(encoding="utf-8")
    for row in record["rows"]:
        planned, measured = row["planned"]["total"] / 2**20, row["tensors"] / 2**20
        assert f"| {row['case']['name']} | {planned:,.0f} | {measured:,.0f} | {row['error']:+.1%} |" in text
    assert f"all {len(record['rows'])} within {record['worst_error']:.1%}" in text
    assert record["worst_error"] < 0.1


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        pytest.param(name, adapter, marks=[] if (name, adapter) == ("1 B", False) else [pytest.mark.slow])
        for name in SIZES
        for adapter in (False, True)
    ],
)
def test_the_table_of_the_page_is_what_the_formula_gives(name: str, adapter: bool) -> None:
    assert line(name, adapter) in (ROOT / "docs" / "sizes.md").read_text(encoding="utf-8")
