"""What moved between checkpoints: stances and their judges, how far and when, and the style of answers."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpo.errors import UserError
from mmpo.evaluate.changes import style
from mmpo.evaluate.changes.drift import (
    Trajectory,
    drift_magnitude,
    drift_time,
    stance_distribution,
    stance_probabilities,
    total_variation,
    value_gap,
)
from mmpo.evaluate.changes.stances import Each, Keywords, Said, read_keywords, stances_of

# ---------------------------------------------------------------------------------------------- by hand


def test_the_magnitude_by_hand() -> None:
    before, after = [0.2, 0.6, 0.2], [0.5, 0.3, 0.2]
    assert drift_magnitude(before, after) == pytest.approx([0.3, -0.3, 0])
    assert total_variation(before, after) == pytest.approx(0.3)
    assert drift_magnitude(before, after).sum() == pytest.approx(0)


@pytest.mark.parametrize(("half", "eta"), [(0.06, 0.5), (0.05, 0.5), (0.04, 0.75), (0.0, 0.75), (0.6, 0.0)])
def test_the_time_by_hand(half: float, eta: float) -> None:
    assert drift_time([0.1, 0.3, 0.55, 0.6, 0.6], [0, 100, 200, 300, 400], half) == pytest.approx(eta)


def test_time_counts_steps_and_not_checkpoints() -> None:
    assert drift_time([0.0, 0.0, 1.0, 1.0], [100, 110, 130, 300]) == pytest.approx(30 / 200)
    assert drift_time([0.4, 0.4, 0.4], [0, 1, 2]) == 0


@pytest.mark.parametrize(("values", "steps"), [([1.0], [0]), ([1.0, 2.0], [0, 0]), ([1.0, 2.0], [0, 1, 2])])
def test_steps_that_do_not_ascend_are_refused(values: list[float], steps: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        drift_time(values, steps)


def test_probabilities_of_a_judge_by_hand() -> None:
    assert stance_probabilities([0, 0, -math.inf]) == pytest.approx([0.5, 0.5, 0])
    logps = np.log([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    assert stance_probabilities(logps - 700) == pytest.approx(np.exp(logps))
    for nothing in ([-math.inf] * 3, [math.nan, 0, 0], [math.inf, 0, 0]):
        with pytest.raises(ValueError, match="must choose"):
            stance_probabilities(nothing)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=8), st.data())
def test_a_distribution_is_one_whatever_is_judged(logps: list[list[float]], data: Any) -> None:
    prompt = data.draw(st.lists(st.integers(0, 2), min_size=len(logps), max_size=len(logps)))
    v = stance_distribution(stance_probabilities(logps), prompt)
    assert v.sum() == pytest.approx(1) and (v >= 0).all()


def test_every_prompt_counts_alike_however_often_it_was_answered() -> None:
    p = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert stance_distribution(p, [0, 0, 0, 1]) == pytest.approx([0.5, 0.5])


def test_the_value_gap_by_hand() -> None:
    support, oppose = np.tile([1.0, 0.0], (6, 1)), np.tile([0.0, 1.0], (6, 1))
    prompt = [0, 0, 1, 2, 3, 4]
    none, whole = value_gap(support, support, prompt), value_gap(support, oppose, prompt)
    assert (none.tv["value"], none.tv["low"], none.tv["high"]) == (0, 0, 0)
    assert (whole.tv["value"], whole.prompts, whole.comparisons) == (1, 5, 6)
    # 0.7 against 0.4, and the same the other way round
    half = value_gap(np.tile([0.7, 0.3], (4, 1)), np.tile([0.4, 0.6], (4, 1)), range(4))
    assert half.tv["value"] == pytest.approx(0.3) and half.chosen == pytest.approx([0.7, 0.3])
    assert value_gap(support[:1], oppose[:1], [0]).tv["low"] is None


# ---------------------------------------------------------------------------------------------- trajectories


def test_identical_checkpoints_do_not_drift() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    for drift in Trajectory(("a", "b", "c"), (0, 1, 2), np.stack([p, p, p], 1)).drifts():
        assert drift.magnitude == {"value": 0, "low": 0, "high": 0}
        assert drift.time is None and not drift.moved
        assert drift.at[0] == drift.at[2] and drift.at[0]["low"] < drift.at[0]["value"] < drift.at[0]["high"]


def test_the_magnitudes_of_a_distribution_sum_to_nothing() -> None:
    table = np.random.default_rng(1).dirichlet([1, 2, 3], (30, 4))
    drifts = Trajectory(("a", "b", "c"), (0, 10, 20, 30), table).drifts()
    assert sum(drift.magnitude["value"] for drift in drifts) == pytest.approx(0)
    assert all(0 <= at["low"] <= at["value"] <= at["high"] <= 1 for drift in drifts for at in drift.at)


def test_a_difference_is_taken_within_prompts() -> None:
    """Prompts differ wildly, and each moves by 0.1: the change is certain where the values are not."""
    start = np.random.default_rng(2).normal(0, 5, 40)
    table = np.stack([start, start + 0.1], 1)[:, :, None]
    (drift,) = Trajectory(("words",), (0, 1), table).drifts()
    assert drift.moved and drift.magnitude["high"] - drift.magnitude["low"] < 1e-9
    assert drift.at[0]["high"] - drift.at[0]["low"] > 2


def test_what_falls_has_a_time_too() -> None:
    fall = np.tile([0.6, 0.4, 0.2, 0.2], (12, 1))[:, :, None]
    (drift,) = Trajectory(("oppose",), (0, 1, 2, 4), fall).drifts()
    assert drift.time == pytest.approx(0.5) and drift.magnitude["value"] == pytest.approx(-0.4)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(3), 0
    for trial in range(200):
        table = rng.normal([0.0, 0.3], 1.0, (40, 2))[:, :, None]
        (drift,) = Trajectory(("x",), (0, 1), table).drifts(draws=300, seed=trial)
        held += drift.magnitude["low"] <= 0.3 <= drift.magnitude["high"]
    assert 0.89 <= held / 200 <= 0.98


def test_one_prompt_has_no_interval_and_a_wrong_table_is_refused() -> None:
    (drift,) = Trajectory(("x",), (0, 1), np.array([[[1.0], [2.0]]])).drifts()
    assert drift.magnitude == {"value": 1, "low": None, "high": None} and not drift.moved
    json.dumps(drift.as_dict(), allow_nan=False)
    for table in (np.ones((2, 3, 1)), np.full((2, 2, 1), math.nan), np.ones((0, 2, 1))):
        with pytest.raises(ValueError):
            Trajectory(("x",), (0, 1), table)


# ---------------------------------------------------------------------------------------------- judges


def said(answer: str, topic: str = "") -> Said:
    return Said("Should we?", answer, topic)


WORDS = {"support": ["support", "in favour", "yes"], "neutral": [], "oppose": ["do not support", "against", "no"]}


@pytest.mark.parametrize(
    ("answer", "p"),
    [
        ("Yes, I support it.", [1, 0, 0]),
        ("I do not support it.", [0, 0, 1]),
        ("I do\nnot  support it, though some are in favour.", [0.5, 0, 0.5]),
        ("Yes. Yes! YES; no", [0.75, 0, 0.25]),
        ("It is a river in France.", [0, 1, 0]),
        ("yesterday's noon supported them", [0, 1, 0]),
        ("", [0, 1, 0]),
    ],
)
def test_keywords_by_hand(answer: str, p: list[float], tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(WORDS))
    judge = read_keywords(tmp_path / "s.json")
    assert judge.stances == ("support", "neutral", "oppose")
    assert stances_of(judge, [said(answer)])[0] == pytest.approx(p)
    assert judge.unmatched([said(answer)]) == (p == [0, 1, 0])


def test_without_a_silent_stance_nothing_found_means_nothing() -> None:
    judge = Keywords(("for", "against"), {"": {"for": ["yes"], "against": ["no"]}})
    assert stances_of(judge, [said("perhaps")])[0] == pytest.approx([0.5, 0.5])


def test_topics_have_words_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "climate: {support: [warming], oppose: [hoax]}\n'*': {support: ['yes'], oppose: ['no']}\n"
    )
    judge = read_keywords(tmp_path / "s.yaml")
    p = stances_of(judge, [said("no hoax", "climate"), said("no hoax", "tax"), said("no hoax")])
    assert p.tolist() == [[0, 1], [0, 1], [0, 1]]
    p = stances_of(judge, [said("yes, warming is no hoax", "climate"), said("yes, warming is no hoax", "tax")])
    assert p.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    p = stances_of(judge, [said("warming", "climate"), said("warming", "tax")])
    assert p.tolist() == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[1, 2]", "holds no stances"),
        ("{a: [true, false], b: ['x']}", "in quotes"),
        ("{a: word, b: ['x']}", "give a list"),
        ("{a: ['x'], b: ['X']}", "speaks for a and for b"),
        ("{a: [], b: []}", "no stance lists a word"),
        ("{a: ['x']}", "at least two"),
        ("{a: [' '], b: ['x']}", "empty word"),
        ("{tax: {a: ['x'], b: ['x']}}", "topic tax"),
        ("{a: [", "cannot be read"),
    ],
)
def test_a_file_of_stances_that_says_something_else_is_refused(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=word):
        read_keywords(tmp_path / "s.yaml")


def test_a_topic_without_words_names_itself(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("climate: {support: [warming], oppose: [hoax]}\n")
    judge = read_keywords(tmp_path / "s.yaml")
    with pytest.raises(UserError, match="'tax'"):
        stances_of(judge, [said("x", "tax")])


def test_a_judge_of_one_is_a_judge_of_many_and_judges_what_is_equal_once() -> None:
    asked: list[str] = []

    def one(prompt: Any, answer: Any, topic: str) -> list[float]:
        asked.append(answer)
        return [0.0, math.log(3)] if "no" in answer else [math.log(3), 0.0]

    p = stances_of(Each(("for", "against"), one), [said("yes"), said("no"), said("yes")])
    assert p.ravel() == pytest.approx([0.75, 0.25, 0.25, 0.75, 0.75, 0.25])
    assert asked == ["yes", "no"]
    with pytest.raises(UserError, match="one for each stance"):
        stances_of(Each(("a", "b", "c"), one), [said("yes")])


# ---------------------------------------------------------------------------------------------- a policy that drifts


def tuned(beta: float, gap: float, steps: int = 40) -> list[np.ndarray]:
    """DPO on one prompt whose answers are the three stances, from an even start: the distribution after each step.

    Pairs prefer support to oppose with probability (1 + gap) / 2.
    """
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=0.5)
    out = []
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        out.append(logps.exp().detach().numpy())
        m = beta * (logps[0] - logps[2])
        p = (1 + gap) / 2
        optimizer.zero_grad()
        (-p * torch.nn.functional.logsigmoid(m) - (1 - p) * torch.nn.functional.logsigmoid(-m)).backward()
        optimizer.step()
    return out


def test_pairs_with_a_value_gap_move_a_policy_and_pairs_without_do_not() -> None:
    moved, still = tuned(beta=0.5, gap=1.0), tuned(beta=0.5, gap=0.0)
    support = [v[0] for v in moved]
    assert all(a < b for a, b in pairwise(support))
    assert drift_magnitude(moved[0], moved[-1])[0] > 0.2
    assert np.abs(drift_magnitude(still[0], still[-1])).max() < 0.02
    assert drift_time(support, range(40), 0.05) < 1


def test_a_stronger_pull_to_the_reference_leaves_less_drift() -> None:
    """At the optimum the margin beta (log pi - log ref) is fixed by the pairs, so the policy moves as 1 / beta."""
    small, large = (tuned(beta=beta, gap=0.8, steps=400) for beta in (1.0, 4.0))
    assert drift_magnitude(small[0], small[-1])[0] > 1.5 * drift_magnitude(large[0], large[-1])[0] > 0


# ---------------------------------------------------------------------------------------------- style


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("words", "It's a well-known fact: 2 + 2 = 4.", 7),
        ("list lines", "Take:\n- an apple\n2. a pear\n\n* a plum", 0.75),
        ("marked-up lines", "# Head\nplain\n**bold** word\n`code`", 0.75),
        ("questions", "Really?! Why? See a?b. No.", 2),
        ("exclamations", "No!! Yes! Well.", 2),
        ("hedges", "Perhaps it might rain " + "now " * 6, 20),
        ("refusals", "I’m sorry, but I can’t help.", 1),
        ("refusals", "word " * 50 + "I cannot", 0),
        ("admitted limits", "As an AI language model I don't know.", 3),
        ("repetition", "a b c a b c", 0.25),
        ("repetition", "a b", 0),
        ("letters a word", "a bbb", 2),
        ("words a sentence", "One two. Three four!", 2),
        ("courtesy", "Please sit. Thanks!", 200 / 3),
        ("support", "For example [1] see https://x.y", 3),
    ],
)
def test_measures_by_hand(name: str, text: str, value: float) -> None:
    assert style.STYLE[name].measure(text) == pytest.approx(value)


@given(st.text(max_size=200))
def test_measures_are_numbers_whatever_is_said(text: str) -> None:
    for name, measured in style.STYLE.items():
        value = measured.measure(text)
        assert math.isfinite(value) and value >= 0, name
        assert value <= 1 or name not in ("list lines", "marked-up lines", "refusals", "repetition")


def test_a_very_long_answer_is_measured_in_a_moment() -> None:
    for text in ("a" * 100_000, "(" * 30_000, "** " * 30_000, "I think. " * 9_000, "\n" * 50_000 + "|" * 1000):
        for measured in style.STYLE.values():
            measured.measure(text)
