"""How far people are from a line: cycles of three, and what a scalar model must lose on them."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpo.evaluate.cycles import Tournaments, best_line, costs, cycles, tournaments, triples
from mmpo.evaluate.orders import EXACT, against, fewest_against, packed_triples
from mmpo.types import Datum, Judgement


def voted(name: str, k: int, votes: dict[tuple[int, int], tuple[float, float]]) -> Datum:
    """A datum of k responses with so many votes for either side of each pair."""
    said = tuple(Judgement(i, j, p=a / (a + b), count=a + b) for (i, j), (a, b) in votes.items())
    return Datum(name, f"prompt {name}", tuple(f"response {n}" for n in range(k)), judgements=said)


def circle(name: str, votes: float = 1.0) -> Datum:
    return voted(name, 3, {(0, 1): (votes, 0), (1, 2): (votes, 0), (0, 2): (0, votes)})


def line(name: str, k: int = 3, votes: float = 1.0) -> Datum:
    return voted(name, k, dict.fromkeys(combinations(range(k), 2), (votes, 0)))


def found_in(data: list[Datum]) -> dict[str, Any]:
    found = cycles(data)
    assert found is not None
    return found


def test_a_perfect_circle_by_hand() -> None:
    """One triple, and it is cyclic; any order gets one pair of three wrong; equal rewards are the best, at ln 2."""
    found = found_in([circle("a"), circle("b")])
    assert (found["n_triples"], found["n_cyclic"], found["cyclic_share"]["value"]) == (2, 2, 1.0)
    assert found["least_wrong"]["value"] == pytest.approx(1 / 3) and found["exact"]
    assert found["least_excess_nll"]["value"] == pytest.approx(math.log(2), abs=1e-9)


def test_a_line_loses_nothing() -> None:
    found = found_in([line("a"), line("b", 5)])
    assert (found["n_triples"], found["n_cyclic"]) == (1 + 10, 0)
    assert found["least_wrong"]["value"] == found["least_wrong_at_most"]["value"] == 0
    assert 0 <= found["least_excess_nll"]["value"] < 1e-4


def test_shares_of_bradley_terry_rewards_cost_their_entropy_alone() -> None:
    rewards = np.array([0.0, 0.7, -1.1, 2.0])
    p = 1 / (1 + np.exp(rewards[None] - rewards[:, None]))
    votes = {(i, j): (1000 * p[i, j], 1000 * p[j, i]) for i, j in combinations(range(4), 2)}
    assert found_in([voted("a", 4, votes)])["least_excess_nll"]["value"] == pytest.approx(0, abs=1e-7)
    (one,) = tournaments([voted("a", 4, votes)])
    fitted = best_line(one)[0]
    np.testing.assert_allclose(fitted - fitted[0], rewards, atol=1e-5)


def test_a_mixture_of_a_circle_and_a_line_by_hand() -> None:
    """Over two prompts: 1 of 2 triples; 1 of 6 pairs wrong; and half of ln 2."""
    found = found_in([circle("a"), line("b")])
    assert found["cyclic_share"]["value"] == 0.5
    assert found["least_wrong"]["value"] == pytest.approx(1 / 6)
    assert found["least_excess_nll"]["value"] == pytest.approx(math.log(2) / 2, abs=1e-4)


def test_ties_decide_nothing_and_grades_are_no_votes() -> None:
    tied = voted("a", 3, {(0, 1): (1, 1), (1, 2): (1, 0), (0, 2): (0, 1)})
    assert cycles([tied]) is None
    graded = Datum("g", "p", ("a", "b", "c"), (1.0, 2.0, 3.0))
    assert cycles([graded]) is None
    assert found_in([tied, graded, circle("b")])["n_triples"] == 1


def test_a_weight_counts() -> None:
    """The lightest side of the circle is what the best order gives up: 1 of 1 + 2 + 3."""
    said = [Judgement(0, 1, p=1, weight=1.0), Judgement(1, 2, p=1, weight=2.0), Judgement(2, 0, p=1, weight=3.0)]
    found = found_in([Datum("a", "p", ("x", "y", "z"), judgements=tuple(said))])
    assert found["least_wrong"]["value"] == pytest.approx(1 / 6)


# ---------------------------------------------------------------------------------------------- against all orders


def wins_of(rng: np.random.Generator, k: int, whole: bool) -> Any:
    lead = np.triu(rng.normal(size=(k, k)), 1)
    lead = np.sign(lead) if whole else lead
    return np.maximum(lead, 0) + np.maximum(-lead, 0).T


@given(st.integers(2, 6), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_best_order_is_that_of_all_orders(k: int, whole: bool, seed: int) -> None:
    wins = wins_of(np.random.default_rng(seed), k, whole)
    least, most = fewest_against(wins[None])
    best = min(against(wins, list(order)) for order in permutations(range(k)))
    assert least[0] == most[0] == pytest.approx(best)
    assert packed_triples(wins) <= best + 1e-9


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_bounds_of_many_responses_hold_the_best_order(seed: int) -> None:
    """Two tournaments side by side, one above the other, whose best orders are known by themselves."""
    rng = np.random.default_rng(seed)
    a, b = wins_of(rng, 6, True), wins_of(rng, 6, True)
    both = np.block([[a, np.ones((6, 6))], [np.zeros((6, 6)), b]])
    assert len(both) > EXACT
    least, most = fewest_against(both[None])
    best = sum(fewest_against(one[None])[0][0] for one in (a, b))
    assert least[0] <= best <= most[0] + 1e-9


@given(st.integers(3, 7), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_triples_are_those_one_counts(k: int, seed: int) -> None:
    beats = (wins_of(np.random.default_rng(seed), k, True) > 0).astype(float)
    cyclic, decided = triples(beats[None])
    wins = beats.sum(1)
    # Kendall and Babington Smith (1940).
    assert decided[0] == math.comb(k, 3)
    assert cyclic[0] == math.comb(k, 3) - sum(math.comb(int(n), 2) for n in wins)


def test_no_rewards_are_better_than_the_best_line() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, (4, 5, 5))
    p = (p + 1 - p.transpose(0, 2, 1)) / 2
    weight = np.broadcast_to(1.0 - np.eye(5), p.shape)
    one = Tournaments(p, weight, weight)
    best = best_line(one)
    for size in (1e-3, 0.1, 1.0):
        assert (costs(one, best + size * rng.normal(size=best.shape)) > costs(one, best)).all()


# ---------------------------------------------------------------------------------------------- votes make cycles


def test_few_votes_on_a_line_make_no_more_cycles_than_is_said() -> None:
    """Votes drawn from a line: cycles are seen, and as many are expected; coins make one of four."""
    rng = np.random.default_rng(0)
    data = []
    for n in range(150):
        rewards = rng.normal(size=4)
        votes = {}
        for i, j in combinations(range(4), 2):
            won = rng.binomial(3, 1 / (1 + math.exp(rewards[j] - rewards[i])))
            votes[i, j] = (float(won), float(3 - won))
        data.append(voted(str(n), 4, votes))
    found = found_in(data)
    assert 0.03 < found["cyclic_share"]["value"] <= found["by_chance"]["at_most"]
    assert found["by_chance"]["coin"] == pytest.approx(0.25, abs=0.01)


def test_circles_of_many_votes_are_no_chance() -> None:
    found = found_in([circle(str(n), 25.0) for n in range(20)])
    assert found["by_chance"]["at_most"] < 0.5 < found["cyclic_share"]["value"]
