"""The benchmark counts right: FLOPs by hand, texts of the claimed lengths, the same rows for both sides."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model
from typer.testing import CliRunner

pytest.importorskip("trl")
from bench import __main__ as command
from bench import sides
from bench.catalogue import CHAT, LONG, WORKLOADS
from bench.page import write_page
from bench.summary import off_the_line, summarise
from bench.work import peak_flops, row_flops, step_flops
from bench.workload import TINY, Lengths, Shape, Side, Workload, compared, drawn

from mmpo.types import Datum, Judgement

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHAPE = Shape(hidden=2, layers=1, heads=1, kv_heads=1, intermediate=3, vocabulary=5)
ROW = (2, [1, 2])
SHORT = Lengths(prompt=12, prompt_most=20, response=9, response_most=14)
FEW = {
    "mmpo": Side(prompts=2, responses=3, steps=2, repeats=2),
    "trl": Side(prompts=2, responses=3, steps=2, peer=True),
}


def few(**changes: Any) -> Workload:
    return Workload("few", FEW, lengths=SHORT, shape=TINY, **changes)


# ---------------------------------------------------------------------------------------------- work


def test_flops_of_a_row_by_hand() -> None:
    # weights a token 2 (2*2*2 + 2*2*2 + 3*2*3) = 68, five tokens; seen 3 + (2 + 1) + (4 + 3) = 13 of 4*2 each; and
    # 2*2*5 for each of three response tokens
    assert row_flops(SHAPE.config, ROW, 5) == 5 * 68 + 13 * 8 + 3 * 20
    assert row_flops(SHAPE.config, ROW, 0) == 5 * 68 + 13 * 8


@pytest.mark.parametrize(
    ("policy", "live", "expected"), [(True, True, 4 * 504), (True, False, 3 * 504), (False, False, 3 * 444)]
)
def test_flops_of_a_step_by_hand(policy: bool, live: bool, expected: int) -> None:
    assert step_flops(SHAPE.config, [ROW], policy=policy, live_reference=live) == expected
    assert step_flops(SHAPE.config, [ROW] * 3, policy=policy, live_reference=live) == 3 * expected


def test_flops_are_those_that_torch_counts() -> None:
    """Eager attention computes all n x n scores and not only those that are seen."""
    config = Qwen2Config(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=16,
        attn_implementation="eager",
    )
    n, d = 7, 4 * 8
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Qwen2Model(config)(input_ids=torch.arange(n)[None])
    unseen = 4 * d * 3 * (n * n - n * (n + 1) // 2)
    assert counter.get_total_flops() == row_flops(config, (n - 2, [2]), 0) + unseen


def test_a_product_is_timed() -> None:
    assert 1e6 < peak_flops(SHAPE.config, torch.float32, "cpu", seconds=1e-4) < 1e15


# ---------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("lengths", [Lengths(), LONG, CHAT])
def test_texts_have_the_lengths_claimed(lengths: Lengths) -> None:
    data = drawn(300, 2, lengths, 1000, seed=0)
    prompts = [len(str(d.prompt).split()) for d in data]
    responses = [len(str(r).split()) for d in data for r in d.responses]
    assert median(prompts) == pytest.approx(lengths.prompt, rel=0.08)
    assert median(responses) == pytest.approx(lengths.response, rel=0.08)
    assert max(prompts) + max(responses) + 1 < lengths.max_length
    assert len(set(prompts)) > 30


def test_fewer_responses_are_the_first_of_more() -> None:
    two, four = drawn(3, 2, SHORT, 1000, seed=0), drawn(3, 4, SHORT, 1000, seed=0)
    assert [d.responses for d in two] == [d.responses[:2] for d in four]
    assert [d.prompt for d in two] == [d.prompt for d in four]


def test_all_comparisons_become_pairs_the_better_one_first() -> None:
    datum = Datum("0", "p", ("a", "b", "c"), grades=(1.0, 3.0, 2.0))
    assert compared(datum) == [(1, 0), (2, 0), (1, 2)]
    pairs = [(pair["chosen"], pair["rejected"]) for pair in sides.as_pairs([datum])]
    assert pairs == [("b", "a"), ("c", "a"), ("b", "c")]


def test_votes_become_pairs_once_each() -> None:
    said = (Judgement(0, 1, p=0.2, count=5), Judgement(1, 0, p=0.4), Judgement(2, 1, p=0.9), Judgement(0, 2, p=0.5))
    assert compared(Datum("0", "p", ("a", "b", "c"), judgements=said)) == [(1, 0), (2, 1), (0, 2)]


@pytest.mark.parametrize("task", ["policy", "reward"])
def test_both_sides_are_given_the_same_tokens(task: str, tmp_path: Path) -> None:
    workload = few(task=task)
    watch = sides.Watch(1)
    warm, timed = workload.rows(FEW["mmpo"])
    mine = sides.ours(workload, FEW["mmpo"], [*warm, *timed], "fp32", str(tmp_path), watch)
    theirs = sides.peer(workload, FEW["trl"], sides.as_pairs([*warm, *timed]), "fp32", str(tmp_path), watch)
    assert len(theirs.train_dataset) == 6 * 3
    found = sides.sequences(mine, False)
    assert len(found) == 6 * 3
    assert found == sides.sequences(theirs, True)
    words = sum(len(f"{d.prompt}{r}".split()) + 1 for d in [*warm, *timed] for r in d.responses)
    assert sum(map(len, found)) == words


# ---------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize(("precision", "cached"), [("fp32", False), ("bf16", True)])
def test_a_side_is_measured(precision: str, cached: bool) -> None:
    workload = few(cached=cached)
    mine, theirs = (sides.measure(workload, side, precision) for side in FEW.values())
    assert [len(side["seconds"]) for side in (mine, theirs)] == [4, 2]
    assert [side["pairs"] for side in (mine, theirs)] == [24, 12]
    assert mine["sequences"] == theirs["sequences"]
    assert mine["memory"]["peak"] >= mine["memory"]["before"] > 0
    # Ours reads each token once; pairs are read padded, the chosen and the rejected response of six pairs a step.
    _, timed = workload.rows(FEW["mmpo"])
    tokens = [(len(str(d.prompt).split()), [len(str(r).split()) + 1 for r in d.responses]) for d in timed]
    assert mine["tokens"] == 2 * sum(prompt + sum(responses) for prompt, responses in tokens) == mine["positions"]
    longest = [max(prompt + max(responses) for prompt, responses in step) for step in (tokens[:2], tokens[2:])]
    assert theirs["positions"] == sum(12 * length for length in longest)


def test_another_precision_is_not_passed_off() -> None:
    watch = sides.Watch(0)
    watch.dtypes = {torch.float32}
    with pytest.raises(RuntimeError, match="bf16"):
        watch.measured("bf16")


def test_a_second_run_does_not_read_the_reference() -> None:
    found = sides.run_again(replace(few(cached=True), lengths=Lengths()), FEW["mmpo"], "fp32")
    assert found["passes"][0] > 0 and found["computed"][0] == 12
    assert found["passes"][1] == 0 and found["computed"][1] == 0


# ---------------------------------------------------------------------------------------------- figures and page


def side(seconds: list[float], pairs: int, memory: float, **further: Any) -> dict[str, Any]:
    held = {"before": 100.0, "peak": 100.0 + memory}
    said = {"seconds": seconds, "pairs": pairs, "prompts": pairs, "positions": 10 * pairs, "memory": held}
    return {**said, "sequences": [1, 2], "tokens": 1, "flops": 1, **further}


def test_figures_by_hand() -> None:
    turns = [
        {"mmpo": side([1.0, 1.0], 16, 50, flops=40, tokens=8), "trl": side([8.0], 8, 200)},
        {"mmpo": side([2.0, 2.0], 16, 50, flops=40, tokens=8), "trl": side([8.0], 8, 100)},
        {"mmpo": side([1.0, 1.0], 16, 50, flops=40, tokens=8), "trl": side([12.0], 8, 200)},
    ]
    found = summarise(few(), turns, peak=40.0)
    assert found["speed"] == {"median": 8.0, "low": 4.0, "high": 12.0}
    assert found["memory"] == {"median": 0.25, "low": 0.25, "high": 0.5}
    assert found["of peak"] == {"median": 0.5, "low": 0.25, "high": 0.5}
    assert found["sides"]["mmpo"]["step"] == {"median": 1.0, "low": 1.0, "high": 2.0}


def test_growth_by_hand() -> None:
    workload = WORKLOADS["h"]
    turn = {str(k): side([1.0 + 2.0 * k], k, 1, tokens=10 * k) for k in (2, 4, 8, 16)}
    found = summarise(workload, [turn], peak=1.0)
    assert found["off the line"]["median"] == pytest.approx(0, abs=1e-9)
    assert found["flat"]["median"] == pytest.approx((5 / 20) / (33 / 160))
    # The least squares line through (0, 0), (1, 3), (2, 0) is y = 1: the middle point lies twice as high again.
    assert off_the_line([0, 1, 2], [0, 3, 0]) == pytest.approx(2)


def canned(workload: str, side_name: str, precision: str, quick: bool) -> dict[str, Any]:
    if side_name == "peak":
        return {"flops": 100.0}
    if workload == "i":
        return {"passes": [3, 0], "computed": [32, 0], "seconds": [2.0, 0.5]}
    if workload in "gh":
        return side([float(side_name)], 8, 5, tokens=int(side_name))
    return side([1.0] if side_name == "mmpo" else [8.0], 8, 5 if side_name == "mmpo" else 10)


def test_results_are_kept_and_replaced_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "performance.json"
    monkeypatch.setattr(command, "measured", canned)
    run = CliRunner()
    assert run.invoke(command.app, ["--out", str(out)]).exit_code == 0
    first = json.loads(out.read_text())
    assert set(first) == {f"{name} {p}" for name, workload in WORKLOADS.items() for p in workload.precisions}
    page = out.with_suffix(".md").read_text()
    # Eight times as fast: enough for pairs in fp32, not in bf16, and not for four responses.
    assert re.search(r"Pairs, a live reference \| fp32 .* at least 7: met", page)
    assert re.search(r"Pairs, a live reference \| bf16 .* at least 10: \*\*missed\*\*", page)
    assert re.search(r"Four responses.* at least 25: \*\*missed\*\*", page)
    assert "made 0 (target at most 0: met)" in page
    for picture in re.findall(r"\]\(([^)]*\.svg)\)", page):
        assert (tmp_path / picture).is_file()
    monkeypatch.setattr(command, "measured", lambda *said: {**canned(*said), "seconds": [2.0]})
    assert (
        run.invoke(command.app, ["--only", "d", "--precision", "fp32", "--turns", "1", "--out", str(out)]).exit_code
        == 0
    )
    then = json.loads(out.read_text())
    assert {key for key in then if then[key] != first[key]} == {"d2 fp32", "d4 fp32"}
    assert len(then["d2 fp32"]["turns"]) == 1


def test_sides_with_different_rows_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(workload: str, name: str, precision: str, quick: bool) -> dict[str, Any]:
        return {**canned(workload, name, precision, quick), "sequences": [1, 2 if name == "mmpo" else 3]}

    monkeypatch.setattr(command, "measured", other)
    with pytest.raises(RuntimeError, match="different rows"):
        command.run({"b": WORKLOADS["b"]}, "fp32", 1, False, tmp_path / "performance.json", None)


def test_gpu_results_join_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measured", canned)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    run, out = CliRunner(), tmp_path / "performance.json"
    assert run.invoke(command.app, ["--only", "a1", "--out", str(out)]).exit_code == 0
    assert "## On a GPU" not in out.with_suffix(".md").read_text()
    assert run.invoke(command.app, ["gpu", "--out", str(tmp_path / "performance-gpu.json")]).exit_code == 0
    page = out.with_suffix(".md").read_text()
    assert page.count("some GPU") == 1 and page.index("## On a GPU") < page.index("Four responses")
    assert json.loads(out.read_text())["a1 fp32"]["machine"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("said", "answer"), [(["--only", "z"], "no workload z"), (["--precision", "fp8"], "precision is 'fp8'")]
)
def test_what_is_not_known_is_named(said: list[str], answer: str) -> None:
    done = CliRunner().invoke(command.app, said)
    assert done.exit_code == 2 and answer in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_without_a_gpu_the_gpu_benchmark_says_so() -> None:
    done = CliRunner().invoke(command.app, ["gpu"])
    assert done.exit_code == 2 and "no CUDA device" in done.output


@pytest.mark.skipif(not (DOCS / "performance.json").is_file(), reason="not measured yet")
def test_the_page_is_that_of_its_results(tmp_path: Path) -> None:
    """docs/performance.md was written from docs/performance.json, and by nobody's hand."""
    for path in DOCS.glob("performance*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_page(tmp_path / "performance.json")
    assert (tmp_path / "performance.md").read_text() == (DOCS / "performance.md").read_text()
