"""The study of models of raters: who is heard when, what is measured, and that it finds groups where there are some."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from evidence import raters, raters_data, raters_heads, raters_page
from evidence.raters_votes import Kind, turned, votes_of
from torch import Tensor

from mmpo.evaluate.cycles import cycles
from mmpo.methods import CATALOGUE
from mmpo.scores import Given
from mmpo.targets import Posterior, Votes
from mmpo.types import Datum, Judgement

VOTERS = tuple(f"v{n:02}" for n in range(12))


def embed(texts: Sequence[str]) -> dict[str, Tensor]:
    """Random features, of which the first says how good a text is."""
    return {text: torch.randn(8, generator=torch.Generator().manual_seed(crc32(text.encode()))) for text in texts}


def world(n: int = 240, heard: int = 4) -> list[Datum]:
    """Pairs of answers; voters who all want the first feature, and say so without a mistake."""
    rng, data = random.Random(0), []
    for at in range(n):
        a, b = f"{at} one", f"{at} two"
        better = float(embed([a])[a][0] > embed([b])[b][0])
        said = tuple(Judgement(0, 1, p=better, annotator=v) for v in rng.sample(VOTERS, heard))
        data.append(Datum(f"d{at}", f"prompt {at % 40}", (a, b), judgements=said))
    return data


def ring() -> list[Datum]:
    """Three answers in a circle, and three in line."""
    ends = {"circle": ((0, 1), (1, 2), (2, 0)), "line": ((0, 1), (1, 2), (0, 2))}
    return [
        Datum(name, name, ("x", "y", "z"), judgements=tuple(Judgement(i, j, p=1.0, count=9.0) for i, j in pairs))
        for name, pairs in ends.items()
    ]


def group(datum: Datum) -> str:
    return str(datum.prompt)


@pytest.fixture(scope="module")
def panel() -> raters_data.Panel:
    return raters_data.Panel.of(world(), group, embed)


def test_grades_become_the_votes_of_those_who_gave_them() -> None:
    lists = {"a": (3.0, 1.0, None), "b": (2.0, 2.0, 5.0)}
    found = votes_of(Datum("d", "p", ("x", "y", "z"), pairs=((0, 1), (1, 2)), annotator_grades=lists), lists)
    said = [(j.first, j.second, j.p, j.annotator) for j in found.judgements]
    assert said == [(0, 1, 1.0, "a"), (0, 1, 0.5, "b"), (1, 2, 0.0, "b")]
    assert not found.annotator_grades
    assert found.grades is None


def test_every_second_voter_is_turned_round() -> None:
    data = world(8)
    pairs = zip((j for d in data for j in d.judgements), (j for d in turned(data) for j in d.judgements), strict=True)
    voters = sorted({str(j.annotator) for d in data for j in d.judgements})
    assert all((after.p != before.p) == (voters.index(str(before.annotator)) % 2 == 1) for before, after in pairs)


def test_unseen_voters_are_not_heard_in_training_and_their_topics_stay_apart(panel: raters_data.Panel) -> None:
    plan = raters_data.split(panel, seed=0)
    assert not (plan.train & plan.test).any()
    assert not (plan.valid & plan.test).any()
    assert (plan.train | plan.valid | plan.test).all()
    sides = {g: (bool(a), bool(b)) for g, a, b in zip(panel.groups, plan.train, plan.test, strict=True)}
    assert all(sides[g] == (bool(a), bool(b)) for g, a, b in zip(panel.groups, plan.train, plan.test, strict=True))
    said, rows = raters_data.heard(panel, plan.number, plan.train)
    assert said.voices is not None
    spoke = set(panel.voices.who[rows][said.voices.who >= 0].tolist())
    assert spoke
    assert not spoke & set(plan.unseen)
    assert plan.train[rows].all()
    known, measured = panel.labels(plan.train), panel.labels(plan.test)
    able = ((known >= raters_data.NAMED) & (measured >= raters_data.ENOUGH)).nonzero().flatten().tolist()
    assert set(plan.unseen) < set(able)
    assert len(plan.unseen) == round(len(able) / 3)


def test_who_is_heard_shares_the_weight_of_a_comparison(panel: raters_data.Panel) -> None:
    number = torch.arange(1 + len(VOTERS))
    number[1:4] = -1
    said, rows = raters_data.heard(panel, number, torch.ones(len(panel), dtype=torch.bool))
    assert said.voices is not None
    torch.testing.assert_close(said.voices.weight.sum(1), said.weight)
    torch.testing.assert_close(said.voices.votes.sum(1), said.votes)
    left = (panel.voices.who[rows] > 3).sum(1)
    assert said.votes.sum((1, 2)).tolist() == left.tolist()
    assert (left > 0).all()


def test_a_few_votes_are_of_the_unseen_and_as_many_as_asked(panel: raters_data.Panel) -> None:
    plan = raters_data.split(panel, seed=1)
    only = raters_data.few(panel, plan, 5, seed=1)
    assert (only == only.mT).all()
    for who in range(1, 1 + len(VOTERS)):
        count = int(only[panel.voices.who == who].sum()) // 2
        assert count == (5 if who in plan.unseen else 0)
    assert not only[~plan.train].any()


def test_votes_are_measured_by_hand() -> None:
    """Two voters: right by 2 and wrong by 1; a tie at margin 0 costs log 2 and has no accuracy."""
    m = np.array([2.0, 1.0, 0.0])
    votes = raters_heads.Held(np.array([1.0, 0.0, 0.5]), m, np.array([1, 2, 2]), np.array([0, 0, 1]))
    numbers, costs, right = raters.measure(votes)
    assert costs == pytest.approx([np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log(2)])
    assert numbers["accuracy"] == 0.5
    assert numbers["nll"] == pytest.approx(costs.mean())
    assert np.isnan(right[2])
    assert np.isnan(numbers["worst accuracy"])
    many = raters_heads.Held(*(np.repeat(x, raters_data.ENOUGH) for x in (votes.p, m, votes.who, votes.group)))
    assert raters.measure(many)[0]["worst accuracy"] == 0
    assert raters.measure(many)[0]["rater nll"] == pytest.approx((costs[0] + (costs[1] + costs[2]) / 2) / 2)


def test_two_votes_on_a_pair_agree_as_often_as_counted() -> None:
    """Of three firm votes on a pair, two against one: one of three pairs of votes agrees. A fourth vote is a tie."""
    said = tuple(Judgement(0, 1, p=p, annotator=v) for p, v in zip((1.0, 1.0, 0.0, 0.5), VOTERS, strict=False))
    found = raters.agreed(raters_data.Panel.of([Datum("d", "p", ("x", "y"), judgements=said)], group, embed))
    assert found == {"ties": 0.25, "agreement of two": pytest.approx(1 / 3)}


def test_conditions_differ_in_the_score_alone() -> None:
    found = raters.conditions()
    assert {row for row, _ in raters.WANTED.values()} <= CATALOGUE.keys()
    assert isinstance(found[raters.ONE].score, Given)
    for name, method in found.items():
        if not name.startswith(raters.ONE):
            assert method.target == Votes()
            assert method.objective == found[raters.ONE].objective
    assert found["one reward, reliability"].target == Posterior(Votes())


def test_a_reliability_is_the_chance_that_a_vote_is_right(panel: raters_data.Panel) -> None:
    """sigmoid(m') = eta sigmoid(m) + (1 - eta) sigmoid(-m)."""
    method = raters.conditions()["one reward, reliability"]
    number = torch.arange(1 + len(VOTERS))
    heads = raters_heads.Heads(method, len(number), panel.items.shape[1], panel.prompts.shape[1])
    inside, eta = torch.ones(len(panel), dtype=torch.bool), torch.linspace(0.55, 0.95, len(number))
    doubted = raters_heads.held(
        raters_heads.Fitted(method, heads, {"reliability": eta}, len(number)), panel, number, inside
    )
    plain = raters_heads.held(raters_heads.Fitted(method, heads, {}, len(number)), panel, number, inside)
    sure, right = 1 / (1 + np.exp(-plain.m)), eta.double().numpy()[plain.who]
    np.testing.assert_allclose(1 / (1 + np.exp(-doubted.m)), right * sure + (1 - right) * (1 - sure), atol=1e-5)


@pytest.mark.slow
def test_groups_that_disagree_are_found_and_people_placed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole study in small: one reward cannot know whom every second voter contradicts, and groups can."""
    monkeypatch.setattr(raters, "RATE", 1e-2)
    methods = {
        name: raters.conditions()[name]
        for name in ("one reward", "one reward, MMPO", "PAL-A, 2 prototypes", "2 groups")
    }
    kind = Kind("a world", lambda: turned(world(320, heard=6)), group, batch=64)
    found = raters.study("planted", kind, methods, [0, 1], embed)
    rows = {(r["method"], r["set"], r["less"]): r for r in found["minus one reward"]}
    groups = rows["2 groups", raters.KNOWN, f"{raters.ONE}, {raters.KNOWN}"]
    pal = rows["PAL-A, 2 prototypes", raters.KNOWN, f"{raters.ONE}, {raters.KNOWN}"]
    assert groups["nll"]["mean"] < -0.2
    assert pal["nll"]["mean"] < -0.2
    placed = rows["2 groups", "unseen, 20 votes", f"2 groups, {raters.UNHEARD}"]
    assert placed["accuracy"]["mean"] > 0.2
    one = next(r for r in found[raters.ONE] if r["set"] == raters.KNOWN)
    assert abs(one["accuracy"]["mean"] - 0.5) < 0.1
    result: dict[str, Any] = raters.settings({"arguments": found, "planted": found}, cycles(ring()))
    text = "\n".join([raters_page.answer(result), *raters_page.section(raters.rounded(result))])
    assert f"{groups['nll']['mean']:+.3f}" in text
    assert "12 raters" in text
    assert "Of 2 triples with three majorities 50.0%" in text


def test_what_nobody_may_move_stays_where_it_is(panel: raters_data.Panel) -> None:
    """Placing adds rows and changes none; a person without labels has anybody's view."""
    method = raters.conditions()["PAL-A, 2 prototypes"]
    plan = raters_data.split(panel, seed=0)
    fitted = raters_heads.fit(method, panel, plan.number, plan.train, plan.valid, seed=0, batch=64)
    own = torch.full_like(plan.number, -1)
    own[list(plan.unseen)] = torch.arange(len(plan.unseen)) + fitted.voices
    after = raters_heads.placed(fitted, panel, own, raters_data.few(panel, plan, 20, seed=0))
    before = dict(fitted.heads.named_parameters())
    for name, value in after.heads.named_parameters():
        torch.testing.assert_close(value[: len(before[name])] if value.dim() else value, before[name])
    assert after.voices == fitted.voices + len(plan.unseen)
    assert not raters_heads.has_places(raters.conditions()[raters.ONE])
    assert not raters_heads.has_places(raters.conditions()["a reward for each"])
