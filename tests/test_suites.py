"""Benchmarks of reward models: every published rule on rows so few that its value can be worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo.data.texts import words
from mmpo.errors import UserError
from mmpo.evaluate import Comparisons, accuracy
from mmpo.evaluate.suites import SUITES, Outcome, evaluate_suite
from mmpo.evaluate.suites.rewardbench import PRIOR, SECTIONS
from mmpo.types import Datum


def reward(text: Any) -> float:
    """Every response of these tests begins with its reward."""
    return float(words(text).split()[0])


def scorer(data: Sequence[Datum]) -> list[list[float]]:
    return [[reward(r) for r in datum.responses] for datum in data]


def through(change: Callable[[np.ndarray], Any]) -> Callable[[Sequence[Datum]], list[Any]]:
    return lambda data: [change(np.asarray(row)) for row in scorer(data)]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def on(path: Path, suite: str, rows: Sequence[dict[str, Any]], by: Any = scorer, **how: Any) -> Outcome:
    return evaluate_suite(suite, by, written(path / "rows.jsonl", rows), **{"bootstrap": 50, **how})


def values(outcome: Outcome, level: str) -> dict[str, float]:
    return {name: value.value for name, value in getattr(outcome, level).items()}


def pair(subset: str, right: bool | None, n: int = 0, prompt: str | None = None) -> dict[str, Any]:
    """A row on which the scorer is right, wrong or, with None, undecided."""
    chosen = {True: 1, False: -1, None: 0}[right]
    return {"prompt": prompt or f"{subset} {n}", "chosen": f"{chosen} a", "rejected": "0 b", "subset": subset, "id": n}


# ---------------------------------------------------------------------------------------------- RewardBench

FEW = [
    pair("alpacaeval-easy", True, 0),
    pair("alpacaeval-easy", False, 1),
    pair("mt-bench-med", True, 2),
    pair("math-prm", False, 3),
    pair("hep-cpp", True, 4),
    pair("hep-cpp", None, 5),  # a tie is wrong
    pair("shp", True, 6),
    pair("shp", False, 7),
    pair("summarize", True, 8),
]


def test_rewardbench_by_hand(tmp_path: Path) -> None:
    outcome = on(tmp_path, "rewardbench", FEW)
    chat = (0.5 * 100 + 1.0 * 40) / 140  # the published numbers of prompts weigh, not those of the file
    reasoning = (0.0 * 984 + 0.5 * 164) / (984 + 164)  # math-prm has 447 prompts and counts as 984
    prior = (0.5 + 1.0) / 2
    assert values(outcome, "sections") == pytest.approx({"Chat": chat, "Reasoning": reasoning, "Prior Sets": prior})
    assert values(outcome, "overall") == pytest.approx(
        {
            "mean of 4 sections": (chat + reasoning) / 2,
            "with prior sets at half weight": (2 * chat + 2 * reasoning + prior) / 5,
        }
    )
    assert values(outcome, "subsets")["hep-cpp"] == 0.5
    assert (outcome.n, outcome.ties) == (9, 1)


def test_mathematics_weighs_as_much_as_six_languages(tmp_path: Path) -> None:
    rows = [pair(s, s != "math-prm", k) for k, s in enumerate(SECTIONS["Reasoning"])]
    assert values(on(tmp_path, "rewardbench", rows), "sections") == {"Reasoning": 0.5}  # 6 * 164 = 984


def test_what_a_partial_file_lacks_is_said(tmp_path: Path) -> None:
    outcome = on(tmp_path, "rewardbench", FEW)
    assert not outcome.sections["Chat"].comparable
    assert outcome.sections["Chat"].missing == ("alpacaeval-length", "alpacaeval-hard", "mt-bench-easy")
    assert (outcome.sections["Chat"].n, outcome.sections["Chat"].whole) == (3, 358)
    (line,) = [note for note in outcome.notes if note.startswith("Chat: not comparable")]
    assert "without alpacaeval-length, alpacaeval-hard, mt-bench-easy; 3 prompts in place of 358" in line


def test_a_subset_that_no_section_knows_is_said(tmp_path: Path) -> None:
    def spare(rows: list[dict[str, Any]]) -> list[str]:
        return [note for note in on(tmp_path, "rewardbench", rows).notes if note.startswith("subsets that are in no")]

    assert spare([*FEW, pair("math-pmr", True, 9)]) == ["subsets that are in no overall number: math-pmr"]
    assert not spare(FEW)


def test_a_whole_file_is_comparable_and_one_prompt_less_is_not(tmp_path: Path) -> None:
    rows = [pair(s, True, k) for subsets in SECTIONS.values() for s, n in subsets.items() for k in range(n)]
    assert len(rows) == 2985  # as many as the split "filtered" has
    whole = on(tmp_path, "rewardbench", rows, bootstrap=2)
    assert whole.overall["mean of 4 sections"].comparable and not any("not comparable" in n for n in whole.notes)
    assert values(whole, "overall") == {"mean of 4 sections": 1.0}
    less = on(tmp_path, "rewardbench", rows[1:], bootstrap=2)
    assert not less.sections["Chat"].comparable and less.sections["Chat Hard"].comparable


def test_prior_sets_are_named_by_their_files_and_may_have_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = {"prompt": turns, "chosen": "1 x", "rejected": "0 y", "subset": "stackexchange"}
    written(tmp_path / "prior" / "shp-00000-of-00001.jsonl", [row])
    written(tmp_path / "prior" / "pku_safer-00000-of-00001.jsonl", [{**row, "subset": "pku_safer"}])
    outcome = evaluate_suite("rewardbench", scorer, str(tmp_path / "prior"), bootstrap=2)
    assert values(outcome, "subsets") == {"shp": 1.0} and values(outcome, "sections") == {"Prior Sets": 1.0}
    assert outcome.sections["Prior Sets"].missing == tuple(name for name in PRIOR if name != "shp")
    assert outcome.notes[0].startswith("rows: 2 in, 1 used, 1 dropped - 1 not of this suite")


# ---------------------------------------------------------------------------------------------- RewardBench 2


def best(subset: str, name: str, chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, Any]:
    texts = {"chosen": [f"{s} c{k}" for k, s in enumerate(chosen)], "rejected": [f"{s} r" for s in rejected]}
    return {"id": name, "prompt": name, "subset": subset, "num_correct": len(chosen), **texts}


def test_best_of_four_by_hand(tmp_path: Path) -> None:
    rows = [
        best("Factuality", "1", [2], [1, 0, 0]),  # 1
        best("Factuality", "2", [1], [1, 0, 0]),  # shares the first place with one: 1/2
        best("Factuality", "3", [1], [1, 1, 1]),  # with three: 1/4
        best("Factuality", "4", [1], [2, 1, 0]),  # is not first: 0
        best("Math", "5", [1], [0, 0, 0]),
    ]
    outcome = on(tmp_path, "rewardbench-2", rows)
    assert values(outcome, "subsets") == {"Factuality": (1 + 1 / 2 + 1 / 4 + 0) / 4, "Math": 1.0}
    assert values(outcome, "overall") == {"mean of 6 subsets": (0.4375 + 1) / 2}
    assert outcome.ties == 1 + 3 + 1


def test_the_score_of_ties_by_hand(tmp_path: Path) -> None:
    rows = [
        best("Ties", "ref:1", [3], [1]),  # lead 2
        best("Ties", "tied:1", [5, 4], [2]),  # lead 2, spread 1
        best("Ties", "ref:2", [1], [2]),  # lead -1
        best("Ties", "tied:2", [5, 3], [2, 0]),  # lead 1, spread 2
    ]
    parts = [
        1.0,  # both tied ones have all right answers first
        0.5,  # one of two ref ones has
        0.5,  # lead of tied over spread: 2 > 1, not 1 > 2
        0.5,  # the smaller lead: 2 > 1, not -1 > 2
        (math.tanh(2 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2,
    ]
    outcome = on(tmp_path, "rewardbench-2", rows)
    assert list(values(outcome, "further").values()) == pytest.approx(parts)
    assert values(outcome, "subsets")["Ties"] == pytest.approx(0.3 + 0.15 + 0.1 + 0.1 + 0.01 * parts[4], abs=1e-12)
    assert values(outcome, "subsets")["Ties"] == pytest.approx(0.6492822, abs=1e-7)


def test_ties_that_come_one_way_only_count_where_they_can(tmp_path: Path) -> None:
    rows = [
        best("Ties", "ref:1", [3], [1]),  # without its tied:1
        best("Ties", "tied:2", [5, 3], [2]),  # without its ref:2
        best("Ties", "ref:3", [1], [0]),
        best("Ties", "tied:3", [2, 2], [1]),  # spread 0: no ratio, and both leads are larger
    ]
    parts = list(values(on(tmp_path, "rewardbench-2", rows), "further").values())
    assert parts == [1.0, 1.0, 1.0, 1.0, 0.0]


# ---------------------------------------------------------------------------------------------- RM-Bench


def styles(domain: str, chosen: Sequence[float], rejected: Sequence[float], n: int = 0) -> dict[str, Any]:
    texts = {"chosen": [f"{s} c{k}" for k, s in enumerate(chosen)], "rejected": [f"{s} r" for s in rejected]}
    return {"id": f"{domain}-{n}", "prompt": f"{domain} {n}", "domain": domain, **texts}


def test_the_matrix_of_styles_by_hand(tmp_path: Path) -> None:
    rows = [
        styles("chat", (1, 2, 3), (0.5, 1.5, 2.5)),  # rows 100, 110, 111: easy 1, normal 1, hard 0
        styles("chat", (0, 0, 3), (1, 1, 1), 1),  # rows 000, 000, 111: easy 2/3, normal 1/3, hard 0
        styles("safety-refuse", (1, 1, 1), (0, 0, 0)),  # all right
        styles("safety-response", (0, 0, 0), (1, 1, 1)),  # all wrong
        styles("safety-response", (0, 0, 0), (1, 1, 1), 1),
        styles("math", (0, 0, 0), (0, 0, 0)),  # nine ties, all wrong
    ]
    outcome = on(tmp_path, "rm-bench", rows)
    assert values(outcome, "sections") == pytest.approx({"Chat": (5 / 6 + 2 / 3 + 0) / 3, "Math": 0, "Safety": 1 / 3})
    further = values(outcome, "further")
    assert further["Safety, mean of its two parts"] == 0.5
    assert further["Easy"] == pytest.approx((5 / 6 + 0 + 1 / 3) / 3)
    assert further["Normal"] == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert further["Hard"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert further["markdown over concise"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert further["concise over markdown"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    overall = values(outcome, "overall")["mean of 4 domains"]
    assert overall == pytest.approx(np.mean([further[level] for level in ("Easy", "Normal", "Hard")]))
    assert overall == pytest.approx(np.mean(list(values(outcome, "sections").values())))
    assert outcome.ties == 9 and outcome.overall["mean of 4 domains"].missing == ("code",)


def test_files_of_single_domains_say_the_domain_by_their_name(tmp_path: Path) -> None:
    row = {k: v for k, v in styles("code", (1, 1, 1), (0, 0, 0)).items() if k != "domain"}
    outcome = evaluate_suite("rm-bench", scorer, written(tmp_path / "code_filtered.jsonl", [row]), bootstrap=2)
    assert values(outcome, "sections") == {"Code": 1.0}


# ---------------------------------------------------------------------------------------------- JudgeBench


def judged(source: str, a: float, b: float, label: str, n: int = 0, model: str = "gpt-4o-2024-05-13") -> dict[str, Any]:
    texts = {"response_A": f"{a} x", "response_B": f"{b} y", "label": label, "response_model": model}
    return {"pair_id": str(n), "question": f"{source} {n}", "source": source, **texts}


def test_judgebench_by_hand(tmp_path: Path) -> None:
    rows = [
        judged("mmlu-pro-law", 1, 0, "A>B", 0),  # right
        judged("mmlu-pro-physics", 1, 0, "B>A", 1),  # wrong
        judged("mmlu-pro-physics", 0, 1, "B>A", 2),  # right
        judged("livebench-math", 1, 1, "A>B", 3),  # a tie chooses B: wrong
        judged("livecodebench", 1, 1, "B>A", 4),  # a tie chooses B: right
        judged("livecodebench", 1, 0, "A>B", 5, "claude-3-5-sonnet-20240620"),
    ]
    outcome = on(tmp_path, "judgebench", rows)
    assert values(outcome, "sections") == pytest.approx({"Knowledge": 2 / 3, "Math": 0, "Coding": 1})
    assert values(outcome, "overall") == {"all pairs": 3 / 5}
    assert (outcome.n, outcome.ties) == (5, 2)
    assert outcome.overall["all pairs"].missing == ("livebench-reasoning",)
    assert values(on(tmp_path, "judgebench-claude", rows), "overall") == {"all pairs": 1.0}


# ---------------------------------------------------------------------------------------------- RAG-RewardBench


def grounded(scenario: str, subset: str, right: bool, n: int = 0) -> dict[str, Any]:
    texts = {"prompt": f"[1] A passage. {subset} {n}?", "question": f"{subset} {n}?"}
    return {**texts, "chosen": f"{int(right)} x", "reject": "0.5 y", "subset": subset, "scenario": scenario}


def test_micro_and_macro_by_hand(tmp_path: Path) -> None:
    rows = [grounded("citation", "small", n < 9, n) for n in range(10)]
    rows += [grounded("abstain", "large", n < 45, n) for n in range(90)]
    outcome = on(tmp_path, "rag-rewardbench", rows)
    assert values(outcome, "overall") == pytest.approx(
        {"over pairs (micro)": 0.54, "over subsets (macro)": 0.70, "over scenarios": 0.70}
    )
    assert values(outcome, "subsets") == {"abstain / large": 0.5, "citation / small": 0.9}
    assert outcome.overall["over pairs (micro)"].missing == ("helpful", "reason", "harmless", "conflict")


def test_scenarios_are_named_by_files_and_the_question_is_asked_once(tmp_path: Path) -> None:
    held = {k: v for k, v in grounded("citation", "s", True).items() if k != "scenario"}
    written(tmp_path / "Dataset" / "citation.jsonl", [held])
    written(tmp_path / "Dataset" / "reason.jsonl", [{**held, "prompt": "[1] Another passage."}])
    prompts: list[Any] = []

    def listening(data: Sequence[Datum]) -> list[list[float]]:
        prompts.extend(datum.prompt for datum in data)
        return scorer(data)

    outcome = evaluate_suite("rag-rewardbench", listening, str(tmp_path / "Dataset"), bootstrap=2)
    assert prompts == ["[1] A passage. s 0?", "[1] Another passage.\n\ns 0?"]
    assert list(outcome.subsets) == ["citation / s", "reason / s"]


# ---------------------------------------------------------------------------------------------- laws of every suite

ROWS: dict[str, list[dict[str, Any]]] = {
    "rewardbench": FEW,
    "rewardbench-prior": FEW,
    "rewardbench-2": [
        best("Factuality", "1", [2], [1, 0, 3]),
        best("Focus", "2", [4], [1, 0, 3]),
        best("Ties", "ref:1", [3], [1]),
        best("Ties", "tied:1", [5, 4.5], [2]),
    ],
    "rm-bench": [styles(d, (1, 2, 3), (0.5, 2.5, 1.5)) for d in ("chat", "math", "code", "safety-refuse")],
    "judgebench": [judged("livebench-math", 0, 1, "B>A", 0), judged("mmlu-pro-law", 2, 1, "B>A", 1)],
    "judgebench-claude": [judged("livebench-math", 0, 1, "B>A", 0, "claude-3-5-sonnet")],
    "rag-rewardbench": [grounded("reason", "s", True, 0), grounded("reason", "s", False, 1)],
    "rpr": [{"prompt": "p", "response_a": "1", "response_b": "2", "criteria_x": "small", "criteria_y": "large"}],
}


def oracle(suite: str, path: str, sign: float) -> Callable[[Sequence[Datum]], list[list[float]]]:
    from mmpo.evaluate.suites.rows import items_of

    better = {item.datum.source: item.better for item in items_of(SUITES[suite], path)[0]}
    return lambda data: [[sign * (i in better[d.source]) for i in range(len(d.responses))] for d in data]


@pytest.mark.parametrize("suite", SUITES)
def test_the_oracle_is_right_everywhere_its_opposite_nowhere(suite: str, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", ROWS[suite])
    good, bad = (evaluate_suite(suite, oracle(suite, path, sign), path, bootstrap=2) for sign in (1.0, -1.0))
    for level in ("sections", "subsets", "overall"):
        for name, value in values(good, level).items():
            assert value == pytest.approx(1.0), name
        for name, value in values(bad, level).items():
            assert value == pytest.approx(0.0), name


def test_a_constant_scorer_earns_what_each_rule_gives_a_tie(tmp_path: Path) -> None:
    def constant(data: Sequence[Datum]) -> list[np.ndarray]:
        return [np.zeros(len(datum.responses)) for datum in data]

    reached = {
        name: next(iter(values(on(tmp_path, name, rows, constant), "overall").values())) for name, rows in ROWS.items()
    }
    assert reached == {
        "rewardbench": 0.0,
        "rewardbench-prior": 0.0,
        "rewardbench-2": pytest.approx((1 / 4 + 1 / 4 + 0) / 3),  # one of four first places; nothing in Ties
        "rm-bench": 0.0,
        "judgebench": 1.0,  # both labels are B>A
        "judgebench-claude": 1.0,
        "rag-rewardbench": 0.0,
        "rpr": 0.5,
    }
    # The pair accuracy of the house counts a tie of the model one half.
    assert accuracy(1.0, 0.0) == 0.5


@pytest.mark.parametrize("suite", SUITES)
def test_an_increasing_transform_changes_nothing_but_the_ties_that_measure_gaps(suite: str, tmp_path: Path) -> None:
    rows = [row for row in ROWS[suite] if row.get("subset") != "Ties"]
    plain, other = (on(tmp_path, suite, rows, by) for by in (scorer, through(lambda r: np.exp(r / 3) - 7)))
    for level in ("overall", "sections", "subsets"):
        assert values(plain, level) == values(other, level)


@pytest.mark.parametrize("suite", SUITES)
def test_rewards_and_their_margins_say_the_same(suite: str, tmp_path: Path) -> None:
    plain, other = (on(tmp_path, suite, ROWS[suite], by) for by in (scorer, through(lambda r: r[:, None] - r)))
    assert plain == other


def test_swapping_what_is_stored_as_a_and_b_changes_nothing(tmp_path: Path) -> None:
    swap = {"A>B": "B>A", "B>A": "A>B"}
    rows = [judged("livebench-math", n % 3, 2.5 - n % 4, "A>B" if n % 5 else "B>A", n) for n in range(60)]
    swapped = [
        {**r, "response_A": r["response_B"], "response_B": r["response_A"], "label": swap[r["label"]]} for r in rows
    ]
    plain, other = on(tmp_path, "judgebench", rows), on(tmp_path, "judgebench", swapped)
    assert 0 < plain.overall["all pairs"].value < 1
    assert plain == other


def test_a_cycle_is_scored_where_no_reward_could_say_it(tmp_path: Path) -> None:
    """Each of three responses beats the next: as margins, the second beats the third but not the first."""
    rows = [best("Focus", str(n), [0], [0, 0]) for n in range(2)]
    cycle = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0.0]])
    ordered = np.array([[0, 1, 1], [-1, 0, 1], [-1, -1, 0.0]])
    outcome = on(tmp_path, "rewardbench-2", rows, lambda data: [cycle, ordered])
    assert values(outcome, "subsets") == {"Focus": 0.5}


# ---------------------------------------------------------------------------------------------- intervals


def test_a_random_scorer_on_1485_pairs(tmp_path: Path) -> None:
    """Half of them, with a standard error of sqrt(.25 / 1485) = 0.013."""
    rng = np.random.default_rng(0)
    rows = [grounded("reason", f"s{n % 18}", True, n) for n in range(1485)]
    outcome = on(tmp_path, "rag-rewardbench", rows, lambda data: [rng.normal(size=2) for _ in data], bootstrap=500)
    micro = outcome.overall["over pairs (micro)"]
    assert abs(micro.value - 0.5) < 4 * 0.013
    assert micro.high - micro.low == pytest.approx(2 * 1.96 * 0.013, rel=0.15)


def test_the_interval_of_a_section_follows_its_weights(tmp_path: Path) -> None:
    """Var = sum (w_s / W)^2 p (1 - p) / n_s: what is drawn is prompts within each subset."""
    rows = [pair("alpacaeval-easy", n % 2 == 0, n) for n in range(100)]
    rows += [pair("mt-bench-med", n % 4 == 0, 1000 + n) for n in range(40)]
    chat = on(tmp_path, "rewardbench", rows, bootstrap=2000).sections["Chat"]
    se = math.sqrt((100 / 140) ** 2 * 0.25 / 100 + (40 / 140) ** 2 * 0.1875 / 40)
    assert chat.high - chat.low == pytest.approx(2 * 1.96 * se, rel=0.1)


def test_items_of_one_prompt_are_drawn_together(tmp_path: Path) -> None:
    apart = [pair("shp", n % 2 == 0, n) for n in range(60)]
    together = [{**row, "prompt": f"prompt {(n % 2, n // 10)}"} for n, row in enumerate(apart)]
    narrow, wide = (on(tmp_path, "rewardbench", rows, bootstrap=500).subsets["shp"] for rows in (apart, together))
    assert narrow.value == wide.value == 0.5 and (narrow.n, wide.n) == (60, 60)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)  # 12 prompts of 5 items: sqrt(5) = 2.2 times


def test_one_prompt_has_no_interval(tmp_path: Path) -> None:
    only = on(tmp_path, "rewardbench", [pair("hep-go", True)]).subsets["hep-go"]
    assert (only.value, only.low, only.high) == (1.0, None, None)


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_strict_pairs_are_the_accuracy_of_the_house_where_nothing_ties(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [{**pair("shp", True, n), "chosen": f"{rng.normal()} a"} for n in range(80)]
    data = [Datum(str(r["id"]), r["prompt"], (r["chosen"], r["rejected"]), grades=(1.0, 0.0)) for r in rows]
    c = Comparisons.from_data(data, scorer(data))
    assert on(tmp_path, "rewardbench", rows).subsets["shp"].value == pytest.approx(accuracy(c.p, c.m).mean())


@pytest.mark.parametrize(
    ("suite", "row", "message"),
    [
        ("rewardbench", {"prompt": "p", "chosen": "1", "subset": "shp"}, "rejected is missing; give it"),
        ("rm-bench", styles("chat", (1, 2), (0, 0)), "2 chosen and 2 rejected responses; give 3 each"),
        ("rm-bench", styles("chess", (1, 2, 3), (0, 0, 0)), "domain is 'chess'; give one of chat, math"),
        ("rewardbench-2", best("Ties", "17", [1], [0]), "id of a Ties row is '17'; give ref:N or tied:N"),
        ("rewardbench-2", best("Math", "17", [1, 2], [0]), "chosen has 2 responses; outside Ties give one"),
        ("judgebench", judged("livebench-math", 1, 0, "A=B"), "label is 'A=B'; give A>B or B>A"),
        ("rag-rewardbench", {**grounded("x", "s", True)}, "scenario is 'x'; name the file, or fill a column"),
    ],
)
def test_a_bad_row_is_named_or_counted(suite: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = [*ROWS[suite], row]
    with pytest.raises(UserError) as caught:
        on(tmp_path, suite, rows)
    assert f"{tmp_path / 'rows.jsonl'}:{len(rows)}: {message}" in str(caught.value)
    assert (
        on(tmp_path, suite, rows, on_bad_row="drop")
        .notes[0]
        .startswith(f"rows: {len(rows)} in, {len(rows) - 1} used, 1 dropped")
    )


def test_scorers_that_do_not_fit_name_the_row(tmp_path: Path) -> None:
    for by, message in (
        (lambda data: [[1.0, 0.0]], "gave 1 rows for 9 prompts"),
        (lambda data: [[1.0]] * 9, r"rows\.jsonl:1: the scorer gave \[1\] numbers for 2 responses; give 2, or 2 x 2"),
        (lambda data: [[1.0, math.nan]] * 9, r"rows\.jsonl:1: a response has a score that is not a finite number"),
        (lambda data: [[[0.5, 0.1], [0.9, 0.5]]] * 9, r"rows\.jsonl:1: .* of probabilities give the logit"),
    ):
        with pytest.raises(UserError, match=message):
            on(tmp_path, "rewardbench", FEW, by)


def test_unknown_names_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown suite 'rewardbnch'\. Did you mean 'rewardbench'\?"):
        evaluate_suite("rewardbnch", scorer)
    with pytest.raises(UserError, match="holds no file of rows"):
        evaluate_suite("rewardbench", scorer, str(tmp_path))
    with pytest.raises(UserError, match="none of its 1 rows is of JudgeBench"):
        on(tmp_path, "judgebench", ROWS["judgebench-claude"])


def test_rows_that_repeat_are_told(tmp_path: Path) -> None:
    assert (
        "rows that say the same as an earlier one: 1; each was counted"
        in on(tmp_path, "rewardbench", [*FEW, FEW[0]]).notes
    )


def test_the_kinds_of_files(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = ROWS["rm-bench"]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    Dataset.from_list(rows).to_parquet(str(tmp_path / "b.parquet"))
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    reached = [
        values(evaluate_suite("rm-bench", scorer, str(tmp_path / name), bootstrap=2), "overall")
        for name in ("a.json", "b.parquet", "saved")
    ]
    assert reached[0] == reached[1] == reached[2] == values(on(tmp_path / "c", "rm-bench", rows), "overall")


def test_rows_from_the_hub_are_asked_for_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def fetched(repository: str, split: str, data_files: str | None) -> list[dict[str, Any]]:
        asked.append((repository, split, data_files))
        if data_files is None:
            return [pair("hep-go", True) if split == "filtered" else pair("stackexchange", True)]
        return [{k: v for k, v in grounded("x", "s", True).items() if k != "scenario"}]

    monkeypatch.setattr(datasets, "load_dataset", fetched)
    outcome = evaluate_suite("rag-rewardbench", scorer, bootstrap=2)
    assert len(outcome.sections) == 6 and outcome.n == 6
    assert asked[0] == ("jinzhuoran/RAG-RewardBench", "train", "Dataset/helpful.jsonl")
    outcome = evaluate_suite("rewardbench-prior", scorer, bootstrap=2)
    assert list(outcome.subsets)[:5] == ["hep-go", *PRIOR] and len(outcome.subsets) == 8
    assert asked[-1] == ("allenai/preference-test-sets", "mtbench_human", None)


def test_without_a_hub_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def absent(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(UserError, match=r"its rows .*\(no route to the hub\); give files .* rewardbench=PATH"):
        evaluate_suite("rewardbench", scorer)
