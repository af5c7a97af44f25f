"""gamma: closed forms, recovery of a known truth, and honesty where there is nothing to fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmpo.data import fit_gamma, merge, rescale, shuffle_responses
from mmpo.data.compared import Compared
from mmpo.data.gamma import given_gamma
from mmpo.data.gamma_noise import noise as agreement
from mmpo.errors import UserError
from mmpo.types import Datum, Judgement


def pair(prompt: str, gap: float | None = None, p: float | None = None, count: float = 1.0, **rest: Any) -> Datum:
    said = () if p is None else (Judgement(0, 1, p=p, count=count),)
    return Datum(prompt, prompt, ("a", "b"), None if gap is None else (gap, 0.0), judgements=said, **rest)


def world(gamma: float, prompts: int, votes: int, seed: int) -> list[Datum]:
    """Four graded responses a prompt, and votes drawn from sigmoid(gamma gap) for three of their pairs."""
    rng = np.random.default_rng(seed)
    data = []
    for n in range(prompts):
        grades = rng.normal(size=4)
        said = []
        for i, j in ((0, 1), (2, 1), (3, 0)):
            won = rng.binomial(votes, 1 / (1 + math.exp(-gamma * (grades[i] - grades[j]))))
            said.append(Judgement(i, j, p=won / votes, count=votes))
        data.append(Datum(str(n), f"prompt {n}", tuple("abcd"), tuple(grades), judgements=tuple(said)))
    return data


# ---------------------------------------------------------------------------------------------- votes beside grades


def test_one_size_of_gap_has_a_closed_form() -> None:
    """All gaps 1 and three votes in four for the better: gamma = logit(0.75); twice the gap, half the gamma."""
    for gap in (1.0, 2.0, -0.5):
        share = 0.75 if gap > 0 else 0.25
        fit = fit_gamma([pair(str(n), gap, share, 4) for n in range(5)])
        assert fit.kind == "votes" and fit.n == 5 and fit.prompts == 5
        assert fit.gamma == pytest.approx(math.log(3) / abs(gap))
        assert fit.low == pytest.approx(fit.gamma, rel=1e-3) == fit.high


def test_the_number_of_votes_counts() -> None:
    fit = fit_gamma([pair("x", 1.0, 1.0, 3), pair("y", 1.0, 0.0, 1)])
    assert fit.gamma == pytest.approx(math.log(3))


def test_the_slope_of_the_likelihood_is_zero_at_the_fit() -> None:
    data = world(0.7, 50, 3, seed=1)
    fit = fit_gamma(data)
    slope = 0.0
    for d in data:
        for j in d.judgements:
            gap = d.grades[j.first] - d.grades[j.second]  # type: ignore[index,operator]
            slope += j.count * gap * (j.p - 1 / (1 + math.exp(-fit.gamma * gap)))  # type: ignore[operator]
    assert slope == pytest.approx(0, abs=1e-8)


def test_a_known_gamma_is_found_and_covered_by_the_interval() -> None:
    fits = [fit_gamma(world(1.3, 60, 5, seed), draws=200) for seed in range(60)]
    assert np.mean([f.gamma for f in fits]) == pytest.approx(1.3, abs=0.06)
    covered = np.mean([f.low < 1.3 < f.high for f in fits])  # type: ignore[operator]
    assert covered >= 0.85, "a 95% interval that covers 51 of 60 times or less is no 95% interval"
    widths = [fit_gamma(world(1.3, n, 5, 0), draws=200) for n in (30, 480)]
    narrow = (widths[1].high - widths[1].low) / (widths[0].high - widths[0].low)  # type: ignore[operator]
    assert narrow == pytest.approx(0.25, abs=0.1), "sixteen times the prompts, a quarter of the width"


def test_the_interval_agrees_with_refitting_every_resample() -> None:
    data = world(0.8, 25, 3, seed=3)
    fit = fit_gamma(data, draws=2000)
    rng = np.random.default_rng(9)
    refits = []
    for _ in range(300):
        drawn = [replace(data[i], prompt=str(n)) for n, i in enumerate(rng.integers(25, size=25))]
        refits.append(fit_gamma(drawn, draws=1).gamma)
    assert [fit.low, fit.high] == pytest.approx(np.quantile(refits, [0.025, 0.975]), abs=0.08)


def test_the_unit_and_the_order_of_responses_do_not_matter() -> None:
    data = world(1.3, 40, 4, seed=2)
    fit = fit_gamma(data)
    tenfold = fit_gamma([replace(d, grades=tuple(10 * g for g in d.grades)) for d in data])  # type: ignore[operator,union-attr]
    assert tenfold.gamma == pytest.approx(fit.gamma / 10)
    assert (tenfold.low, tenfold.high) == pytest.approx((fit.low / 10, fit.high / 10))  # type: ignore[operator]
    assert fit_gamma(shuffle_responses(data, 4)).gamma == pytest.approx(fit.gamma)
    assert fit_gamma(merge(data)[0]).gamma == pytest.approx(fit.gamma)


def test_stated_gaps_count_as_gaps() -> None:
    said = (Judgement(0, 1, p=0.75), Judgement(1, 0, gap=-1.0))
    assert fit_gamma([Datum("x", "x", ("a", "b"), judgements=said)]).gamma == pytest.approx(math.log(3))


def test_one_prompt_has_no_interval() -> None:
    fit = fit_gamma([pair("x", 1.0, 0.75)])
    assert fit.low is None and fit.high is None and "interval" not in fit.note


def test_votes_against_the_grades_are_an_error() -> None:
    with pytest.raises(UserError, match=r"go against the grades \(the fit gives -1.1\)"):
        fit_gamma([pair("x", 1.0, 0.25)])


def test_votes_that_never_contradict_the_grades_have_no_fit() -> None:
    fit = fit_gamma([pair("x", 2.0, 1.0), pair("y", -1.0, 0.0)])
    assert fit.kind == "convention" and fit.gamma == pytest.approx(math.log(3) / 1.5)


def test_the_curve_shows_the_votes_by_gap() -> None:
    fit = fit_gamma([pair("x", 1.0, 0.5), pair("y", -1.0, 0.5), pair("z", 3.0, 0.75, 4)])
    assert fit.curve == ((1.0, 0.5, 2.0), (3.0, 0.75, 4.0))


# ---------------------------------------------------------------------------------------------- raters


def rated(noise: float, prompts: int, seed: int, truth: float = 1.0) -> list[Datum]:
    rng = np.random.default_rng(seed)
    data = []
    for n in range(prompts):
        quality = truth * rng.normal(size=5)
        lines = [tuple(quality + noise * rng.normal(size=5)) for _ in range(3)]
        grades = tuple(np.mean(lines, 0))
        data.append(
            Datum(str(n), f"{n}", tuple("abcde"), grades, annotator_grades=dict(zip("uvw", lines, strict=True)))
        )
    return data


def test_raters_are_predicted_by_the_others() -> None:
    """By hand: three raters see a gap of 2 and one of -1, so the three stand beside (2 + 2 - 1) / 3 = 1, the one
    beside 2."""
    d = Datum("x", "x", ("a", "b"), (1.25, 0.0), annotator_grades={"t": (2, 0), "u": (2, 0), "v": (2, 0), "w": (0, 1)})
    fit = fit_gamma([d])
    assert fit.kind == "raters" and fit.n == 4
    gaps, p = np.array([1.0, 1, 1, 2]), np.array([1.0, 1, 1, 0])
    assert (gaps * (p - 1 / (1 + np.exp(-fit.gamma * gaps)))).sum() == pytest.approx(0, abs=1e-8)
    with pytest.raises(UserError, match="go against"):
        fit_gamma([replace(d, annotator_grades={"u": (0, 1), "v": (1, 0)})])


def test_nobody_predicts_themselves() -> None:
    """Raters who grade at random: a rater's own grade would predict the choice, the others' does not."""
    fit_or_error: float
    try:
        fit_or_error = fit_gamma(rated(noise=1.0, prompts=200, seed=0, truth=0.0)).gamma
    except UserError:
        fit_or_error = 0.0
    assert abs(fit_or_error) < 0.15
    assert fit_gamma(rated(noise=0.5, prompts=200, seed=0)).gamma > 1


def test_votes_go_before_raters() -> None:
    d = rated(0.5, 1, 0)[0]
    assert d.grades is not None and d.grades[0] < d.grades[1]  # type: ignore[operator]
    assert fit_gamma([replace(d, judgements=(Judgement(0, 1, p=0.4),))]).kind == "votes"


# ---------------------------------------------------------------------------------------------- no fit


def test_grades_alone_are_a_convention() -> None:
    data = [pair(str(n), gap) for n, gap in enumerate((0.0, 0.0, 0.0, 1.0, -2.0, 4.0))]
    fit = fit_gamma(data)
    assert fit.kind == "convention" and fit.low is None
    assert 1 / (1 + math.exp(-2 * fit.gamma)) == pytest.approx(0.75), "the median non-zero gap is 2"
    assert "a convention and no fit" in fit.note and "2, the target 0.75" in fit.note
    assert 1 / (1 + math.exp(-2 * fit_gamma(data, target=0.9).gamma)) == pytest.approx(0.9)


def test_shares_alone_have_the_gamma_that_comes_closest() -> None:
    fit = fit_gamma([pair(str(n), p=p, count=10) for n, p in enumerate((0.9, 0.1, 0.5))])
    assert fit.kind == "shares" and fit.gamma == pytest.approx(math.log(9) / 0.8)
    assert "needs no gamma" in fit.note


def test_bare_labels_are_a_convention() -> None:
    fit = fit_gamma([pair("x", p=1.0), pair("y", p=0.0), pair("z", p=0.5)])
    assert fit.kind == "convention" and fit.gamma == 2 and "nothing to fit" in fit.note


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "nobody compared"),
        ([Datum("x", "x", ("a", "b"))], "nobody compared"),
        ([pair("x", 0.0)], "gamma does nothing"),
    ],
)
def test_nothing_to_go_by_is_an_error(data: list[Datum], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_gamma(data)


def test_upvotes_are_called_heavy_tailed_and_log1p_helps() -> None:
    rng = np.random.default_rng(0)
    upvotes = np.exp(rng.normal(2, 2, size=(400, 2))).round()
    data = [Datum(str(n), str(n), ("a", "b"), tuple(map(float, pair))) for n, pair in enumerate(upvotes)]
    fit = fit_gamma(data)
    assert fit.heavy_tailed and fit.saturated_share > 0.2
    assert "heavy-tailed" in fit.note and "Set shape: {rescale: log1p}" in fit.note
    mended = fit_gamma(rescale(data, "log1p"))
    assert not mended.heavy_tailed and mended.tail == pytest.approx(fit.tail_log1p)
    assert mended.saturated_share < 0.05


def test_probabilities_as_grades_are_told_what_helps() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / (1 + np.exp(-rng.normal(-8, 5, size=(400, 2))))
    data = [Datum(str(n), str(n), ("a", "b"), tuple(map(float, row))) for n, row in enumerate(shares)]
    fit = fit_gamma(data)
    assert fit.heavy_after_log1p and "their logit" in fit.note
    assert not fit_gamma(rescale(data, "logit")).heavy_tailed
    with pytest.raises(UserError, match="logit is for grades that are probabilities"):
        rescale([pair("x", 3.0)], "logit")


def test_ratings_are_not_heavy_tailed() -> None:
    rng = np.random.default_rng(0)
    data = [pair(str(n), float(g)) for n, g in enumerate(rng.integers(-4, 5, size=300))]
    fit = fit_gamma(data)
    assert not fit.heavy_tailed and "heavy" not in fit.note and fit.tail_log1p is None


def test_votes_without_grades_beside_grades_are_told() -> None:
    fit = fit_gamma([pair("x", 1.0, 0.75), pair("y", p=0.75)])
    assert "1 of 2 comparisons have votes and no grades" in fit.note


def test_a_given_gamma_is_told_what_it_does() -> None:
    fit = given_gamma([pair("x", 1.0), pair("y", 5.0)], 1.0)
    assert fit.gamma == 1 and fit.kind == "given" and fit.saturated_share == 0.5
    json.dumps(fit.as_dict(), allow_nan=False)


# ---------------------------------------------------------------------------------------------- noisy grades


def rated_and_voted(noise: float, prompts: int, seed: int, gamma: float = 1.3) -> list[Datum]:
    """Pairs whose grades are the truth with normal noise, and ten votes by the truth, of which some are ties."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(prompts):
        truth = rng.normal(size=2)
        grades = truth + noise * rng.normal(size=2)
        share = 1 / (1 + math.exp(-gamma * (truth[0] - truth[1])))
        votes = [0.5 if rng.random() < 0.1 else float(rng.random() < share) for _ in range(10)]
        said = tuple(Judgement(0, 1, p=vote) for vote in votes)
        found.append(Datum(str(n), str(n), ("a", "b"), tuple(grades), judgements=said))
    return found


def test_noise_of_the_grades_is_noticed_and_exact_grades_are_left_alone() -> None:
    """With ten votes the chance of a false alarm is that of two standard errors, one in forty."""
    exact = [fit_gamma(rated_and_voted(0.0, 100, seed), draws=2) for seed in range(40)]
    noisy = [fit_gamma(rated_and_voted(1.0, 100, seed), draws=2) for seed in range(20)]
    assert sum("noisy" in fit.note for fit in exact) <= 4
    assert all("noisy" in fit.note for fit in noisy)


def test_the_gamma_that_makes_up_for_noise_lets_targets_agree_with_votes_as_votes_do() -> None:
    """Without noise it is the true gamma; the condition holds at what is found, counted vote by vote."""
    data = rated_and_voted(0.6, 3000, 1)
    c = Compared.of(data)
    found = agreement(c, fit_gamma(data, draws=2).gamma)
    assert found is not None and found.gamma is not None and found.gamma > 1.3
    total = 0.0
    for d in data:
        votes = [j.p - 0.5 for j in d.judgements]  # type: ignore[operator]
        target = 1 / (1 + math.exp(-found.gamma * (d.grades[0] - d.grades[1]))) - 0.5  # type: ignore[index,operator]
        total += sum(a * b for n, a in enumerate(votes) for m, b in enumerate(votes) if n != m) / 9
        total -= sum(a * target for a in votes)
    assert total == pytest.approx(0, abs=1e-3)


def test_grades_worse_than_any_gamma_can_mend() -> None:
    """Reversed grades on two prompts in five: hard labels agree less with votes than votes with each other."""
    data = rated_and_voted(0.0, 200, 0)
    turned = [replace(d, grades=d.grades[::-1]) if n % 5 < 2 else d for n, d in enumerate(data)]  # type: ignore[index]
    assert "at any gamma" in fit_gamma(turned, draws=2).note


def test_a_bootstrap_in_parts_of_the_grid_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = world(1.3, 40, 5, 0)
    whole = fit_gamma(data, draws=50)
    monkeypatch.setattr("mmpo.data.gamma_fit._TABLE", 40 * 10)
    assert fit_gamma(data, draws=50) == whole and whole.low is not None
