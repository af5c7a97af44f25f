"""The demo: what an answer is worth, who rates it, that the seed decides it all, and the whole road in small."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaForCausalLM

from mmpo.data import load
from mmpo.demo.measure import Interval
from mmpo.demo.page import contrasts
from mmpo.demo.reference import make_config, make_tokenizer, sample
from mmpo.demo.run import Effort, run
from mmpo.demo.task import CLOSING, ITEMS, WEIGHTS, WORDS, Task, attributes, read, utility
from mmpo.demo.world import (
    Rater,
    Sizes,
    make_raters,
    make_tasks,
    make_world,
    make_writers,
    vote_probability,
    write_demonstrations,
    write_ratings,
)
from mmpo.errors import UserError
from mmpo.models.policy import response_logps
from tiny import sequences

SMALL = Sizes(taught=40, trained=30, voted=5, held_out=10)
PROMPT = "which of these are animals : sheep saw cat plum bear ? in alphabetical order ."
PERFECT = "here are three animals : bear , cat , sheep . hope this helps ."


@cache
def tasks(number: int = 200) -> list[Task]:
    return make_tasks(number, np.random.default_rng(0))


def answer(task: Task, items: list[str]) -> str:
    return f"{task.heading} {' , '.join(items)} . {CLOSING}"


def perfect(task: Task) -> list[str]:
    return task.sorted(sorted(task.allowed)[: task.count])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(out, seed=3, sizes=SMALL)
    return out


def write_world(out: Path, seed: int, sizes: Sizes) -> None:
    world = make_world(seed, sizes)
    write_demonstrations(world, out)
    write_ratings(world, out, {})


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------- utility


def test_an_instruction_reads_back_as_its_task() -> None:
    for task in tasks():
        assert read(task.prompt) == task
    assert {task.kind for task in tasks()} == {"name", "sort", "pick"}


def test_a_text_that_is_no_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="not an instruction"):
        read("what is the weather like ?")


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        (PERFECT, 10.0),
        ("here are three animals : bear , cat , sheep .", 9.0),  # not polite
        ("here are three animals : bear , um cat , sheep . hope this helps .", 9.75),  # one stray word
        ("here are four animals : bear , cat , sheep . hope this helps .", 9.75),  # the wrong count
        ("bear , cat , sheep . hope this helps .", 9.5),  # no heading
        ("here are three animals : bear cat sheep . hope this helps .", 9.5),  # no commas
        ("here are three animals : cat , bear , sheep . hope this helps .", 9.0),  # one neighbour out of order
        ("here are three animals : bear , cat . hope this helps .", 10 - 2 / 3 - 1),  # one missing
        ("here are three animals : bear , cat , plum . hope this helps .", 10 - 2 / 3 - 1 - 1),  # one wrong
        ("here are three animals : saw , plum . hope this helps .", 0.0),  # none right
        ("bear", 3 + 2 / 3 + 1),  # correct, a third of it, brief, and nothing else
        ("", 0.0),
        ("\u2603 \n lorem ipsum", 0.0),
    ],
)
def test_worth_by_hand(response: str, worth: float) -> None:
    assert utility(PROMPT, response) == pytest.approx(worth)


def test_a_perfect_answer_has_every_attribute_in_full() -> None:
    for task in tasks():
        assert attributes(task.prompt, answer(task, perfect(task))) == dict.fromkeys(WEIGHTS, 1.0)


@given(st.integers(0, 199), st.lists(st.sampled_from(WORDS), max_size=30))
def test_any_words_are_worth_something_from_nothing_to_the_best(n: int, words: list[str]) -> None:
    found = attributes(tasks()[n].prompt, " ".join(words))
    assert list(found) == list(WEIGHTS)
    assert all(0 <= value <= 1 for value in found.values())


@given(st.integers(0, 199), st.data())
def test_leaving_out_a_right_item_always_costs(n: int, data: st.DataObject) -> None:
    task = tasks()[n]
    items = data.draw(st.permutations(perfect(task)))
    left_out = data.draw(st.sampled_from(items))
    fewer = [item for item in items if item != left_out]
    assert utility(task.prompt, answer(task, fewer)) < utility(task.prompt, answer(task, items))


@given(st.integers(0, 199), st.data())
def test_a_wrong_item_always_costs(n: int, data: st.DataObject) -> None:
    task = tasks()[n]
    items = data.draw(st.permutations(perfect(task)))
    wrong = data.draw(st.sampled_from(sorted(ITEMS - task.allowed)))
    place = data.draw(st.integers(0, len(items)))
    longer = [*items[:place], wrong, *items[place:]]
    assert utility(task.prompt, answer(task, longer)) < utility(task.prompt, answer(task, items))


@given(st.integers(0, 199), st.data())
def test_repeating_oneself_always_costs(n: int, data: st.DataObject) -> None:
    task = tasks()[n]
    items = data.draw(st.permutations(perfect(task)))
    longer = [*items, data.draw(st.sampled_from(items))]
    assert utility(task.prompt, answer(task, longer)) < utility(task.prompt, answer(task, items))


# ----------------------------------------------------------------------------------------------------- people


def test_careful_writers_are_better_and_all_of_them_vary() -> None:
    rng = np.random.default_rng(1)
    worth = np.array([[utility(t.prompt, w(t, rng)) for t in tasks()] for w in make_writers(6, rng)])
    assert worth[0].mean() > 9 > worth[-1].mean() + 1
    assert (np.diff(worth.mean(1)) < 0.3).all(), "carelessness costs, up to each writer's own weaknesses"
    assert (worth.std(1) > 0.3).all()


def test_a_rater_votes_as_bradley_terry_says() -> None:
    rater, rng = Rater("r", noise=1.5, lenience=0.7), np.random.default_rng(0)
    wins = np.mean([rater.vote([6.0, 5.0], rng) == 0 for _ in range(20_000)])
    assert wins == pytest.approx(1 / (1 + np.exp(-1 / 1.5)), abs=0.01)


def test_true_probabilities_are_the_mean_over_raters() -> None:
    raters = [Rater("sharp", 0.5, 0.0), Rater("vague", 2.0, 3.0)]
    by_hand = (1 / (1 + np.exp(-1 / 0.5)) + 1 / (1 + np.exp(-1 / 2.0))) / 2
    assert vote_probability(raters, 4.0, 3.0) == pytest.approx(by_hand)
    assert vote_probability(raters, 3.0, 4.0) == pytest.approx(1 - by_hand)
    assert vote_probability(raters, 3.0, 3.0) == 0.5


def test_stars_are_whole_and_follow_utility_and_lenience() -> None:
    rng = np.random.default_rng(0)

    def stars(worth: float, lenience: float) -> np.ndarray:
        return np.array(Rater("r", 0.5, lenience).rate([worth] * 20_000, rng))

    assert set(stars(6.0, 0.0)) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert stars(6.0, 0.0).mean() == pytest.approx(3.0, abs=0.1)
    assert stars(8.0, 0.0).mean() == pytest.approx(4.0, abs=0.1)
    assert stars(6.0, 1.0).mean() == pytest.approx(3.5, abs=0.1)
    assert stars(-5.0, 0.0).tolist() == [1.0] * 20_000


def test_raters_differ_in_sharpness_and_their_lenience_cancels() -> None:
    raters = make_raters(8, np.random.default_rng(0))
    assert [r.noise for r in raters] == sorted(r.noise for r in raters)
    assert raters[-1].noise > 3 * raters[0].noise
    assert sum(r.lenience for r in raters) == pytest.approx(0)


# ----------------------------------------------------------------------------------------------------- files


def test_the_seed_decides_every_byte(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "same", seed=3, sizes=SMALL)
    write_world(tmp_path / "other", seed=4, sizes=SMALL)
    for path in sorted(world.iterdir()):
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / path.name).read_bytes() != path.read_bytes()


def test_every_file_loads_with_all_its_rows_and_nothing_lost(world: Path) -> None:
    counts = {"train": 30, "eval": 10, "votes": 30, "train_truth": 180, "eval_votes": 60, "eval_truth": 60}
    for name, count in counts.items():
        loaded = load(str(world / f"{name}.jsonl"))
        assert len(loaded.data) == loaded.ledger.rows_in == count
        assert not loaded.ledger.dropped
        assert all(datum.grades is not None for datum in loaded.data)
    assert len(rows(world / "sft.jsonl")) == 40


def test_scores_are_the_mean_of_the_ratings_and_utilities_the_truth(world: Path) -> None:
    for row in rows(world / "train.jsonl") + rows(world / "eval.jsonl"):
        assert len(set(row["responses"])) == 4
        assert len(row["annotators"]) == len(row["annotator_scores"]) == 3
        assert row["scores"] == pytest.approx(np.mean(row["annotator_scores"], axis=0))
        assert row["utilities"] == [utility(row["prompt"], response) for response in row["responses"]]


def test_half_of_the_answers_may_come_from_a_model_and_their_place_says_nothing(tmp_path: Path) -> None:
    world = make_world(0, SMALL)
    own = ["bear", "cat", "fox"]
    write_ratings(world, tmp_path, dict.fromkeys(world.rated_prompts, own))
    places = [row["responses"].index(text) for row in rows(tmp_path / "train.jsonl") for text in own[:2]]
    assert set(places) == {0, 1, 2, 3}
    write_ratings(world, tmp_path, {prompt: ["", "cat"] for prompt in world.rated_prompts})
    for row in rows(tmp_path / "train.jsonl"):
        assert "" not in row["responses"]
        assert "cat" in row["responses"]
        assert len(set(row["responses"])) == 4


def test_no_prompt_is_shared_between_training_and_evaluation(world: Path) -> None:
    prompts = {name: {row["prompt"] for row in rows(world / f"{name}.jsonl")} for name in ("train", "eval", "sft")}
    assert not prompts["train"] & prompts["eval"]
    assert not prompts["sft"] & (prompts["train"] | prompts["eval"])


def test_votes_and_truth_state_the_same_pairs_and_agree_on_average(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, seed=0, sizes=replace(SMALL, taught=1, held_out=200))
    voted, true = rows(tmp_path / "eval_votes.jsonl"), rows(tmp_path / "eval_truth.jsonl")
    assert [row["responses"] for row in voted] == [row["responses"] for row in true]
    assert all(row["p_first"] == row["votes"].count(0) / 5 for row in voted)
    shares, p = (np.array([row["p_first"] for row in part]) for part in (voted, true))
    standard_error = np.sqrt((p * (1 - p)).sum() / 5) / len(p)
    assert abs((shares - p).mean()) < 4 * standard_error
    middle = (p > 0.25) & (p < 0.75)
    clear = (p < 0.05) | (p > 0.95)
    assert middle.mean() > 0.15, "near-ties are common"
    assert clear.mean() > 0.15, "and so are clear wins"


def test_grades_point_the_right_way_and_are_noisy(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, seed=0, sizes=replace(SMALL, taught=1, trained=200))
    graded = rows(tmp_path / "train.jsonl")
    i, j = np.triu_indices(4, 1)
    scores, truth = (np.array([row[key] for row in graded]) for key in ("scores", "utilities"))
    stated, real = (scores[:, i] - scores[:, j]).ravel(), (truth[:, i] - truth[:, j]).ravel()
    told = (stated != 0) & (real != 0)
    right = (np.sign(stated) == np.sign(real))[told].mean()
    assert 0.8 < right < 0.97
    assert (stated == 0).mean() > 0.04, "a coarse scale makes ties"


# ----------------------------------------------------------------------------------------------------- the small model


def test_the_tokenizer_gives_every_text_of_the_world_back(world: Path) -> None:
    tokenizer = make_tokenizer()
    for row in rows(world / "train.jsonl"):
        for text in (row["prompt"], *row["responses"]):
            ids = tokenizer(text).input_ids
            assert len(ids) == len(text.split())
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_prompt_and_answer_joined_without_a_space_keep_their_words(world: Path) -> None:
    tokenizer = make_tokenizer()
    for row in rows(world / "eval.jsonl"):
        for response in row["responses"]:
            joined = tokenizer(row["prompt"] + response).input_ids
            assert joined == tokenizer(row["prompt"]).input_ids + tokenizer(response).input_ids


def test_samples_are_the_tokens_that_were_drawn() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(make_config(tokenizer))
    prompts = [task.prompt for task in tasks(20)]
    drawn = sample(model, tokenizer, prompts, seed=1)
    assert drawn.texts == sample(model, tokenizer, prompts, seed=1).texts
    assert drawn.texts != sample(model, tokenizer, prompts, seed=2).texts
    for n, (asked, answer) in enumerate(sequences(drawn.tokens)):
        assert tokenizer.decode(asked) == prompts[n]
        assert tokenizer.decode(answer, skip_special_tokens=True) == drawn.texts[n]
        assert tokenizer.eos_token_id not in answer[:-1]
    assert drawn.tokens.slot.tolist() == list(range(len(prompts)))
    with torch.no_grad():
        together = response_logps(model, drawn.tokens)
        alone = torch.stack([_logp(model, *texts) for texts in sequences(drawn.tokens)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def _logp(model: LlamaForCausalLM, asked: list[int], answer: list[int]) -> torch.Tensor:
    """log pi(answer | prompt) of one sample, token by token from the definition."""
    ids = [*asked, *answer]
    steps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(steps[t - 1, ids[t]] for t in range(len(asked), len(ids)))


# ----------------------------------------------------------------------------------------------------- the whole road


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo")
    sizes = Sizes(taught=200, trained=24, voted=12, held_out=12)
    return out, run(out, seed=5, sizes=sizes, effort=Effort(reference_steps=60, epochs=2, watched=(1, 2)))


def test_the_demo_leaves_what_it_speaks_of(demo: tuple[Path, dict]) -> None:
    out, report = demo
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert "<h1>" in (out / "report.html").read_text()
    assert (out / "data" / "report.html").is_file()
    assert AutoModelForCausalLM.from_pretrained(out / "policy").config.vocab_size == len(make_tokenizer())
    assert AutoModelForSequenceClassification.from_pretrained(out / "reward").config.num_labels == 1


def test_every_model_is_measured_on_all_held_out_pairs(demo: tuple[Path, dict]) -> None:
    _, report = demo
    assert [bool(model["points"]) for model in report["models"]] == [True] * 4 + [False] * 2
    for model in report["models"]:
        assert model["truth"]["n_comparisons"] == model["votes"]["n_comparisons"] == 12 * 6
        for metric in ("accuracy", "ece", "nll", "brier"):
            assert model["truth"][metric]["low"] <= model["truth"][metric]["value"] <= model["truth"][metric]["high"]
        assert [point["epoch"] for point in model["points"]] == [1, 2][: len(model["points"])]


def test_a_reference_that_has_not_moved_has_no_distance(demo: tuple[Path, dict]) -> None:
    _, report = demo
    assert report["reference"]["kl"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert all(model["points"][-1]["kl"]["value"] > 0 for model in report["models"] if model["points"])


def test_a_contrast_counts_only_where_the_intervals_part() -> None:
    def model(name: str, accuracy: tuple[float, float, float]) -> dict:
        low, value, high = accuracy
        measure = {"value": value, "low": low, "high": high}
        return {"name": name, "points": [], "truth": {"accuracy": measure, "ece": measure, "nll": measure}}

    close = contrasts([model("hard", (0.6, 0.7, 0.8)), model("soft", (0.7, 0.75, 0.85))])
    assert {row["outcome"] for row in close} == {"no clear difference"}
    apart = contrasts([model("hard", (0.1, 0.2, 0.3)), model("soft", (0.4, 0.5, 0.6))])
    assert {row["measure"]: row["outcome"] for row in apart} == {
        "accuracy": "MMPO better",
        "ECE": "hard labels better",
        "NLL": "hard labels better",
    }


def test_an_interval_is_the_normal_one() -> None:
    assert Interval.of([1.0, 2.0, 3.0]).value == 2.0
    assert Interval.of([1.0, 2.0, 3.0]).high == pytest.approx(2 + 1.96 / 3**0.5)


def test_the_demo_never_clears_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "precious").write_text("mine")
    with pytest.raises(UserError, match="no former demo"):
        run(tmp_path)
    assert (tmp_path / "policy" / "precious").read_text() == "mine"
